"""One connection of our own to a server, to see what stands in its way.

It sends nothing but the greeting of HTTP/2: no call, no token, no key of a customer.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from keyfold.transport.objections import Objection, alert_of, of_client, of_server
from keyfold.transport.tls import Pems

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What an HTTP/2 client says first: the preface, and a SETTINGS frame without settings."""

_SETTINGS: Final = re.compile(rb".{3}\x04", re.DOTALL)
"""How an HTTP/2 server begins: the length of a frame, and the type SETTINGS."""

_PLAIN: Final = re.compile(r"(dns:///|ipv4:|ipv6:)?(?P<host>[^/]+):(?P<port>\d+)")

_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables with which gRPC goes through a proxy, past which a connection says nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a client connects.

    Attributes:
        addresses: The servers' addresses.
        pems: The certificates; None: plain text.
        server_name: The name that the server's certificate must hold, if it is not the address's.
        deadline: When to give up, in seconds of the monotonic clock.
    """

    addresses: tuple[str, ...]
    pems: Pems | None = field(repr=False)
    server_name: str | None
    deadline: float

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@dataclass(frozen=True, slots=True)
class Shown:
    """What a connection that works shows.

    Attributes:
        answered: Whether the server answered the greeting, and was not only slow.
        tls: The version of TLS, such as `TLSv1.3`; empty: plain text.
        certificate: The server's certificate; None: plain text.
    """

    answered: bool
    tls: str = ""
    certificate: Certificate | None = None


def through_proxy() -> bool:
    """Returns whether the environment has gRPC go through a proxy, which a look goes past."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)


def look(attempt: Attempt, address: str) -> Objection | Shown:
    """Connects to one of the addresses, and returns what stands in the way or what was shown.

    Raises:
        OSError: It could not be told.
    """
    one = _Look(address, attempt)
    try:
        if attempt.pems is None:
            return Shown(one.plain())
        return one.shown(attempt.pems, answered=one.tls(attempt.pems))
    except _ObjectionError as found:
        told: Objection = found.args[0]
        return told


class _ObjectionError(Exception):
    """Ends a look with what it found."""


def objection(attempt: Attempt) -> Objection | None:
    """Returns what stands in the way of the first address with which something is wrong, or None.

    None also means that it could not be told, such as behind a proxy or after the deadline.
    """
    if attempt.pems is not None and through_proxy():
        return None
    for address in attempt.addresses:
        with suppress(OSError):
            found = look(attempt, address)
            if isinstance(found, Objection):
                return found
    return None


class _Look:
    """A look at one server. Its methods return if all is well, and raise what they find."""

    def __init__(self, address: str, attempt: Attempt) -> None:
        self._address = address
        self._attempt = attempt
        found = _PLAIN.fullmatch(address)
        self._host = found["host"].strip("[]") if found else ""
        self._port = int(found["port"]) if found else 0
        self._name = attempt.server_name or self._host or "localhost"

    # In plain text

    def plain(self) -> bool:
        """Greets in plain text, and returns whether the server answered."""
        with self._connected() as sock:
            answer = _greeted(sock)
        if answer is None or _SETTINGS.match(answer):
            return answer is not None
        if answer.startswith(b"HTTP/"):
            raise _found(f"what answers on {self._address} speaks HTTP/1, and is not Keyfold's")
        if answer.startswith(b"\x15\x03") or self._speaks_tls():
            raise _found(
                f"the server on {self._address} speaks TLS, and this client plain text; give the "
                "client its certificates"
            )
        return True

    def _speaks_tls(self) -> bool:
        try:
            with self._secured(_context(None, verify=False)):
                return True
        except ssl.SSLEOFError:
            return False
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:
            return False

    # Over TLS

    def tls(self, pems: Pems) -> bool:
        """Shakes hands, greets, and returns whether the server answered."""
        context = _context(pems)
        try:
            with self._secured(context) as sock:
                answer = _greeted(sock)
        except ssl.SSLCertVerificationError as error:
            raise _found(of_server(error, self._leaf(), self._address, self._name)) from error
        except ssl.SSLError as error:
            if (said := alert_of(error)) is not None:
                raise _found(f"the server on {self._address} {said}") from error
            if self._speaks_plain():
                raise _found(
                    f"the server on {self._address} speaks plain text, and this client TLS; check "
                    "the port, or leave the certificates out"
                ) from error
            if not isinstance(error, ssl.SSLEOFError):
                raise _found(f"TLS with {self._address} fails: {error.reason}") from error
            answer = b""
        except ConnectionError:
            answer = b""
        # A server that refuses the client's certificate says so after the handshake, or just ends.
        if answer == b"":
            raise _found(f"the server on {self._address} {of_client(pems)}")
        return answer is not None

    def shown(self, pems: Pems, *, answered: bool) -> Shown:
        """Shakes hands once more, and returns what the server shows."""
        from cryptography import x509

        with self._secured(_context(pems)) as sock:
            der = sock.getpeercert(binary_form=True)
            leaf = None if der is None else x509.load_der_x509_certificate(der)
            return Shown(answered, sock.version() or "TLS", leaf)

    def _leaf(self) -> Certificate | None:
        """Returns the server's certificate, unverified: it is only shown."""
        from cryptography import x509

        try:
            with self._secured(_context(None, verify=False)) as sock:
                der = sock.getpeercert(binary_form=True)
            return None if der is None else x509.load_der_x509_certificate(der)
        except (OSError, ValueError):
            return None

    def _speaks_plain(self) -> bool:
        try:
            with self._connected() as sock:
                return bool(_SETTINGS.match(_greeted(sock) or b""))
        except OSError:
            return False

    # Connecting

    @contextmanager
    def _secured(self, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
        with (
            self._connected() as sock,
            context.wrap_socket(sock, server_hostname=self._name) as secured,
        ):
            yield secured

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        left = self._attempt.left
        try:
            sock = self._connect(left)
        except socket.gaierror as error:
            text = f"the host name {self._host} has no address; check the target"
            raise _found(text, of_tls=False) from error
        except FileNotFoundError as error:
            raise _found(f"there is no socket {self._address}", of_tls=False) from error
        except ConnectionRefusedError as error:
            raise _found(f"nothing listens on {self._address}", of_tls=False) from error
        except TimeoutError as error:
            text = f"{self._address} does not take a connection within {left:.1f} s"
            raise _found(text, of_tls=False) from error
        with sock:
            sock.settimeout(self._attempt.left)
            yield sock

    def _connect(self, seconds: float) -> socket.socket:
        if self._port:
            return socket.create_connection((self._host, self._port), seconds)
        scheme, _, path = self._address.partition(":")
        if scheme != "unix":
            raise OSError(f"not to be told of {scheme}")
        file = Path("/" + path.lstrip("/") if path.startswith("//") else path)
        if file.exists() and not file.is_socket():
            raise _found(f"{self._address} is a file or a folder, and no socket", of_tls=False)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(seconds)
        try:
            sock.connect(str(file))
        except BaseException:
            sock.close()
            raise
        return sock


def _found(message: str, *, of_tls: bool = True) -> _ObjectionError:
    return _ObjectionError(Objection(message, of_tls))


def _greeted(sock: socket.socket) -> bytes | None:
    """Greets, and returns how the answer begins: empty: the server ended; None: it is slow."""
    try:
        sock.sendall(_GREETING)
        return sock.recv(16)
    except TimeoutError:
        return None
    except ConnectionError:
        return b""


def _context(pems: Pems | None, *, verify: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if pems is None:
        return context
    if pems.ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cadata=pems.ca.decode())
        except (ssl.SSLError, ValueError) as error:
            raise _found("the client's ca holds no certificate in PEM") from error
    if pems.cert is not None and pems.key is not None:
        _bring(context, pems.cert, pems.key)
    return context


def _bring(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Makes a context bring the client's certificate. The key comes near no disk."""
    if not hasattr(os, "memfd_create"):
        raise OSError("no file in memory")
    descriptor = os.memfd_create("keyfold")
    try:
        os.write(descriptor, cert + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        together = error.reason == "KEY_VALUES_MISMATCH"
        raise _found(
            "the client's key is not that of its certificate"
            if together
            else "the client's certificate or key is not in PEM, or the key has a password"
        ) from error
    finally:
        os.close(descriptor)
