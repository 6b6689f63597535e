"""Counts of what became of the lines, by the KEK that each wrapped key was and is under."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from keyfold.cli.commands.rewrapping.line import Entry
from keyfold.cli.errors import ExitCode, exit_code
from keyfold.errors import KeyfoldError
from keyfold.models.results import Rewrapped

MAX_KEKS: Final = 10_000
"""Most KEKs that are counted by themselves, so that memory and checkpoints stay small."""

_KEK_ID: Final = slice(2, 18)
"""Where a wrapped key has the id of its KEK, see docs/wrapped-key.md."""

_SHORTEST: Final = 91
"""Bytes of the shortest wrapped key."""


class Kek(NamedTuple):
    """A KEK, as a wrapped key names it.

    Attributes:
        cluster: The cluster of the wrapped key.
        id: The 16 bytes that the wrapped key has.
    """

    cluster: str
    id: bytes


class Count(NamedTuple):
    """The lines of one KEK.

    Attributes:
        held: Lines whose wrapped key is under it in the output.
        left: Lines whose wrapped key was under it in the input, and no longer is.
    """

    held: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the lines so far.

    Attributes:
        lines: All lines, empty ones included.
        moved: Lines whose wrapped key is another one now.
        current: Lines whose wrapped key needed no change.
        failed: Lines with an error in the output.
        unread: Those of them whose wrapped key could not be read, and so may be under any KEK.
        code: The exit code of the first line that failed.
        keks: The counts of each KEK; of the first `MAX_KEKS`.
        uncounted: Lines of further KEKs.
    """

    lines: int = 0
    moved: int = 0
    current: int = 0
    failed: int = 0
    unread: int = 0
    code: ExitCode = ExitCode.OK
    keks: dict[Kek, Count] = field(default_factory=dict)
    uncounted: int = 0

    def after(self, done: Iterable[tuple[Entry, Rewrapped | KeyfoldError | None]]) -> Tally:
        """Returns the counts after further lines, and leaves these as they are.

        Args:
            done: The lines with their results; None for one that was not sent.
        """
        lines, moved, current, failed = self.lines, self.moved, self.current, self.failed
        unread, code, uncounted = self.unread, self.code, self.uncounted
        keks = dict(self.keks)

        for entry, result in done:
            lines += 1
            if result is None:
                if entry.error is not None:
                    failed, unread = failed + 1, unread + 1
                    code = code or ExitCode.INVALID
                continue
            before = kek_of(entry)
            if isinstance(result, KeyfoldError):
                failed += 1
                unread += before is None
                code = code or exit_code(type(result))
                uncounted += _add(keks, before, 1, 0)
            elif result.already_current:
                current += 1
                uncounted += _add(keks, before, 1, 0)
            else:
                moved += 1
                _add(keks, Kek(entry.target, result.wrapped_key[_KEK_ID]), 1, 0)
                uncounted += _add(keks, before, 0, 1)
        return Tally(lines, moved, current, failed, unread, code, keks, uncounted)

    def counted(self, entries: Iterable[Entry]) -> Tally:
        """Returns the counts after further lines of which nothing is sent: those of the input."""
        lines, unread, uncounted, keks = self.lines, self.unread, self.uncounted, dict(self.keks)
        for entry in entries:
            lines += 1
            kek = kek_of(entry)
            if kek is None:
                unread += entry.item is not None or entry.error is not None
            uncounted += _add(keks, kek, 1, 0)
        return replace(self, lines=lines, unread=unread, uncounted=uncounted, keks=keks)


def _add(keks: dict[Kek, Count], kek: Kek | None, held: int, left: int) -> int:
    """Counts a line; returns 1 if `keks` is full, so that the line is not counted by its KEK."""
    if kek is None:
        return 0
    if kek not in keks and len(keks) >= MAX_KEKS:
        return 1
    count = keks.get(kek, Count())
    keks[kek] = Count(count.held + held, count.left + left)
    return 0


def kek_of(entry: Entry) -> Kek | None:
    """Returns the KEK that a line's wrapped key names; None if it is too short to name one."""
    if entry.item is None or len(entry.item.wrapped_key) < _SHORTEST:
        return None
    return Kek(entry.cluster, bytes(entry.item.wrapped_key[_KEK_ID]))
