"""The commands that show clusters: `status`, `clusters`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Final

import typer
from rich.text import Text

from keyfold import calls
from keyfold.calls import pages
from keyfold.calls.events import EventFilter
from keyfold.calls.pages import ClusterFilter
from keyfold.cli.commands.status_watch import INTERVAL, watch_status
from keyfold.cli.errors import NOT_NOW, InputError, exit_code, report
from keyfold.cli.input.values import choice, names, seconds
from keyfold.cli.output.events import ending_text, endings
from keyfold.cli.output.forms import Form
from keyfold.cli.output.status import show_clusters, show_status
from keyfold.cli.output.tables import console
from keyfold.cli.session import Session
from keyfold.errors import (
    ClusterBannedError,
    ForbiddenError,
    KeyfoldError,
    UnimplementedError,
)
from keyfold.models.events import EventKind
from keyfold.models.status import ClusterStatus, Health, State
from keyfold.v1 import key_management_service_pb2 as api


def status(
    session: Session,
    cluster: Annotated[
        list[str],
        typer.Argument(metavar="CLUSTER...", help="The clusters' names.", show_default=False),
    ],
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show generations and policies, too.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep showing it until Ctrl-C.")
    ] = False,
    interval: Annotated[
        str | None,
        typer.Option(help=f"Time between two updates of --watch [default: {INTERVAL:g}s]."),
    ] = None,
) -> None:
    """Show the status of clusters and their keys.

    On a terminal --watch redraws the status. In a file or pipe it prints a new table, or with
    --json a new line, whenever the status changes; a mere check or use of a key does not count.
    While the server is away, --watch goes on trying.
    """
    if interval is not None and not watch:
        raise InputError("--interval needs --watch")
    every = INTERVAL if interval is None else seconds(interval, "--interval")
    if every <= 0:
        raise InputError("--interval must be more than 0")
    names = list(dict.fromkeys(cluster))
    verbose = verbose or session.form is Form.WIDE
    if watch:
        if len(names) > 1:
            raise InputError("--watch shows one cluster; `keyfold watch` follows several")
        watch_status(session, names[0], every, verbose=verbose)
    elif len(names) == 1:
        try:
            result, message = session.ask(calls.get_status(names[0]))
        except ClusterBannedError:
            if verbose and not session.for_programs:
                _show_ban(session, names[0])
            raise
        if not session.printed(message):
            _show(session, result, verbose=verbose)
    else:
        _show_several(session, names, verbose=verbose)


def _show_several(session: Session, names: Iterable[str], *, verbose: bool) -> None:
    """Shows clusters one by one; with JSON or YAML, all of them as ListClusters has them.

    Raises:
        typer.Exit: The status of some of them cannot be shown, and stderr says why.
    """
    whole = api.ListClustersResponse()
    failed: list[KeyfoldError] = []
    for name in names:
        try:
            result, message = session.ask(calls.get_status(name))
        except NOT_NOW:
            raise
        except KeyfoldError as error:
            failed.append(error)
            continue
        whole.clusters.append(message.status)
        if not session.for_programs:
            _show(session, result, verbose=verbose)
    session.printed(whole)
    sys.stdout.flush()
    for one in failed:
        report(one, session.parsed, as_json=session.form is Form.JSON)
    if failed:
        raise typer.Exit(exit_code(type(failed[0])))


def _show(session: Session, status: ClusterStatus, *, verbose: bool) -> None:
    show_status(status, verbose=verbose)
    if verbose:
        _show_endings(session, status)


def _show_endings(session: Session, status: ClusterStatus) -> None:
    """Prints who revoked or deleted each region, when and why, if the caller may know."""
    states = {one.region: one.state for one in status.regions if one.state in _ENDED}
    if not states:
        return
    narrow = EventFilter(cluster=status.cluster, kinds=_DECISIONS)
    out = console()
    try:
        found = session.client.list_events(narrow, newest_first=True)
        by_region = endings(islice(found, _LOOKED_AT), states)
    except UnimplementedError:
        return  # The server is of an earlier release.
    except ForbiddenError:
        out.print(Text("who did that: ask for a grant of the role auditor", "dim"))
        return
    for region, state in states.items():
        event = by_region.get(region)
        if event is None:
            gone = f"{region}: the log no longer tells who {state.value.lower()} it"
            out.print(Text(gone, "dim"))
        else:
            out.print(ending_text(region, state, event))


def _show_ban(session: Session, cluster: str) -> None:
    """Prints who revoked a cluster whose rows were not authentic, if the caller may know."""
    narrow = EventFilter(cluster=cluster, kinds=(EventKind.BAN,), action="rpc:cluster:revoke")
    try:
        event = next(iter(session.client.list_events(narrow, newest_first=True)), None)
    except (ForbiddenError, UnimplementedError):
        return
    if event is not None:
        console().print(ending_text(cluster, State.REVOKED, event))


_ENDED: Final = (State.REVOKED, State.DELETED)

_DECISIONS: Final = (EventKind.DECISION, EventKind.BAN, EventKind.SEAL, EventKind.IMPORT)
"""The kinds of events that can leave a region revoked or deleted."""

_LOOKED_AT: Final = 1_000
"""Most decisions about a cluster in which those that ended use of its regions are looked for."""


def clusters(
    session: Session,
    *,
    organization: Annotated[
        str, typer.Option(help="Only clusters of this organization.", show_default=False)
    ] = "",
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help=f"Only clusters with a region in this state: {', '.join(names(State))}.",
            autocompletion=lambda: names(State),
        ),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            metavar="HEALTH",
            help=f"Only clusters with a region of this health: {', '.join(names(Health))}.",
            autocompletion=lambda: names(Health),
        ),
    ] = None,
    key_uri: Annotated[
        str,
        typer.Option(help="Only clusters with a region under this root key.", show_default=False),
    ] = "",
    can_wrap: Annotated[
        bool | None,
        typer.Option(
            "--can-wrap/--cannot-wrap",
            help="Only clusters with an enabled region whose root key wraps, or does not.",
            show_default=False,
        ),
    ] = None,
    name_prefix: Annotated[
        str, typer.Option(help="Only clusters whose name begins with this.", show_default=False)
    ] = "",
) -> None:
    """List clusters with the health of their keys.

    It is the health that was last recorded; `status` asks the KMS if that is too old.
    """
    narrow = ClusterFilter(
        organization,
        choice(State, state, "--state"),
        choice(Health, health, "--health"),
        key_uri,
        can_wrap,
        name_prefix,
    )
    first = pages.first_page(narrow, page_size=0)
    whole, _ = session.listed(first, "clusters", "not_authentic", "banned")
    if not session.printed(whole):
        show_clusters(pages.clusters_of(whole))
    pages.check_usable(whole.not_authentic, whole.banned)
