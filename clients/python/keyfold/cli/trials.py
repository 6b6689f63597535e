"""A root key that is tried until it works: by a person, or by the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import typer

from keyfold import calls
from keyfold.cli.failures import NOT_NOW, exit_code, one_line
from keyfold.cli.inspection import code_of
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import show_key_test, verdict
from keyfold.errors import KeyfoldError
from keyfold.models.key_test import KeyTest
from keyfold.models.specs import KeySpec
from keyfold.transport.timeouts import CONTROL_TIMEOUT
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class Place:
    """One region on its way.

    Attributes:
        session: The connection.
        cluster: The cluster's name.
        organization: The customer's organization, or empty.
        region: The region's name.
        key: Its root key.
    """

    session: Session
    cluster: str
    organization: str
    region: str
    key: KeySpec


def try_with_person(place: Place) -> None:
    """Tries the key whenever a person says so, until it works.

    Raises:
        typer.Exit: The person gave up.
    """
    code = int(exit_code(KeyfoldError))
    while True:
        question = f"Put this in place. Enter tries the key of {one_line(place.region)}, q gives up"
        said = typer.prompt(question, default="", show_default=False, err=True)
        if said.strip().lower().startswith("q"):
            raise typer.Exit(code)
        tried = _try(place, call_limit(place))
        _draw(tried)
        if _works(tried):
            return
        code = _code(tried)


def try_until(place: Place, ends: float, every: float) -> None:
    """Tries the key again and again, and draws it whenever something has changed.

    Raises:
        typer.Exit: It did not work in time.
    """
    drawn: object = None
    last: _Tried | None = None
    while True:
        limit = min(call_limit(place), max(ends - time.monotonic(), 0.001))
        tried = _try(place, limit)
        if (shown := _essence(tried)) != drawn and not place.session.json:
            _draw(tried)
        drawn = shown
        if _works(tried):
            return
        if last is None or not isinstance(tried, KeyfoldError):
            # A trial that the end of the wait cut short tells less than the one before.
            last = tried
        if time.monotonic() + every >= ends:
            _give_up(place, last)
        time.sleep(every)


_Tried: TypeAlias = tuple[KeyTest, api.TestKeyResponse] | KeyfoldError
"""What a trial came to: the steps, or why there was no answer now."""


def _try(place: Place, limit: float) -> _Tried:
    call = calls.test_key(place.key, place.cluster, place.region, place.organization)
    try:
        return place.session.ask(call, timeout=limit)
    except NOT_NOW as error:
        return error


def _works(tried: _Tried) -> bool:
    return not isinstance(tried, KeyfoldError) and tried[0].accessible


def _essence(tried: _Tried) -> object:
    """Returns what makes one trial differ from another; how long a step took does not."""
    if isinstance(tried, KeyfoldError):
        return tried.reason
    steps = tried[0].steps
    return [(one.step, one.outcome, one.reason, one.missing_permission) for one in steps]


def _draw(tried: _Tried) -> None:
    if isinstance(tried, KeyfoldError):
        typer.echo(one_line(f"no answer now: {tried.message} ({tried.reason})"))
    else:
        show_key_test(tried[0])


def _code(tried: _Tried) -> int:
    return exit_code(type(tried)) if isinstance(tried, KeyfoldError) else code_of(tried[0])


def _give_up(place: Place, tried: _Tried) -> NoReturn:
    """Ends with what the last trial said.

    Raises:
        KeyfoldError: There was no answer.
        typer.Exit: The key does not work.
    """
    if isinstance(tried, KeyfoldError):
        raise tried
    test, message = tried
    if place.session.json:
        typer.echo(json_of(message))
    else:
        typer.echo(
            f"error: region {one_line(place.region)} is not ready: {verdict(test)}", err=True
        )
    raise typer.Exit(code_of(test))


def call_limit(place: Place) -> float:
    """Returns the seconds that one call may take; --timeout bounds the wait, not each call."""
    return min(CONTROL_TIMEOUT, place.session.timeout or CONTROL_TIMEOUT)
