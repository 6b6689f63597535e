"""Reads the server's certificate, its key and its clients' authorities from their files.

Invariant: a set that it returns was on the disk at one moment, fits together, is valid now, and
works with gRPC; anything else is an error that names the setting. Tools that renew certificates
replace the files one after another, or write them in place, so a half-written set is normal. The
module does not know gRPC.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import Stamp, settled, stamp_of

CERTIFICATE: Final = "KEYFOLD_TLS_CERT"
KEY: Final = "KEYFOLD_TLS_KEY"
CLIENT_CA: Final = "KEYFOLD_TLS_CLIENT_CA"

_MAX_SIZE: Final = 4 * 1024 * 1024
"""Bytes of one file. A bundle of all public authorities has about 200 KiB."""

_TRIES: Final = 3
"""The most attempts to read files that change while they are read."""

_MIN_RSA: Final = 2_048

_WRITABLE: Final = {CERTIFICATE: 0o002, KEY: 0o022, CLIENT_CA: 0o002}
"""Mode bits that a file must not have: whoever can change the authorities can make callers. If
others can read the key, the server only warns: Kubernetes mounts secrets with mode 0644, and the
container keeps other users out."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The paths of the three files, all in PEM.

    Attributes:
        certificate: The server's certificate, followed by those of intermediate authorities.
        key: The certificate's private key, without a password.
        client_ca: The authorities that must have issued the clients' certificates. None does not
            ask clients for certificates.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def named(self) -> dict[str, Path]:
        """Returns the paths by the settings that name them."""
        files = {CERTIFICATE: self.certificate, KEY: self.key}
        return files if self.client_ca is None else {**files, CLIENT_CA: self.client_ca}


@dataclass(frozen=True, slots=True)
class TlsSet:
    """One consistent reading of the files.

    Attributes:
        certificate: The certificate chain in PEM.
        key: The private key in PEM.
        client_ca: The clients' authorities in PEM, or None.
        serial: The certificate's serial number in hexadecimal.
        not_before: The beginning of the certificate's validity.
        not_after: The end of the certificate's validity.
        authority: The validity of the clients' authority that lasts longest, or None.
        key_exposed: True if others than the key file's owner and group can read it.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    serial: str
    not_before: datetime
    not_after: datetime
    authority: tuple[datetime, datetime] | None
    key_exposed: bool


def stamp(files: TlsFiles) -> Stamp | None:
    """Returns a stamp of the files that changes when they change, without opening them.

    Returns:
        The stamp, or None if a stamp would not show a later change: a file is missing, or has
        changed just now.
    """
    made: list[int] = []
    try:
        for path in files.named().values():
            one = settled(path.stat())
            if one is None:
                return None
            made += one
    except OSError:
        return None
    return tuple(made)


def read(files: TlsFiles, now: float) -> TlsSet:
    """Reads the files and checks that they fit together.

    Args:
        files: The paths of the files.
        now: Seconds of Unix time.

    Raises:
        SetupError: A file is missing, not PEM, writable for others, or not valid now, the files do
            not fit together, or one of the clients' authorities may not sign certificates. The
            message names the setting and says what to do.
    """
    fault = SetupError(f"{CERTIFICATE}: the files change while they are read; try again")
    for _ in range(_TRIES):
        try:
            texts, exposed, whole = _read(files)
            made = _checked(texts, datetime.fromtimestamp(now, UTC), exposed=exposed)
        except SetupError as error:
            fault = error
            continue
        if whole:
            return made
    raise fault


def _read(files: TlsFiles) -> tuple[dict[str, bytes], bool, bool]:
    """Returns the files' bytes, whether others can read the key, and whether no file changed."""
    texts: dict[str, bytes] = {}
    stamps: dict[str, Stamp] = {}
    exposed = False
    for setting, path in files.named().items():
        try:
            # Non-blocking, because a pipe in a file's place would delay every handshake.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor, not a path
                status = os.fstat(descriptor)
                _check_mode(setting, path, status)
                texts[setting] = file.read(_MAX_SIZE + 1)
        except OSError as error:
            raise SetupError(
                f"{setting}: cannot read {path}: {error.strerror}; name a file that the "
                "server's user may read"
            ) from None
        if len(texts[setting]) > _MAX_SIZE:
            raise SetupError(f"{setting}: {path} is larger than 4 MiB; is it the right file?")
        stamps[setting] = stamp_of(status)
        exposed |= setting == KEY and bool(status.st_mode & 0o004)
    return texts, exposed, stamps == _stamps(files)


def _stamps(files: TlsFiles) -> dict[str, Stamp]:
    try:
        return {setting: stamp_of(path.stat()) for setting, path in files.named().items()}
    except OSError:
        return {}


def _check_mode(setting: str, path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{setting}: {path} is not a regular file")
    if status.st_mode & _WRITABLE[setting]:
        raise SetupError(
            f"{setting}: {path} has mode {stat.S_IMODE(status.st_mode):04o}, so others can change "
            f"it: run chmod {'go' if setting == KEY else 'o'}-w on it"
        )


def _checked(texts: dict[str, bytes], now: datetime, *, exposed: bool) -> TlsSet:
    chain = _certificates(texts[CERTIFICATE], CERTIFICATE)
    leaf = chain[0]
    _check_key(texts[KEY], leaf)
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now > ends:
        raise SetupError(
            f"{CERTIFICATE}: the certificate expired at {ends:%Y-%m-%dT%H:%MZ}; renew it"
        )
    if now < begins:
        raise SetupError(
            f"{CERTIFICATE}: the certificate is not valid before {begins:%Y-%m-%dT%H:%MZ}; set "
            "this machine's clock, or wait"
        )
    authorities = texts.get(CLIENT_CA)
    authority = None
    if authorities is not None:
        found = _certificates(authorities, CLIENT_CA)
        _check_authorities(found, now)
        last = max(found, key=lambda one: one.not_valid_after_utc)
        authority = last.not_valid_before_utc, last.not_valid_after_utc
    return TlsSet(
        certificate=texts[CERTIFICATE],
        key=texts[KEY],
        client_ca=authorities,
        serial=f"{leaf.serial_number:x}",
        not_before=begins,
        not_after=ends,
        authority=authority,
        key_exposed=exposed,
    )


def _check_authorities(found: list[x509.Certificate], now: datetime) -> None:
    """Refuses a certificate that is not an authority's.

    gRPC trusts each certificate in the file as an issuer, whatever the certificate itself says. So
    whoever has the key of a mere caller's certificate could issue one for any caller.
    """
    for number, one in enumerate(found, 1):
        if not _is_authority(one):
            raise SetupError(
                f"{CLIENT_CA}: certificate {number} of the file (serial {one.serial_number:x}) is "
                "not an authority's, and gRPC would take callers' certificates from its holder; "
                "name the authority that issued it instead"
            )
    if not any(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in found):
        raise SetupError(
            f"{CLIENT_CA}: every authority in the file has expired; put new ones into it"
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    """Returns whether a certificate says that it may sign others (RFC 5280, 4.2.1.3 and 9)."""
    try:
        extensions = certificate.extensions
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        # Without a key usage, an authority may use its key for everything.
        return missing.oid == x509.KeyUsage.oid
    except ValueError:
        return False  # Extensions that nobody can read say nothing.


def _certificates(text: bytes, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise SetupError(
            f"{setting}: the file has no certificates in PEM, or one that is cut off; they "
            "begin with -----BEGIN CERTIFICATE-----"
        ) from None


def server_name(text: bytes) -> str:
    """Returns a name in a server's certificate, with which a client can check the server.

    Raises:
        SetupError: The text has no certificate, or one without a DNS name and an address.
    """
    leaf = _certificates(text, CERTIFICATE)[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    found = [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]
    if not found:
        raise SetupError(f"{CERTIFICATE}: the certificate holds no DNS name and no address")
    return found[0].replace("*", "any", 1)


def _check_key(text: bytes, leaf: x509.Certificate) -> None:
    try:
        key = serialization.load_pem_private_key(text, None)
    except TypeError:
        raise SetupError(
            f"{KEY}: the key has a password, which nobody could enter; store the key without one, "
            "and let only its owner read the file"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SetupError(
            f"{KEY}: the file has no private key in PEM, or one that is cut off"
        ) from None
    # These are what BoringSSL offers as a server; with another key every handshake would fail.
    strong = (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MIN_RSA) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in {"secp256r1", "secp384r1"}
    )
    if not strong:
        raise SetupError(
            f"{KEY}: gRPC serves P-256 and P-384 keys, and RSA keys, which must have {_MIN_RSA:,} "
            "bits or more here; make one of these"
        )
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise SetupError(
            f"{KEY}: the key is not that of the first certificate in {CERTIFICATE}; name the files "
            "of one certificate, with the certificate before its authorities'"
        )
