"""The commands of `keyfold events`: what happened to keys, and whether the log is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyfold.calls import events as calls
from keyfold.calls.events import EventFilter, LogWalk
from keyfold.cli.commands.event_export import Export
from keyfold.cli.errors import ExitCode, InputError
from keyfold.cli.input.values import choice, moment, names
from keyfold.cli.output.events import show_event, show_events, show_verification
from keyfold.cli.session import Session
from keyfold.models.events import EventKind

LIMIT = 50
"""Events that `list` shows if --limit does not say how many."""

_MOST = (1 << 63) - 1
"""The highest number that a request can name."""

OfCluster = Annotated[
    str, typer.Option("--cluster", help="Only events about this cluster.", show_default=False)
]
OfOrganization = Annotated[
    str,
    typer.Option("--organization", help="Only events about this organization.", show_default=False),
]
OfKey = Annotated[
    str, typer.Option("--key-uri", help="Only events about this root key.", show_default=False)
]
ByCaller = Annotated[
    str, typer.Option("--caller", help="Only what this caller did.", show_default=False)
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help=f"Only events of this kind; may be repeated: {', '.join(names(EventKind))}.",
        autocompletion=lambda: names(EventKind),
    ),
]
Action = Annotated[
    str,
    typer.Option(help="Only this action, such as rpc:cluster:revoke.", show_default=False),
]
Outcome = Annotated[
    str,
    typer.Option(help="Only this outcome, such as done or KEY_DISABLED.", show_default=False),
]
Refused = Annotated[
    bool, typer.Option("--refused", help="Only what was refused or failed, by Keyfold or a KMS.")
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Only events since this time: 2026-01-31T12:00:00Z, or 90m ago as 90m."
    ),
]
Until = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only events before this time; see --since.")
]


def list_events(  # noqa: PLR0913, PLR0917  one argument for each option
    session: Session,
    cluster: OfCluster = "",
    organization: OfOrganization = "",
    key_uri: OfKey = "",
    caller: ByCaller = "",
    kind: Kinds = None,
    action: Action = "",
    outcome: Outcome = "",
    refused: Refused = False,  # noqa: FBT002
    since: Since = None,
    until: Until = None,
    oldest_first: Annotated[  # noqa: FBT002
        bool, typer.Option("--oldest-first", help="Begin with the oldest event.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Most events to show; 0 shows all.")] = LIMIT,
) -> None:
    """List what happened to keys, the newest first."""
    narrow = _narrow(
        cluster, organization, key_uri, caller, kind, action, outcome, refused, since, until
    )
    first = calls.first_events(narrow, newest_first=not oldest_first, page_size=min(limit, 1_000))
    whole, more = session.listed(first, "events", limit=limit)
    if not session.printed(whole):
        show_events(calls.events_of(whole), more=more)


def show(
    session: Session,
    number: Annotated[int, typer.Argument(min=1, max=_MOST, help="The number of the event.")],
) -> None:
    """Show one event with everything that is known of it."""
    narrow = EventFilter(first=number, last=number)
    page = calls.first_events(narrow, newest_first=False, page_size=1)
    response = session.client.send(page)
    if not response.events:
        typer.echo(f"error: there is no event {number}, or it was pruned", err=True)
        raise typer.Exit(ExitCode.NOT_FOUND)
    [message] = response.events
    if not session.printed(message):
        show_event(message)


def verify(
    session: Session,
    anchor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with the lines that `keyfold events anchor` printed earlier.",
        ),
    ] = None,
) -> None:
    """Verify that no entry of the log was changed, removed or added.

    Whoever puts back a whole old store puts back a log that verifies. Only a line of `keyfold
    events anchor` that was kept elsewhere shows that; --anchor takes a file of them. The exit code
    is 1 if a link is broken, or if a line of the file speaks against the log.
    """
    walk = LogWalk(_lines(anchor))
    while walk.call is not None:
        walk.took(session.client.send(walk.call))
    verified = calls.verification_of(walk.whole)
    if not session.printed(walk.whole):
        show_verification(verified)
    if not verified.whole:
        raise typer.Exit(ExitCode.UNEXPECTED)


def anchor(session: Session) -> None:
    """Print a signed line about the newest event, to append to a file elsewhere.

    Keep it where nobody who can write the store can change it. `keyfold events verify --anchor`
    then shows whether the store was rolled back.
    """
    made, message = session.ask(calls.get_anchor())
    if not session.printed(message):
        typer.echo(made.line)


def export(  # noqa: PLR0913, PLR0917  one argument for each option
    session: Session,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Append to this file, after the last event that it has [default: stdout].",
        ),
    ] = None,
    cluster: OfCluster = "",
    organization: OfOrganization = "",
    key_uri: OfKey = "",
    caller: ByCaller = "",
    kind: Kinds = None,
    action: Action = "",
    outcome: Outcome = "",
    refused: Refused = False,  # noqa: FBT002
    since: Since = None,
    until: Until = None,
) -> None:
    """Write events as lines of JSON, the oldest first.

    Run again with the same --out and the same filters, it goes on after the last event in the file.
    It ends with an error if the server's log no longer has that event, since the store is then
    another one, or was rolled back.
    """
    narrow = _narrow(
        cluster, organization, key_uri, caller, kind, action, outcome, refused, since, until
    )
    with Export.into(out) as lines:
        lines.write(session, narrow)


def _narrow(  # noqa: PLR0913, PLR0917  one argument for each option
    cluster: str,
    organization: str,
    key_uri: str,
    caller: str,
    kind: list[str] | None,
    action: str,
    outcome: str,
    refused: bool,  # noqa: FBT001
    since: str | None,
    until: str | None,
) -> EventFilter:
    return EventFilter(
        cluster,
        organization,
        key_uri,
        caller,
        tuple(choice(EventKind, each, "--kind") for each in kind or ()),
        outcome,
        refused,
        None if since is None else moment(since, "--since"),
        None if until is None else moment(until, "--until"),
        action,
    )


def _lines(path: Path | None) -> list[str]:
    """Returns the lines of a file of anchors.

    Raises:
        InputError: The file cannot be read, or has no line.
    """
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} has no anchor; append the lines of `keyfold events anchor` to it")
    return lines
