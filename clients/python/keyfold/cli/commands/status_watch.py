"""`keyfold status --watch`: shows a cluster's status until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Final, NoReturn

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from keyfold import calls
from keyfold.cli.errors import NOT_NOW
from keyfold.cli.output.forms import Form
from keyfold.cli.output.status import besides, show_status, status_parts
from keyfold.cli.output.tables import console
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.status import ClusterStatus
from keyfold.models.watch import ClusterState
from keyfold.v1 import key_management_service_pb2 as api

INTERVAL: Final = 2.0
"""Most seconds between two calls. A change that the server tells of makes the next one come at
once."""


@dataclass(frozen=True, slots=True)
class _Poll:
    """The newest status that the server has sent.

    Attributes:
        status: The status.
        message: The response that it was read from.
        at: The time of the call that it answers.
        problem: The error of the last call if that failed; then the status is an older one.
    """

    status: ClusterStatus
    message: api.GetStatusResponse
    at: datetime
    problem: KeyfoldError | None = None


def watch_status(session: Session, cluster: str, every: float, *, verbose: bool) -> None:
    """Shows a cluster's status until Ctrl-C.

    Args:
        session: The connection. With `json`, each change is a line.
        cluster: The cluster's name.
        every: Most seconds between two calls.
        verbose: Whether to show generations and policies, too.

    Raises:
        KeyfoldError: The first call failed, or a later one in a way that a retry cannot mend.
    """
    changes = _Changes(session, cluster)
    polls = _poll(session, cluster, changes, every)
    out = console()
    try:
        if out.is_terminal and not out.is_dumb_terminal and session.form is Form.TABLE:
            _redraw(polls, every, verbose=verbose)
        else:
            _print_changes(session, polls, verbose=verbose)
    except KeyboardInterrupt:
        # Ctrl-C is how a watch ends, so it is not an error.
        return
    finally:
        changes.close()


class _Changes:
    """Waits for a change of a cluster, of which the server tells, in a thread.

    It gives up where the server or the caller's grants do not allow it: then `wait` only waits.
    """

    def __init__(self, session: Session, cluster: str) -> None:
        self._watch = session.client.watch([cluster])
        self._changed = threading.Event()
        threading.Thread(target=self._run, name="keyfold-changes", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(KeyfoldError):
            for message in self._watch:
                if isinstance(message, ClusterState):
                    self._changed.set()

    def wait(self, seconds: float) -> None:
        """Waits for the next change, for so long at most."""
        self._changed.wait(seconds)
        self._changed.clear()

    def close(self) -> None:
        """Ends the watch."""
        self._watch.close()


def _poll(session: Session, cluster: str, changes: _Changes, every: float) -> Iterator[_Poll]:
    last: _Poll | None = None
    while True:
        at = datetime.now(UTC)
        try:
            last = _Poll(*session.ask(calls.get_status(cluster)), at)
        except NOT_NOW as error:
            if last is None:
                raise
            last = replace(last, problem=error)
        yield last
        changes.wait(every)


def _redraw(polls: Iterator[_Poll], every: float, *, verbose: bool) -> None:
    """Redraws on the terminal's alternate screen, and leaves the last status on the main screen."""
    signal.signal(signal.SIGTERM, _end)
    last: _Poll | None = None
    out = console()
    live = Live(
        console=out,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    try:
        last = next(polls)
        with live:
            while True:
                parts = status_parts(last.status, out.width, verbose=verbose)
                live.update(
                    Group(*parts, *besides(last.status), _footer(last, every)), refresh=True
                )
                last = next(polls)
    finally:
        if last is not None:
            show_status(last.status, verbose=verbose)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the program through the `finally` blocks that restore the terminal."""
    del frame
    raise SystemExit(128 + number)


def _footer(last: _Poll, every: float) -> Text:
    when = f"as of {last.at:%H:%M:%SZ}"
    if last.problem is None:
        return Text(f"{when}, every {every:g} s; Ctrl-C ends", "dim")
    return Text(f"{when}; {_no_answer(last.problem)}", "yellow")


def _no_answer(problem: KeyfoldError) -> str:
    return one_line(f"no answer now: {problem.message} ({problem.reason}); trying again")


def _print_changes(session: Session, polls: Iterator[_Poll], *, verbose: bool) -> None:
    printed: api.GetStatusResponse | None = None
    failing = False
    for poll in polls:
        if poll.problem is not None:
            if not failing:
                typer.echo(_no_answer(poll.problem), err=True)
            failing = True
            continue
        if failing:
            typer.echo("the server answers again", err=True)
        failing = False
        decisive = _without_times(poll.message)
        if decisive == printed:
            continue
        printed = decisive
        if not session.streamed(poll.message):
            show_status(poll.status, verbose=verbose)
        sys.stdout.flush()


def _without_times(message: api.GetStatusResponse) -> api.GetStatusResponse:
    """Returns a status without the times that change although nothing else does."""
    bare = api.GetStatusResponse()
    bare.CopyFrom(message)
    for region in bare.status.regions:
        region.ClearField("last_check_time")
        region.ClearField("last_success_time")
        for generation in region.generations:
            generation.ClearField("last_use_time")
    return bare
