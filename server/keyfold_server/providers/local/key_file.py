"""The development key file: root keys with versions, in one JSON file, for the LOCAL provider.

Invariants: a reader finds the file as it was before a change or after it, never in between. Two
writers do not lose each other's changes. Keyfold refuses a file that anyone but its owner may read.
The material of a destroyed version is gone from the file for good. This module must not know
who calls it.

The file holds the material in plain: whoever reads it has the keys. So it serves development, tests
and a single machine, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from keyfold_server.domain.binding import KEY_SIZE, wipe
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import Stamp, atomic_write, settled, stamp_of
from keyfold_server.domain.keyspec import check_name
from keyfold_server.providers.local import contents as local_format
from keyfold_server.providers.local.contents import KeyVersion, LocalKey, VersionState


class KeyFileError(SetupError):
    """The key file cannot be used, or does not hold the key or version."""


class KeyFileMissingError(KeyFileError):
    """The file does not exist."""


class KeyFileExposedError(KeyFileError):
    """Somebody other than the owner may read or write the file."""


class KeyFileUnreadableError(KeyFileError):
    """The file exists, but the operating system does not let the server read it."""


class KeyFileBrokenError(KeyFileError):
    """The file is not a key file: half-written, or edited by hand."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a reader found in the file.

    Attributes:
        keys: The root keys by name.
        stamp: The file's stamp, or None while the file is so new that a change could leave the
            stamp as it is.
    """

    keys: Mapping[str, LocalKey]
    stamp: Stamp | None

    def wipe(self) -> None:
        """Overwrites the material. Whoever read the file does this last."""
        for key in self.keys.values():
            for version in key.versions:
                if version.material is not None:
                    wipe(version.material)


class KeyFile:
    """A development key file. Safe for many threads and processes."""

    def __init__(self, path: str | Path) -> None:
        """Takes the path; does not touch the file."""
        self.path = Path(path).absolute()

    def stamp(self) -> Stamp:
        """Returns the file's stamp, without opening the file.

        Raises:
            KeyFileError: The file is missing or unreadable, as in `read`.
        """
        try:
            return stamp_of(self.path.stat())
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self) -> Contents:
        """Reads the file. The caller wipes the contents.

        Raises:
            KeyFileMissingError: The file does not exist.
            KeyFileExposedError: Its group or others may read or write it.
            KeyFileUnreadableError: The server cannot read it, or it is not a regular file.
            KeyFileBrokenError: It is not a key file.
        """
        try:
            # Not blocking: a pipe in the file's place must not block the thread for ever.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                self._check(status)
                with open(descriptor, "rb", closefd=False) as file:
                    text = file.read()
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unreadable(error) from error
        keys = local_format.parse(text)
        if keys is None:
            raise KeyFileBrokenError(
                f"{self.path} is not a whole key file; restore it from a copy, or move it away "
                "and make another"
            )
        return Contents(keys, settled(status))

    def create(self, name: str) -> LocalKey:
        """Adds a root key with one version, and creates the file and its folder if need be.

        A name cannot be used twice, not even after its key was destroyed. Otherwise what the old
        key wrapped would look like the new key's.
        """
        check_name(name, "the key's name")

        def decide(keys: Mapping[str, LocalKey]) -> LocalKey:
            if name in keys:
                raise KeyFileError(f"there is a key {name} already; rotate it, or use another name")
            return LocalKey(name, (_fresh(1),))

        return self._change(decide, make=True)

    def rotate(self, name: str) -> LocalKey:
        """Adds a version, which wraps from now on. The older versions still unwrap."""

        def decide(keys: Mapping[str, LocalKey]) -> LocalKey:
            key = self._existing(keys, name)
            if all(version.state is VersionState.DESTROYED for version in key.versions):
                raise KeyFileError(f"key {name} is destroyed; create one of another name")
            return replace(key, versions=(*key.versions, _fresh(key.newest.number + 1)))

        return self._change(decide)

    def disable(self, name: str, number: int | None = None) -> LocalKey:
        """Takes a version out of use until it is enabled; without a number, all versions."""
        return self._move(name, number, VersionState.DISABLED)

    def enable(self, name: str, number: int | None = None) -> LocalKey:
        """Brings a disabled version back into use; without a number, all versions."""
        return self._move(name, number, VersionState.ENABLED)

    def destroy(self, name: str, number: int | None = None) -> LocalKey:
        """Erases the material of a version for good; without a number, of all versions."""
        return self._move(name, number, VersionState.DESTROYED)

    def _move(self, name: str, number: int | None, state: VersionState) -> LocalKey:
        def decide(keys: Mapping[str, LocalKey]) -> LocalKey:
            key = self._existing(keys, name)
            chosen = [v for v in key.versions if number in (None, v.number)]
            if not chosen:
                raise KeyFileError(f"key {name} has no version {number}; list shows its versions")
            if all(version.state is VersionState.DESTROYED for version in chosen):
                what = f"key {name}" if number is None else f"version {number} of key {name}"
                raise KeyFileError(f"{what} is destroyed, which cannot be undone")
            return replace(
                key, versions=tuple(v.moved(state) if v in chosen else v for v in key.versions)
            )

        return self._change(decide)

    def _existing(self, keys: Mapping[str, LocalKey], name: str) -> LocalKey:
        if name not in keys:
            raise KeyFileError(f"there is no key {name} in {self.path}; list shows its keys")
        return keys[name]

    def _change(
        self, decide: Callable[[Mapping[str, LocalKey]], LocalKey], *, make: bool = False
    ) -> LocalKey:
        """Reads the file, decides and replaces it, while no other writer can."""
        try:
            if make:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                try:
                    keys = self.read().keys
                except KeyFileMissingError:
                    if not make:
                        raise
                    keys = {}
                key = decide(keys)
                self._replace(local_format.render({**keys, key.name: key}))
        except OSError as error:
            raise KeyFileError(
                f"{self.path} cannot be changed: {error.strerror}; the file is as it was"
            ) from error
        return key

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other writers out.

        The lock is a file of its own, since every change replaces the key file. Nobody removes it:
        otherwise one writer could hold the removed lock while another one locks its successor. The
        operating system releases it when its holder dies.
        """
        lock = self.path.with_name(self.path.name + ".lock")
        if not self.path.parent.is_dir():
            raise self._unreadable(FileNotFoundError())
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(lock, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, text: bytes) -> None:
        """Puts a new file in the old one's place. The caller holds the lock.

        The change happens with the rename. A crash before it leaves the old file, and a new one
        that nobody reads. The new one holds keys, so the next change removes it. Its name is fixed
        for that, which is safe because only the lock's holder writes.
        """
        target = self.path.resolve()
        fresh = target.with_name(f".{target.name}.new")
        with atomic_write(target, overwrite=True, draft=fresh) as file:
            file.write(text)

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileUnreadableError(f"{self.path} is not a regular file")
        if status.st_mode & 0o077:
            raise KeyFileExposedError(
                f"{self.path} has mode {stat.S_IMODE(status.st_mode):04o}, so others than its "
                "owner may use its keys; run chmod 600 on it"
            )

    def _unreadable(self, error: OSError) -> KeyFileError:
        if isinstance(error, FileNotFoundError):
            return KeyFileMissingError(
                f"there is no key file {self.path}; make one with keyfold-server dev-keys create, "
                "or restore it"
            )
        return KeyFileUnreadableError(
            f"cannot read {self.path}: {error.strerror}; run as the file's owner"
        )


def _fresh(number: int) -> KeyVersion:
    now = int(time.time() * 1_000)
    return KeyVersion(number, VersionState.ENABLED, now, bytearray(os.urandom(KEY_SIZE)))
