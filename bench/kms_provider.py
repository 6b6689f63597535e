"""A server's provider that calls `kms.py`; the server loads it like a third party's.

It encrypts with a fixed key, because the benchmark measures how a server calls a KMS, and not what
the KMS does.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    KekMismatchError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import Unwrapped, Wrapped
from keyfold_server.providers.shared.entry import Entry

_PREFIX: Final = "bench:"
_NONCE: Final = 12

_RETRY: Final = 0.5
"""Seconds that a throttling KMS asks for. This is the least that a server waits."""


class BenchProvider:
    """Root keys `bench:ACCOUNT.KEY`. The provider calls the account's KMS before each operation."""

    type = "BENCH"

    def __init__(self) -> None:
        """Reads the KMS's port from the environment."""
        self._where = ("127.0.0.1", int(os.environ["BENCH_KMS_PORT"]))
        self._cipher = AESGCM(bytes(range(32)))

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key, or refuses its uri; see the port."""
        if not key.uri.startswith(_PREFIX) or "." not in key.uri:
            raise InvalidKeySpecError("the uri must be bench:ACCOUNT.KEY", field="key_spec.uri")
        return key

    def account(self, key: RootKey) -> str:
        """Returns the account of the key's uri."""
        return key.uri.removeprefix(_PREFIX).partition(".")[0]

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps; see the port."""
        self._ask(key, budget)
        nonce = os.urandom(_NONCE)
        return Wrapped(nonce + self._cipher.encrypt(nonce, plaintext, binding.canonical()), "1")

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Unwraps; see the port."""
        del key_version  # Every key has only one version.
        self._ask(key, budget)
        nonce, sealed = ciphertext[:_NONCE], ciphertext[_NONCE:]
        try:
            return Unwrapped(bytearray(self._cipher.decrypt(nonce, sealed, binding.canonical())))
        except InvalidTag as error:
            raise KekMismatchError("the ciphertext does not decrypt") from error

    def _ask(self, key: RootKey, budget: float) -> None:
        """Calls the KMS; the only read may wait for the whole budget."""
        try:
            with socket.create_connection(self._where, timeout=budget) as connection:
                connection.sendall(f"{self.account(key)}\n".encode())
                answer = connection.recv(1)
        except OSError as error:
            raise UnreachableError("the benchmark's KMS gave no answer in time") from error
        if answer == b"t":
            raise ThrottledError("the benchmark's KMS is busy", retry_after=_RETRY)
        if answer != b"k":
            raise UnreachableError("the benchmark's KMS hung up")


ENTRY: Final = Entry(
    make=lambda _: BenchProvider(), uris=("bench:**",), example="bench:ACCOUNT.KEY"
)
