"""The option `--batch`: lines of JSON in, lines of JSON out, in the same order.

A malformed line, and a key that the server refuses, get an error in their place in the output; the
other lines are not affected. Memory holds a thousand lines at a time, so the input may be of any
length.

What one of the commands writes, another reads: a line that brings a context of its own gets it back
in the output, and a command ignores what only reports on the command before. An error of that
command stays an error, in its place.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import typer

from keyfold.calls.batches import MAX_ITEMS
from keyfold.cli.errors import ExitCode, InputError, error_object, exit_code
from keyfold.cli.input.streams import open_input, open_output
from keyfold.cli.input.values import from_base64, to_base64
from keyfold.cli.output.progress import Progress
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.results import Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Destination, RewrapItem, UnwrapItem, WrapItem

Item = TypeVar("Item")
ItemResult = TypeVar("ItemResult")


@dataclass(frozen=True, slots=True)
class Move:
    """The options of `rewrap` that move wrapped keys elsewhere.

    Attributes:
        cluster: The new cluster, or empty to keep it.
        region: The new region, or empty to keep it.
        context: The new context, or None to keep each key's own.
    """

    cluster: str
    region: str
    context: Mapping[str, str] | None

    def of(self, context: Mapping[str, str]) -> Destination:
        """Returns the destination of a wrapped key whose present context this is."""
        kept = context if self.context is None else self.context
        return Destination(self.cluster, self.region, kept)


_REPORTED: Final = ("generation", "already_current")
"""Fields with which a command reports on what it did; another one that reads them needs none."""


@dataclass(frozen=True, slots=True)
class _Unsent:
    """A line that is not sent to the server.

    Attributes:
        error: The reason, as the output shows it: what is wrong with the line, or, if the line is
            an error of the command that wrote it, that error.
    """

    error: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Job(Generic[Item, ItemResult]):
    """The steps that differ between the three commands.

    Attributes:
        parse: Reads a line.
        send: Calls the server with the items of many lines.
        show: Turns a result into a line of the output.
    """

    parse: Callable[[dict[str, Any]], Item]
    send: Callable[[list[Item]], list[ItemResult | KeyfoldError]]
    show: Callable[[Item, ItemResult], dict[str, Any]]


def wrap(
    session: Session,
    cluster: str,
    region: str,
    context: Mapping[str, str],
    *,
    source: str | None,
    target: str | None,
) -> None:
    """Wraps the key of each line."""

    def parse(line: dict[str, Any]) -> WrapItem:
        _known(line, "plaintext", "region", "context", reported=_REPORTED)
        return WrapItem(_bytes(line, "plaintext"), _text(line, "region"), _context(line, {}))

    def send(items: list[WrapItem]) -> list[Wrapped | KeyfoldError]:
        return session.client.batch_wrap(cluster, items, region=region, context=context)

    def show(item: WrapItem, result: Wrapped) -> dict[str, Any]:
        return {
            "wrapped_key": to_base64(result.wrapped_key),
            "generation": result.generation,
            **_bound(item.context),
        }

    _run(_Job(parse, send, show), source, target, secret=False)


def unwrap(
    session: Session,
    cluster: str,
    context: Mapping[str, str],
    *,
    source: str | None,
    target: str | None,
) -> None:
    """Unwraps the wrapped key of each line."""

    def parse(line: dict[str, Any]) -> UnwrapItem:
        _known(line, "wrapped_key", "context", reported=_REPORTED)
        return UnwrapItem(_bytes(line, "wrapped_key"), _context(line, {}))

    def send(items: list[UnwrapItem]) -> list[Unwrapped | KeyfoldError]:
        return session.client.batch_unwrap(cluster, items, context=context)

    def show(item: UnwrapItem, result: Unwrapped) -> dict[str, Any]:
        return {
            "plaintext": to_base64(result.plaintext),
            "region": result.region,
            "generation": result.generation,
            **_bound(item.context),
        }

    _run(_Job(parse, send, show), source, target, secret=True)


def rewrap(
    session: Session,
    cluster: str,
    context: Mapping[str, str],
    move: Move | None,
    *,
    source: str | None,
    target: str | None,
) -> None:
    """Rewraps the wrapped key of each line."""

    def parse(line: dict[str, Any]) -> RewrapItem:
        _known(line, "wrapped_key", "context", "destination", reported=_REPORTED)
        own = _context(line, {})
        destination = _destination(line)
        if destination is None and move is not None:
            # A destination of the whole batch would replace each key's own context.
            destination = move.of(own or context)
        return RewrapItem(_bytes(line, "wrapped_key"), own, destination)

    def send(items: list[RewrapItem]) -> list[Rewrapped | KeyfoldError]:
        return session.client.batch_rewrap(cluster, items, context=context)

    def show(item: RewrapItem, result: Rewrapped) -> dict[str, Any]:
        return {
            "wrapped_key": to_base64(result.wrapped_key),
            "generation": result.generation,
            "already_current": result.already_current,
            **_bound(item.destination.context if item.destination else item.context),
        }

    _run(_Job(parse, send, show), source, target, secret=False)


def _run(
    job: _Job[Item, ItemResult], source: str | None, target: str | None, *, secret: bool
) -> None:
    """Runs a command on every line.

    Args:
        job: The command's steps.
        source: The input's path, or `-` or None for stdin.
        target: The output's path, or `-` or None for stdout.
        secret: Whether only the owner of the output file may read it.

    Raises:
        typer.Exit: A line failed; the exit code is that of the first one that did.
    """
    code = ExitCode.OK
    with (
        open_input(source) as read,
        open_output(target, secret=secret) as written,
        Progress(target) as progress,
    ):
        numbered = ((number, line) for number, line in enumerate(read, 1) if line.strip())
        while portion := list(itertools.islice(numbered, MAX_ITEMS)):
            for failed, shown in _results(job, portion):
                code = code or failed
                written.write(json.dumps(shown, ensure_ascii=False).encode() + b"\n")
            written.flush()
            progress.add(len(portion))
    if code:
        raise typer.Exit(code)


def _results(
    job: _Job[Item, ItemResult], portion: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[ExitCode, dict[str, Any]]]:
    """Yields the exit code and the output of each line, also of those that were not sent."""
    parsed: list[Item | _Unsent] = []
    for number, line in portion:
        item = _parse(job, number, line)
        parsed.append(item)
    results = iter(job.send([one for one in parsed if not isinstance(one, _Unsent)]))
    for one in parsed:
        if isinstance(one, _Unsent):
            yield ExitCode.INVALID, {"error": one.error}
        elif isinstance(result := next(results), KeyfoldError):
            yield exit_code(type(result)), {"error": error_object(result)}
        else:
            yield ExitCode.OK, job.show(one, result)


def _parse(job: _Job[Item, ItemResult], number: int, line: bytes) -> Item | _Unsent:
    try:
        content = json.loads(line)
        if isinstance(content, dict):
            if content.keys() == {"error"} and isinstance(content["error"], dict):
                return _Unsent(content["error"])
            return job.parse(content)
        fault = "must be an object"
    except InputError as wrong:
        fault = str(wrong)
    except (ValueError, RecursionError):
        # The parser's own message would show part of the line, which may be part of a key.
        fault = "is not JSON"
    return _Unsent(error_object(InputError(f"line {number}: {fault}")))


def _bound(context: Mapping[str, str]) -> dict[str, Any]:
    return {"context": dict(context)} if context else {}


def _known(line: dict[str, Any], *names: str, reported: Iterable[str] = ()) -> None:
    if unknown := sorted(line.keys() - {*names, *reported}):
        raise InputError(f"{unknown[0]}: unknown field; the fields are {', '.join(names)}")


def _text(line: dict[str, Any], name: str) -> str:
    value = line.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{name}: must be text")
    return value


def _bytes(line: dict[str, Any], name: str) -> bytes:
    if name not in line:
        raise InputError(f"{name}: is missing")
    try:
        return from_base64(_text(line, name))
    except ValueError:
        raise InputError(f"{name}: must be base64") from None


def _context(line: dict[str, Any], default: dict[str, str]) -> dict[str, str]:
    value = line.get("context", default)
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise InputError("context: must be an object of text")
    return value


def _destination(line: dict[str, Any]) -> Destination | None:
    value = line.get("destination")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError("destination: must be an object")
    try:
        _known(value, "cluster", "region", "context")
        return Destination(_text(value, "cluster"), _text(value, "region"), _context(value, {}))
    except InputError as wrong:
        raise InputError(f"destination.{wrong}") from None
