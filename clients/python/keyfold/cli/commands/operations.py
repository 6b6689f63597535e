"""The commands `operations start`, `get`, `list`, `wait`, `cancel` and `delete`."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

import time
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer
from google.protobuf.message import Message

from keyfold.calls import operations as calls
from keyfold.calls.call import Call
from keyfold.cli.errors import NOT_NOW, ExitCode, InputError
from keyfold.cli.input.options import AutoRotate, CacheTtl, OutageGrace, Reason
from keyfold.cli.input.region_specs import NO_CHANGE, policy_of
from keyfold.cli.output.operations import (
    Waiting,
    show_census,
    show_operation,
    show_operations,
)
from keyfold.cli.session import Session
from keyfold.models.operations import (
    Operation,
    OperationAction,
    OperationScope,
    OperationStarted,
)
from keyfold.models.specs import KeySpec, RegionPolicy
from keyfold.v1 import key_management_service_pb2 as api

_COUNTING: Final = 300.0
"""Seconds that a dry run has if --timeout does not say how many: it reads every region."""

_TURN: Final = timedelta(seconds=1)
"""How long one call waits, between two looks at how far the operation has come."""

_PAUSE: Final = 1.0
"""Seconds after a call that a server could not answer."""


class Action(StrEnum):
    """What an operation does to each of its regions."""

    ROTATE = "rotate"
    TEST = "test"
    RECHECK = "recheck"
    POLICY = "policy"


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Your own name for the operation, or the full name of somebody else's.",
        show_default=False,
    ),
]


def start(
    session: Session,
    name: Name,
    action: Annotated[Action, typer.Argument(metavar="ACTION", show_default=False)],
    *,
    organization: Annotated[
        str, typer.Option(help="Take the regions of its clusters.", show_default=False)
    ] = "",
    link: Annotated[
        str,
        typer.Option(
            help="Of the organization, take the regions that use this key link.",
            show_default=False,
        ),
    ] = "",
    key_uri: Annotated[
        str,
        typer.Option(
            metavar="URI", help="Take the regions under this root key.", show_default=False
        ),
    ] = "",
    key_version: Annotated[
        str,
        typer.Option(help="Of these, take those under this version.", show_default=False),
    ] = "",
    principal: Annotated[
        str,
        typer.Option(
            help="Take the regions whose key is called as this principal; `ambient` is the "
            "server's own identity.",
            show_default=False,
        ),
    ] = "",
    cluster: Annotated[
        list[str] | None,
        typer.Option("--cluster", help="Take the regions of this cluster; repeat it for more."),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="TYPE,URI[,PRINCIPAL]",
            help="To rotate: move to this root key.",
            show_default=False,
        ),
    ] = "",
    new_generation: Annotated[
        bool, typer.Option("--new-generation", help="To rotate: make new KEKs as well.")
    ] = False,
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    max_concurrency: Annotated[
        int, typer.Option(min=0, max=64, help="Most regions at once; 0 means 16.")
    ] = 0,
    reason: Reason = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count regions, keys and calls; start nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, as `wait` does.")] = False,
) -> None:
    """Start ACTION on many regions: rotate, test, recheck or policy.

    It goes on when the command has ended, on any server. The same name with the same options shows
    the operation as it is. Calls of your applications go first at every KMS.
    """
    scope = _scope(organization, link, key_uri, key_version, principal, cluster or [])
    if (to or new_generation) and action is not Action.ROTATE:
        raise InputError("--to and --new-generation are for rotate")
    change = policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    policy = RegionPolicy(change.cache_ttl, change.outage_grace, change.auto_rotate or False)
    if (policy != RegionPolicy() or auto_rotate is not None) and action is not Action.POLICY:
        raise InputError("--cache-ttl, --outage-grace and --auto-rotate are for policy")
    if change == NO_CHANGE and action is Action.POLICY:
        raise InputError(
            "give at least one of --cache-ttl, --outage-grace and --auto-rotate; each that is left "
            "out becomes the server's default"
        )
    call = calls.start_operation(
        name,
        _action(action, to, policy, new_generation=new_generation),
        scope,
        dry_run=dry_run,
        max_concurrency=max_concurrency,
        reason=reason,
    )
    send_start(session, call, dry_run=dry_run, wait=wait)


def send_start(
    session: Session,
    call: Call[api.StartOperationResponse, OperationStarted],
    *,
    dry_run: bool,
    wait: bool,
) -> None:
    """Starts an operation, and shows it or its census, or waits for its end."""
    result, message = session.ask(call, timeout=session.timeout or (_COUNTING if dry_run else None))
    if result.operation is None or (session.for_programs and not wait):
        if not session.printed(message) and result.census is not None:
            show_census(result.census)
        return
    if wait:
        wait_for_end(session, result.operation.name)
    else:
        show_operation(result.operation)


def _action(
    action: Action, to: str, policy: RegionPolicy, *, new_generation: bool
) -> OperationAction:
    match action:
        case Action.ROTATE:
            spec = None
            if to:
                provider, _, rest = to.partition(",")
                uri, _, principal = rest.partition(",")
                spec = KeySpec(provider, uri, principal)
            return OperationAction.rotate(spec, new_generation=new_generation)
        case Action.TEST:
            return OperationAction.test()
        case Action.RECHECK:
            return OperationAction.recheck()
        case Action.POLICY:
            return OperationAction.set_policy(policy)


def _scope(
    organization: str,
    link: str,
    key_uri: str,
    key_version: str,
    principal: str,
    clusters: list[str],
) -> OperationScope:
    """Returns the one scope that the options give."""
    if sum(map(bool, (organization, key_uri, principal, clusters))) != 1:
        raise InputError("give one of --organization, --key-uri, --principal and --cluster")
    if (link and not organization) or (key_version and not key_uri):
        raise InputError("--link needs --organization, and --key-version needs --key-uri")
    if link:
        return OperationScope.key_link(organization, link)
    if organization:
        return OperationScope.organization(organization)
    if key_uri:
        return OperationScope.root_key(key_uri, key_version)
    if principal:
        return OperationScope.principal("" if principal == "ambient" else principal)
    return OperationScope.clusters(clusters)


def get(session: Session, name: Name) -> None:
    """Show an operation, with the first of its failures."""
    operation, message = session.ask(calls.get_operation(name))
    if not session.printed(message):
        show_operation(operation)


def list_operations(
    session: Session,
    *,
    limit: Annotated[int, typer.Option(min=0, help="Most to show; 0 shows all.")] = 100,
) -> None:
    """Show the operations that you may see."""
    first = calls.first_operations(min(limit, 1_000))
    whole, _ = session.listed(first, "operations", limit=limit)
    if not session.printed(whole):
        show_operations(list(map(Operation.from_message, whole.operations)))


def wait(session: Session, name: Name) -> None:
    """Wait until an operation has ended, and show how far it is meanwhile.

    A terminal gets a progress bar with the remaining time, anything else a line every ten seconds.
    The exit code is 0 if all regions went well, and 12 if some failed or the operation ended before
    its end. With --timeout the command stops waiting then, with exit code 9; the operation goes on.
    """
    wait_for_end(session, name)


def wait_for_end(session: Session, name: str) -> None:
    """Shows how far an operation is until it has ended; see `wait`."""
    operation, message = until_end(session, name)
    if not session.printed(message):
        show_operation(operation)
    if operation.failed or operation.error:
        raise typer.Exit(ExitCode.INCOMPLETE)


def until_end(session: Session, name: str) -> tuple[Operation, Message]:
    """Shows how far an operation is, and returns it once it has ended.

    Raises:
        typer.Exit: The time of --timeout is up.
    """
    ends = None if session.timeout is None else time.monotonic() + session.timeout
    with Waiting() as waiting:
        while True:
            try:
                operation, message = session.ask(calls.wait_operation(name, _TURN), timeout=10)
            except NOT_NOW as error:
                # Another server may answer, and the operation goes on meanwhile.
                if ends is not None and time.monotonic() >= ends:
                    raise
                waiting.note(f"{error.message} ({error.reason}); trying again")
                time.sleep(_PAUSE)
                continue
            waiting.show(operation)
            if operation.ended:
                return operation, message
            if ends is not None and time.monotonic() >= ends:
                typer.echo("error: the operation has not ended; it goes on", err=True)
                raise typer.Exit(ExitCode.DEADLINE)


def cancel(session: Session, name: Name) -> None:
    """Cancel an operation. It ends once the regions under way have ended; what is done stays."""
    _, message = session.ask(calls.cancel_operation(name))
    done = "cancelled; it ends once the regions under way have ended"
    if not session.printed(message, name):
        typer.echo(done)


def delete(session: Session, name: Name) -> None:
    """Delete an operation that has ended. Its entries in the log stay."""
    _, message = session.ask(calls.delete_operation(name))
    if not session.printed(message, name):
        typer.echo("deleted")
