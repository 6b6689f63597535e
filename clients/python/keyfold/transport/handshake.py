"""One connection of our own to a server, to see what stands in its way.

It sends nothing but the greeting of HTTP/2: no call, no token, no key of a customer.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

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

_UNKNOWN_ISSUER: Final = {18, 19, 20, 21}
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = {62, 64}
"""OpenSSL's codes of what a verification found."""

_NAMES: Final = 4
"""Most names of a certificate that a message shows."""

_ALERTS: Final[Mapping[str, str]] = {
    "CERTIFICATE_REQUIRED": "wants a client certificate; give cert and key",
    "CERTIFICATE_EXPIRED": "refuses the client's certificate, because it has expired; renew it",
    "UNKNOWN_CA": "does not know who issued the client's certificate; have the server's operator "
    "add the issuer to its client authorities",
    "BAD_CERTIFICATE": "refuses the client's certificate",
    "CERTIFICATE_UNKNOWN": "refuses the client's certificate",
    "CERTIFICATE_REVOKED": "refuses the client's certificate, because it was revoked",
    "UNSUPPORTED_CERTIFICATE": "cannot use a certificate of the client's kind",
    "DECRYPT_ERROR": "refuses the client's certificate: the key is not the certificate's",
    "ACCESS_DENIED": "refuses this client",
    "PROTOCOL_VERSION": "speaks no version of TLS that the client speaks",
    "NO_APPLICATION_PROTOCOL": "does not speak HTTP/2, so it is not Keyfold's",
    "HANDSHAKE_FAILURE": "found no cipher in common, or wants a client certificate",
}
"""What a server means by an alert of TLS."""


class Objection(NamedTuple):
    """What stands in the way of a connection.

    Attributes:
        message: One line for people.
        of_tls: Whether TLS is at fault, and not the network.
    """

    message: str
    of_tls: bool = True


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


class _ObjectionError(Exception):
    """Ends a look with what it found."""


def objection(attempt: Attempt) -> Objection | None:
    """Returns what stands in the way of the first address with which something is wrong, or None.

    None also means that it could not be told, such as behind a proxy or after the deadline.
    """
    if attempt.pems is not None and any(
        os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES
    ):
        return None
    for address in attempt.addresses:
        try:
            look = _Look(address, attempt)
            look.plain() if attempt.pems is None else look.tls(attempt.pems)
        except _ObjectionError as found:
            told: Objection = found.args[0]
            return told
        except OSError:
            continue
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

    def plain(self) -> None:
        """Greets in plain text."""
        with self._connected() as sock:
            answer = _greeted(sock)
        if answer is None or _SETTINGS.match(answer):
            return
        if answer.startswith(b"HTTP/"):
            raise _found(f"what answers on {self._address} speaks HTTP/1, and is not Keyfold's")
        if answer.startswith(b"\x15\x03") or self._speaks_tls():
            raise _found(
                f"the server on {self._address} speaks TLS, and this client plain text; give the "
                "client its certificates"
            )

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

    def tls(self, pems: Pems) -> None:
        """Shakes hands, and greets."""
        context = _context(pems)
        try:
            with self._secured(context) as sock:
                answer = _greeted(sock)
        except ssl.SSLCertVerificationError as error:
            raise _found(self._of_server(error)) from error
        except ssl.SSLError as error:
            if (said := _alert(error)) is not None:
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
            raise _found(f"the server on {self._address} {_of_client(pems)}")

    def _of_server(self, error: ssl.SSLCertVerificationError) -> str:
        leaf = self._leaf()
        whose = f"the certificate of the server on {self._address}"
        if error.verify_code == _EXPIRED:
            when = f" on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC" if leaf else ""
            return f"{whose} has expired{when}; the server needs a new one"
        if error.verify_code == _NOT_YET:
            when = f" before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC" if leaf else ""
            return f"{whose} is not valid{when}; compare the clocks of both machines"
        if error.verify_code in _OTHER_NAME:
            names = f" but for {_names(leaf)}" if leaf else ""
            return f"{whose} is not for {self._name}{names}; check the address, or set server_name"
        if error.verify_code in _UNKNOWN_ISSUER:
            issuer = f", {leaf.issuer.rfc4514_string()}," if leaf else ""
            return f"{whose} has an issuer{issuer} that this client does not know; check ca"
        return f"{whose} is not accepted: {error.verify_message}"

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
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(seconds)
        try:
            sock.connect("/" + path.lstrip("/") if path.startswith("//") else path)
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


def _alert(error: ssl.SSLError) -> str | None:
    """Returns what the server means by an alert; None: it sent none."""
    _, alert, name = (error.reason or "").partition("_ALERT_")
    return _ALERTS.get(name, f"sent the alert {name}") if alert else None


def _of_client(pems: Pems) -> str:
    """Returns what a server means that ends the connection after the client's certificate."""
    if pems.cert is None:
        return (
            "ends the connection when it has seen no client certificate; it seems to want one: "
            "give cert and key"
        )
    from cryptography import x509

    try:
        leaf = x509.load_pem_x509_certificates(pems.cert)[0]
    except ValueError:
        return "ends the connection when it has seen the client's certificate"
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        return (
            "refuses the client's certificate, which expired on "
            f"{leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it"
        )
    return (
        f"ends the connection when it has seen the client's certificate for {_names(leaf)} from "
        f"{leaf.issuer.rfc4514_string()}; check that this issuer is among the server's client "
        "authorities"
    )


def _names(leaf: Certificate) -> str:
    """Returns the names of a certificate, or its subject."""
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return leaf.subject.rfc4514_string() or "nobody"
    shown = [str(name.value) for name in names]
    return ", ".join(shown[:_NAMES]) + (" and others" if len(shown) > _NAMES else "")
