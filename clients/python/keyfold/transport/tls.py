"""The certificates of a TLS connection, and their files, which other programs renew.

Invariant: what a connection is made with belongs together. A file that is half written, or a
certificate whose key has not come yet, leaves the former ones in use.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

import grpc

from keyfold.arguments import wrong_value
from keyfold.transport.files import Stamp, stamp, unreadable

_LOOK: Final = 1.0
"""Seconds between two looks at the files. A look is a `stat` of each."""

Part: TypeAlias = str | os.PathLike[str] | bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates that server and client prove themselves with: paths, or PEM bytes.

    The client looks at the files when it makes a call, at most once a second. When they have
    changed and belong together, new calls and watches go over a new connection, and the calls
    under way end on the old one. So certificates that live for an hour need no new client.

    Attributes:
        ca: The authorities that may sign the server's certificate; None means the system's.
        cert: The client's certificate chain, for mutual TLS.
        key: The client's private key, for mutual TLS.
        server_name: The name that the server's certificate must hold, if it is not the target's.
    """

    ca: Part = None
    cert: Part = None
    key: Part = field(default=None, repr=False)
    server_name: str | None = None


class Pems(NamedTuple):
    """The parts of a `Tls`, read."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None

    def __repr__(self) -> str:
        return "Pems()"

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the gRPC credentials."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


class Certificates:
    """The parts of a `Tls` as they are now. Any number of threads may share it.

    Attributes:
        server_name: See `Tls`.
        pems: What was read last, and belongs together.
    """

    def __init__(self, tls: Tls) -> None:
        """Reads the files for the first time.

        Raises:
            ArgumentValueError: The certificate was given without the key, or the key without it.
            FileUnreadableError: A file cannot be read.
        """
        if (tls.cert is None) != (tls.key is None):
            raise wrong_value("give a client certificate and its key together, or neither")
        self.server_name = tls.server_name
        self._parts = (tls.ca, tls.cert, tls.key)
        self._watches = any(isinstance(part, (str, os.PathLike)) for part in self._parts)
        self._looking = Lock()
        # Stamps first: what is written meanwhile is looked at again.
        self._stamps: tuple[Stamp | None, ...] = ()
        with suppress(OSError):
            self._stamps = self._stamped()
        self.pems = Pems(*map(_read, self._parts))
        self._look_at = monotonic() + _LOOK

    def fresh(self) -> Pems:
        """Looks at the files, if it is time to, and returns what they hold or last held."""
        due = self._watches and monotonic() >= self._look_at
        # Whoever comes second need not wait: what there was is good for a moment longer.
        if due and self._looking.acquire(blocking=False):
            try:
                self._look_at = monotonic() + _LOOK
                self._take()
            finally:
                self._looking.release()
        return self.pems

    def look_soon(self) -> None:
        """Makes the next call look at the files, because a connection did not come about."""
        self._look_at = 0.0

    def _take(self) -> None:
        try:
            stamps = self._stamped()
            if stamps == self._stamps:
                return
            found = Pems(*map(_read, self._parts))
            # What was written meanwhile is looked at the next time.
            if stamps != self._stamped() or not _belong_together(found):
                return
        except OSError:
            return
        self._stamps = stamps
        if found != self.pems:
            self.pems = found

    def _stamped(self) -> tuple[Stamp | None, ...]:
        """Returns the stamps of the files; None for a part that is not one."""
        return tuple(
            stamp(Path(part).stat()) if isinstance(part, (str, os.PathLike)) else None
            for part in self._parts
        )


def _read(part: Part) -> bytes | None:
    if part is None or isinstance(part, bytes):
        return part
    try:
        return Path(part).read_bytes()
    except OSError as error:
        raise unreadable(part, error) from error


def _belong_together(pems: Pems) -> bool:
    """Returns whether every part is whole, and the key is the certificate's."""
    from cryptography import x509  # it takes a while, and most clients never need it
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if pems.ca is not None:
            x509.load_pem_x509_certificates(pems.ca)
        if pems.cert is None or pems.key is None:
            return True
        chain = x509.load_pem_x509_certificates(pems.cert)
        key = load_pem_private_key(pems.key, None)
    except (TypeError, ValueError):
        return False
    return chain[0].public_key() == key.public_key()
