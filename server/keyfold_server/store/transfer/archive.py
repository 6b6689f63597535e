"""An export as a file: written whole or not at all, and read only once its seal is verified."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import atomic_write
from keyfold_server.store import service_key as service_keys
from keyfold_server.store.seal import Seal
from keyfold_server.store.transfer.parser import Record, parse
from keyfold_server.store.transfer.records import FORM, TRAILER_SIZE, Header, trailer

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK: Final = 1 << 20
"""Bytes that are read at a time to verify the seal."""

_LONGEST_HEADER: Final = 4_096
"""Bytes of the first line that are read before anything is verified."""


@contextmanager
def target(path: Path) -> Iterator[IO[bytes]]:
    """Opens the target of an export: stdout for `-`, otherwise a new file.

    Raises:
        SetupError: The file exists already, or cannot be written.
    """
    if str(path) == "-":
        # A part cannot pass for the whole: if the output is cut short, it lacks its seal.
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with new_file(path) as file:
            yield file


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Writes a new file with mode 0600, whole and on the disk or not at all.

    Raises:
        SetupError: The file exists already, or cannot be written.
    """
    if path.exists():
        # It may be the last good export, and the store the one that was lost.
        raise SetupError(f"{path} exists already; name another file, or move it away")
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}") from None


def seal_of(path: Path) -> Seal:
    """Reads the service key that sealed an export; never makes one.

    Raises:
        SetupError: The key is missing, or cannot be used.
    """
    if not path.exists():
        raise SetupError(
            f"the service key {path} is missing: put the key there that sealed the export, or "
            "name that key with --service-key-of-export to seal the new store with another one"
        )
    return Seal(service_keys.load(path, store=path))


class ExportFile:
    """An export whose seal is verified.

    Attributes:
        header: The export's first line.
    """

    def __init__(self, path: Path, file: IO[bytes], seal: Seal) -> None:
        """Verifies the whole file.

        Raises:
            SetupError: The file is not an export, is not whole, was changed, or carries the seal
                of another service key.
        """
        self._path = path
        self._file = file
        self._check_header(seal)
        self._size = file.seek(0, 2) - TRAILER_SIZE
        file.seek(max(self._size, 0))
        last = file.read()
        if self._size <= 0 or not last.startswith(b'{"mac":"') or not last.endswith(b'"}\n'):
            raise SetupError(
                f"{path} is not whole: the last line, its seal, is missing; take another copy"
            )
        self._digest = self._hash()
        if not hmac.compare_digest(last, trailer(seal, self._digest)):
            raise SetupError(
                f"{path} does not carry the seal of the service key {seal.service_key_id}: "
                "somebody changed it since it was made; take another copy"
            )
        header = next(self.records())
        if not isinstance(header, Header):
            raise SetupError(f"{path} is not an export of Keyfold")
        self.header: Final = header

    def records(self) -> Iterator[Record]:
        """Reads every record.

        Raises:
            SetupError: Somebody changed the file after its seal was verified.
        """
        digest = hashlib.sha256()
        self._file.seek(0)
        left = self._size
        while left > 0 and (raw := self._file.readline(left)):
            left -= len(raw)
            digest.update(raw)
            yield parse(raw)
        if digest.digest() != self._digest:
            raise SetupError(
                f"somebody changed {self._path} while it was read; nothing was imported"
            )

    def _check_header(self, seal: Seal) -> None:
        """Reports what is wrong more exactly than the seal can; trusts nothing that it reads.

        Raises:
            SetupError: The header names another form or another service key, or is not a header.
        """
        try:
            header = json.loads(self._file.readline(_LONGEST_HEADER))
            form, key = header["keyfold_export"], str(header["service_key_id"])
        except (ValueError, LookupError, TypeError, RecursionError):
            raise SetupError(f"{self._path} is not an export of Keyfold") from None
        if type(form) is not int or form != FORM:
            raise SetupError(
                f"{self._path} is not in form {FORM}, the one that this release knows: import it "
                "with the release that made it, or with a newer one"
            )
        if key != seal.service_key_id:
            raise SetupError(
                f"{self._path} carries the seal of another service key than "
                f"{seal.service_key_id}: put that key in its place, or name it with "
                "--service-key-of-export"
            )

    def _hash(self) -> bytes:
        digest = hashlib.sha256()
        self._file.seek(0)
        left = self._size
        while left > 0 and (chunk := self._file.read(min(left, _CHUNK))):
            left -= len(chunk)
            digest.update(chunk)
        return digest.digest()


@contextmanager
def verified(path: Path, seal: Seal) -> Iterator[ExportFile]:
    """Opens an export and verifies the whole of it.

    Raises:
        SetupError: The file cannot be read, or its seal does not fit; the message says why.
    """
    try:
        with path.open("rb") as file:
            yield ExportFile(path, file, seal)
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror or error}") from None
