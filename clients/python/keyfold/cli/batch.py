"""Lines of JSON in, lines of JSON out, in the same order.

A line that cannot be used, and an item that fails, have their error in their own place; the
others go on. Lines are taken in portions, so that their number is not bounded by memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import typer

from keyfold.calls.batches import MAX_ITEMS
from keyfold.cli.failures import ExitCode, InputError, error_object, exit_code
from keyfold.cli.progress import Progress
from keyfold.cli.session import Session
from keyfold.cli.streams import open_input, open_output
from keyfold.cli.values import from_base64, to_base64
from keyfold.errors import KeyfoldError
from keyfold.models.results import Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Destination, RewrapItem, UnwrapItem, WrapItem

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Move:
    """Where `rewrap` moves wrapped keys.

    Attributes:
        cluster: Another cluster, or empty.
        region: Another region, or empty.
        context: Another context; None keeps each key's own.
    """

    cluster: str
    region: str
    context: Mapping[str, str] | None

    def of(self, context: Mapping[str, str]) -> Destination:
        """Returns the destination of a key with this context."""
        kept = context if self.context is None else self.context
        return Destination(self.cluster, self.region, kept)


@dataclass(frozen=True, slots=True)
class _Job(Generic[Item, Answer]):
    """What differs between the three batches."""

    parse: Callable[[dict[str, Any]], Item]
    ask: Callable[[list[Item]], list[Answer | KeyfoldError]]
    show: Callable[[Answer], dict[str, Any]]


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
        _known(line, "plaintext", "region", "context")
        return WrapItem(_bytes(line, "plaintext"), _text(line, "region"), _context(line, {}))

    def ask(items: list[WrapItem]) -> list[Wrapped | KeyfoldError]:
        return session.client.batch_wrap(cluster, items, region=region, context=context)

    def show(answer: Wrapped) -> dict[str, Any]:
        return {
            "wrapped_key": to_base64(answer.wrapped_key),
            "generation": answer.generation,
        }

    _run(_Job(parse, ask, show), source, target, secret=False)


def unwrap(
    session: Session,
    cluster: str,
    context: Mapping[str, str],
    *,
    source: str | None,
    target: str | None,
) -> None:
    """Opens the wrapped key of each line."""

    def parse(line: dict[str, Any]) -> UnwrapItem:
        _known(line, "wrapped_key", "context")
        return UnwrapItem(_bytes(line, "wrapped_key"), _context(line, {}))

    def ask(items: list[UnwrapItem]) -> list[Unwrapped | KeyfoldError]:
        return session.client.batch_unwrap(cluster, items, context=context)

    def show(answer: Unwrapped) -> dict[str, Any]:
        return {
            "plaintext": to_base64(answer.plaintext),
            "region": answer.region,
            "generation": answer.generation,
        }

    _run(_Job(parse, ask, show), source, target, secret=True)


def rewrap(
    session: Session,
    cluster: str,
    context: Mapping[str, str],
    move: Move | None,
    *,
    source: str | None,
    target: str | None,
) -> None:
    """Moves the wrapped key of each line."""

    def parse(line: dict[str, Any]) -> RewrapItem:
        _known(line, "wrapped_key", "context", "destination")
        own = _context(line, {})
        destination = _destination(line)
        if destination is None and move is not None:
            # Not left to the batch's destination, whose context would replace the item's.
            destination = move.of(own or context)
        return RewrapItem(_bytes(line, "wrapped_key"), own, destination)

    def ask(items: list[RewrapItem]) -> list[Rewrapped | KeyfoldError]:
        return session.client.batch_rewrap(cluster, items, context=context)

    def show(answer: Rewrapped) -> dict[str, Any]:
        return {
            "wrapped_key": to_base64(answer.wrapped_key),
            "generation": answer.generation,
            "already_current": answer.already_current,
        }

    _run(_Job(parse, ask, show), source, target, secret=False)


def _run(job: _Job[Item, Answer], source: str | None, target: str | None, *, secret: bool) -> None:
    """Carries out a batch.

    Raises:
        typer.Exit: A line failed; the code is that of the first that did.
    """
    worst = ExitCode.OK
    with (
        open_input(source) as read,
        open_output(target, secret=secret) as written,
        Progress(target) as progress,
    ):
        numbered = ((number, line) for number, line in enumerate(read, 1) if line.strip())
        while portion := list(itertools.islice(numbered, MAX_ITEMS)):
            for answer in _answers(job, portion):
                if isinstance(answer, (KeyfoldError, InputError)):
                    code = ExitCode.INVALID
                    if isinstance(answer, KeyfoldError):
                        code = exit_code(type(answer))
                    worst = worst or code
                    shown = {"error": error_object(answer)}
                else:
                    shown = job.show(answer)
                written.write(json.dumps(shown, ensure_ascii=False).encode() + b"\n")
            written.flush()
            progress.add(len(portion))
    if worst:
        raise typer.Exit(worst)


def _answers(
    job: _Job[Item, Answer], portion: Iterable[tuple[int, bytes]]
) -> Iterator[Answer | KeyfoldError | InputError]:
    """Returns one answer for each line: what the server said, or why it was not asked."""
    parsed: list[Item | InputError] = []
    for number, line in portion:
        item = _parse(job, number, line)
        parsed.append(item)
    items = [one for one in parsed if not isinstance(one, InputError)]
    answers = iter(job.ask(items))
    for one in parsed:
        yield one if isinstance(one, InputError) else next(answers)


def _parse(job: _Job[Item, Answer], number: int, line: bytes) -> Item | InputError:
    try:
        content = json.loads(line)
        if not isinstance(content, dict):
            return InputError(f"line {number}: wants an object")
        return job.parse(content)
    except InputError as wrong:
        return InputError(f"line {number}: {wrong}")
    except (ValueError, RecursionError):
        # The parser's own message would show a part of the line, and so perhaps of a key.
        return InputError(f"line {number}: is not JSON")


def _known(line: dict[str, Any], *names: str) -> None:
    if unknown := sorted(line.keys() - set(names)):
        raise InputError(f"{unknown[0]}: unknown field; known are {', '.join(names)}")


def _text(line: dict[str, Any], name: str) -> str:
    value = line.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{name}: wants text")
    return value


def _bytes(line: dict[str, Any], name: str) -> bytes:
    if name not in line:
        raise InputError(f"{name}: is missing")
    try:
        return from_base64(_text(line, name))
    except ValueError:
        raise InputError(f"{name}: wants base64") from None


def _context(line: dict[str, Any], default: dict[str, str]) -> dict[str, str]:
    value = line.get("context", default)
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise InputError("context: wants an object of text")
    return value


def _destination(line: dict[str, Any]) -> Destination | None:
    value = line.get("destination")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError("destination: wants an object")
    try:
        _known(value, "cluster", "region", "context")
        return Destination(_text(value, "cluster"), _text(value, "region"), _context(value, {}))
    except InputError as wrong:
        raise InputError(f"destination.{wrong}") from None
