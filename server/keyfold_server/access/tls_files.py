"""The server's certificate, its key and the authorities of its clients, read from their files.

Invariant: what is returned was on the disk at one time, fits together, is valid now, and can be
served by gRPC; anything else is an error that names the setting. Renewers replace the files one
after another, or write them in place, so a half-made set is an everyday sight. It knows no gRPC.
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
"""Bytes of one file; a bundle of all public authorities has about 200 KiB."""

_TRIES: Final = 3
"""Readings of a set that changes while it is read."""

_MIN_RSA: Final = 2_048

_WRITABLE: Final = {CERTIFICATE: 0o002, KEY: 0o022, CLIENT_CA: 0o002}
"""Mode bits that no file may have: who writes the authorities makes callers. That others may read
the key is only warned of: Kubernetes mounts secrets with mode 0644, out of reach of other users
by the container's walls."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the three stand.

    Attributes:
        certificate: The server's certificate in PEM, then the intermediate authorities', if any.
        key: Its private key in PEM, without a password.
        client_ca: The authorities that clients' certificates must come from, in PEM; None: clients
            are not asked for certificates.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def named(self) -> dict[str, Path]:
        """Returns the files by the settings that name them."""
        files = {CERTIFICATE: self.certificate, KEY: self.key}
        return files if self.client_ca is None else {**files, CLIENT_CA: self.client_ca}


@dataclass(frozen=True, slots=True)
class TlsSet:
    """One consistent reading of the files.

    Attributes:
        certificate: The certificate chain in PEM.
        key: The private key in PEM.
        client_ca: The clients' authorities in PEM, or None.
        serial: The certificate's serial number, in hexadecimal digits.
        not_after: When the certificate expires.
        key_exposed: Whether others than the key's owner and group may read it.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    serial: str
    not_after: datetime
    key_exposed: bool


def stamp(files: TlsFiles) -> Stamp | None:
    """Tells one state of the files from another, without opening them.

    Returns:
        None where no stamp can tell: a file is missing, or was changed a moment ago.
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
        files: Where they stand.
        now: Seconds of Unix time.

    Raises:
        SetupError: One is missing, not PEM, open for others to change, or not valid now, or they
            do not fit; the message names the setting and what to do.
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
    """Returns the files' bytes, whether others may read the key, and whether all stood still."""
    texts: dict[str, bytes] = {}
    stamps: dict[str, Stamp] = {}
    exposed = False
    for setting, path in files.named().items():
        try:
            # Not blocking: a pipe in a file's place must not hold up every handshake.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:  # noqa: PTH123  made with its flags, not opened
                status = os.fstat(descriptor)
                _check_mode(setting, path, status)
                texts[setting] = file.read(_MAX_SIZE + 1)
        except OSError as error:
            raise SetupError(
                f"{setting}: {path} cannot be read: {error.strerror}; name a file that the "
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
            f"{setting}: {path} has mode {stat.S_IMODE(status.st_mode):04o}, so others may change "
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
            f"{CERTIFICATE}: the certificate is valid from {begins:%Y-%m-%dT%H:%MZ} on only; set "
            "this machine's clock, or wait"
        )
    authorities = texts.get(CLIENT_CA)
    if authorities is not None and not any(
        made.not_valid_before_utc <= now <= made.not_valid_after_utc
        for made in _certificates(authorities, CLIENT_CA)
    ):
        raise SetupError(f"{CLIENT_CA}: every authority in it has expired; put the new ones in")
    return TlsSet(
        certificate=texts[CERTIFICATE],
        key=texts[KEY],
        client_ca=authorities,
        serial=f"{leaf.serial_number:x}",
        not_after=leaf.not_valid_after_utc,
        key_exposed=exposed,
    )


def _certificates(text: bytes, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise SetupError(
            f"{setting}: the file holds no certificates in PEM, or one that is cut off; they "
            "begin with -----BEGIN CERTIFICATE-----"
        ) from None


def server_name(text: bytes) -> str:
    """Returns a name that a server's certificate proves, for a connection to the server itself.

    Raises:
        SetupError: The text holds no certificate, or one without a DNS name and an address.
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
            f"{KEY}: the key has a password, which nobody would type; store it without, and keep "
            "the file to its owner"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SetupError(
            f"{KEY}: the file holds no private key in PEM, or one that is cut off"
        ) from None
    # What BoringSSL offers as a server; with another key every handshake would fail.
    strong = (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MIN_RSA) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in {"secp256r1", "secp384r1"}
    )
    if not strong:
        raise SetupError(
            f"{KEY}: gRPC serves RSA keys, here of {_MIN_RSA:,} bits and more, and P-256 and P-384 "
            "keys; make one of these"
        )
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise SetupError(
            f"{KEY}: the key is not that of the first certificate in {CERTIFICATE}; name the two "
            "files of one certificate, its own certificate before its authorities'"
        )
