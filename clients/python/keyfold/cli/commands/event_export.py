"""An export of events: a file that each run continues, or stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import typer

from keyfold.calls import events as calls
from keyfold.calls.call import next_page
from keyfold.calls.events import EventFilter, EventPage
from keyfold.cli.errors import InputError
from keyfold.cli.input.growing import lock, write_all, writing
from keyfold.cli.session import Session, json_of

_LOOK_BACK: Final = 1 << 20
"""Bytes at the end of a file in which its last line is looked for. No event is larger."""


@dataclass(frozen=True, slots=True)
class Export:
    """A place that takes lines.

    Attributes:
        file: The place.
        name: The file's path; None for stdout.
        number: The number of the last event that it has; 0 if it has none.
        id: That event's id.
    """

    file: BinaryIO | FileIO
    name: Path | None = None
    number: int = 0
    id: str = ""

    @classmethod
    @contextmanager
    def into(cls, path: Path | None) -> Iterator[Self]:
        """Opens a file to continue, or stdout.

        A line that a crash cut off is removed, since the event comes again. While one command
        continues the file, another one is refused.

        Raises:
            InputError: The file cannot be used, or does not hold events.
        """
        if path is None:
            yield cls(sys.stdout.buffer)
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise InputError(f"cannot write {path}: {problem.strerror}") from None
        with FileIO(descriptor, "r+b") as file:
            with writing(str(path)):
                lock(file, str(path))
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _LOOK_BACK))
            tail = file.read()
            whole = tail.rpartition(b"\n")[0]
            file.truncate(end - len(tail) + (len(whole) + 1 if b"\n" in tail else 0))
            file.seek(0, os.SEEK_END)
            last = whole.rpartition(b"\n")[2]
            number, entry_id = _named(last, path) if last else (0, "")
            yield cls(file, path, number, entry_id)

    def write(self, session: Session, narrow: EventFilter) -> None:
        """Writes the events that follow, page by page.

        Raises:
            InputError: The server's log no longer has the last event of the file.
        """
        if self.number:
            self._check_last(session)
            narrow = replace(narrow, first=self.number + 1)
        page: EventPage | None = calls.first_events(narrow, newest_first=False, page_size=1_000)
        while page is not None:
            response = session.client.send(page)
            self._write(
                b"".join(json_of(one, indent=None).encode() + b"\n" for one in response.events)
            )
            page = next_page(page, response)

    def _write(self, lines: bytes) -> None:
        if isinstance(self.file, FileIO):
            with writing(str(self.name)):
                write_all(self.file, lines)
        else:
            self.file.write(lines)
            self.file.flush()

    def _check_last(self, session: Session) -> None:
        """Checks that the last event of the file is the one that the server's log has."""
        narrow = EventFilter(first=self.number, last=self.number)
        [*there] = session.client.send(
            calls.first_events(narrow, newest_first=False, page_size=1)
        ).events
        if not there:
            typer.echo(
                f"warning: the server no longer shows event {self.number}, so events after it may "
                "be missing: they were pruned, or the store was rolled back",
                err=True,
            )
        elif there[0].id != self.id:
            raise InputError(
                f"event {self.number} of the server is not the one in the file: the store is "
                "another one, or was rolled back; export to another file"
            )


def _named(line: bytes, path: Path) -> tuple[int, str]:
    """Returns the number and the id of the event in a line.

    Raises:
        InputError: The line is not an event.
    """
    try:
        told: Any = json.loads(line)
        return int(told["number"]), str(told["id"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} does not hold events; name another file") from None
