"""The part of `onboard` that tests a region's root key again and again until it works."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import typer

from keyfold import calls
from keyfold.cli.commands.key_test import code_of
from keyfold.cli.errors import NOT_NOW, exit_code
from keyfold.cli.output.forms import Form
from keyfold.cli.output.key_test import show_key_test, verdict
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.key_test import KeyTest
from keyfold.models.specs import KeySpec
from keyfold.transport.timeouts import CONTROL_TIMEOUT
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class RegionSetup:
    """A region that is not in service yet.

    Attributes:
        session: The connection.
        cluster: The cluster's name.
        organization: The organization that the cluster belongs to, or empty.
        region: The region's name.
        key: The region's root key.
    """

    session: Session
    cluster: str
    organization: str
    region: str
    key: KeySpec


def try_with_person(setup: RegionSetup) -> None:
    """Tests the key each time that a person presses Enter, until it works.

    Raises:
        typer.Exit: The person gave up; the exit code is that of the last test.
    """
    code = int(exit_code(KeyfoldError))
    region = one_line(setup.region)
    question = f"Put this in place, then press Enter to test the key of {region}; q gives up"
    while True:
        typed = typer.prompt(question, default="", show_default=False, err=True)
        if typed.strip().lower().startswith("q"):
            raise typer.Exit(code)
        outcome = _test(setup, call_limit(setup))
        _show(outcome)
        if _works(outcome):
            return
        code = _code(outcome)


def try_until(setup: RegionSetup, ends: float, every: float) -> None:
    """Tests the key until it works, and prints each outcome that differs from the one before.

    Args:
        setup: The region.
        ends: The monotonic time in seconds at which to give up.
        every: Seconds between two tests.

    Raises:
        KeyfoldError: Time is up, and the server has answered no test.
        typer.Exit: Time is up, and the key does not work.
    """
    shown: object = None
    last: _Outcome | None = None
    while True:
        limit = min(call_limit(setup), max(ends - time.monotonic(), 0.001))
        outcome = _test(setup, limit)
        essence = _essence(outcome)
        if essence != shown and not setup.session.for_programs:
            _show(outcome)
        shown = essence
        if _works(outcome):
            return
        if last is None or not isinstance(outcome, KeyfoldError):
            # The last call may end early at `ends`; its error says less than an earlier answer.
            last = outcome
        if time.monotonic() + every >= ends:
            _give_up(setup, last)
        time.sleep(every)


_Outcome: TypeAlias = tuple[KeyTest, api.TestKeyResponse] | KeyfoldError
"""The outcome of a test: its result and response, or an error if the server gave no answer."""


def _test(setup: RegionSetup, limit: float) -> _Outcome:
    call = calls.test_key(setup.key, setup.cluster, setup.region, setup.organization, "")
    try:
        return setup.session.ask(call, timeout=limit)
    except NOT_NOW as error:
        return error


def _works(outcome: _Outcome) -> bool:
    return not isinstance(outcome, KeyfoldError) and outcome[0].accessible


def _essence(outcome: _Outcome) -> object:
    """Returns what makes one outcome differ from another; latencies do not."""
    if isinstance(outcome, KeyfoldError):
        return outcome.reason
    steps = outcome[0].steps
    return [(one.step, one.outcome, one.reason, one.missing_permission) for one in steps]


def _show(outcome: _Outcome) -> None:
    if isinstance(outcome, KeyfoldError):
        typer.echo(one_line(f"no answer now: {outcome.message} ({outcome.reason})"))
    else:
        show_key_test(outcome[0])


def _code(outcome: _Outcome) -> int:
    return exit_code(type(outcome)) if isinstance(outcome, KeyfoldError) else code_of(outcome[0])


def _give_up(setup: RegionSetup, outcome: _Outcome) -> NoReturn:
    """Ends the command with the outcome of its tests.

    Raises:
        KeyfoldError: The server gave no answer.
        typer.Exit: The key does not work.
    """
    if isinstance(outcome, KeyfoldError):
        raise outcome
    test, message = outcome
    if setup.session.form is Form.NAME or not setup.session.printed(message):
        typer.echo(
            f"error: region {one_line(setup.region)} is not ready: {verdict(test)}", err=True
        )
    raise typer.Exit(code_of(test))


def call_limit(setup: RegionSetup) -> float:
    """Returns the deadline of one call in seconds; --timeout limits the whole command instead."""
    return min(CONTROL_TIMEOUT, setup.session.timeout or CONTROL_TIMEOUT)
