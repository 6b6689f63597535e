"""Watches the policy file of a running server.

Invariant: a broken, unreadable or missing file changes nothing; the policy that the watcher read
before stays in force. The module knows nothing of what a policy says.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from pathlib import Path
from typing import Final

from keyfold_server.access.policy.file import PolicyFileError, parse
from keyfold_server.access.policy.rights import CachedPolicy, Policy
from keyfold_server.domain.files import Stamp, settled, stamp_of
from keyfold_server.domain.rights import Identity, Rights

log = logging.getLogger(__name__)

MAX_FILE: Final = 1 << 20
"""Bytes of a policy file."""


def _read(path: Path) -> tuple[bytes, Stamp | None]:
    """Returns the file's bytes, and its stamp if that would show a later change."""
    try:
        # Non-blocking, because a pipe in the file's place would hang the server.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PolicyFileError(f"{path}: is not a regular file; name a policy file")
            if status.st_mode & stat.S_IWOTH:
                raise PolicyFileError(
                    f"{path}: every user of this machine can change it; run chmod o-w on it"
                )
            contents = file.read(MAX_FILE + 1)
    except OSError as error:
        raise PolicyFileError(
            f"cannot read {path}: {error.strerror}; check path and permissions"
        ) from None
    if len(contents) > MAX_FILE:
        raise PolicyFileError(f"{path}: has more than {MAX_FILE:,} bytes; use fewer grants")
    return contents, settled(status)


def _parsed(path: Path, contents: bytes) -> Policy:
    try:
        text = contents.decode()
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        raise PolicyFileError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from None
    return parse(text, str(path))


def read(path: Path) -> Policy:
    """Reads a policy file.

    Raises:
        PolicyFileError: The file cannot be read, or Keyfold does not understand something in it.
    """
    return _parsed(path, _read(path)[0])


class PolicyWatcher:
    """The policy file of a running server, and the policy in force.

    Attributes:
        broken: Why the file is not in force, or None if it is. While the file is broken, the
            previous policy stays in force.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            PolicyFileError: The file cannot be read, or it is broken.
        """
        self._path = path
        contents, self._stamp = _read(path)
        self._force = CachedPolicy(_parsed(path, contents))
        self._digest = hashlib.sha256(contents).digest()
        self._told: tuple[bytes, str] | None = None
        self.broken: str | None = None

    def rights(self, identity: Identity) -> Rights:
        """Returns a caller's rights now. Call it for each RPC, because a reload changes them."""
        return self._force.rights(identity)

    @property
    def claims(self) -> frozenset[str]:
        """The claims of tokens by which grants go, under the policy that is in force."""
        return self._force.claims

    def believes(self, identity: Identity) -> bool:
        """Says whether Keyfold believes the name that the caller says it calls for."""
        return self._force.policy.believes(identity)

    def reload(self) -> bool:
        """Looks at the file again, and says whether another policy is in force from now on.

        It reads a small file, which any thread may do, one at a time. If the file is broken,
        unreadable or missing, the policy stays in force, `broken` says why, and the log says so
        once for each change of the file.
        """
        digest = b""
        try:
            if self._stamp is not None and self._stamp == _looked(self._path):
                return False
            contents, stamp = _read(self._path)
            digest = hashlib.sha256(contents).digest()
            if self._told is not None and digest == self._told[0]:
                return False  # It is still broken; to parse a large file takes long.
            changed = digest != self._digest
            if changed:
                self._force = CachedPolicy(_parsed(self._path, contents))
                self._digest = digest
            self._stamp = stamp
        except PolicyFileError as error:
            self._stamp = None
            self._keep(digest, error.message)
            return False
        if changed or self.broken is not None:
            log.info("the policy file %s is in force", self._path)
        self.broken = self._told = None
        return changed

    def _keep(self, digest: bytes, fault: str) -> None:
        self.broken = fault
        if self._told != (digest, fault):
            self._told = (digest, fault)
            log.error(
                "the policy file is broken, and the previous policy stays in force: %s", fault
            )


def _looked(path: Path) -> Stamp | None:
    try:
        return stamp_of(path.stat())
    except OSError:
        return None
