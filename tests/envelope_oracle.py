"""A second, slow implementation of the envelope's message, and the vectors that it makes.

It is written from docs/envelope.md and shares no line with the client: the sealing is that of
`wrapped_key_oracle`. The tests compare the client with it; `python tests/envelope_oracle.py` writes
tests/vectors/envelope.json anew. A change in that file breaks what callers have stored.
"""

from __future__ import annotations

from typing import Any, Final

import wrapped_key_oracle as wrapping
from wrapped_key_oracle import BASE, VECTORS, Vector, drawn, prefixed, text_of

FILE: Final = VECTORS / "envelope.json"
"""The file of the vectors."""


def message(vector: Vector, magic: bytes = b"KFM") -> bytes:
    """Returns the message of a vector's inputs, whatever stands in its `message`."""
    key, nonce = bytes.fromhex(vector["data_key"]), bytes.fromhex(vector["nonce"])
    sealed = wrapping.seal(key, nonce, bytes.fromhex(vector["data"]), bound(vector, magic))
    return begin(vector, magic) + contexts(vector) + nonce + sealed


def bound(vector: Vector, magic: bytes) -> bytes:
    """Returns what a message is bound to: its AAD."""
    return magic + b"\x01\x01" + prefixed(vector["cluster"].encode()) + contexts(vector)


def contexts(vector: Vector) -> bytes:
    """Returns both contexts as they stand in a message."""
    return b"".join(map(wrapping.context_bytes, (vector["key_context"], vector["context"])))


def begin(vector: Vector, magic: bytes = b"KFM") -> bytes:
    """Returns a message's bytes up to the contexts."""
    return magic + b"\x01\x01" + prefixed(bytes.fromhex(vector["wrapped_key"]))


def wrapped(vector: Vector) -> str:
    """Returns the wrapped key of a vector's data key, as hex."""
    inputs: Vector = {**BASE, "nonce": drawn(f"{vector['name']}, wrapping", 24).hex()}
    inputs |= {"cluster": vector["cluster"], "context": vector["key_context"]}
    return wrapping.wrapped_key({**inputs, "plaintext": vector["data_key"]}).hex()


DATA: Final = b"4111 1111 1111 1111".hex()

OPENING: Final[list[tuple[str, str, Vector]]] = [
    ("plain", "a context of the key, and one of the message", {}),
    ("no-context", "neither", {"key_context": {}, "context": {}}),
    ("key-context-only", "the key's alone", {"context": {}}),
    ("own-context-only", "the message's alone", {"key_context": {}}),
    ("no-data", "nothing is sealed", {"data": ""}),
    ("one-byte", "a single byte", {"data": "5a"}),
    ("3000-bytes", "more than one block", {"data": drawn("3000", 3_000).hex()}),
    ("16-pairs", "the most pairs", {"context": {f"key-{i}": f"{i}" for i in range(16)}}),
    ("4096-context-bytes", "the largest context", {"context": {"k": "v" * 4_095}}),
    ("non-ascii", "UTF-8, as it stands", {"context": {"größe": "süß", "キー": "値", "🔑": ""}}),
    ("longest-name", "a cluster's name of 128 characters", {"cluster": "c" * 128}),
]
"""Name, purpose, and the inputs that differ, of each vector that opens."""


def opening_vectors() -> list[Vector]:
    """Returns the vectors that open."""
    vectors = []
    for name, about, inputs in OPENING:
        vector: Vector = {
            "name": name,
            "about": about,
            "cluster": BASE["cluster"],
            "key_context": {"table": "cards"},
            "context": {"row": "17", "column": "number"},
            "data_key": drawn(f"{name}, data key", 32).hex(),
            "nonce": drawn(f"{name}, nonce", 24).hex(),
            "data": DATA,
            **inputs,
        }
        vector["wrapped_key"] = wrapped(vector)
        vectors.append({**vector, "message": message(vector).hex(), "expect": "opens"})
    moved = {**vectors[0], "name": "rekeyed", "about": "the first, with its key wrapped anew"}
    moved["wrapped_key"] = wrapped(moved)
    return [*vectors, {**moved, "message": message(moved).hex()}]


def refused_vectors(base: Vector) -> list[Vector]:
    """Returns vectors that do not open, each one change away from a good one."""
    whole = bytes.fromhex(base["message"])
    head = begin(base)
    keyed = head + wrapping.context_bytes(base["key_context"])
    nonce_at = len(keyed) + len(wrapping.context_bytes(base["context"]))
    own = whole[nonce_at:]
    vectors: list[Vector] = []

    def refuse(name: str, about: str, expect: str, bad: bytes, **changed: Any) -> None:
        named = {"name": name, "about": about, "message": bad.hex(), "expect": expect}
        vectors.append({**base, **named, **changed})

    for name, about, bad in (
        ("empty", "no bytes", b""),
        ("magic-alone", "cut after the first three bytes", whole[:3]),
        ("version-alone", "cut after the version", whole[:4]),
        ("other-magic", "begins otherwise", b"KFN" + whole[3:]),
        ("base64", "still in a text encoding", b"S0ZNAQEAeg=="),
        ("no-wrapped-key", "its length is 0", whole[:5] + bytes(2) + whole[len(head) :]),
        ("huge-wrapped-key", "its length is 65,535", whole[:5] + b"\xff\xff" + whole[7:]),
        ("huge-context", "65,535 pairs", head + b"\xff\xff" + whole[len(head) + 2 :]),
        ("17-pairs", "one pair too many", head + b"\x00\x11" + 17 * b"\x00\x01k\x00\x00" + own),
        ("huge-pair", "a key of 65,535 bytes", head + b"\x00\x01\xff\xff" + whole[len(head) + 4 :]),
        ("not-sorted", "pairs in another order", head + b"\x00\x02\0\1b\0\0\0\1a\0\0\0\0" + own),
        ("twice", "one key twice in a context", head + b"\x00\x02\0\1a\0\0\0\1a\0\0\0\0" + own),
        ("in-both", "one key in both contexts", head + 2 * b"\x00\x01\0\1a\0\0" + own),
        ("empty-key", "a pair without a key", head + b"\x00\x01\0\0\0\0\0\0" + own),
        ("not-utf-8", "text that is not UTF-8", head + b"\x00\x01\0\1\xff\0\0\0\0" + own),
        ("cut-in-context", "cut between the contexts", keyed),
        ("cut-in-seal", "too short for a commitment", whole[: nonce_at + 71]),
    ):
        refuse(name, about, "NOT_A_MESSAGE", bad)
    refuse("version", "version 2", "UNSUPPORTED_MESSAGE", b"KFM\x02" + whole[4:])
    refuse("suite", "suite 2", "UNSUPPORTED_MESSAGE", b"KFM\x01\x02" + whole[5:])
    for name, at in (
        ("nonce", nonce_at),
        ("nonce-end", nonce_at + 23),
        ("ciphertext", nonce_at + 24),
        ("tag", -48),
        ("tag-end", -33),
        ("commitment", -32),
        ("commitment-end", -1),
    ):
        changed = bytearray(whole)
        changed[at] ^= 1
        refuse(f"flipped-{name}", f"one bit has changed: {name}", "MESSAGE_CORRUPT", bytes(changed))
    refuse("cut", "the last byte is lost", "MESSAGE_CORRUPT", whole[:-1])
    refuse("extended", "there is one byte more", "MESSAGE_CORRUPT", whole + b"\x00")
    refuse("cut-data", "the data is lost", "MESSAGE_CORRUPT", whole[: nonce_at + 24] + whole[-48:])
    another = {**base, "nonce": drawn("another, nonce", 24).hex(), "context": {"row": "18"}}
    other = message(another)
    mixed = whole[:nonce_at] + other[-len(own) :]
    refuse("anothers-seal", "what another message has sealed", "MESSAGE_CORRUPT", mixed)
    mixed = whole[: nonce_at + 24] + other[-len(own) + 24 :]
    refuse("anothers-ciphertext", "the same without the nonce", "MESSAGE_CORRUPT", mixed)
    swapped = whole[:nonce_at] + own[:24] + own[-32:] + own[24:-32]
    refuse("reordered", "commitment and ciphertext swapped", "MESSAGE_CORRUPT", swapped)
    for name, about, inputs in (
        ("moved-pair", "a pair has moved to the key's context", {"key_context": {}}),
        ("another-row", "another value", {"context": {**base["context"], "row": "18"}}),
        ("dropped-pair", "a pair is gone", {"context": {"row": "17"}}),
    ):
        # The key's context in the message is what the reader unwraps with, so that it gets here.
        vector = {**base, **inputs}
        if not vector["key_context"]:
            vector["context"] = {**base["context"], **base["key_context"]}
        refuse(name, about, "MESSAGE_CORRUPT", head + contexts(vector) + own, **inputs)
    refuse("another-cluster", "opened in another", "MESSAGE_CORRUPT", whole, cluster="orders-test")
    key = drawn("another data key", 32).hex()
    refuse("another-key", "another data key's wrapped key", "MESSAGE_CORRUPT", whole, data_key=key)
    refuse("short-key", "a secret of 16 bytes", "MESSAGE_CORRUPT", whole, data_key=key[:32])
    return vectors


def envelope_file() -> Vector:
    """Returns the contents of envelope.json."""
    opening = opening_vectors()
    about = (
        "Messages of format version 1, suite 1; docs/envelope.md. cluster is the reader's, "
        "data_key what the server unwraps for the message's wrapped key; key_context and context "
        "are those of the good message, whose wrapped_key is that of the KEK of wrapped-key.json's "
        "vector `plain`; bytes are hex. expect is `opens`, to the data given, or the refusal's "
        "reason."
    )
    return {"about": about, "vectors": opening + refused_vectors(opening[0])}


if __name__ == "__main__":
    FILE.write_text(text_of(envelope_file()), encoding="utf-8")
