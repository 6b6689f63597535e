"""Reads the bytes of a key set, from a file or from its issuer over HTTPS.

Invariants: it reads nothing but that one file or url, whatever a token or an answer says; it
follows no redirect and uses no plain HTTP. It bounds the size of an answer and its total time,
because a read timeout alone would let an issuer drip for ever. The module knows nothing of keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import stat
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from keyfold_server.access.tokens.key_set import MAX_SIZE, KeySetError
from keyfold_server.domain.errors import SetupError

_HTTPS_PORT: Final = 443

Fetch = Callable[[], bytes]
"""Returns a key set's bytes; blocks, and raises `KeySetError` if it cannot get them."""


def fetcher(where: str, timeout: float, context: ssl.SSLContext | None = None) -> Fetch:
    """Returns the function that reads a key set.

    Args:
        where: An `https://` url, or the path of a file.
        timeout: Seconds that an answer over HTTPS may take in all.
        context: The TLS context that checks the issuer's certificate. None takes the system's
            authorities, or those of `SSL_CERT_FILE`.

    Raises:
        SetupError: `where` is neither; the message names the setting.
    """
    if "://" not in where:
        return lambda: _read_file(Path(where))
    try:
        url = urlsplit(where)
        port = url.port or _HTTPS_PORT
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), 0
    if url.scheme != "https" or not url.hostname or url.username is not None or url.fragment:
        raise SetupError(
            "KEYFOLD_JWT_JWKS: give the url of the issuer's key set with https://, without user "
            "and fragment, or the path of a file; over plain http anyone on the network path could "
            "replace the keys"
        )
    trusted = context or ssl.create_default_context()
    return lambda: _get(url, port, timeout, trusted)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise KeySetError(
                    "every user of this machine can change the file; run chmod o-w on it"
                )
            return file.read(MAX_SIZE + 1)
    except OSError as error:
        raise KeySetError(f"the file cannot be read: {error.strerror}") from None


def _get(url: SplitResult, port: int, timeout: float, context: ssl.SSLContext) -> bytes:
    connection = _connection(url, port, timeout, context)
    late = threading.Event()
    # The connection forgets its socket as soon as the answer's headers say "close".
    opened: list[socket.socket] = []

    def end() -> None:
        late.set()
        for sock in opened:
            with contextlib.suppress(OSError):  # The connection has ended by itself.
                # Not the TLS shutdown, which would destroy the session of the reading thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        opened.append(connection.sock)
        # Until now the timer had no socket to shut down; a handshake has its own timeout.
        if late.is_set():
            raise TimeoutError
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", path, headers={"Accept": "application/json"})
        # The answer holds the socket, so closing the connection alone would not close it.
        with connection.getresponse() as answer:
            if answer.status != http.HTTPStatus.OK:
                raise KeySetError(f"the issuer answered {answer.status} instead of 200")
            text = answer.read(MAX_SIZE + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise KeySetError(_why(error, timeout, late=late.is_set())) from None
    finally:
        timer.cancel()
        connection.close()
    # An answer without a declared length that the timer cut off looks like a whole one.
    if late.is_set():
        raise KeySetError(_why(TimeoutError(), timeout, late=True))
    return text


def _connection(
    url: SplitResult, port: int, timeout: float, context: ssl.SSLContext
) -> http.client.HTTPSConnection:
    """Returns a connection to the issuer, through the environment's proxy if there is one."""
    host = url.hostname or ""
    proxy = urlsplit(urllib.request.getproxies().get("https", ""))
    if not proxy.hostname or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    made = http.client.HTTPSConnection(proxy.hostname, proxy.port, timeout=timeout, context=context)
    made.set_tunnel(host, port)
    return made


def _why(error: Exception, timeout: float, *, late: bool) -> str:
    if late or isinstance(error, TimeoutError):
        return f"the issuer did not answer within {timeout:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "the issuer's certificate is not trusted here; add its authority to the system's, or "
            "name a file of authorities in SSL_CERT_FILE"
        )
    if isinstance(error, socket.gaierror):
        return "the issuer's host name does not resolve"
    if isinstance(error, OSError) and error.strerror:
        return f"the issuer cannot be reached: {error.strerror}"
    return "the issuer's answer is not HTTP"


async def in_thread(fetch: Fetch) -> bytes:
    """Runs a fetch in a thread of its own, and waits for it without blocking the event loop.

    The thread is a daemon, because nothing can interrupt a DNS look-up, and it must not delay the
    end of the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def settle(text: bytes | None, error: Exception | None) -> None:
        if done.done():
            return  # The caller has given up.
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(text or b"")

    def run() -> None:
        text, failed = None, None
        try:
            text = fetch()
        except Exception as error:  # noqa: BLE001  awaiting the future raises it again
            failed = error
        try:
            loop.call_soon_threadsafe(settle, text, failed)
        except RuntimeError:
            return  # The loop has ended in the meantime.

    threading.Thread(target=run, name="jwks-fetch", daemon=True).start()
    return await done
