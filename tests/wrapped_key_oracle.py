"""A second, slow implementation of the wrapped key, and the vectors that it makes.

It is written from docs/wrapped-key.md and shares no line with the server: the derivation and the
commitment are the cryptography library's own KDF in counter mode with CMAC. The tests compare the
server with it; `python tests/wrapped_key_oracle.py` writes tests/vectors/wrapped-key.json and
tests/vectors/binding.json anew. A change in either file breaks what callers have stored.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

VECTORS: Final = Path(__file__).parent / "vectors"
"""The folder of the vector files."""

Vector = dict[str, Any]
"""One vector, as its file has it: bytes are hex."""


def derived_key(key: bytes, nonce: bytes) -> bytes:
    """Returns XAES-256-GCM's key for one nonce."""
    before = CounterLocation.BeforeFixed
    fixed = b"X\x00" + nonce[:12]
    kdf = KBKDFCMAC(AES, Mode.CounterMode, 32, 2, None, before, None, None, fixed)
    return kdf.derive(key)


def commitment(key: bytes, nonce: bytes) -> bytes:
    """Returns the key commitment for one nonce."""
    after = CounterLocation.AfterFixed
    fixed = b"XCMT" + nonce + b"\x00\x01"
    kdf = KBKDFCMAC(AES, Mode.CounterMode, 32, 2, None, after, None, None, fixed)
    return kdf.derive(key)


def seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Returns ciphertext, tag and commitment."""
    body = AESGCM(derived_key(key, nonce)).encrypt(nonce[12:], plaintext, aad)
    return body + commitment(key, nonce)


def prefixed(value: bytes) -> bytes:
    """Returns a value behind its length of 16 bits."""
    return len(value).to_bytes(2, "big") + value


def context_bytes(context: dict[str, str]) -> bytes:
    """Returns the encoding of a context."""
    pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    return len(pairs).to_bytes(2, "big") + b"".join(prefixed(k) + prefixed(v) for k, v in pairs)


def wrapped_key(vector: Vector) -> bytes:
    """Returns the wrapped key of a vector's inputs."""
    kek_id, nonce = bytes.fromhex(vector["kek_id"]), bytes.fromhex(vector["nonce"])
    names = prefixed(vector["cluster"].encode()) + prefixed(vector["region"].encode())
    aad = b"CMK1\x01" + kek_id + names + context_bytes(vector["context"])
    sealed = seal(bytes.fromhex(vector["key"]), nonce, bytes.fromhex(vector["plaintext"]), aad)
    return b"\x01\x01" + kek_id + nonce + sealed


def drawn(label: str, size: int) -> bytes:
    """Returns bytes that look random and are the same on every run."""
    return hashlib.shake_128(f"keyfold vectors: {label}".encode()).digest(size)


BASE: Final[Vector] = {
    "key": drawn("key", 32).hex(),
    "kek_id": drawn("kek_id", 16).hex(),
    "cluster": "orders-prod",
    "region": "eu-central-1",
    "context": {"table": "customers", "column": "iban"},
}
"""Inputs that a vector has unless it gives others."""

SHIFTED: Final = {"cluster": "orders-prode", "region": "u-central-1"}
"""The letters of BASE's names, divided otherwise."""

BATCH: Final = drawn("batch", 12).hex()

OPENING: Final[list[tuple[str, str, Vector]]] = [
    ("plain", "32 bytes, two pairs", {}),
    ("empty-context", "no context at all", {"context": {}}),
    ("one-byte", "the smallest plaintext", {"plaintext": "5a"}),
    ("4096-bytes", "the largest plaintext", {"plaintext": drawn("largest", 4_096).hex()}),
    ("16-pairs", "the most pairs", {"context": {f"key-{i}": f"{i}" for i in range(16)}}),
    ("4096-context-bytes", "the largest context", {"context": {"k": "v" * 4_095}}),
    ("empty-value", "a value may be empty, a key may not", {"context": {"tenant": ""}}),
    ("non-ascii", "UTF-8, as it stands", {"context": {"größe": "süß", "キー": "値", "🔑": "🗝"}}),
    (
        "not-normalised",
        "two keys that look the same: one code point, and a letter with a combining mark",
        {"context": {"\u00e9": "composed", "e\u0301": "decomposed"}},
    ),
    (
        "order-is-of-bytes",
        "UTF-16 units, lengths or letters without case would each sort these otherwise",
        {"context": {"\U00010000": "1", "\uffff": "2", "b": "3", "aa": "4", "a": "5", "Z": "6"}},
    ),
    ("longest-names", "names of 128 characters", {"cluster": "c" * 128, "region": "r" * 128}),
    ("shifted-names", "the lengths say which letters belong to which name", SHIFTED),
    ("other-key", "another KEK", {"key": drawn("other", 32).hex(), "kek_id": "ff" * 16}),
    ("batch-1", "a batch's nonces share 12 bytes", {"nonce": BATCH + "ff" * 11 + "fe"}),
    ("batch-2", "and count up in the other 12", {"nonce": BATCH + "ff" * 12}),
    ("batch-3", "modulo 2^96", {"nonce": BATCH + "00" * 12}),
    ("batch-4", "and on from zero", {"nonce": BATCH + "00" * 11 + "01"}),
]
"""Name, purpose, and the inputs that differ from BASE's, of each vector that opens."""

FLIPS: Final = [
    ("version", 0, "UNSUPPORTED_WRAPPED_KEY"),
    ("suite", 1, "UNSUPPORTED_WRAPPED_KEY"),
    ("kek-id", 2, "UNKNOWN_KEK"),
    ("kek-id-end", 17, "UNKNOWN_KEK"),
    ("nonce-prefix", 18, "WRAPPED_KEY_CORRUPT"),
    ("nonce-suffix", 41, "WRAPPED_KEY_CORRUPT"),
    ("ciphertext", 42, "CONTEXT_MISMATCH"),
    ("ciphertext-end", -49, "CONTEXT_MISMATCH"),
    ("tag", -48, "CONTEXT_MISMATCH"),
    ("tag-end", -33, "CONTEXT_MISMATCH"),
    ("commitment", -32, "WRAPPED_KEY_CORRUPT"),
    ("commitment-end", -1, "WRAPPED_KEY_CORRUPT"),
]
"""Name of a part of the blob, one of its bytes, and the reason when a bit there has changed."""

MOVES: Final[list[tuple[str, str, Vector]]] = [
    ("context-value", "another value", {"context": {**BASE["context"], "table": "orders"}}),
    ("context-missing", "no context", {"context": {}}),
    ("context-swapped", "keys for values", {"context": {"customers": "table", "iban": "column"}}),
    ("another-cluster", "opened in another cluster", {"cluster": "orders-test"}),
    ("another-region", "opened in another region", {"region": "eu-central-2"}),
    ("moved-letters", "the same letters, divided otherwise", SHIFTED),
]
"""Name, purpose and changed inputs of each vector that must not open."""


def opening_vectors() -> list[Vector]:
    """Returns the vectors that open."""
    vectors = []
    for name, about, inputs in OPENING:
        own = {"nonce": drawn(name, 24).hex(), "plaintext": drawn(f"{name}, text", 32).hex()}
        vector: Vector = {"name": name, "about": about, **BASE, **own, **inputs}
        vectors.append({**vector, "wrapped_key": wrapped_key(vector).hex(), "expect": "opens"})
    return vectors


def refused_vectors(base: Vector) -> list[Vector]:
    """Returns vectors that do not open, each one change away from a good one."""
    blob = bytes.fromhex(base["wrapped_key"])
    vectors: list[Vector] = []

    def refuse(name: str, about: str, expect: str, **changed: Any) -> None:
        vectors.append({**base, "name": name, "about": about, **changed, "expect": expect})

    for name, about, bad in (
        ("empty", "no bytes", b""),
        ("no-plaintext", "90 bytes: one fewer than the smallest", blob[:90]),
        ("too-long", "4,187 bytes: one more than the largest", (blob * 40)[:4_187]),
    ):
        refuse(name, about, "NOT_A_WRAPPED_KEY", wrapped_key=bad.hex())
    for name, at, expect in FLIPS:
        changed = bytearray(blob)
        changed[at] ^= 1
        about = f"one bit of byte {at % len(blob)} has changed"
        refuse(f"flipped-{name}", about, expect, wrapped_key=changed.hex())
    for name, about, bad in (
        ("truncated", "the last byte is lost", blob[:-1]),
        ("extended", "there is one byte more", blob + b"\x00"),
    ):
        refuse(name, about, "WRAPPED_KEY_CORRUPT", wrapped_key=bad.hex())
    refuse("another-kek", "other key bytes, same id", "WRAPPED_KEY_CORRUPT", key="11" * 32)
    for name, about, inputs in MOVES:
        refuse(name, about, "CONTEXT_MISMATCH", **inputs)
    return vectors


def wrapped_key_file() -> Vector:
    """Returns the contents of wrapped-key.json."""
    opening = opening_vectors()
    about = (
        "Wrapped keys of format version 1, suite 1; docs/wrapped-key.md. key, kek_id, cluster and "
        "region are those of the KEK that opens, context what the caller presents; bytes are hex. "
        "expect is `opens`, to the plaintext given, or the reason of the refusal."
    )
    return {"about": about, "vectors": opening + refused_vectors(opening[0])}


def binding_bytes(vector: Vector) -> bytes:
    """Returns the bytes that a root key's ciphertext of a KEK is bound to."""
    parts = [vector["cluster"].encode(), vector["region"].encode()]
    parts.append(bytes.fromhex(vector["kek_id"]))
    if vector["organization"] is not None:
        parts.append(vector["organization"].encode())
    return b"CMK1-KEK" + b"".join(map(prefixed, parts))


BINDINGS: Final[list[tuple[str, str, str, str | None]]] = [
    ("plain", "orders-prod", "eu-central-1", None),
    ("organization", "orders-prod", "eu-central-1", "acme"),
    ("longest-names", "c" * 128, "r" * 128, "o" * 128),
    ("shortest-names", "c", "r", "o"),
    ("shifted-names", SHIFTED["cluster"], SHIFTED["region"], None),
]
"""Name, cluster, region and organization of each binding vector."""


def binding_file() -> Vector:
    """Returns the contents of binding.json."""
    vectors: list[Vector] = []
    for name, cluster, region, organization in BINDINGS:
        kek_id, key = drawn(f"{name}, kek_id", 16).hex(), drawn(f"{name}, key", 32)
        vector: Vector = {"name": name, "cluster": cluster, "region": region, "kek_id": kek_id}
        vector["organization"] = organization
        canonical = binding_bytes(vector)
        bound = {"keyfold:cluster": cluster, "keyfold:region": region}
        if organization is not None:
            bound["keyfold:organization"] = organization
        payload = b"\x01" + hashlib.sha256(canonical).digest() + key
        vector |= {"canonical": canonical.hex(), "map": bound}
        vectors.append(vector | {"key": key.hex(), "payload": payload.hex()})
    about = (
        "What a root key wraps and is bound to, for one KEK; docs/wrapped-key.md. canonical is "
        "the bytes, map the same for providers that bind a map; bytes are hex."
    )
    return {"about": about, "vectors": vectors}


def text_of(contents: Vector) -> str:
    """Returns a vector file's text."""
    return json.dumps(contents, indent=1, ensure_ascii=True) + "\n"


FILES: Final = {"wrapped-key.json": wrapped_key_file, "binding.json": binding_file}
"""What makes each file that this program writes."""

if __name__ == "__main__":
    for file, contents in FILES.items():
        (VECTORS / file).write_text(text_of(contents()), encoding="utf-8")
