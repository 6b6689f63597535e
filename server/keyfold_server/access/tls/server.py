"""TLS for the server: its certificate, key and client authorities, renewed while it serves.

gRPC calls this module before each handshake, in threads of its own. Open connections keep what they
began with, until the server's maximum connection age ends them. Invariants: the server never uses a
set of files that does not fit together, but goes on with the last good one; and nothing in this
module makes a handshake fail. BoringSSL's default excludes versions of TLS before 1.2.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import grpc

from keyfold_server import telemetry
from keyfold_server.access.tls import files as tls_files
from keyfold_server.access.tls.files import TlsFiles, TlsSet
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import Stamp
from keyfold_server.domain.ports import Clock

log: Final = logging.getLogger(__name__)


class ServerTls:
    """The server's side of TLS. It is safe for many threads, since gRPC calls it in its own."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Reads the files for the first time.

        Args:
            files: The paths of the files.
            clock: The clock by which a certificate must be valid.

        Raises:
            SetupError: The files cannot be used. The message names the setting and says what to do.
        """
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: Stamp | None = tls_files.stamp(files)
        self._serving = tls_files.read(files, clock.wall())
        self._fault = ""
        self._show()
        if self._serving.key_exposed:
            log.warning(
                "every user of this machine can read the TLS key; run chmod o-r on it unless a "
                "container keeps them out",
                extra={"setting": tls_files.KEY},
            )

    @property
    def asks_clients(self) -> bool:
        """Whether the handshake refuses a client without a certificate."""
        return self._files.client_ca is not None

    @property
    def paths(self) -> tuple[Path, Path, Path | None]:
        """The files of the certificate, of its key, and of the clients' authorities."""
        return self._files.certificate, self._files.key, self._files.client_ca

    def is_on_disk(self) -> bool:
        """Says whether the files hold exactly the set that `current` returned last."""
        serving = self._serving
        held = serving.certificate, serving.key, serving.client_ca
        try:
            found = tuple(path and path.read_bytes() for path in self.paths)
        except OSError:
            return False
        return found == held

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials for `add_secure_port`; each port needs its own."""
        fetch = _Port(self)
        return grpc.dynamic_ssl_server_credentials(
            _configuration(fetch.served),
            fetch,  # type: ignore[arg-type]  # the stubs do not know that None means "no change"
            require_client_authentication=self.asks_clients,
        )

    def current(self) -> TlsSet:
        """Looks at the files, and returns the set to serve; never raises."""
        try:
            with self._lock:
                return self._current()
        except Exception:
            # gRPC would print the exception and go on, and our log would not show it.
            log.exception(
                "the TLS files cannot be read; the server goes on with the last good ones"
            )
            return self._serving

    def _current(self) -> TlsSet:
        # Take the stamp first: a change during the reading then shows at the next handshake.
        stamp = tls_files.stamp(self._files)
        if stamp is not None and stamp == self._stamp:
            return self._serving
        # No stamp until a reading succeeds, so that the server tries again: a fault may pass by
        # itself, such as a certificate that is not valid yet.
        self._stamp = None
        try:
            found = tls_files.read(self._files, self._clock.wall())
        except SetupError as error:
            if error.message != self._fault:
                self._fault = error.message
                log.warning(
                    "the changed TLS files cannot be used; the server goes on with the last good "
                    "ones",
                    extra={"fault": error.message, "serial": self._serving.serial},
                )
            return self._serving
        self._stamp, self._fault = stamp, ""
        if found != self._serving:
            self._serving = found
            log.info(
                "TLS files reloaded",
                extra={"serial": found.serial, "not_after": found.not_after.isoformat()},
            )
        return self._serving

    def _show(self) -> None:
        """Has the metrics show until when the certificates are valid, of the files at a scrape."""
        for name, valid in self._validities().items():
            if valid is not None:
                begins = telemetry.CERTIFICATE_BEGINS.labels(name)
                begins.set_function(partial(self._valid, name, 0))
                expires = telemetry.CERTIFICATE_EXPIRES.labels(name)
                expires.set_function(partial(self._valid, name, 1))

    def _valid(self, name: str, end: int) -> float:
        valid = self._validities()[name]
        return float("nan") if valid is None else valid[end].timestamp()

    def _validities(self) -> dict[str, tuple[datetime, datetime] | None]:
        found = self.current()
        return {"server": (found.not_before, found.not_after), "client_authority": found.authority}


class _Port:
    """What gRPC calls before each handshake on one port: says whether the files have changed."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self.served = tls.current()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the new configuration, or None if it has not changed."""
        with self._lock:
            current = self._tls.current()
            if current is self.served:
                return None
            self.served = current
            return _configuration(current)


def _configuration(found: TlsSet) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(found.key, found.certificate)], root_certificates=found.client_ca
    )
