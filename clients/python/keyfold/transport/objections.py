"""What stands in the way of a connection, in words."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from keyfold.transport.tls import Pems

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

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


def of_server(
    error: ssl.SSLCertVerificationError, leaf: Certificate | None, address: str, name: str
) -> str:
    """Returns what is wrong with a server's certificate.

    Args:
        error: What the verification found.
        leaf: The certificate, if it could be had.
        address: The server's address.
        name: The name that the certificate must hold.
    """
    whose = f"the certificate of the server on {address}"
    if error.verify_code == _EXPIRED:
        when = f" on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC" if leaf else ""
        return f"{whose} has expired{when}; the server needs a new one"
    if error.verify_code == _NOT_YET:
        when = f" before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC" if leaf else ""
        return f"{whose} is not valid{when}; compare the clocks of both machines"
    if error.verify_code in _OTHER_NAME:
        names = f" but for {_names(leaf)}" if leaf else ""
        return f"{whose} is not for {name}{names}; check the address, or set server_name"
    if error.verify_code in _UNKNOWN_ISSUER:
        issuer = f", {leaf.issuer.rfc4514_string()}," if leaf else ""
        return f"{whose} has an issuer{issuer} that this client does not know; check ca"
    return f"{whose} is not accepted: {error.verify_message}"


def alert_of(error: ssl.SSLError) -> str | None:
    """Returns what the server means by an alert; None: it sent none."""
    _, alert, name = (error.reason or "").partition("_ALERT_")
    return _ALERTS.get(name, f"sent the alert {name}") if alert else None


def of_client(pems: Pems) -> str:
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
