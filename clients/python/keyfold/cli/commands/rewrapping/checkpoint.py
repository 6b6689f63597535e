"""The checkpoint of `rewrap --batch`, and the output that it stands for.

Order makes it safe to end the command at any moment. The lines are written and synchronized to the
disk first, then a checkpoint that counts them takes the place of the one before in one step. What
the output has beyond the checkpoint is cut off by the next run, which writes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from keyfold.cli.commands.rewrapping.tally import Count, Kek, Tally
from keyfold.cli.errors import ExitCode, InputError
from keyfold.cli.input.growing import lock, write_all, writing
from keyfold.cli.input.replacing import sync_folder

if TYPE_CHECKING:
    from hashlib import _Hash

_FORMAT: Final = "keyfold_rewrap_1"
"""The field of the counts, by which a checkpoint of this form is known."""

_TAIL: Final = 64 * 1024
"""Bytes before the end of the output that a checkpoint has a hash of."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)

_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a run has come.

    Attributes:
        options: The options that decide what comes out.
        read: Bytes of the input whose lines are in the output.
        sha256: Their hash, in hex.
        written: Bytes of the output.
        tail: The hash of the last of them, at most `_TAIL`.
        tally: What became of these lines.
    """

    options: str
    read: int = 0
    sha256: str = ""
    written: int = 0
    tail: str = ""
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Reads a checkpoint; None if there is no such file.

        Raises:
            InputError: The file cannot be read, or is not a checkpoint.
        """
        try:
            stored: Any = json.loads(path.read_bytes())
            counts = stored.pop(_FORMAT)
            counts["code"] = ExitCode(counts["code"])
            counts["keks"] = {
                Kek(cluster, bytes.fromhex(kek)): Count(int(held), int(left))
                for cluster, kek, held, left in counts["keks"]
            }
            return cls(**stored, tally=Tally(**counts))
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise InputError(f"cannot read {path}: {problem.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} is not a checkpoint of this version; name another file"
            ) from None

    def save(self, path: Path) -> None:
        """Puts this checkpoint in the place of the one before, so that it survives a crash."""
        counts = {name: getattr(self.tally, name) for name in Tally.__slots__}
        counts["keks"] = [
            (kek.cluster, kek.id.hex(), count.held, count.left)
            for kek, count in self.tally.keks.items()
        ]
        stored = {name: getattr(self, name) for name in self.__slots__ if name != "tally"}
        # Always the same name, so that a run that was killed here leaves nothing behind.
        beside = path.with_name(f".{path.name}.new")
        with os.fdopen(os.open(beside, _NEW, 0o600), "wb") as file:
            file.write(json.dumps({_FORMAT: counts, **stored}).encode())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path)

    def check_options(self, path: Path, now: str) -> None:
        """Checks that the options are those of the run before.

        Raises:
            InputError: One differs; the message says which.
        """
        before, after = json.loads(self.options), json.loads(now)
        if differing := sorted(name for name in after if before.get(name) != after[name]):
            name = differing[0]
            raise InputError(
                f"{path} is the checkpoint of a run with {name} {before.get(name)!r}, not "
                f"{after[name]!r}; give the same options, or another --checkpoint and --out"
            )

    def skip(self, file: BinaryIO, path: Path) -> _Hash:
        """Reads the part of the input that is done, and returns its hash.

        Raises:
            InputError: It is not the input of the run before.
        """
        digest = hashlib.sha256()
        left = self.read
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        if left:
            raise InputError(
                f"{path} is the checkpoint of another input: it has read {self.read:,} bytes, and "
                f"this input ends after {self.read - left:,}"
            )
        if self.read and digest.hexdigest() != self.sha256:
            raise InputError(
                f"{path} is the checkpoint of another input: the first {self.read:,} bytes of this "
                f"one, {self.tally.lines:,} lines, are not those that are in the output"
            )
        return digest


class Resumable:
    """An output that grows with its checkpoint.

    Attributes:
        checkpoint: The checkpoint that is on the disk.
    """

    def __init__(self, file: FileIO, target: str, place: Path, checkpoint: Checkpoint) -> None:
        """Takes an output that ends where the checkpoint says."""
        self._file = file
        self._target = target
        self._place = place
        self.checkpoint = checkpoint

    @classmethod
    @contextmanager
    def opened(cls, target: str, place: Path, options: str) -> Iterator[Self]:
        """Opens an output, new or as a run before has left it.

        Raises:
            InputError: The output or the checkpoint cannot be used, or do not belong together.
        """
        path = Path(target)
        checkpoint = Checkpoint.load(place)
        if checkpoint is None:
            if path.exists():
                raise InputError(
                    f"{target} exists, and its checkpoint {place} does not: remove {target} to "
                    "begin anew, or name another file"
                )
            checkpoint = Checkpoint(options)
            with writing(str(place)):
                checkpoint.save(place)
        checkpoint.check_options(place, options)
        # Made by the first run, or by one that goes on, since the checkpoint comes first.
        flags = os.O_RDWR | (0 if checkpoint.written else os.O_CREAT)
        with writing(target):
            file = FileIO(os.open(path, flags, 0o666), "r+b")
        with file:
            with writing(target):
                lock(file, target)
                _cut(file, target, checkpoint)
                sync_folder(path)
            yield cls(file, target, place, checkpoint)

    def write(self, data: bytes, read: int, digest: _Hash, tally: Tally) -> None:
        """Writes lines, and then the checkpoint that counts them.

        Args:
            data: The lines.
            read: Bytes of the input whose lines are written now.
            digest: The hash of these bytes.
            tally: The counts of these lines.
        """
        with writing(self._target):
            write_all(self._file, data)
            os.fsync(self._file.fileno())
            written = self.checkpoint.written + len(data)
            tail = _tail(self._file, written)
        made = replace(
            self.checkpoint,
            read=read,
            sha256=digest.hexdigest(),
            written=written,
            tail=tail,
            tally=tally,
        )
        with writing(str(self._place)):
            made.save(self._place)
        self.checkpoint = made


def _cut(file: FileIO, target: str, checkpoint: Checkpoint) -> None:
    """Removes from the output what the checkpoint does not count.

    Raises:
        InputError: The output is not the one of the checkpoint.
    """
    size = file.seek(0, os.SEEK_END)
    if size < checkpoint.written or _tail(file, checkpoint.written) != checkpoint.tail:
        raise InputError(
            f"{target} is not the output of the checkpoint, which has {checkpoint.written:,} bytes "
            f"of it, or somebody changed it; it has {size:,} bytes"
        )
    file.truncate(checkpoint.written)
    file.seek(checkpoint.written)


def _tail(file: FileIO, end: int) -> str:
    """Returns the hash of the bytes before a place, and goes to that place."""
    if not end:
        file.seek(0)
        return ""
    file.seek(max(0, end - _TAIL))
    digest = hashlib.sha256()
    left = min(end, _TAIL)
    while left and (chunk := file.read(left)):
        digest.update(chunk)
        left -= len(chunk)
    file.seek(end)
    return digest.hexdigest()
