"""Listeners of the Azure counterpart: HTTP/1.1 on loopback, with TLS where Azure has it.

A listener hands each request to its site and sends the site's answer, changed by a waiting fault. A
client that hangs, resets or distrusts the certificate harms only its own connection. Listeners know
nothing of keys and tokens.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import ssl
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from counterparts.azure_errors import AzureError, render
from counterparts.azure_faults import Fault, Faults
from counterparts.azure_site import Answer, Exchange, Request, RequestLog, Site

HOST: Final = "127.0.0.1"
_LARGEST: Final = 1 << 20
"""Most bytes of a request's body."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which closing a socket sends RST."""


class Listener(socketserver.ThreadingTCPServer):
    """One port of 127.0.0.1 with a site behind it.

    Args:
        site: The site that answers.
        port: The port, or 0 for a free one.
        tls: The server's certificate; None for plain HTTP.
        faults: The faults of the whole counterpart.
        log: The request log of the whole counterpart.

    Attributes:
        url: Scheme, host and port.
        stopping: Set when the listener stops; hanging answers wait for it.
    """

    allow_reuse_address = True
    request_queue_size = 128
    # `stop` joins the thread of each connection, so that no thread outlives the counterpart.
    daemon_threads = False
    block_on_close = True

    def __init__(
        self,
        site: Site,
        port: int,
        tls: ssl.SSLContext | None,
        faults: Faults,
        log: RequestLog,
    ) -> None:
        super().__init__((HOST, port), _Handler)
        self.site = site
        self.faults = faults
        self.log = log
        self.stopping = threading.Event()
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.scheme = "https" if tls else "http"
        self.url = f"{self.scheme}://localhost:{self.server_address[1]}"
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, name=f"azure {self.url}"
        )

    def start(self) -> None:
        """Begins to accept connections."""
        self._thread.start()

    def stop(self) -> None:
        """Cuts every connection and waits for its thread."""
        self.stopping.set()
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        with self._lock:
            for connection in self._open:
                # This is the base class's method: SSLSocket's own would take the TLS state away
                # from the thread that reads.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection; its own thread does the handshake, so no client waits for it."""
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection and forgets it."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints errors of the counterpart itself, but not a client that breaks off."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server: Listener

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # The client broke off, or the counterpart stops.
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        listener = self.server
        length = self.headers.get("Content-Length") or "0"
        whole = length.isdecimal() and "Transfer-Encoding" not in self.headers
        if not whole or int(length) > _LARGEST:
            self.close_connection = True
            self.send_error(413 if whole else 411)
            return
        request = self._request(self.rfile.read(int(length)))
        operation = listener.site.operation(request)
        fault = listener.faults.take(listener.url, operation) or Fault()
        if fault.delay and listener.stopping.wait(fault.delay):
            return
        answer = self._answer(request, fault)
        silent = fault.hang or fault.reset
        status = 0 if silent else answer.status
        listener.log.add(Exchange(listener.url, operation, request, status, answer.principal))
        if silent:
            self._break_off(fault)
        else:
            self._send(request, answer, fault)

    def _request(self, body: bytes) -> Request:
        parts = urlsplit(self.path)
        host = self.headers.get("Host") or f"localhost:{self.server.server_address[1]}"
        return Request(
            method=self.command,
            path=tuple(segment for segment in parts.path.split("/") if segment),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            origin=f"{self.server.scheme}://{host}",
            address=self.client_address[0],
        )

    def _answer(self, request: Request, fault: Fault) -> Answer:
        site = self.server.site
        if fault.error is not None:
            answer = self._refused(request, AzureError(fault.error))
        else:
            try:
                answer = site.answer(request)
            except AzureError as error:
                answer = self._refused(request, error)
        body = answer.body
        if fault.members and isinstance(body, dict):
            body = {**body, **fault.members}
        headers = {**site.headers(request), **answer.headers, **fault.headers}
        return Answer(body, fault.status or answer.status, headers, answer.principal)

    def _refused(self, request: Request, error: AzureError) -> Answer:
        values = {**self.server.site.values(request), **error.values, "request_id": request.id}
        status, body = render(error.name, values)
        return Answer(body, status, error.headers, error.values.get("principal", ""))

    def _break_off(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.hang:
            self.server.stopping.wait()
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        os.close(self.connection.detach())

    def _send(self, request: Request, answer: Answer, fault: Fault) -> None:
        if fault.body is not None:
            body = fault.body.encode()
        else:
            body = b"" if answer.body is None else json.dumps(answer.body).encode()
        body = body.ljust(fault.size)
        self.send_response(answer.status)
        self.send_header("x-ms-request-id", request.id)
        if body:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method == "HEAD":
            return
        if fault.drip:
            for byte in body:
                self.wfile.flush()
                if self.server.stopping.wait(fault.drip):
                    self.close_connection = True
                    return
                self.wfile.write(bytes((byte,)))
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        pass
