"""Sends the lines of a file to the server, several calls at a time, and tries again what must wait.

Lines are read in windows. The lines of one window are grouped by cluster, so that a file in which
clusters alternate still goes in full calls. Two windows are in memory: while one is sent, the next
one is read.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from keyfold import errors
from keyfold.calls import batches
from keyfold.calls.batches import Part
from keyfold.cli.commands.rewrapping.line import Defaults, Entry
from keyfold.cli.commands.rewrapping.tally import Kek, kek_of
from keyfold.cli.errors import NOT_NOW
from keyfold.cli.input.json_lines import Line
from keyfold.client import Client
from keyfold.errors import KeyfoldError
from keyfold.models.results import Rewrapped
from keyfold.v1 import key_management_service_pb2 as api

Result = Rewrapped | KeyfoldError
RewrapPart = Part[api.BatchRewrapResponse, Rewrapped]

MAX_LINES: Final = 16_000
"""Most lines of a window."""

MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of lines at which a window is full."""

_STOPS: Final = (errors.UnauthenticatedError, errors.UnimplementedError)
"""Errors of a call that every other call would get, too: the run stops, and marks no line."""

_LINE_WAITS: Final = (*NOT_NOW, errors.CouldNotTellError, errors.ConflictError)
"""Errors of a line that may pass."""

_LONGEST_WAIT: Final = 60.0
"""Most seconds between two tries."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try again.

    Attributes:
        calls: Seconds without any answer after which the run stops; a later run goes on.
        lines: Seconds after which a line gets its error, such as that of a KMS without an answer.
        first: Seconds before the second try, where the server does not say how many.
    """

    calls: float = 300.0
    lines: float = 60.0
    first: float = 0.5


@dataclass(slots=True)
class Window:
    """Lines that are sent together.

    Attributes:
        entries: The lines.
        size: Their bytes.
        sent: The calls, each with the indexes of its lines.
    """

    entries: list[Entry] = field(default_factory=list)
    size: int = 0
    sent: list[tuple[list[int], Future[list[Result]]]] = field(default_factory=list)


def windows(lines: Iterable[Line], defaults: Defaults) -> Iterator[Window]:
    """Yields the lines of a file, window by window."""
    window = Window()
    for line in lines:
        window.entries.append(Entry.read(line, defaults))
        window.size += line.size
        if len(window.entries) == MAX_LINES or window.size >= MAX_BYTES:
            yield window
            window = Window()
    if window.entries:
        yield window


def parts(entries: Sequence[Entry]) -> Iterator[tuple[list[int], RewrapPart]]:
    """Yields the calls for some lines, and the indexes of the lines of each."""
    clusters: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.item is not None:
            clusters.setdefault(entry.cluster, []).append(index)
    for cluster, indexes in clusters.items():
        at = 0
        items = (entries[index].item for index in indexes)
        for part in batches.rewraps(cluster, filter(None, items), None, None):
            yield indexes[at : at + part.count], part
            at += part.count


class Pipeline:
    """Calls under way, at most so many at a time."""

    def __init__(self, client: Client, concurrency: int, patience: Patience | None = None) -> None:
        """Starts without a call.

        Args:
            client: The client.
            concurrency: Most calls at a time.
            patience: How long to try again.
        """
        self._client = client
        self._patience = patience or Patience()
        self._threads = ThreadPoolExecutor(concurrency)
        self._stopping = threading.Event()
        self._answered = time.monotonic()
        self._hopeless: set[Kek] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._threads.shutdown(wait=error is None, cancel_futures=True)

    def send(self, window: Window) -> None:
        """Begins to send a window's lines."""
        for indexes, part in parts(window.entries):
            entries = [window.entries[index] for index in indexes]
            window.sent.append((indexes, self._threads.submit(self._rewrap, part, entries)))

    def _rewrap(self, part: RewrapPart, entries: list[Entry]) -> list[Result]:
        """Returns the results of a call's lines, after as many tries as they may have."""
        results = self._call(part)
        began, tries = time.monotonic(), 0
        while again := self._worth_another_try(entries, results):
            failed = [
                one for one in map(results.__getitem__, again) if isinstance(one, KeyfoldError)
            ]
            told = max((one.retry_after or 0.0 for one in failed), default=0.0)
            if time.monotonic() - began > self._patience.lines:
                self._hopeless.update(filter(None, (kek_of(entries[one]) for one in again)))
                break
            self._wait(told, tries)
            tries += 1
            for indexes, rest in parts([entries[one] for one in again]):
                for index, result in zip(indexes, self._call(rest), strict=True):
                    results[again[index]] = result
        return results

    def _worth_another_try(self, entries: list[Entry], results: list[Result]) -> list[int]:
        """Returns the indexes of the lines to send again.

        Those of a KEK that did not come back in time are sent once only, or each call would wait
        for it anew.
        """
        again = []
        for index, result in enumerate(results):
            if not isinstance(result, KeyfoldError):
                if self._hopeless:
                    self._hopeless.discard(kek_of(entries[index]) or Kek("", b""))
            elif isinstance(result, _LINE_WAITS) and kek_of(entries[index]) not in self._hopeless:
                again.append(index)
        return again

    def _call(self, part: RewrapPart) -> list[Result]:
        """Sends a call until it has an answer.

        Raises:
            KeyfoldError: No call has had one for too long, or none can have one.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                results = part.checked(part.call.read(self._client.send(part.call)))
            except NOT_NOW as error:
                since = max(began, self._answered)
                if self._stopping.is_set() or time.monotonic() - since > self._patience.calls:
                    raise
                self._wait(error.retry_after or 0.0, tries)
                tries += 1
            except _STOPS:
                raise
            except KeyfoldError as error:
                self._answered = time.monotonic()
                return part.failed(error)
            else:
                self._answered = time.monotonic()
                return results

    def _wait(self, told: float, tries: int) -> None:
        """Waits as long as the server says, or else longer each time; ends early at the end."""
        seconds = told or self._patience.first * 2.0 ** min(tries, 16)
        # Not all calls at the same moment again.
        self._stopping.wait(min(seconds, _LONGEST_WAIT) * random.uniform(1.0, 1.25))  # noqa: S311
