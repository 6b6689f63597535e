"""The calls that Keyfold makes to a vault or Managed HSM, and what their answers must hold.

    vault          wrapkey and unwrapkey under RSA-OAEP-256
    Managed HSM    encrypt and decrypt under A256GCM with the binding as additional data; for its
                   RSA keys as in a vault

Invariant: Azure itself carries out every operation, on the key and version that the request names.
An answer about another key or version does not count. This module must not know where tokens come
from.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    KeyDisabledError,
    KeyInvalidError,
    KeyPendingDeletionError,
    KmsError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyDescription
from keyfold_server.providers.azure.ciphertext import Sealed
from keyfold_server.providers.azure.credentials import under
from keyfold_server.providers.azure.errors import denies, refusal
from keyfold_server.providers.azure.principals import Applications
from keyfold_server.providers.azure.replies import Reply
from keyfold_server.providers.azure.uri import KeyUri
from keyfold_server.providers.azure.ways import AES, RSA, Way, ways

_OK: Final = 200
_URLSAFE: Final = str.maketrans("-_", "+/")
_VERSION: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Calls:
    """Calls to keys, each as the key's principal. Safe for many threads."""

    def __init__(self, principals: Applications) -> None:
        """Takes the principals."""
        self._principals = principals

    def accepted(self, key: RootKey, uri: KeyUri) -> None:
        """Shows that the vault accepts the key's principal, whatever the principal may do there.

        Raises:
            KmsError: The vault does not accept it, or gave no answer that counts.
        """
        reply = self._sent(key, uri, "GET", "keys?maxresults=1", None, "to log in")
        if reply.status == _OK:
            with _understood(reply):
                if not isinstance(reply.body["value"], list):
                    raise TypeError  # Without the list, the answer does not count.
            return
        # A denial shows that the vault accepted the token. Nothing else does, and no answer to
        # this request is about the key.
        if denies(reply):
            return
        meant = refusal(reply, "get", key.uri, hsm=uri.place.hsm)
        if isinstance(meant, CouldNotTellError):
            raise meant
        raise UnreachableError(
            f"the vault of {key.uri} does not show that it knows Keyfold's principal: "
            f"{reply.words}, status {reply.status}",
            provider_request_id=reply.request_id,
        )

    def described(self, key: RootKey, uri: KeyUri) -> KeyDescription:
        """Describes the version that wraps.

        Raises:
            KmsError: The version cannot wrap, or Azure gave no answer that counts.
        """
        reply = self._asked(key, uri, "get", uri.version)
        with _understood(reply):
            found, attributes = reply.body["key"], reply.body["attributes"]
            _version(found["kid"], uri)  # An answer about another key does not count.
            kind = str(found["kty"])[:32]
            permitted = frozenset(found.get("key_ops", ()))
            enabled, now = attributes["enabled"] is True, time.time()
            begins, ends = (attributes.get(name) for name in ("nbf", "exp"))
            early = begins is not None and float(begins) > now
            expired = ends is not None and float(ends) <= now
        if not enabled:
            raise KeyDisabledError(
                f"root key {key.uri} is disabled; enable it in Azure",
                provider_request_id=reply.request_id,
            )
        way = next((each for each in ways(uri) if kind in each.kinds), None)
        fault = None
        if way is None:
            fault = f"is of type {kind}, which cannot wrap here"
        elif early:
            fault = "is not valid yet; look at its activation date"
        elif expired:
            fault = "has expired"
        elif not permitted >= way.key_ops:
            fault = f"does not permit {' and '.join(sorted(way.key_ops))}"
        if way is None or fault is not None:
            raise KeyInvalidError(
                f"root key {key.uri} {fault}", provider_request_id=reply.request_id
            )
        return KeyDescription(f"{kind} key, {way.algorithm}, {way.detail}")

    def wrapped(
        self, key: RootKey, uri: KeyUri, plaintext: bytes, binding: Binding
    ) -> tuple[str, Sealed, Reply]:
        """Wraps in the way that the key can. A Managed HSM has keys of both kinds.

        Returns:
            The version that wrapped, the sealed key, and Azure's answer.

        Raises:
            KmsError: Azure refused, or gave no answer that counts.
        """
        failed: dict[Way, KmsError] = {}
        for way in ways(uri):
            body = {"alg": way.algorithm, "value": _text(plaintext)}
            if way is AES:
                body["aad"] = _text(binding.canonical())
            try:
                reply = self._asked(key, uri, way.wrap, uri.version, body)
            except (KeyInvalidError, AccessDeniedError) as error:
                failed[way] = error
                continue
            with _understood(reply):
                version = _version(str(reply.body["kid"]), uri)
                iv, tag = (
                    _bytes(reply.body[name]) if way is AES else b"" for name in ("iv", "tag")
                )
                sealed = Sealed(uri.of(version), iv, tag, _bytes(reply.body["value"]))
                if Sealed.parsed(sealed.encoded()) != sealed or sealed.bound != (way is AES):
                    raise ValueError
            return version, sealed, reply
        raise self._fitting(key, uri, failed)

    def _fitting(self, key: RootKey, uri: KeyUri, failed: Mapping[Way, KmsError]) -> KmsError:
        """Returns the error of the key's own way; the other's would name the wrong permission."""
        first, *others = failed.values()
        if others:
            with contextlib.suppress(KmsError):
                reply = self._asked(key, uri, "get", uri.version)
                with _understood(reply):
                    kind = str(reply.body["key"]["kty"])
                return next((each for way, each in failed.items() if kind in way.kinds), first)
        return first

    def opened(
        self, key: RootKey, uri: KeyUri, version: str, sealed: Sealed, binding: Binding
    ) -> tuple[bytearray, Reply]:
        """Opens what a version wrapped, and returns the plaintext with Azure's answer.

        Raises:
            KmsError: Azure refused, or gave no answer that counts.
        """
        way = AES if sealed.bound else RSA
        body = {"alg": way.algorithm, "value": _text(sealed.ciphertext)}
        if sealed.bound:
            bound = {"iv": sealed.iv, "tag": sealed.tag, "aad": binding.canonical()}
            body.update({name: _text(value) for name, value in bound.items()})
        reply = self._asked(key, uri, way.unwrap, version, body)
        with _understood(reply):
            if _version(str(reply.body["kid"]), uri) != version:
                raise ValueError
            return bytearray(_bytes(reply.body["value"])), reply

    def _asked(
        self,
        key: RootKey,
        uri: KeyUri,
        operation: str,
        version: str,
        body: Mapping[str, str] | None = None,
    ) -> Reply:
        """Calls an operation on a key; without a version, Azure takes the newest."""
        path = "/".join(filter(None, ("keys", uri.name, version)))
        method = "GET" if body is None else "POST"
        path = path if body is None else f"{path}/{operation}"
        reply = self._sent(key, uri, method, path, body, f"for {operation}")
        if reply.status == _OK:
            return reply
        if reply.missing:
            self._look_among_deleted(key, uri)
        raise refusal(reply, operation, key.uri, hsm=uri.place.hsm)

    def _look_among_deleted(self, key: RootKey, uri: KeyUri) -> None:
        """Raises KeyPendingDeletionError if Azure lists the key among its deleted ones.

        Azure shows that list to principals that may read keys. For others, a deleted key does not
        exist.
        """
        with contextlib.suppress(CouldNotTellError):
            reply = self._sent(key, uri, "GET", f"deletedkeys/{uri.name}", None, "for deleted keys")
            if reply.status == _OK and reply.body.get("recoveryId"):
                raise KeyPendingDeletionError(
                    f"root key {key.uri} is deleted and can still be recovered in Azure",
                    provider_request_id=reply.request_id,
                )

    def _sent(
        self,
        key: RootKey,
        uri: KeyUri,
        method: str,
        path: str,
        body: Mapping[str, str] | None,
        what_for: str,
    ) -> Reply:
        """Sends a request as the key's principal."""
        principal = self._principals.of(key.principal, uri.place)
        vault = principal.client(uri.place.origin)
        return under(
            principal.lease, lambda token: vault.call(method, path, token.value, body), what_for
        )


@contextmanager
def _understood(reply: Reply) -> Iterator[None]:
    """Raises UnreachableError if an answer lacks what it must hold."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnreachableError(
            "Azure's answer does not fit the request; try again",
            provider_request_id=reply.request_id,
        ) from error


def _version(kid: object, uri: KeyUri) -> str:
    """Returns the version in a key's identifier, which must be that of the requested key.

    Azure writes the name in the case in which the key was created, whatever its case in the uri.

    Raises:
        ValueError: The identifier is another key's, or of another version than the uri pins.
    """
    before, _, version = str(kid).rpartition("/")
    asked = f"{uri.place.origin}/keys/{uri.name}"
    known = _VERSION.fullmatch(version) and before.lower() == asked.lower()
    if not known or uri.version not in ("", version):
        raise ValueError
    return version


def _text(value: bytes) -> str:
    """Encodes bytes as Azure takes them: base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _bytes(value: object) -> bytes:
    """Decodes bytes as Azure writes them.

    Raises:
        ValueError: The value is not base64url text.
    """
    if not isinstance(value, str) or not value.isascii():
        raise ValueError
    bare = value.rstrip("=").translate(_URLSAFE)
    return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
