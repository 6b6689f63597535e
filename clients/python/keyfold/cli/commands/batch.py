"""The option `--batch` of `wrap` and `unwrap`: lines of JSON in and out, in the same order.

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
from keyfold.cli.input.line_fields import bytes_of, context_of, known, text_of
from keyfold.cli.input.streams import open_input, open_output
from keyfold.cli.input.values import to_base64
from keyfold.cli.output.progress import Progress
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.results import Unwrapped, Wrapped
from keyfold.models.specs import UnwrapItem, WrapItem

Item = TypeVar("Item")
ItemResult = TypeVar("ItemResult")


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
    """The steps that differ between the two commands.

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
        known(line, "plaintext", "region", "context", reported=_REPORTED)
        return WrapItem(bytes_of(line, "plaintext"), text_of(line, "region"), context_of(line))

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
        known(line, "wrapped_key", "context", reported=_REPORTED)
        return UnwrapItem(bytes_of(line, "wrapped_key"), context_of(line))

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
