"""Commands that look and change nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from keyfold import calls
from keyfold.calls import pages
from keyfold.calls.pages import ClusterFilter
from keyfold.cli.failures import InputError, exit_code
from keyfold.cli.options import Cluster, KeyOption, KeyType, KeyUri, Principal
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import show_clusters, show_key_test, show_status
from keyfold.cli.values import choice, names, pairs, seconds
from keyfold.cli.watch import INTERVAL, watch_status
from keyfold.errors import KeyfoldError
from keyfold.errors.reasons import BY_REASON
from keyfold.models.key_test import KeyTest
from keyfold.models.specs import KeySpec
from keyfold.models.status import Health, State
from keyfold.v1 import key_management_service_pb2 as api


def status(
    session: Session,
    cluster: Cluster,
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show generations and policies.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it until Ctrl-C.")
    ] = False,
    interval: Annotated[
        str | None, typer.Option(help=f"How often --watch asks [default: {INTERVAL:g}s].")
    ] = None,
) -> None:
    """Show what is known of a cluster's keys.

    On a terminal --watch redraws it. Elsewhere it prints a new table, or with --json a line, on
    each change; a check or a use alone is none. A server that goes away is asked again.
    """
    if interval is not None and not watch:
        raise InputError("--interval is for --watch")
    every = INTERVAL if interval is None else seconds(interval, "--interval")
    if every <= 0:
        raise InputError("--interval must be more than 0")
    if watch:
        watch_status(session, cluster, every, verbose=verbose)
        return
    answer, message = session.ask(calls.get_status(cluster))
    if session.json:
        typer.echo(json_of(message))
    else:
        show_status(answer, verbose=verbose)


def clusters(
    session: Session,
    *,
    organization: Annotated[
        str, typer.Option(help="Only this organization's.", show_default=False)
    ] = "",
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help=f"Only with a region in this state: {', '.join(names(State))}.",
            autocompletion=lambda: names(State),
        ),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            metavar="HEALTH",
            help=f"Only with a region of this health: {', '.join(names(Health))}.",
            autocompletion=lambda: names(Health),
        ),
    ] = None,
    key_uri: Annotated[
        str, typer.Option(help="Only with a region under this root key.", show_default=False)
    ] = "",
) -> None:
    """List clusters and their regions, with what was last recorded of their keys."""
    narrow = ClusterFilter(
        organization, choice(State, state, "--state"), choice(Health, health, "--health"), key_uri
    )
    whole = api.ListClustersResponse()
    page: pages.Page | None = pages.first_page(narrow, page_size=0)
    while page is not None:
        response = session.client.send(page)
        whole.clusters.extend(response.clusters)
        whole.not_authentic.extend(response.not_authentic)
        page = pages.next_page(page, response)
    if session.json:
        typer.echo(json_of(whole))
    else:
        show_clusters(pages.clusters_of(whole))
    pages.check_authentic(whole.not_authentic)


def key_test(
    session: Session,
    *,
    provider: KeyType,
    uri: KeyUri = "",
    principal: Principal = "",
    option: KeyOption = None,
    cluster: Annotated[str, typer.Option(help="Bind the trial to it.", show_default=False)] = "",
    region: Annotated[
        str, typer.Option(help="Bind the trial to it; needed for PLATFORM.", show_default=False)
    ] = "",
    organization: Annotated[
        str, typer.Option(help="Bind the trial to it.", show_default=False)
    ] = "",
) -> None:
    """Try a root key step by step, and store nothing.

    Ends with an error's exit code where the key is not accessible.
    """
    spec = KeySpec(provider, uri, principal, pairs(option or (), "--option"))
    answer, message = session.ask(calls.test_key(spec, cluster, region, organization))
    if session.json:
        typer.echo(json_of(message))
    else:
        show_key_test(answer)
    if not answer.accessible:
        raise typer.Exit(code_of(answer))


def code_of(test: KeyTest) -> int:
    """Returns the exit code of a key that is not accessible: that of what failed first."""
    failed = next((one.reason for one in test.steps if one.outcome == "FAILED"), "")
    return exit_code(BY_REASON.get(failed, KeyfoldError))
