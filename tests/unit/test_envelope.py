"""The wrapped key: its bytes never change, and a changed one never opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import wrapped_key_oracle as oracle
from keyfold.crypto.context import EMPTY
from keyfold_server.domain.envelope import (
    MAX_PLAINTEXT,
    OVERHEAD,
    Kek,
    check_plaintext,
    encode_context,
    kek_id_of,
)
from keyfold_server.domain.errors import (
    ContextMismatchError,
    InvalidPlaintextError,
    KeyfoldError,
    NotAWrappedKeyError,
    UnknownKekError,
    UnsupportedWrappedKeyError,
    WrappedKeyCorruptError,
)

VECTORS = json.loads((oracle.VECTORS / "wrapped-key.json").read_text(encoding="utf-8"))["vectors"]
BY_NAME = {vector["name"]: vector for vector in VECTORS}

KEY = bytes(range(200, 232))
KEK_ID = bytes(range(16))
CONTEXT = encode_context({"table": "customers", "column": "iban"})

Open = Callable[[Kek, bytes, bytes], bytes]


def open_alone(kek: Kek, wrapped_key: bytes, context: bytes) -> bytes:
    """Opens a wrapped key by itself."""
    kek_id_of(wrapped_key)
    return kek.open(wrapped_key, context)


def open_among_others(kek: Kek, wrapped_key: bytes, context: bytes) -> bytes:
    """Opens a wrapped key in a batch, in which others open whatever becomes of it."""
    kek_id_of(wrapped_key)
    other = kek.seal(b"another key", EMPTY)
    before, opened, after = kek.open_batch([(other, EMPTY), (wrapped_key, context), (other, EMPTY)])
    assert before == after == b"another key"
    if isinstance(opened, KeyfoldError):
        raise opened
    return opened


# Every promise about opening holds for both ways of opening.
both_ways = pytest.mark.parametrize("way", [open_alone, open_among_others])


def kek_of(
    key: bytes = KEY,
    kek_id: bytes = KEK_ID,
    cluster: str = "orders",
    region: str = "eu-central-1",
    generation: int = 1,
) -> Kek:
    """Returns an open KEK; its key buffer is a copy, since it is wiped."""
    return Kek(kek_id, cluster, region, generation, bytearray(key))


def kek_for(vector: dict[str, Any]) -> Kek:
    """Returns the KEK that a vector names."""
    key, kek_id = bytes.fromhex(vector["key"]), bytes.fromhex(vector["kek_id"])
    return kek_of(key, kek_id, vector["cluster"], vector["region"])


def sealed(result: bytes | KeyfoldError) -> bytes:
    """Returns the wrapped key that an item of a batch has become."""
    assert isinstance(result, bytes)
    return result


def fixed(nonce: bytes) -> Callable[[int], bytes]:
    """A random source that draws this nonce, once."""
    drawn = iter([nonce])

    def random(size: int) -> bytes:
        assert size == len(nonce)
        return next(drawn)

    return random


# --- vectors ---------------------------------------------------------------------------


def test_vectors_are_those_of_the_second_implementation() -> None:
    """The vector file is the result of an implementation that shares no code with the server."""
    text = (oracle.VECTORS / "wrapped-key.json").read_text(encoding="utf-8")
    assert text == oracle.text_of(oracle.wrapped_key_file())


@both_ways
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors_open_or_are_refused_as_they_say(vector: dict[str, Any], way: Open) -> None:
    """Stored wrapped keys open in every release, and bad ones give the reason they always gave."""
    blob, plaintext = bytes.fromhex(vector["wrapped_key"]), bytes.fromhex(vector["plaintext"])
    kek, context = kek_for(vector), encode_context(vector["context"])
    if vector["expect"] == "opens":
        assert way(kek, blob, context) == plaintext
        assert kek.seal(plaintext, context, fixed(bytes.fromhex(vector["nonce"]))) == blob
    else:
        with pytest.raises(KeyfoldError) as caught:
            way(kek, blob, context)
        assert caught.value.reason == vector["expect"]


def test_vectors_of_a_batch_are_made_by_one_call() -> None:
    """One call makes the batch's vectors: shared prefix, counter modulo 2^96."""
    batch = [BY_NAME[f"batch-{number}"] for number in (1, 2, 3, 4)]
    items = [(bytes.fromhex(v["plaintext"]), encode_context(v["context"])) for v in batch]
    made = kek_for(batch[0]).seal_batch(items, fixed(bytes.fromhex(batch[0]["nonce"])))
    assert [sealed(blob).hex() for blob in made] == [vector["wrapped_key"] for vector in batch]


# --- changed blobs ---------------------------------------------------------------------


def reason_of_a_flip(at: int, length: int) -> type[KeyfoldError]:
    """Returns the error that a flipped bit in a byte gives, under the KEK that wrapped."""
    if at < 2:
        return UnsupportedWrappedKeyError
    if at < 18:
        return UnknownKekError
    if at < 42 or at >= length - 32:
        return WrappedKeyCorruptError
    return ContextMismatchError


@both_ways
def test_every_flipped_bit_is_refused_for_its_own_reason(way: Open) -> None:
    """No bit of a wrapped key can change unnoticed, and the reason names the part."""
    kek = kek_of()
    blob = kek.seal(b"a data key", CONTEXT)
    for bit in range(8 * len(blob)):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(reason_of_a_flip(bit // 8, len(blob))):
            way(kek, bytes(changed), CONTEXT)


@both_ways
def test_changed_kek_id_opens_under_no_kek_of_that_id(way: Open) -> None:
    """A kek_id changed to another KEK's fails the commitment, or the tag if the keys are equal."""
    blob = kek_of().seal(b"a data key", CONTEXT)
    other_id = bytes(16)
    moved = blob[:2] + other_id + blob[18:]
    with pytest.raises(WrappedKeyCorruptError):
        way(kek_of(bytes(32), other_id), moved, CONTEXT)
    with pytest.raises(ContextMismatchError):
        way(kek_of(KEY, other_id), moved, CONTEXT)


@both_ways
@pytest.mark.parametrize(
    ("names", "context"),
    [
        ({"cluster": "order"}, CONTEXT),
        ({"region": "eu-central-2"}, CONTEXT),
        ({"cluster": "orderse", "region": "u-central-1"}, CONTEXT),
        ({}, EMPTY),
        ({}, encode_context({"table": "customers"})),
        ({}, encode_context({"table": "customers", "column": "IBAN"})),
        ({}, encode_context({"customers": "table", "iban": "column"})),
    ],
)
def test_blob_opens_only_where_it_belongs(way: Open, names: dict[str, Any], context: bytes) -> None:
    """Another cluster, region or context is refused, even under the same key."""
    blob = kek_of().seal(b"a data key", CONTEXT)
    with pytest.raises(ContextMismatchError):
        way(kek_of(**names), blob, context)


@both_ways
def test_generation_is_not_bound(way: Open) -> None:
    """The generation's number is for people; the kek_id already names it."""
    blob = kek_of(generation=1).seal(b"a data key", CONTEXT)
    assert way(kek_of(generation=2), blob, CONTEXT) == b"a data key"


@given(st.binary(max_size=300))
@example(b"\x01\x01" + bytes(89))
def test_random_bytes_are_refused_with_two_reasons_only(blob: bytes) -> None:
    """Parsing any bytes as a wrapped key raises only the documented errors."""
    try:
        kek_id = kek_id_of(blob)
    except (NotAWrappedKeyError, UnsupportedWrappedKeyError) as error:
        assert error.field == "wrapped_key"  # noqa: PT017
    else:
        assert blob[2:18] == kek_id
        with pytest.raises((WrappedKeyCorruptError, UnknownKekError)):
            kek_of().open(blob, EMPTY)


@pytest.mark.parametrize("size", [0, 1, 2, 89, 90, 4_187, 100_000])
def test_blob_of_an_impossible_length_is_not_a_wrapped_key(size: int) -> None:
    """Too short to hold a plaintext, or longer than the longest: not a wrapped key."""
    with pytest.raises(NotAWrappedKeyError):
        kek_id_of((b"\x01\x01" + bytes(size))[:size])


@pytest.mark.parametrize("size", [91, 4_186])
def test_blob_of_a_possible_length_is_parsed(size: int) -> None:
    """Blobs of the shortest and longest length parse; one of another version has its own error."""
    assert kek_id_of(b"\x01\x01" + KEK_ID + bytes(size - 18)) == KEK_ID
    for head in (b"\x00\x01", b"\x02\x01", b"\x01\x02"):
        with pytest.raises(UnsupportedWrappedKeyError):
            kek_id_of(head + bytes(size - 2))


# --- plaintexts and batches ------------------------------------------------------------


@given(st.binary(min_size=1, max_size=MAX_PLAINTEXT))
@example(bytes(MAX_PLAINTEXT))
def test_every_plaintext_comes_back(plaintext: bytes) -> None:
    """Wrapping adds 90 bytes and loses none."""
    kek = kek_of()
    blob = kek.seal(plaintext, CONTEXT)
    assert len(blob) == len(plaintext) + OVERHEAD == len(plaintext) + 90
    assert kek.open(blob, CONTEXT) == plaintext


@pytest.mark.parametrize("size", [0, MAX_PLAINTEXT + 1])
def test_plaintext_out_of_bounds_is_refused(size: int) -> None:
    """An empty plaintext, or one above 4,096 bytes, is refused and draws no nonce."""
    kek, plaintext, unused = kek_of(), bytes(size), fixed(b"")
    with pytest.raises(InvalidPlaintextError, match=f"has {size} bytes") as caught:
        kek.seal(plaintext, CONTEXT, unused)
    assert caught.value.field == "plaintext"
    [error] = kek.seal_batch([(plaintext, CONTEXT)], unused)
    assert isinstance(error, InvalidPlaintextError)
    first, error, last = kek.seal_batch([(b"a", CONTEXT), (plaintext, CONTEXT), (b"z", CONTEXT)])
    assert isinstance(error, InvalidPlaintextError)
    assert [kek.open(sealed(one), CONTEXT) for one in (first, last)] == [b"a", b"z"]
    with pytest.raises(InvalidPlaintextError):
        check_plaintext(plaintext)


@pytest.mark.parametrize("batched", [False, True])
def test_each_call_draws_a_nonce(*, batched: bool) -> None:
    """Two wraps of one plaintext have nothing in common but the bytes that name the KEK."""
    kek, item = kek_of(), (b"a data key", CONTEXT)
    first, second = (
        sealed(kek.seal_batch([item])[0]) if batched else kek.seal(*item) for _ in range(2)
    )
    assert first[:18] == second[:18]
    assert first[18:30] != second[18:30]
    assert first[42:] != second[42:]


@pytest.mark.parametrize("start", [0, 2**96 - 3, 2**96 - 1, 2**95])
def test_nonces_of_a_batch_share_a_prefix_and_count_up(start: int) -> None:
    """A batch draws randomness once; its nonces count modulo 2^96, without a carry."""
    kek, prefix = kek_of(), b"twelve bytes"
    items = [(b"key %d" % index, encode_context({"item": f"{index}"})) for index in range(7)]
    blobs = kek.seal_batch(items, fixed(prefix + start.to_bytes(12, "big")))
    nonces = [sealed(blob)[18:42] for blob in blobs]
    assert {nonce[:12] for nonce in nonces} == {prefix}
    suffixes = [int.from_bytes(nonce[12:], "big") for nonce in nonces]
    assert suffixes == [(start + index) % 2**96 for index in range(7)]


def test_blobs_of_a_batch_open_one_by_one_and_anywhere() -> None:
    """A blob of a batch is a wrapped key like any other: each way opens it, in any order."""
    sealing, opening = kek_of(), kek_of()
    items = [(b"key %d" % index, encode_context({"item": f"{index}"})) for index in range(50)]
    blobs = sealing.seal_batch(items)
    single = sealing.seal(b"alone", CONTEXT)
    turned = list(reversed(list(zip(map(sealed, blobs), items, strict=True))))
    assert [opening.open(blob, context) for blob, (_, context) in turned] == [
        plaintext for _, (plaintext, _) in turned
    ]
    mixed = [pair for blob, (_, context) in turned for pair in ((blob, context), (single, CONTEXT))]
    assert opening.open_batch(mixed) == [
        each for _, (plaintext, _) in turned for each in (plaintext, b"alone")
    ]


def test_empty_batch_is_empty() -> None:
    """An empty batch draws no randomness."""
    assert kek_of().seal_batch([], fixed(b"")) == []
    assert kek_of().open_batch([]) == []


# --- the KEK in memory -----------------------------------------------------------------


def test_kek_wipes_the_key_it_is_given() -> None:
    """Once a KEK is open, only the cipher has its bytes, even if opening it failed."""
    for kek_id, fails in ((KEK_ID, False), (b"short", True)):
        buffer = bytearray(KEY)
        if fails:
            with pytest.raises(ValueError, match="16 bytes"):
                Kek(kek_id, "orders", "eu", 1, buffer)
        else:
            Kek(kek_id, "orders", "eu", 1, buffer)
        assert buffer == bytes(32)


def test_repr_shows_names_and_no_key() -> None:
    """The repr of a KEK shows only what a log may have."""
    kek = kek_of()
    expected = (
        "Kek(kek_id=000102030405060708090a0b0c0d0e0f, cluster='orders', "
        "region='eu-central-1', generation=1)"
    )
    assert repr(kek) == str(kek) == expected
    assert not hasattr(kek, "__dict__")
