"""The address of KEYFOLD_METRICS: `/livez`, `/readyz` and `/metrics`, over plain HTTP.

It runs in threads of its own, so that it answers while the event loop does not. It asks for no
credential, so no answer has a key, or the name of an organization. The only names are those of
cursors and of the callers that own them, without which nobody could find a dead reader, and of
clusters that the operator has chosen to show, in KEYFOLD_METRICS_CLUSTERS.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import MetricsHandler

from keyfold_server.domain.errors import SetupError
from keyfold_server.service.readiness import Readiness

log = logging.getLogger(__name__)

_PATIENCE: Final = 5.0
"""Seconds in which the event loop must take its turn, or the server counts as hung."""

_SILENCE: Final = 10.0
"""Seconds after which a connection that sends nothing ends."""

_MOST: Final = 64
"""Connections at once, each with a thread; further ones are closed."""

_STALLED: Final = f"the event loop has not taken its turn for {_PATIENCE:g} seconds"


def serve(address: tuple[str, int] | None, readiness: Readiness) -> Callable[[], None]:
    """Serves until the function that it returns is called.

    Args:
        address: The host and port to bind, port 0 for a free one; None serves nothing.
        readiness: Says whether the server lives and serves.

    Raises:
        SetupError: The address cannot be bound.
    """
    if address is None:
        return lambda: None
    host, port = address
    try:
        server = _Server(host, port, readiness)
    except OSError as error:
        raise SetupError(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; set KEYFOLD_METRICS to "
            "another HOST:PORT, or to off"
        ) from None
    threading.Thread(target=server.serve_forever, name="monitoring", daemon=True).start()
    log.info("metrics on http://%s:%d/metrics", host, server.server_port)

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end


class _Server(ThreadingHTTPServer):
    """A thread for each connection, up to a number."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        """Binds the address."""
        self.readiness = readiness
        self._places = threading.BoundedSemaphore(_MOST)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__((str(found[0][4][0]), port), _Handler)

    def server_bind(self) -> None:
        """Binds without looking up the host's name, for which DNS may need long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a connection's thread, or closes the connection if there are too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection, and gives its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Logs what went wrong with a connection, in the log's own form."""
        log.info(
            "a connection of %s to the metrics address failed",
            client_address[0],
            exc_info=sys.exception(),
        )


class _Handler(MetricsHandler):
    """Answers one request."""

    server: _Server
    timeout = _SILENCE

    def do_GET(self) -> None:  # noqa: N802  the name that http.server calls
        """Answers a GET; MetricsHandler's own answers every path with metrics."""
        path = urlsplit(self.path).path
        if path == "/metrics":
            super().do_GET()
        elif path == "/livez":
            self._say("" if self._responds() else _STALLED, "live")
        elif path == "/readyz":
            obstacle = self.server.readiness.obstacle
            if not obstacle and not self._responds():
                obstacle = f"STALLED: {_STALLED}"
            self._say(obstacle and f"NOT_SERVING: {obstacle}", "SERVING")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "the paths are /livez, /readyz and /metrics")

    def _responds(self) -> bool:
        return self.server.readiness.responds(_PATIENCE)

    def _say(self, fault: str, good: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if fault else HTTPStatus.OK
        self._answer(status, fault or good)

    def _answer(self, status: HTTPStatus, line: str) -> None:
        body = f"{line}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
