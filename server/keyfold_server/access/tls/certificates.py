"""Identifies a caller by the client certificate of its connection.

The TLS handshake has checked the certificate against the client CA; this module turns it into
names. Invariants: a name comes only from the subject alternative names, never from the common name,
which authorities do not check; and a certificate that has expired since the handshake proves
nothing, because a connection outlives its handshake. The module knows neither the transport nor the
policy.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final

from cryptography import x509

from keyfold_server.access.lru_cache import LruCache
from keyfold_server.domain.errors import CallerCredentialError
from keyfold_server.domain.rights import Credential, Identity

PROOF: Final = "certificate"
"""The `proof` of an identity that comes from a certificate."""

_MOST_REMEMBERED: Final = 4_096
"""Certificates whose names stay in memory, about 2 KiB each."""

_MOST_NAMES: Final = 64
"""Names in one certificate. Keyfold matches each of them against every grant of the policy."""

_MAX_NAME: Final = 2_048
"""Characters of a name; the bound is the SPIFFE standard's own."""

# The SPIFFE standard's characters, section 2: a trust domain, and a path without empty segments.
_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+")
_DOTS: Final = re.compile(r"/\.{1,2}(?:/|$)")


class CertificateVerifier:
    """Turns certificates into identities. Only the event loop's thread may use it."""

    def __init__(self, most_remembered: int = _MOST_REMEMBERED) -> None:
        """Makes a verifier that remembers the names of `most_remembered` certificates.

        A warm call therefore parses no certificate.
        """
        self._known: LruCache[bytes, Credential] = LruCache(most_remembered)

    def credential(self, pem: bytes | None, now: float) -> Credential | None:
        """Returns the identity of the client at the other end of a connection, and for how long.

        Args:
            pem: The client's own certificate in PEM; None if the client showed none.
            now: Seconds of Unix time.

        Returns:
            The credential, or None if the client showed no certificate. The names are the SPIFFE id
            or else the URIs, and then the DNS names; each kind is sorted.

        Raises:
            CallerCredentialError: The certificate is not valid now, or names no caller.
        """
        if pem is None:
            return None
        known = self._known.get(pem)
        if known is None:
            known = _read(pem)
            self._known.put(pem, known)
        if now > known.ends:
            self._known.drop(pem)
            raise CallerCredentialError(
                "the client certificate has expired since the connection was made; connect again "
                "with a renewed one"
            )
        if now < known.begins:
            raise CallerCredentialError(
                "the client certificate is not valid yet; compare the clocks of client and server"
            )
        return known


def _read(pem: bytes) -> Credential:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = _names(certificate)
    # `cryptography` parses an extension on access; a malformed one is a ValueError as well.
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CallerCredentialError(
            "the client certificate cannot be read; have it issued anew"
        ) from None
    return Credential(
        Identity(names, PROOF),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    _check_leaf(certificate)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        uris, hosts = [], []
    else:
        uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = extension.value.get_values_for_type(x509.DNSName)
    if any(uri[:7].lower() == "spiffe:" for uri in uris):
        _check_svid(uris)
        proven = uris
    else:
        proven = sorted({f"uri:{uri}" for uri in uris if uri})
    # A wildcard names a domain, not one caller.
    callers = {f"dns:{host.lower()}" for host in hosts if host and "*" not in host}
    proven = [*proven, *sorted(callers)]
    if not proven:
        raise CallerCredentialError(
            "the client certificate names no caller; have it issued with a SPIFFE id, another "
            "URI or a DNS name as subject alternative name (the common name does not count)"
        )
    if len(proven) > _MOST_NAMES or not all(map(_is_plain, proven)):
        raise CallerCredentialError(
            f"the client certificate has more than {_MOST_NAMES} names, or one with characters "
            "that no URI or DNS name has; have it issued with plain names"
        )
    return tuple(proven)


def _check_leaf(certificate: x509.Certificate) -> None:
    """Refuses an authority's certificate: it may sign other names, but not call under its own."""
    extensions = certificate.extensions
    signs = False
    with suppress(x509.ExtensionNotFound):
        signs = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with suppress(x509.ExtensionNotFound):
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        signs = signs or usage.key_cert_sign or usage.crl_sign
    if signs:
        raise CallerCredentialError(
            "the client certificate is an authority's, which may sign certificates but not call "
            "with its own; call with a certificate that the authority issued to the caller"
        )


def _check_svid(uris: list[str]) -> None:
    """Refuses a SPIFFE id that the X.509-SVID standard refuses."""
    if len(uris) > 1:
        raise CallerCredentialError(
            "the client certificate has a SPIFFE id and further URIs, and may have only one; "
            "have it issued with the SPIFFE id alone"
        )
    # `fullmatch`, because `$` would let a trailing line break pass.
    if _SPIFFE.fullmatch(uris[0]) is None or _DOTS.search(uris[0]) is not None:
        raise CallerCredentialError(
            "the client certificate's SPIFFE id is not of the form spiffe://trust-domain/path "
            "that the standard gives; have it issued anew"
        )


def _is_plain(name: str) -> bool:
    return len(name) <= _MAX_NAME and name.isascii() and name.isprintable() and " " not in name
