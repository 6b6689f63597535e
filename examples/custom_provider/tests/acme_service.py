"""Acme KMS in this process: the made-up KMS that the adapter is tested against.

`AcmeKms.answer` takes a request and returns the reply; `counterparts.faults` serves it over TLS.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from counterparts.messages import Reply, Request

PATH: Final = "/acme/v1/keys/"
_NONCE: Final = 12


class RefusedError(Exception):
    """An answer that is not 200: its status, and the word that stands in it."""

    def __init__(self, status: int, word: str) -> None:
        super().__init__(word)
        self.status = status
        self.word = word


@dataclass
class Version:
    """One version of a key."""

    material: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    enabled: bool = True
    destroyed: bool = False


@dataclass
class Key:
    """A key, with the permissions that Keyfold does not have on it."""

    versions: list[Version] = field(default_factory=lambda: [Version()])
    enabled: bool = True
    pending: bool = False
    encrypts: bool = True
    denied: set[str] = field(default_factory=set)


class AcmeKms:
    """The service: keys by name, and one token that it accepts."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.token = secrets.token_urlsafe(32)
        self.accepts_token = True
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        """Answers a request."""
        headers = {"Content-Type": "application/json", "X-Request-Id": secrets.token_hex(8)}
        try:
            with self._lock:
                status, body = 200, self._answer(request)
        except RefusedError as error:
            status, body = error.status, {"error": error.word}
        return Reply(status, headers, json.dumps(body).encode())

    def _answer(self, request: Request) -> dict[str, Any]:
        told = request.headers.get("authorization", "")
        if not self.accepts_token or told != f"Bearer {self.token}":
            raise RefusedError(401, "token_invalid")
        if request.path == "/acme/v1/token":
            return {"valid": True}
        name, _, operation = request.path.removeprefix(PATH).partition(":")
        key = self.keys.get(name)
        if key is None:
            raise RefusedError(404, "key_not_found")
        permission = operation or "describe"
        if permission in key.denied:
            raise RefusedError(403, "permission_denied")
        if key.pending:
            raise RefusedError(409, "deletion_scheduled")
        if not key.enabled:
            raise RefusedError(409, "key_disabled")
        if not key.encrypts:
            raise RefusedError(409, "wrong_purpose")
        if permission == "describe":
            return {"primary": len(key.versions), "algorithm": "AES-256-GCM"}
        asked = json.loads(request.body)
        if operation == "wrap":
            return self._wrap(name, key, asked)
        return self._unwrap(name, key, asked)

    def _wrap(self, name: str, key: Key, asked: dict[str, Any]) -> dict[str, Any]:
        number = len(key.versions)
        cipher, nonce = AESGCM(_usable(key, number).material), os.urandom(_NONCE)
        aad = name.encode() + b64decode(asked["aad"])
        sealed = nonce + cipher.encrypt(nonce, b64decode(asked["plaintext"]), aad)
        return {"ciphertext": b64encode(sealed).decode(), "version": number}

    def _unwrap(self, name: str, key: Key, asked: dict[str, Any]) -> dict[str, Any]:
        sealed = b64decode(asked["ciphertext"])
        version = _usable(key, asked["version"])
        try:
            plaintext = AESGCM(version.material).decrypt(
                sealed[:_NONCE], sealed[_NONCE:], name.encode() + b64decode(asked["aad"])
            )
        except (InvalidTag, ValueError):
            raise RefusedError(400, "ciphertext_invalid") from None
        return {"plaintext": b64encode(plaintext).decode()}


def _usable(key: Key, number: int) -> Version:
    if number > len(key.versions) or key.versions[number - 1].destroyed:
        raise RefusedError(404, "version_not_found")
    version = key.versions[number - 1]
    if not version.enabled:
        raise RefusedError(409, "version_disabled")
    return version
