"""Makes throw-away certificates to try TLS out: an authority's, a server's and its clients'.

Invariant: the authority's private key never leaves this module, so nobody can issue further
certificates with what is on the disk. Each call makes a new authority. The module knows neither the
disk nor the command line.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyfold_server.access.tls.certificates import CertificateVerifier
from keyfold_server.domain.errors import CallerCredentialError, SetupError

_VALID: Final = timedelta(days=30)
_BACKDATED: Final = timedelta(minutes=5)
"""How far the validity begins in the past, for clients whose clocks are slow."""


@dataclass(frozen=True, slots=True)
class _Issued:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make(names: Sequence[str], callers: Sequence[str]) -> dict[str, bytes]:
    """Makes an authority, a server's certificate and one for each caller, valid for 30 days.

    Args:
        names: The server's DNS names and IP addresses.
        callers: The callers' names in the policy's form: `spiffe://…`, `uri:…` or `dns:…`.

    Returns:
        The PEM text of each file by its name: `ca.pem`, `server.pem` and `server.key`, and for each
        caller its `client_file` with the endings `.pem` and `.key`.

    Raises:
        SetupError: A name is malformed, or a server could not identify the caller by it.
    """
    authority = _authority()
    server = _issue(
        authority,
        "Keyfold server",
        [_server_name(n) for n in names],
        ExtendedKeyUsageOID.SERVER_AUTH,
    )
    files = {
        "ca.pem": authority.certificate_pem(),
        "server.pem": server.certificate_pem(),
        "server.key": server.key_pem(),
    }
    for number, caller in enumerate(callers, 1):
        issued = _issue(
            authority, "Keyfold client", [_caller_name(caller)], ExtendedKeyUsageOID.CLIENT_AUTH
        )
        _check_caller(caller, issued)
        files[f"{client_file(number)}.pem"] = issued.certificate_pem()
        files[f"{client_file(number)}.key"] = issued.key_pem()
    return files


def client_file(number: int) -> str:
    """Returns the base name of the files of the caller with this number, counted from 1."""
    return "client" if number == 1 else f"client-{number}"


def _authority() -> _Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    # A new name each time, so that a client that trusts two authorities can tell them apart.
    subject = _subject(f"Keyfold throw-away authority {secrets.token_hex(4)}")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_identifier(key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Issued(key, certificate)


def _issue(
    authority: _Issued, subject: str, names: list[x509.GeneralName], use: x509.ObjectIdentifier
) -> _Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_subject(subject), authority.certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                _identifier(authority.key)
            ),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return _Issued(key, certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        if name and " " not in name:
            return x509.DNSName(name)
    except ValueError:
        pass
    raise SetupError(
        f"server name {name!r}: give a DNS name in ASCII or an IP address, without a port"
    )


def _caller_name(caller: str) -> x509.GeneralName:
    kind, _, rest = caller.partition(":")
    try:
        if kind == "spiffe":
            return x509.UniformResourceIdentifier(caller)
        if kind == "uri":
            return x509.UniformResourceIdentifier(rest)
        if kind == "dns":
            return x509.DNSName(rest)
    except ValueError:
        pass
    raise SetupError(f"caller {caller!r}: give a caller as spiffe://…, uri:… or dns:…, in ASCII")


def _check_caller(caller: str, issued: _Issued) -> None:
    """Refuses a caller's name that a server would refuse in the certificate."""
    now = datetime.now(UTC).timestamp()
    try:
        known = CertificateVerifier().credential(issued.certificate_pem(), now)
    except CallerCredentialError as error:
        raise SetupError(f"caller {caller!r}: {error.message}") from None
    if known is None or known.identity.names != (caller,):
        raise SetupError(
            f"caller {caller!r}: a server would know it by another name; write it in lower case"
        )
