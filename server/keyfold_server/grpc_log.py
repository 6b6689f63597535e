"""Failed TLS handshakes: counts and logs them, as far as gRPC tells.

gRPC has no callback for a handshake that fails; it only writes a line to file descriptor 2, and not
whose handshake it was. So a server with TLS reads what its own process writes there, through a
pipe, while its log goes to the real stderr. Invariant: a reader that stalls costs lines of gRPC's
and never holds a thread of gRPC's, and strangers cannot fill the log: each kind of failure gets one
line in ten seconds.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from keyfold_server import telemetry

log = logging.getLogger(__name__)

VERBOSITY: Final = "INFO"
"""The GRPC_VERBOSITY at which gRPC tells of failed handshakes."""

_EVERY: Final = 10.0
"""Seconds between two lines about one kind of failure."""

_FAILED: Final = re.compile(
    r"Handshake failed with error [^:]+: (?:error:[^:]*:[^:]*:OPENSSL_internal:)?"
    r"(?P<reason>[A-Z][A-Z0-9_]*)(?:: (?P<detail>[^\n]*))?"
)
_WARNING: Final = re.compile(r"[WEF]\d{4} \d\d:\d\d:\d\d")
"""The beginning of a line that gRPC writes at a level above INFO."""

_EXPECTED: Final = "Log level INFO is not suitable for production"

_VERIFY: Final = "CERTIFICATE_VERIFY_FAILED"

_WORDS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate",
    "HTTP_REQUEST": "the client does not speak TLS",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the client speaks only versions of TLS before 1.2",
    "NO_SHARED_CIPHER": "client and server have no cipher in common",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust this server's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not accept this server's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client finds this server's certificate expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not accept this server's certificate",
}
"""What BoringSSL's reasons mean for an operator."""


class Handshakes:
    """Counts and logs what the lines of gRPC's log say."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Begins with nothing told."""
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def read(self, lines: Iterable[str]) -> None:
        """Reads lines until they end."""
        for line in lines:
            failed = _FAILED.search(line)
            if failed is not None:
                self._failed(failed["reason"], failed["detail"] or "")
            elif _WARNING.match(line) and _EXPECTED not in line:
                log.warning("gRPC: %s", line.rstrip())

    def _failed(self, reason: str, detail: str) -> None:
        telemetry.TLS_HANDSHAKES_FAILED.labels(reason).inc()
        now = self._clock()
        if now - self._logged.get(reason, float("-inf")) < _EVERY:
            self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
            return
        words = _WORDS.get(reason, "see keyfold_tls_handshakes_failed_total")
        if reason == _VERIFY:
            words = f"the client's certificate is not accepted: {detail}"
        more = self._unlogged.pop(reason, 0)
        since = f"; {more} more since the line before this one" if more else ""
        log.warning("a TLS handshake failed: %s (%s)%s", words, reason, since)
        self._logged[reason] = now


def follow() -> Callable[[], None]:
    """Reads file descriptor 2 from now on; `sys.stderr` is then the real stderr.

    Returns:
        The function that gives the descriptor back.
    """
    real, (read, write) = os.dup(2), os.pipe()
    # gRPC's threads must not wait for whoever reads the log.
    os.set_blocking(write, False)
    os.dup2(write, 2)
    os.close(write)
    before, sys.stderr = sys.stderr, os.fdopen(os.dup(real), "w", buffering=1)
    # A crash would write to the pipe, which nobody would read any more.
    faulthandler.enable(sys.stderr)
    pipe = os.fdopen(read, errors="replace")
    reader = threading.Thread(target=Handshakes().read, args=(pipe,), name="grpc-log", daemon=True)
    reader.start()

    def end() -> None:
        os.dup2(real, 2)
        os.close(real)
        reader.join(1.0)
        faulthandler.disable()
        sys.stderr = before

    return end
