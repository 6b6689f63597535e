"""TLS for the gRPC server: its certificate, key and client authorities, renewed while it serves.

gRPC asks for each handshake what to use, in threads of its own; connections that are open keep
what they began with, until the server's maximum connection age ends them. Invariants: a set of
files that does not fit together is never served, and the last good one goes on; nothing that
happens in here fails a handshake. TLS 1.2 is the least, by BoringSSL's own default.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

import grpc

from keyfold_server.access import tls_files
from keyfold_server.access.tls_files import TlsFiles, TlsSet
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import Stamp
from keyfold_server.domain.ports import Clock

log: Final = logging.getLogger(__name__)


class ServerTls:
    """The server's side of TLS. Safe for many threads: gRPC brings its own."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Reads the files for the first time.

        Args:
            files: Where they stand.
            clock: Tells whether a certificate is valid.

        Raises:
            SetupError: They cannot be served; the message names the setting and what to do.
        """
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: Stamp | None = tls_files.stamp(files)
        self._serving = tls_files.read(files, clock.wall())
        self._fault = ""
        if self._serving.key_exposed:
            log.warning(
                "every user of this machine may read the TLS key; run chmod o-r on it unless a "
                "container keeps them out",
                extra={"setting": tls_files.KEY},
            )

    @property
    def asks_clients(self) -> bool:
        """Whether a client without a certificate is refused in the handshake."""
        return self._files.client_ca is not None

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what `add_secure_port` takes; each port needs its own."""
        fetch = _Port(self)
        return grpc.dynamic_ssl_server_credentials(
            _configuration(fetch.served),
            fetch,  # type: ignore[arg-type]  # the stubs leave None out, which is "no change"
            require_client_authentication=self.asks_clients,
        )

    def current(self) -> TlsSet:
        """Looks at the files, and returns what to serve; never raises, may read files."""
        try:
            with self._lock:
                return self._current()
        except Exception:
            # gRPC would print it and go on without a word in our log.
            log.exception("the TLS files cannot be looked at; the last good ones are served")
            return self._serving

    def _current(self) -> TlsSet:
        # Before the reading: a change during it shows as another stamp at the next handshake.
        stamp = tls_files.stamp(self._files)
        if stamp is not None and stamp == self._stamp:
            return self._serving
        # Until it is read well, so that what is wrong for now, such as a certificate of the
        # future, is looked at again.
        self._stamp = None
        try:
            found = tls_files.read(self._files, self._clock.wall())
        except SetupError as error:
            if error.message != self._fault:
                self._fault = error.message
                log.warning(
                    "the changed TLS files cannot be served; the last good ones are",
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


class _Port:
    """What gRPC asks before each handshake on one port: whether there is something new for it."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self.served = tls.current()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what to serve from now on, or None where that is what is served already."""
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
