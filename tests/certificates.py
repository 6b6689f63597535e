"""Certificates for tests of TLS."""

from __future__ import annotations

import functools
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import signature

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def self_signed(name: str) -> tuple[bytes, bytes]:
    """Returns a private key and its own certificate for a DNS name, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Issued:
    """A private key and its certificate, with the intermediates that clients need."""

    key: PrivateKey
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def key_pem(self) -> bytes:
        """The key as PKCS#8, as SPIRE and cert-manager write it."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def pem(self) -> bytes:
        """The certificate, then its intermediates."""
        return b"".join(
            certificate.public_bytes(serialization.Encoding.PEM)
            for certificate in (self.certificate, *self.intermediates)
        )

    def forge(self, name: str) -> Issued:
        """Signs a certificate for a name with this key, as its thief would."""
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_general(name)]
        subject = self.certificate.subject
        return Issued(
            key, _sign(x509.Name([]), subject, self.key, key.public_key(), names=names, ca=False)
        )


class Authority:
    """An authority that issues for tests, a root or one below another."""

    def __init__(self, name: str = "test authority", above: Authority | None = None) -> None:
        """Makes its key and certificate."""
        self._above = above
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        self._subject = _subject(name)
        self.certificate = _sign(
            self._subject, signer._subject, signer._key, self._key.public_key(), ca=True
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: str,
        common_name: str = "",
        key: PrivateKey | None = None,
        ca: bool = False,
        signs: bool = False,
        begins: timedelta = timedelta(minutes=-1),
        ends: timedelta = timedelta(hours=1),
        use: x509.ObjectIdentifier | None = None,
        extra: x509.ExtensionType | None = None,
    ) -> Issued:
        """Issues for names written as `spiffe://…`, `uri:…`, `dns:…`, `ip:…` or `email:…`.

        With `use`, the certificate is for that alone, as those that cert-manager issues are.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            _subject(common_name) if common_name else x509.Name([]),
            self._subject,
            self._key,
            key.public_key(),
            names=[_general(name) for name in names],
            ca=ca,
            signs=signs,
            begins=begins,
            ends=ends,
            use=use,
            extra=extra,
        )
        return Issued(key, certificate, (self.certificate,) if self._above else ())


@functools.cache
def authority(name: str) -> Authority:
    """Returns the authority of a name, the same one for the whole run."""
    return Authority(name)


@functools.cache
def loopback_tls(name: str) -> ssl.SSLContext:
    """Returns the TLS of a server on 127.0.0.1 whose certificate an authority has issued."""
    issued = authority(name).issue("ip:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(issued.key_pem + issued.pem)
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    kind, _, rest = name.partition(":")
    if kind == "dns":
        return x509.DNSName(rest)
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_address(rest))
    if kind == "email":
        return x509.RFC822Name(rest)
    return x509.UniformResourceIdentifier(rest if kind == "uri" else name)


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    public: CertificatePublicKeyTypes,
    *,
    names: list[x509.GeneralName] | None = None,
    ca: bool,
    signs: bool = False,
    begins: timedelta = timedelta(minutes=-1),
    ends: timedelta = timedelta(hours=1),
    use: x509.ObjectIdentifier | None = None,
    extra: x509.ExtensionType | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        # Critical where the names are all that the certificate says (RFC 5280, 4.2.1.6).
        alone = not list(subject)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=alone)
    if signs:
        usage = dict.fromkeys(signature(x509.KeyUsage).parameters, False)
        usage |= {"digital_signature": True, "key_cert_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    if use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(signer, hashes.SHA256())
