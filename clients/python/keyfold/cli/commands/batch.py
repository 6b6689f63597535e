"""The option `--batch` of `wrap` and `unwrap`: lines of JSON in and out, in the same order.

A malformed line, and a key that the server refuses, get an error in their place in the output; the
other lines are not affected. Memory holds a thousand lines at a time, so the input may be of any
length.

What one of the commands writes, another reads: a line that brings a context of its own gets it back
in the output, and a command ignores what only reports on the command before. An error of that
command stays an error, in its place. `unwrap` keeps a line's other fields. `wrap` refuses them,
since a misspelt `context` would go unnoticed, and copies nothing of a line, which has a plaintext.
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
from keyfold.cli.input.json_lines import JsonObject, Line, read_lines
from keyfold.cli.input.line_fields import bytes_of, context_of, known, text_of
from keyfold.cli.input.streams import open_input, open_output, size_of
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
class _Parsed(Generic[Item]):
    """A line.

    Attributes:
        content: Its object; None if it is not one.
        items: What it asks of the server; none if the line is not sent.
        error: The reason, as the output shows it: what is wrong with the line, or, if the line is
            an error of the command that wrote it, that error.
    """

    content: JsonObject | None
    items: tuple[Item, ...] = ()
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Job(Generic[Item, ItemResult]):
    """The steps that differ between the two commands.

    Attributes:
        key: The name of the field that has the key.
        parse: Reads a line.
        send: Calls the server with the items of many lines.
        show: Turns a result into a line of the output.
    """

    key: str
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

    _run(_Job("plaintext", parse, send, show), source, target)


def unwrap(
    session: Session,
    cluster: str,
    context: Mapping[str, str],
    *,
    source: str | None,
    target: str | None,
) -> None:
    """Unwraps the wrapped key of each line."""

    def parse(line: dict[str, Any]) -> tuple[str, UnwrapItem]:
        named = text_of(line, "cluster") or cluster
        return named, UnwrapItem(bytes_of(line, "wrapped_key"), context_of(line))

    def send(items: list[tuple[str, UnwrapItem]]) -> list[Unwrapped | KeyfoldError]:
        of_cluster: dict[str, list[UnwrapItem]] = {}
        for named, item in items:
            of_cluster.setdefault(named, []).append(item)
        results = {
            named: iter(session.client.batch_unwrap(named, its_own, context=context))
            for named, its_own in of_cluster.items()
        }
        return [next(results[named]) for named, _ in items]

    def show(_: tuple[str, UnwrapItem], result: Unwrapped) -> dict[str, Any]:
        return {
            "plaintext": to_base64(result.plaintext),
            "region": result.region,
            "generation": result.generation,
        }

    _run(_Job("wrapped_key", parse, send, show), source, target, keeps=True)


def _run(
    job: _Job[Item, ItemResult], source: str | None, target: str | None, *, keeps: bool = False
) -> None:
    """Runs a command on every line.

    Args:
        job: The command's steps.
        source: The input's path, or `-` or None for stdin.
        target: The output's path, or `-` or None for stdout.
        keeps: Whether a line's other fields stay in the output, which is then as secret as a
            plaintext: only the owner of its file may read it.

    Raises:
        typer.Exit: A line failed; the exit code is that of the first one that did.
    """
    code = ExitCode.OK
    with (
        open_input(source) as read,
        open_output(target, secret=keeps) as written,
        Progress(target, size=size_of(read)) as progress,
    ):
        lines = (line for line in read_lines(read) if not line.is_empty)
        while portion := list(itertools.islice(lines, MAX_ITEMS)):
            for failed, shown in _results(job, portion, keeps=keeps):
                code = code or failed
                written.write(shown.encode() + b"\n")
            written.flush()
            progress.add(len(portion), sum(line.size for line in portion))
    if code:
        raise typer.Exit(code)


def _results(
    job: _Job[Item, ItemResult], portion: Iterable[Line], *, keeps: bool
) -> Iterator[tuple[ExitCode, str]]:
    """Yields the exit code and the output of each line, also of those that were not sent."""
    parsed = [_parse(job, line) for line in portion]
    results = iter(job.send([item for one in parsed for item in one.items]))
    for one in parsed:
        content, code = one.content, ExitCode.INVALID
        shown: dict[str, Any] = {"error": one.error}
        for item in one.items:
            if isinstance(result := next(results), KeyfoldError):
                code, shown = exit_code(type(result)), {"error": error_object(result)}
            else:
                code, shown = ExitCode.OK, job.show(item, result)
        if not keeps or content is None:
            yield code, json.dumps(shown, ensure_ascii=False)
            continue
        if isinstance(content.values.get("error"), dict):
            content.drop("error")
        if not code:
            content.drop(job.key)
            content.drop("already_current")
        for name, value in shown.items():
            content.set(name, value)
        yield code, str(content).strip()


def _parse(job: _Job[Item, ItemResult], line: Line) -> _Parsed[Item]:
    content = None
    try:
        content = line.to_object()
        before = content.values.get("error")
        if job.key not in content.values and isinstance(before, dict):
            return _Parsed(content, error=before)
        return _Parsed(content, (job.parse(content.values),))
    except InputError as wrong:
        return _Parsed(content, error=error_object(InputError(f"line {line.number}: {wrong}")))


def _bound(context: Mapping[str, str]) -> dict[str, Any]:
    return {"context": dict(context)} if context else {}
