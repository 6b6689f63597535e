"""Checks of the caller's own credentials, and of the way to a server: network and TLS."""

from __future__ import annotations

import base64
import json
import platform
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

import grpc

from keyfold.checks import (
    Finding,
    Outcome,
    advised,
    failure,
    of_certificates,
    of_validity,
    ok,
    unknown,
)
from keyfold.cli.common import Unopened
from keyfold.errors import InvalidInputError
from keyfold.transport.handshake import Attempt, look, through_proxy
from keyfold.transport.objections import Objection
from keyfold.transport.tls import Certificates
from keyfold.version import __version__

_FILE: Final = "name a file that this user can read, and that holds what the option wants"
_RENEWED: Final = "get a new token, and write it to the file"
_ADDRESS: Final = "start the server there, correct --target, or look for a firewall in between"
_MOST: Final = 64 * 1024
"""Bytes of a token's file that are read."""


def client() -> Iterator[Finding]:
    """Says what is installed here."""
    seen = f"keyfold {__version__}, gRPC {grpc.__version__}, Python {platform.python_version()}"
    yield ok("client", f"{seen}, {platform.system()}")


def credentials(options: Unopened) -> Iterator[Finding]:
    """Looks at the files with which the caller proves itself, and at how long they last."""
    brings = []
    try:
        tls = options.tls
        pems = None if tls is None else Certificates(tls).pems
    except InvalidInputError as error:
        yield advised(Outcome.FAILURE, "credentials", error.message, _FILE)
        pems = None
    if pems is not None and pems.cert is not None:
        brings.append("certificate")
        yield from _certificate(pems.cert)
    if options.token_file is not None:
        brings.append("token")
        yield from _token(options)
    if not brings:
        yield ok("credentials", "none: the server may know the caller by its address alone")


def _certificate(pem: bytes) -> Iterator[Finding]:
    from cryptography import x509

    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        yield failure("client certificate", "the file holds no certificate in PEM", _FILE)
        return
    yield from of_certificates(
        "client certificate", "the client's certificate", chain, "renew it and replace the file"
    )


def _token(options: Unopened) -> Iterator[Finding]:
    """Says whom a token names, and how long it lasts; the server alone verifies it."""
    file = options.token_file
    try:
        with open(str(file), "rb") as opened:  # noqa: PTH123  as the client opens it
            text = opened.read(_MOST).decode("ascii", "replace").strip()
    except OSError as error:
        yield failure("token", f"{file} cannot be read: {error.strerror}", _FILE)
        return
    claims = _claims(text)
    if claims is None:
        yield failure("token", f"{file} does not hold a JWT", _RENEWED)
        return
    who = f"the token of {claims.get('iss', '?')}#{claims.get('sub', '?')}"
    ends = _time(claims, "exp")
    if ends is None:
        yield failure("token", f"{who} has no exp, so no server takes it", _RENEWED)
    else:
        begins = _time(claims, "nbf") or _time(claims, "iat")
        yield of_validity("token", who, begins, ends, _RENEWED)


def _claims(token: str) -> dict[str, Any] | None:
    parts = token.split(".")
    with suppress(ValueError, IndexError):
        part = parts[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return found if isinstance(found, dict) else None
    return None


def _time(claims: dict[str, Any], name: str) -> datetime | None:
    with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(claims[name]), UTC)
    return None


class Connection:
    """Connects to one address as the client would, and sends no call."""

    def __init__(self, options: Unopened, address: str, seconds: float) -> None:
        """Takes the options, the address, and the seconds that it may take."""
        self._options = options
        self._address = address
        self._seconds = seconds

    def __call__(self) -> Iterator[Finding]:
        """Yields what stands in the way, or what the server shows."""
        name = f"connection {self._address}"
        try:
            tls = self._options.tls
            pems = None if tls is None else Certificates(tls).pems
        except InvalidInputError:
            yield unknown(name, "not tried without the client's files", "mend `credentials` first")
            return
        if pems is not None and through_proxy():
            yield unknown(
                name,
                "the environment names a proxy, past which a look of its own says nothing",
                "unset grpc_proxy and https_proxy, or rely on the lines of the service",
            )
            return
        ends = monotonic() + self._seconds
        attempt = Attempt((self._address,), pems, tls.server_name if tls else None, ends)
        try:
            found = look(attempt, self._address)
        except OSError as error:
            yield unknown(
                name,
                f"it could not be told: {error.strerror or type(error).__name__}",
                "look at the network between here and there",
            )
            return
        if isinstance(found, Objection):
            do = "compare the certificates of both sides" if found.of_tls else _ADDRESS
            yield advised(Outcome.FAILURE, name, found.message, do)
            return
        over = found.tls or "plain text"
        if found.answered:
            yield ok(name, f"the server takes connections over {over}")
        else:
            yield unknown(
                name,
                f"something takes the connection over {over}, and has said nothing for "
                f"{self._seconds:g} s",
                "look whether the server there hangs, or another program has its address",
            )
        if found.certificate is not None:
            yield from of_certificates(
                f"certificate {self._address}",
                "the server's certificate, whose chain and name are good,",
                [found.certificate],
                "have the server's operator renew it",
            )
