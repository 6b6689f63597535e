"""An export as a file: made whole or not at all, and believed only once its seal was checked."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from keyfold_server.domain.errors import SetupError
from keyfold_server.store import service_key as service_keys
from keyfold_server.store.seal import Seal
from keyfold_server.store.transfer.parser import Record, parsed
from keyfold_server.store.transfer.records import FORMATS, TRAILER, Header, trailer

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK: Final = 1 << 20
_FIRST_LINE: Final = 4_096


@contextmanager
def target(path: Path) -> Iterator[IO[bytes]]:
    """Opens where an export goes: `-` is stdout, anything else a new file.

    Raises:
        SetupError: It is there already, or cannot be made.
    """
    if str(path) == "-":
        # Cut short it lacks its seal, so nobody takes a part for the whole.
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with new_file(path) as file:
            yield file


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Makes a file with mode 0600, whole and on the disk or not at all; never replaces one.

    Raises:
        SetupError: It is there already, or cannot be made.
    """
    if path.exists():
        # Not replaced: it may be the last good export, and the store the one that was lost.
        raise SetupError(f"{path} is there already; name another file, or move it away")
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(draft)
        finally:
            draft.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}") from None


def key_of(path: Path) -> Seal:
    """Reads the service key that sealed an export; never makes one.

    Raises:
        SetupError: It is missing, or cannot be used.
    """
    if not path.exists():
        raise SetupError(
            f"the service key {path} is missing: put the one that sealed the export there, or "
            "name that one with --service-key-of-export to seal the new store with another"
        )
    return Seal(service_keys.load(path, store=path, new=False))


class ExportFile:
    """An export whose seal was checked.

    Attributes:
        header: Its first line.
    """

    def __init__(self, path: Path, file: IO[bytes], seal: Seal) -> None:
        """Checks the whole file.

        Raises:
            SetupError: It is no export, is not whole, was changed, or another key sealed it.
        """
        self._path = path
        self._file = file
        self._form = self._check_header(seal)
        self._size = file.seek(0, 2) - TRAILER
        file.seek(max(self._size, 0))
        last = file.read()
        if self._size <= 0 or not last.startswith(b'{"mac":"') or not last.endswith(b'"}\n'):
            raise SetupError(
                f"{path} is not whole: the last line, its seal, is missing; take another copy"
            )
        self._digest = self._hashed()
        if not hmac.compare_digest(last, trailer(seal, self._digest, self._form)):
            raise SetupError(
                f"{path} does not carry the seal of the service key {seal.service_key_id}: it "
                "was changed since it was made; take another copy"
            )
        header = next(self.records())
        if not isinstance(header, Header):
            raise SetupError(f"{path} is not an export of Keyfold")
        self.header: Final = header

    def records(self) -> Iterator[Record]:
        """Reads every record.

        Raises:
            SetupError: The file is not what it was when its seal was checked.
        """
        seen = hashlib.sha256()
        self._file.seek(0)
        left = self._size
        while left > 0 and (raw := self._file.readline(left)):
            left -= len(raw)
            seen.update(raw)
            yield parsed(raw, self._form)
        if seen.digest() != self._digest:
            raise SetupError(f"{self._path} was changed while it was read; nothing was imported")

    def _check_header(self, seal: Seal) -> int:
        """Says what can be said better than that the seal is wrong; nothing is believed yet.

        Returns:
            The version of the form that the header names.
        """
        try:
            header = json.loads(self._file.readline(_FIRST_LINE))
            form, key = header["keyfold_export"], str(header["service_key_id"])
        except (ValueError, LookupError, TypeError):
            raise SetupError(f"{self._path} is not an export of Keyfold") from None
        if type(form) is not int or form not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise SetupError(
                f"{self._path} has another form than {known}, which this release knows: import "
                "it with the release that made it, or with a newer one"
            )
        if key != seal.service_key_id:
            raise SetupError(
                f"{self._path} was sealed with another service key than {seal.service_key_id}: "
                "put that one in its place, or name it with --service-key-of-export"
            )
        return form

    def _hashed(self) -> bytes:
        seen = hashlib.sha256()
        self._file.seek(0)
        left = self._size
        while left > 0 and (chunk := self._file.read(min(left, _CHUNK))):
            left -= len(chunk)
            seen.update(chunk)
        return seen.digest()


@contextmanager
def checked(path: Path, seal: Seal) -> Iterator[ExportFile]:
    """Opens an export and checks the whole of it.

    Raises:
        SetupError: It cannot be read, or not be believed; the message says why.
    """
    try:
        with path.open("rb") as file:
            yield ExportFile(path, file, seal)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None
