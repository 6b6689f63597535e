"""KC-XAES-256-GCM is what its specifications say, alone and in batches."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import given
from hypothesis import strategies as st

import wrapped_key_oracle as oracle
from keyfold.crypto.faults import CommitmentError, TagError
from keyfold.crypto.xaes import NONCE_SIZE, CommittingKey, SharedKey

FILE = json.loads((oracle.VECTORS / "xaes-256-gcm.json").read_text(encoding="utf-8"))
VECTORS = FILE["vectors"]

KEY = bytes(range(32))
NONCE = bytes(range(64, 88))
AAD = b"additional"

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=24, max_size=24)
texts = st.binary(max_size=200)


def key_of(key: bytes = KEY) -> CommittingKey:
    """Returns a key; its buffer is a copy, since it is wiped."""
    return CommittingKey(bytearray(key))


Open = Callable[[CommittingKey, bytes, bytes, bytes], bytes]


def open_alone(key: CommittingKey, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Opens a message by itself."""
    return key.open(nonce, sealed, aad)


def open_among_others(key: CommittingKey, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Opens a message together with others, which open whatever becomes of it."""
    other = (NONCE, key.seal(NONCE, b"another", b""), b"")
    before, opened, after = key.open_batch([other, (nonce, sealed, aad), other])
    assert before == after == b"another"
    if isinstance(opened, bytes):
        return opened
    raise opened


# Every promise about opening holds for both ways of opening.
both_ways = pytest.mark.parametrize("way", [open_alone, open_among_others])


def parted(message: bytes) -> tuple[bytes, bytes]:
    """Returns the nonce and the sealed part of a message of a batch."""
    return message[:NONCE_SIZE], message[NONCE_SIZE:]


# --- published figures -----------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["ciphertext"][:8])
def test_published_vectors(vector: dict[str, Any]) -> None:
    """C2SP's and AWS-LC's vectors: ciphertext, tag and commitment, sealed and opened."""
    part = {name: bytes.fromhex(vector[name]) for name in ("key", "nonce", "plaintext", "aad")}
    expected = vector["ciphertext"] + vector["tag"] + vector["commitment"]
    key = key_of(part["key"])
    sealed = key.seal(part["nonce"], part["plaintext"], part["aad"])
    assert sealed.hex() == expected
    assert key.open(part["nonce"], sealed, part["aad"]) == part["plaintext"]
    assert key.seal_batch(part["nonce"], [(part["plaintext"], part["aad"])]) == [
        part["nonce"] + sealed
    ]


@pytest.mark.parametrize("vector", [v for v in VECTORS if "Kx" in v], ids=lambda v: v["Kx"][:8])
def test_oracle_reaches_the_published_intermediate_values(vector: dict[str, Any]) -> None:
    """The other tests' reference is right itself: both kinds of L, and the derived key."""
    key = bytes.fromhex(vector["key"])
    block = Cipher(AES(key), modes.ECB()).encryptor().update(bytes(16))
    assert block.hex() == vector["L"]
    assert block[0] >> 7 == vector["msb_of_L"]
    assert oracle.derived_key(key, bytes.fromhex(vector["nonce"])).hex() == vector["Kx"]
    assert oracle.commitment(key, bytes.fromhex(vector["nonce"])).hex() == vector["commitment"]


def test_published_accumulated_hash() -> None:
    """C2SP's hash over 10,000 pseudorandom messages, each of which opens again."""
    # The standard library's SHAKE-128 cannot be squeezed bit by bit: 568 bytes are the most that
    # one message takes, so this is all of the stream that can be needed.
    stream = hashlib.shake_128().digest(10_000 * (32 + 24 + 2 * 256))
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return stream[at - size : at]

    total = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = key_of(take(32)), take(24)
        plaintext, aad = take(take(1)[0]), take(take(1)[0])
        sealed = key.seal(nonce, plaintext, aad)
        assert key.open(nonce, sealed, aad) == plaintext
        total.update(sealed[:-32])
    assert total.hexdigest(32) == FILE["accumulated"]["iterations_10000"]


def nist_vectors(name: str) -> list[dict[str, str]]:
    """Returns a NIST file's vectors with nonces of 96 and tags of 128 bits."""
    path = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM" / name
    group: dict[str, str] = {}
    vectors = []
    for paragraph in path.read_text(encoding="ascii").split("\n\n"):
        fields = dict(re.findall(r"^\[?(\w+) = ?(\w*)", paragraph, re.MULTILINE))
        if "IVlen" in fields:
            group = fields
        elif "Key" in fields and (group["IVlen"], group["Taglen"]) == ("96", "128"):
            vectors.append(fields)
    return vectors


@pytest.mark.parametrize("name", ["gcmEncryptExtIV256.rsp", "gcmDecrypt256.rsp"])
def test_nist_vectors_of_the_base_cipher(name: str) -> None:
    """AES-256-GCM below is NIST's, for the only nonce and tag sizes that are used."""
    vectors = nist_vectors(name)
    assert len(vectors) >= 300
    for vector in vectors:
        part = {name: bytes.fromhex(vector[name]) for name in ("Key", "IV", "CT", "AAD", "Tag")}
        cipher, sealed = AESGCM(part["Key"]), part["CT"] + part["Tag"]
        if "PT" not in vector:  # the file says FAIL instead
            with pytest.raises(InvalidTag):
                cipher.decrypt(part["IV"], sealed, part["AAD"])
        else:
            plaintext = bytes.fromhex(vector["PT"])
            assert cipher.decrypt(part["IV"], sealed, part["AAD"]) == plaintext
            assert cipher.encrypt(part["IV"], plaintext, part["AAD"]) == sealed


# --- against the library's own key derivation ------------------------------------------


@given(keys, nonces, texts, texts)
def test_one_message_is_what_the_oracle_makes(
    key: bytes, nonce: bytes, plaintext: bytes, aad: bytes
) -> None:
    """The cached block-cipher path gives SP 800-108's bytes for every input, and opens them."""
    ours = key_of(key)
    sealed = oracle.seal(key, nonce, plaintext, aad)
    assert ours.seal(nonce, plaintext, aad) == sealed
    assert ours.open(nonce, sealed, aad) == plaintext


starts = st.one_of(
    st.integers(0, 2**96 - 1), st.integers(2**96 - 10, 2**96 - 1), st.integers(0, 10)
)


@given(keys, st.binary(min_size=12, max_size=12), starts, st.lists(st.tuples(texts, texts)))
def test_batch_is_what_the_oracle_makes_one_by_one(
    key: bytes, prefix: bytes, start: int, items: list[tuple[bytes, bytes]]
) -> None:
    """A batch is single messages: same prefix, suffixes counting up modulo 2^96."""
    ours = key_of(key)
    joined = ours.seal_batch(prefix + start.to_bytes(12, "big"), items, b"head")
    assert all(each.startswith(b"head") for each in joined)
    made = [parted(each.removeprefix(b"head")) for each in joined]
    expected = []
    for index, (plaintext, aad) in enumerate(items):
        nonce = prefix + ((start + index) % 2**96).to_bytes(12, "big")
        expected.append((nonce, oracle.seal(key, nonce, plaintext, aad)))
    assert made == expected
    messages = [(*one, aad) for one, (_, aad) in zip(made, items, strict=True)]
    assert ours.open_batch(messages) == [plaintext for plaintext, _ in items]
    assert [ours.open(*message) for message in messages] == [plaintext for plaintext, _ in items]


@given(keys, st.lists(st.tuples(nonces, texts, texts)))
def test_messages_of_any_nonces_open_together(
    key: bytes, items: list[tuple[bytes, bytes, bytes]]
) -> None:
    """Messages that were sealed one by one open together, in their order."""
    messages = [(nonce, oracle.seal(key, nonce, text, aad), aad) for nonce, text, aad in items]
    assert key_of(key).open_batch(messages) == [text for _, text, _ in items]


def test_batches_that_open_together_stay_apart() -> None:
    """Messages of two batches in turns open together: each under its own derived key."""
    key = key_of()
    first = [(*parted(each), b"1") for each in key.seal_batch(NONCE, [(b"a", b"1")] * 3)]
    other = NONCE[::-1]
    second = [(*parted(each), b"2") for each in key.seal_batch(other, [(b"b", b"2")] * 3)]
    turns = [message for pair in zip(first, second, strict=True) for message in pair]
    assert key.open_batch(turns) == [b"a", b"b"] * 3


def test_batch_derives_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch costs one derived key, to seal and to open; that is what the shared prefix is for."""
    derived: list[bytes] = []

    def counted(key: bytes) -> AESGCM:
        derived.append(key)
        return AESGCM(key)

    monkeypatch.setattr("keyfold.crypto.xaes.AESGCM", counted)
    key = key_of()
    made = key.seal_batch(NONCE, [(b"plaintext", AAD)] * 5)
    assert len(derived) == 1
    assert key.open_batch([(*parted(each), AAD) for each in made]) == [b"plaintext"] * 5
    assert len(derived) == 2


@given(keys, nonces, texts, texts)
def test_shared_key_is_the_same_construction(
    key: bytes, nonce: bytes, plaintext: bytes, aad: bytes
) -> None:
    """A key that threads share seals and opens the same bytes, with a head in front of them."""
    ours = SharedKey(key)
    sealed = oracle.seal(key, nonce, plaintext, aad)
    assert ours.seal(nonce, plaintext, aad, b"head") == b"head" + nonce + sealed
    assert ours.open(nonce, sealed[:-32], aad, sealed[-32:]) == plaintext
    with pytest.raises(TagError):
        ours.open(nonce, sealed[:-32], aad + b"!", sealed[-32:])
    with pytest.raises(CommitmentError):
        ours.open(nonce, sealed[:-32], aad, sealed[-33:-1])
    assert repr(ours) == "SharedKey(<redacted>)"


# --- refusals --------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("at", range(24))
def test_changed_nonce_fails_the_commitment(way: Open, at: int) -> None:
    """The commitment covers every byte of the nonce."""
    key = key_of()
    sealed = key.seal(NONCE, b"plaintext", AAD)
    nonce = bytearray(NONCE)
    nonce[at] ^= 1
    with pytest.raises(CommitmentError):
        way(key, bytes(nonce), sealed, AAD)


@both_ways
def test_commitment_is_looked_at_first(way: Open) -> None:
    """A wrong commitment and a wrong tag together are a wrong commitment: the key comes first."""
    key = key_of()
    sealed = bytearray(key.seal(NONCE, b"plaintext", AAD))
    sealed[0] ^= 1
    sealed[-1] ^= 1
    with pytest.raises(CommitmentError):
        way(key, NONCE, bytes(sealed), b"another aad")


@both_ways
def test_another_key_fails_the_commitment(way: Open) -> None:
    """A message opens under one key only."""
    other = key_of(KEY[::-1])
    with pytest.raises(CommitmentError):
        way(other, NONCE, key_of().seal(NONCE, b"plaintext", AAD), AAD)


@both_ways
def test_another_aad_fails_the_tag(way: Open) -> None:
    """With the right key, another aad is a context mismatch."""
    key = key_of()
    with pytest.raises(TagError):
        way(key, NONCE, key.seal(NONCE, b"plaintext", AAD), AAD + b"!")


@both_ways
@pytest.mark.parametrize("size", range(80))
def test_truncated_message_is_refused(way: Open, size: int) -> None:
    """A message that is too short for tag and commitment is corrupt like any other."""
    key = key_of()
    sealed = key.seal(NONCE, bytes(32), AAD)
    with pytest.raises(CommitmentError):
        way(key, NONCE, sealed[:size], AAD)


def test_commitment_without_a_tag_is_refused() -> None:
    """A right commitment alone, which may be copied from a message, opens nothing."""
    key = key_of()
    commitment = key.seal(NONCE, b"", AAD)[-32:]
    for size in range(16):
        with pytest.raises(TagError):
            key.open(NONCE, bytes(size) + commitment, AAD)


@pytest.mark.parametrize("size", [0, 12, 23, 25, 48])
def test_nonce_of_another_length_is_a_mistake_of_ours(size: int) -> None:
    """A nonce is never padded or cut: that could repeat one."""
    key, nonce = key_of(), bytes(size)
    sealed = key.seal(bytes(24), b"plaintext", AAD)
    with pytest.raises(ValueError, match="24 bytes"):
        key.seal(nonce, b"plaintext", AAD)
    with pytest.raises(ValueError, match="24 bytes"):
        key.seal_batch(nonce, [(b"plaintext", AAD)])
    with pytest.raises(ValueError, match="24 bytes"):
        key.open(nonce, sealed, AAD)
    with pytest.raises(ValueError, match="24 bytes"):
        SharedKey(KEY).seal(nonce, b"plaintext", AAD)
    with pytest.raises(ValueError, match="24 bytes"):
        key.open_batch([(NONCE, sealed, AAD), (nonce, sealed, AAD)])


# --- the key in memory -----------------------------------------------------------------


def test_key_buffer_is_wiped() -> None:
    """The caller's buffer holds zeros once the cipher has the key."""
    buffer = bytearray(KEY)
    view = memoryview(buffer)
    key = CommittingKey(buffer)
    assert bytes(view) == bytes(32)
    assert key.seal(NONCE, b"plaintext", AAD) == oracle.seal(KEY, NONCE, b"plaintext", AAD)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 64])
def test_key_of_another_length_is_refused_and_wiped(size: int) -> None:
    """A key must have 256 bits; a buffer of another length is wiped all the same."""
    buffer = bytearray(b"\xaa" * size)
    with pytest.raises(ValueError, match="32 bytes"):
        CommittingKey(buffer)
    assert buffer == bytes(size)


def test_repr_shows_no_key() -> None:
    """A key that ends up in a log line shows nothing."""
    key = key_of()
    assert repr(key) == str(key) == f"{key}" == "CommittingKey(<redacted>)"
    assert not hasattr(key, "__dict__")
