"""The development key file: root keys with versions, in one JSON file, for the LOCAL provider.

Invariants: a reader finds the file as it was before a change or after it, never in between, and
two writers lose nothing of each other; a file that others than its owner may read is refused; a
destroyed version's material is gone from the file for good. Knows nothing of who asks.

The material lies there in plain: whoever reads the file holds the keys. That is why it serves
development, tests and a single machine, and nothing else.
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
    """The key file cannot be used, or does not hold what was asked for."""


class KeyFileMissingError(KeyFileError):
    """There is no file."""


class KeyFileExposedError(KeyFileError):
    """Others than its owner may read or write the file."""


class KeyFileUnreadableError(KeyFileError):
    """The file is there, and the operating system does not let it be read."""


class KeyFileBrokenError(KeyFileError):
    """The file is not a key file: half-written, or edited by hand."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The file as it was read.

    Attributes:
        keys: The root keys by name.
        stamp: The file's stamp, or None while the file is too young for a stamp to tell.
    """

    keys: Mapping[str, LocalKey]
    stamp: Stamp | None

    def wipe(self) -> None:
        """Overwrites the material; the reader's last act."""
        for key in self.keys.values():
            for version in key.versions:
                if version.material is not None:
                    wipe(version.material)


class KeyFile:
    """A development key file. Safe for many threads and processes."""

    def __init__(self, path: str | Path) -> None:
        """Names the file; touches nothing yet."""
        self.path = Path(path).absolute()

    def stamp(self) -> Stamp:
        """Returns the file's stamp without opening it.

        Raises:
            KeyFileError: As `read`.
        """
        try:
            return stamp_of(self.path.stat())
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self) -> Contents:
        """Reads the file; whoever takes the contents wipes them.

        Raises:
            KeyFileMissingError: There is none.
            KeyFileExposedError: Its group or others may read or write it.
            KeyFileUnreadableError: It cannot be opened or read, or is no regular file.
            KeyFileBrokenError: It is not a key file.
        """
        try:
            # Not blocking: a pipe in the file's place must not hold the thread for ever.
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
        """Adds a root key with one version; makes the file and its folder where there is none.

        A name is not used twice, not even after its key was destroyed: what the old key wrapped
        must not look like the new one's.
        """
        check_name(name, "the key's name")

        def decide(keys: Mapping[str, LocalKey]) -> LocalKey:
            if name in keys:
                raise KeyFileError(f"there is a key {name} already; rotate it, or use another name")
            return LocalKey(name, (_fresh(1),))

        return self._change(decide, make=True)

    def rotate(self, name: str) -> LocalKey:
        """Adds a version, which wraps from now on; the others still unwrap."""

        def decide(keys: Mapping[str, LocalKey]) -> LocalKey:
            key = self._existing(keys, name)
            if all(version.state is VersionState.DESTROYED for version in key.versions):
                raise KeyFileError(f"key {name} is destroyed; create one of another name")
            return replace(key, versions=(*key.versions, _fresh(key.newest.number + 1)))

        return self._change(decide)

    def disable(self, name: str, number: int | None = None) -> LocalKey:
        """Takes a version out of use, all of them where none is named, until it is enabled."""
        return self._move(name, number, VersionState.DISABLED)

    def enable(self, name: str, number: int | None = None) -> LocalKey:
        """Brings a disabled version back into use, all of them where none is named."""
        return self._move(name, number, VersionState.ENABLED)

    def destroy(self, name: str, number: int | None = None) -> LocalKey:
        """Erases the material of a version, of all of them where none is named, for good."""
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
        """Reads, decides and replaces the file, alone."""
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

        The lock is a file beside, since the file itself is replaced by every change. It is never
        removed: a writer could hold the removed one while another locks its successor. The
        operating system lets go of it when its holder dies.
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
        """Puts a new file in the old one's place; called under the lock.

        The rename is the one moment of the change: a crash before it leaves the old file and
        one that nobody reads. That one holds keys, so the next change removes it; its name is
        fixed for that, which is safe since only the lock's holder writes.
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
            f"{self.path} cannot be read: {error.strerror}; run as the file's owner"
        )


def _fresh(number: int) -> KeyVersion:
    now = int(time.time() * 1_000)
    return KeyVersion(number, VersionState.ENABLED, now, bytearray(os.urandom(KEY_SIZE)))
