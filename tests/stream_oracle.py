"""A second, slow implementation of the stream, and the vectors that it makes.

It is written from docs/files.md and shares no line with the client, nor with Tink: the segments are
AES-256-GCM and HKDF of the cryptography library. The tests compare the client and Tink with it;
`python tests/stream_oracle.py` writes tests/vectors/stream.json anew. A change in that file breaks
what callers have stored.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import envelope_oracle as envelopes
from wrapped_key_oracle import BASE, VECTORS, Vector, drawn, prefixed, text_of

FILE: Final = VECTORS / "stream.json"
"""The file of the vectors."""

SEGMENT: Final = 1 << 20
FIRST: Final = SEGMENT - 40 - 16
"""Most bytes of data in the first segment."""

OTHERS: Final = SEGMENT - 16
"""Most bytes of data in every other segment."""


def data_of(vector: Vector) -> bytes:
    """Returns a vector's data: what stands there, repeated if it is long."""
    given = bytes.fromhex(vector["data"])
    size: int = vector.get("data_size", len(given))
    return (given * (size // max(len(given), 1) + 1))[:size]


def stream(vector: Vector) -> bytes:
    """Returns the stream of a vector's inputs, whatever stands in its `stream`."""
    return header(vector) + b"".join(segments(vector))


def header(vector: Vector) -> bytes:
    """Returns what stands before Tink's ciphertext."""
    message = envelopes.message({**vector, "data": vector["stream_key"]}, b"KFS")
    return message[:5] + prefixed(message[5:])


def segments(vector: Vector) -> list[bytes]:
    """Returns Tink's ciphertext, segment by segment; the first one begins with Tink's header."""
    salt, prefix = bytes.fromhex(vector["salt"]), bytes.fromhex(vector["nonce_prefix"])
    kdf = HKDF(SHA256(), 32, salt, envelopes.bound(vector, b"KFS"))
    cipher = AESGCM(kdf.derive(bytes.fromhex(vector["stream_key"])))
    data = data_of(vector)
    places = [0, *range(FIRST, len(data), OTHERS), len(data)]
    made = [b"\x28" + salt + prefix]
    for number, (start, end) in enumerate(pairwise(places)):
        last = b"\x01" if number == len(places) - 2 else b"\x00"
        nonce = prefix + number.to_bytes(4, "big") + last
        made.append(cipher.encrypt(nonce, data[start:end], b""))
    return [made[0] + made[1], *made[2:]]


PATTERN: Final = bytes(range(256)).hex()

OPENING: Final[list[tuple[str, str, Vector]]] = [
    ("plain", "a context of the key, and one of the stream", {}),
    ("no-context", "neither", {"key_context": {}, "context": {}}),
    ("no-data", "nothing is sealed", {"data": ""}),
    ("3000-bytes", "more than one block", {"data": drawn("stream 3000", 3_000).hex()}),
    ("one-segment", "the first segment is full", {"data": PATTERN, "data_size": FIRST}),
    ("two-segments", "one byte in the second", {"data": PATTERN, "data_size": FIRST + 1}),
    ("full-segments", "two full ones", {"data": PATTERN, "data_size": FIRST + OTHERS}),
    ("three-segments", "one more byte", {"data": PATTERN, "data_size": FIRST + OTHERS + 1}),
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
            "context": {"file": "2026-11.csv"},
            **{
                part: drawn(f"stream {name}, {part}", size).hex()
                for part, size in (
                    ("data_key", 32),
                    ("nonce", 24),
                    ("stream_key", 32),
                    ("salt", 32),
                    ("nonce_prefix", 7),
                )
            },
            "data": envelopes.DATA,
            **inputs,
        }
        vector["wrapped_key"] = envelopes.wrapped(vector)
        vectors.append({**vector, **shown(stream(vector)), "expect": "opens"})
    moved = {**vectors[0], "name": "rekeyed", "about": "the first, with its key wrapped anew"}
    moved["wrapped_key"] = envelopes.wrapped(moved)
    return [*vectors, {**moved, **shown(stream(moved))}]


def shown(whole: bytes) -> Vector:
    """Returns a stream as its vector has it: in full, or by its hash if it is large."""
    if len(whole) < SEGMENT:
        return {"stream": whole.hex()}
    return {"stream_sha256": hashlib.sha256(whole).hexdigest()}


def refused_vectors(base: Vector) -> list[Vector]:
    """Returns vectors that do not open, each one change away from a good one."""
    whole, own = bytes.fromhex(base["stream"]), segments(base)[0]
    at = len(whole) - len(own)
    vectors: list[Vector] = []

    def refuse(name: str, about: str, expect: str, bad: bytes, **changed: Any) -> None:
        named = {"name": name, "about": about, "stream": bad.hex(), "expect": expect}
        vectors.append({**base, **named, **changed})

    for name, about, bad in (
        ("empty", "no bytes", b""),
        ("magic-alone", "cut after the first three bytes", whole[:3]),
        ("cut-in-length", "cut within the header's length", whole[:6]),
        ("cut-in-header", "cut within the header", whole[: at - 1]),
        ("other-magic", "begins otherwise", b"KFN" + whole[3:]),
        ("message", "begins as a message", b"KFM" + whole[3:]),
        (
            "short-length",
            "a length too small by one",
            whole[:5] + prefixed(whole[7 : at - 1]) + own,
        ),
        ("long-length", "a length too large by one", whole[:5] + prefixed(whole[7 : at + 1]) + own),
        ("no-length", "a header of no bytes", whole[:5] + bytes(2) + whole[7:]),
    ):
        refuse(name, about, "NOT_A_MESSAGE", bad)
    refuse("version", "version 2", "UNSUPPORTED_MESSAGE", b"KFS\x02" + whole[4:])
    refuse("suite", "suite 2", "UNSUPPORTED_MESSAGE", b"KFS\x01\x02" + whole[5:])
    for name, place in (
        ("nonce", at - 104),
        ("sealed-key", at - 80),
        ("header-tag", at - 48),
        ("commitment", at - 32),
        ("commitment-end", at - 1),
        ("tink-length", at),
        ("salt", at + 1),
        ("nonce-prefix", at + 33),
        ("ciphertext", at + 40),
        ("tag-end", -1),
    ):
        changed = bytearray(whole)
        changed[place] ^= 1
        refuse(f"flipped-{name}", f"one bit has changed: {name}", "MESSAGE_CORRUPT", bytes(changed))
    for name, about, bad in (
        ("cut-after-header", "nothing follows the header", whole[:at]),
        ("cut-in-tinks-header", "cut within Tink's header", whole[: at + 39]),
        ("cut-after-tinks-header", "no segment", whole[: at + 40]),
        ("cut", "the last byte is lost", whole[:-1]),
        ("extended", "there is one byte more", whole + b"\x00"),
        ("twice", "the stream stands there twice", whole + whole),
    ):
        refuse(name, about, "MESSAGE_CORRUPT", bad)
    another = {
        **base,
        **{part: drawn(f"another, {part}", 32).hex() for part in ("stream_key", "salt")},
        "nonce": drawn("another stream, nonce", 24).hex(),
    }
    mixed = whole[:at] + segments(another)[0]
    refuse("anothers-data", "another stream's data", "MESSAGE_CORRUPT", mixed)
    refuse("anothers-header", "of the same data key", "MESSAGE_CORRUPT", header(another) + own)
    as_message = envelopes.message({**base, "data": base["stream_key"]})
    disguised = b"KFS" + as_message[3:5] + prefixed(as_message[5:]) + own
    refuse("disguised-message", "a message of 32 bytes as header", "MESSAGE_CORRUPT", disguised)
    renamed = header(base).replace(b"2026-11.csv", b"2026-12.csv") + own
    refuse("another-file", "another value", "MESSAGE_CORRUPT", renamed)
    refuse("another-cluster", "opened in another", "MESSAGE_CORRUPT", whole, cluster="orders-test")
    key = drawn("another stream's data key", 32).hex()
    refuse("another-key", "another data key's wrapped key", "MESSAGE_CORRUPT", whole, data_key=key)
    refuse("short-key", "a secret of 16 bytes", "MESSAGE_CORRUPT", whole, data_key=key[:32])
    return vectors


def stream_file() -> Vector:
    """Returns the contents of stream.json."""
    opening = opening_vectors()
    about = (
        "Streams of format version 1, suite 1; docs/files.md. cluster is the reader's, data_key "
        "what the server unwraps for the header's wrapped key; everything else is of the good "
        "stream, whose wrapped_key is that of the KEK of wrapped-key.json's vector `plain`; bytes "
        "are hex. stream_key is what the header seals, salt and nonce_prefix are those of Tink's "
        "header. data is repeated up to data_size, if that is there; of such a stream stands the "
        "SHA-256. expect is `opens`, to the data given, or the refusal's reason."
    )
    return {"about": about, "vectors": opening + refused_vectors(opening[0])}


if __name__ == "__main__":
    FILE.write_text(text_of(stream_file()), encoding="utf-8")
