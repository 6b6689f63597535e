"""ACME_KMS: root keys in Acme KMS, a made-up KMS with a REST API.

    uri          https://HOST[:PORT]/acme/v1/keys/NAME, at the origin that the settings name
    principal    not taken
    options      not taken
    permissions  keys.wrap, keys.unwrap and keys.read on the key
    settings     [providers.acme_kms]: origin, token_file and ca

    POST {uri}:wrap    {"plaintext", "aad"}               → {"ciphertext", "version"}
    POST {uri}:unwrap  {"ciphertext", "version", "aad"}   → {"plaintext"}
    GET  {uri}                                            → {"primary", "algorithm"}
    GET  {origin}/acme/v1/token                           → {"valid"}

Bytes are base64. The binding's canonical bytes are the additional authenticated data. The answers
carry no checksum, so what was wrapped is opened at once.

Invariants: the token goes to the configured origin only (protocol C3), and an answer is a refusal
only if it says so in a word that is known (`errors`).
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from acme_kms.errors import body, request_id, translate
from acme_kms.uri import parse
from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding
from keyfold_server.domain.errors import (
    CredentialsFailedError,
    InvalidKeySpecError,
    InvalidPlaintextError,
    KekMismatchError,
    KmsError,
    SetupError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.opening import opening
from keyfold_server.providers.shared.origins import (
    allowed_origins,
    configured_origin,
    refuse_plain_http,
)
from keyfold_server.providers.shared.transport import Answer, Transport

_MAX_CIPHERTEXT: Final = 4_096
"""Bytes; Acme KMS's ciphertexts of 65 bytes are far smaller."""

_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_OK: Final = 200


class AcmeKmsProvider:
    """Root keys in one server of Acme KMS. Safe for many threads."""

    def __init__(
        self,
        *,
        origin: str,
        token_file: Path,
        ca: Path | None = None,
        allowed_endpoints: Iterable[str] = (),
    ) -> None:
        """Prepares the adapter; it calls Acme KMS with the first call.

        Args:
            origin: The origin that the token is for.
            token_file: File of the bearer token.
            ca: File of the certificates to trust, in PEM; None trusts the system's.
            allowed_endpoints: Origins of KEYFOLD_ALLOWED_ENDPOINTS. One with plain http must be
                in it.

        Raises:
            SetupError: The origin is not one.
        """
        found = configured_origin(origin)
        if found is None:
            raise SetupError(
                "[providers.acme_kms] origin must be an origin such as https://kms.example:8443"
            )
        self._origin = found
        self._allowed = allowed_origins(allowed_endpoints)
        self._token_file = token_file
        self._transport = Transport(ca=None if ca is None else str(ca))

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key with its uri in canonical form; see the port."""
        origin, name = parse(key.uri)
        if key.principal:
            raise InvalidKeySpecError(
                "ACME_KMS takes no auth_principal; leave it out", field="key_spec.auth_principal"
            )
        if key.options:
            raise InvalidKeySpecError(
                "ACME_KMS takes no options; leave them out", field="key_spec.options"
            )
        refuse_plain_http(origin, self._allowed)
        if origin != self._origin:
            raise InvalidKeySpecError(
                f"the server has no token for {origin}; use a key at {self._origin}",
                field="key_spec.uri",
            )
        return replace(key, uri=f"{origin}/acme/v1/keys/{name}")

    def account(self, key: RootKey) -> str:
        """Returns the origin: its keys share one server's quota and fate."""
        return parse(key.uri)[0]

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the token by asking Acme KMS about it; see the port."""
        with within(budget):
            answer = self._call("GET", f"{self._known(key)}/acme/v1/token", "a token check", key)
            with _understood(answer):
                if body(answer)["valid"] is not True:
                    raise ValueError

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; refuses as `wrap` does."""
        self._known(key)
        with within(budget):
            answer = self._call("GET", key.uri, "keys.read", key)
            with _understood(answer):
                found = body(answer)
                return KeyDescription(str(found["algorithm"])[:64])

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the newest version; see the port."""
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")
        self._known(key)
        asked = {"plaintext": _text(plaintext), "aad": _text(binding.canonical())}
        with within(budget):
            answer = self._call("POST", f"{key.uri}:wrap", "keys.wrap", key, asked)
            with _understood(answer):
                found = body(answer)
                ciphertext, version = _bytes(found["ciphertext"]), _version(found["version"])
            with opening():
                try:
                    opened = self._opened(key, version, ciphertext, binding)
                except KekMismatchError as error:
                    raise _damaged(key, error.provider_request_id or "") from error
                if not hmac.compare_digest(opened.plaintext, plaintext):
                    raise _damaged(key, opened.request_id)
        return Wrapped(ciphertext, version, request_id(answer))

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned; see the port."""
        # Looked at here, so that a damaged version cannot look like one that was destroyed.
        if not 1 <= len(ciphertext) <= _MAX_CIPHERTEXT or not _VERSION.fullmatch(key_version):
            raise KekMismatchError("the stored key is not a ciphertext of Acme KMS")
        self._known(key)
        with within(budget):
            return self._opened(key, key_version, ciphertext, binding)

    def _opened(self, key: RootKey, version: str, ciphertext: bytes, binding: Binding) -> Unwrapped:
        asked = {
            "ciphertext": _text(ciphertext),
            "version": int(version),
            "aad": _text(binding.canonical()),
        }
        answer = self._call("POST", f"{key.uri}:unwrap", "keys.unwrap", key, asked)
        with _understood(answer):
            return Unwrapped(bytearray(_bytes(body(answer)["plaintext"])), request_id(answer))

    def _call(
        self,
        method: str,
        url: str,
        permission: str,
        key: RootKey,
        asked: dict[str, Any] | None = None,
    ) -> Answer:
        """Sends one request with the token, within the thread's call.

        Raises:
            KmsError: The answer is not 200, or did not arrive.
        """
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"}
        sent = None if asked is None else json.dumps(asked)
        answer = self._transport.send(method, url, headers, sent)
        if answer.status != _OK:
            raise translate(answer, permission, key.uri)
        return answer

    def _token(self) -> str:
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise CredentialsFailedError(
                f"{self._token_file} cannot be read ({type(error).__name__}); put Keyfold's token "
                "for Acme KMS there"
            ) from None
        return token

    def _known(self, key: RootKey) -> str:
        """Returns the origin of a key that was accepted before.

        Raises:
            UnreachableError: The settings have changed and it would not be accepted now. That says
                nothing about the key, and the token must not go there.
        """
        try:
            return parse(self.canonical(key).uri)[0]
        except InvalidKeySpecError as error:
            raise UnreachableError(
                f"this server may not call {key.uri}: {error.message}"
            ) from error


@contextmanager
def _understood(answer: Answer) -> Iterator[None]:
    """Raises UnreachableError where an answer lacks what it must hold."""
    try:
        yield
    except KmsError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise UnreachableError(
            "Acme KMS answered with something that is not an answer; try again",
            provider_request_id=request_id(answer),
        ) from error


def _damaged(key: RootKey, id_: str) -> UnreachableError:
    return UnreachableError(
        f"Acme KMS opened what {key.uri} had just wrapped to something else; try again",
        provider_request_id=id_,
    )


def _version(value: object) -> str:
    """Returns a version as Keyfold stores it.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not positive.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    if value < 1:
        raise ValueError
    return str(value)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bytes(value: object) -> bytes:
    """Returns the bytes of a base64 text.

    Raises:
        TypeError: The value is not a text.
        ValueError: The text is not base64.
    """
    if not isinstance(value, str):
        raise TypeError
    return base64.b64decode(value, validate=True)
