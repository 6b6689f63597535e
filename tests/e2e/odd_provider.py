"""A third party's provider that can be made to misbehave in a real server, by a key's name.

It comes in as third parties do, through an entry point; `installed` makes the package. A key
`odd:NAME` works, but for these:

    odd:hang-…     hangs for its budget while the file ODD_HANG is there
    odd:raise-…    every call raises ValueError(SECRET)
    odd:break-…    even looking at the uri raises ValueError(SECRET)
    odd:lost-…     asking for the account raises ValueError(SECRET) while the file ODD_LOST is there
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import InvalidKeySpecError, KekMismatchError, UnreachableError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import (
    AccessPolicy,
    AccessWanted,
    Statement,
    Unwrapped,
    Wrapped,
)
from keyfold_server.providers.shared.entry import Entry

SECRET: Final = "text-of-an-exception-5up3r"
"""A text that must not reach a caller."""

_KEY: Final = bytes(range(32))
_NONCE: Final = 12


def installed(folder: Path) -> dict[str, str]:
    """Installs the provider into a folder; returns the environment of a server that has it."""
    info = folder / "odd_provider-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-provider\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[keyfold.providers]\nODD = e2e.odd_provider:ENTRY\n")
    tests = Path(__file__).resolve().parents[1]
    return {
        "PYTHONPATH": f"{tests}{os.pathsep}{folder}",
        "ODD_HANG": str(folder / "hang"),
        "ODD_LOST": str(folder / "lost"),
    }


class OddProvider:
    """The provider; the module's docstring says how it misbehaves."""

    type = "ODD"

    def canonical(self, key: RootKey) -> RootKey:
        if not key.uri.startswith("odd:"):
            raise InvalidKeySpecError("the uri must be odd:NAME", field="key_spec.uri")
        if key.uri.startswith("odd:break"):
            raise ValueError(SECRET)
        return key

    def account(self, key: RootKey) -> str:
        if key.uri.startswith("odd:lost") and Path(os.environ["ODD_LOST"]).exists():
            raise ValueError(SECRET)
        return key.uri

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        text = f"permit {key.principal or 'keyfold'}"
        return AccessPolicy(key.principal, {}, (Statement("Permit", key.uri, "shell", text, ()),))

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        _misbehave(key, budget)
        nonce = os.urandom(_NONCE)
        sealed = AESGCM(_KEY).encrypt(nonce, plaintext, binding.canonical())
        return Wrapped(nonce + sealed, "1", "odd-request")

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        _misbehave(key, budget)
        nonce, sealed = ciphertext[:_NONCE], ciphertext[_NONCE:]
        try:
            plaintext = AESGCM(_KEY).decrypt(nonce, sealed, binding.canonical())
        except InvalidTag as error:
            raise KekMismatchError("it does not open") from error
        return Unwrapped(bytearray(plaintext), "odd-request")


def _misbehave(key: RootKey, budget: float) -> None:
    if key.uri.startswith("odd:raise"):
        raise ValueError(SECRET)
    ends = time.monotonic() + budget
    while key.uri.startswith("odd:hang") and Path(os.environ["ODD_HANG"]).exists():
        if time.monotonic() > ends:
            raise UnreachableError("it hangs")
        time.sleep(0.01)


ENTRY: Final = Entry(make=lambda _: OddProvider(), uris=("odd:**",), example="odd:NAME")
