"""The status of a cluster, again and again."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Final, NoReturn

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from keyfold import calls
from keyfold.cli.failures import NOT_NOW, one_line
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import console, show_status, status_parts
from keyfold.errors import KeyfoldError
from keyfold.models.status import ClusterStatus
from keyfold.v1 import key_management_service_pb2 as api

INTERVAL: Final = 2.0
"""Seconds between two questions."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the last question told.

    Attributes:
        status: The last status that there was an answer with.
        message: The message that it was read from.
        at: When that was asked.
        problem: Why there is no newer one, or None.
    """

    status: ClusterStatus
    message: api.GetStatusResponse
    at: datetime
    problem: KeyfoldError | None = None


def watch_status(session: Session, cluster: str, every: float, *, verbose: bool) -> None:
    """Shows a cluster until Ctrl-C.

    Args:
        session: The connection. With `json` each change is a line.
        cluster: The cluster's name.
        every: Seconds between two questions.
        verbose: Also show generations and policies.

    Raises:
        KeyfoldError: The first question failed, or a later one in a way that asking again does
            not mend.
    """
    polls = _poll(session, cluster, every)
    out = console()
    try:
        if out.is_terminal and not out.is_dumb_terminal and not session.json:
            _redraw(polls, every, verbose=verbose)
        else:
            _print_changes(polls, as_json=session.json, verbose=verbose)
    except KeyboardInterrupt:
        # It is how a watch ends.
        return


def _poll(session: Session, cluster: str, every: float) -> Iterator[_Seen]:
    seen: _Seen | None = None
    while True:
        at = datetime.now(UTC)
        try:
            seen = _Seen(*session.ask(calls.get_status(cluster)), at)
        except NOT_NOW as error:
            if seen is None:
                raise
            seen = _Seen(seen.status, seen.message, seen.at, error)
        yield seen
        time.sleep(every)


def _redraw(polls: Iterator[_Seen], every: float, *, verbose: bool) -> None:
    """Redraws on the terminal's other screen, and leaves what was seen last on its first."""
    signal.signal(signal.SIGTERM, _end)
    seen: _Seen | None = None
    out = console()
    live = Live(
        console=out,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    try:
        seen = next(polls)
        with live:
            while True:
                parts = status_parts(seen.status, out.width, verbose=verbose)
                live.update(Group(*parts, _footer(seen, every)), refresh=True)
                seen = next(polls)
    finally:
        if seen is not None:
            show_status(seen.status, verbose=verbose)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the program by way of what gives the terminal back."""
    del frame
    raise SystemExit(128 + number)


def _footer(seen: _Seen, every: float) -> Text:
    when = f"as of {seen.at:%H:%M:%SZ}"
    if seen.problem is None:
        return Text(f"{when}, every {every:g} s; Ctrl-C ends", "dim")
    return Text(f"{when}; {_away(seen.problem)}", "yellow")


def _away(problem: KeyfoldError) -> str:
    return one_line(f"no answer now: {problem.message} ({problem.reason}); trying again")


def _print_changes(polls: Iterator[_Seen], *, as_json: bool, verbose: bool) -> None:
    shown: api.GetStatusResponse | None = None
    away = False
    for seen in polls:
        if seen.problem is not None:
            if not away:
                typer.echo(_away(seen.problem), err=True)
            away = True
            continue
        if away:
            typer.echo("the server answers again", err=True)
        away = False
        essence = _essence(seen.message)
        if essence == shown:
            continue
        shown = essence
        if as_json:
            typer.echo(json_of(seen.message, indent=None))
        else:
            show_status(seen.status, verbose=verbose)
        sys.stdout.flush()


def _essence(message: api.GetStatusResponse) -> api.GetStatusResponse:
    """Returns a status without the times that pass while nothing changes."""
    essence = api.GetStatusResponse()
    essence.CopyFrom(message)
    for region in essence.status.regions:
        region.ClearField("last_check_time")
        region.ClearField("last_success_time")
        for generation in region.generations:
            generation.ClearField("last_use_time")
    return essence
