"""The envelope's message: whoever changes it gets an error, and never other data."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import envelope_oracle as oracle
import keyfold
from envelope_fakes import FakeDataPlane
from keyfold.envelope import message as form
from wrapped_key_oracle import Vector

VECTORS = json.loads(oracle.FILE.read_text(encoding="utf-8"))["vectors"]

contexts = st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9), max_size=4)


def envelope_of(client: FakeDataPlane) -> keyfold.Envelope:
    """Returns an envelope of the table cards."""
    return keyfold.Envelope(client, "acme", "eu", context={"table": "cards"})


# --- the format ---


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: Vector) -> None:
    """A message of any release opens, or fails with the reason of the vectors."""
    client, message = FakeDataPlane(), bytes.fromhex(vector["message"])
    plaintext = bytes.fromhex(vector["data_key"])
    for context in (vector["key_context"], {}, {"table": "cards"}):
        client.add(vector["cluster"], bytes.fromhex(vector["wrapped_key"]), context, plaintext)
    envelope = keyfold.Envelope(client, vector["cluster"], "eu")
    if vector["expect"] == "opens":
        assert envelope.open(message).hex() == vector["data"]
        everything = {**vector["key_context"], **vector["context"]}
        if len(everything) <= 16:
            assert envelope.open(message, everything).hex() == vector["data"]
    else:
        with pytest.raises(keyfold.MessageInvalidError) as raised:
            envelope.open(message)
        assert raised.value.reason == vector["expect"]
        assert raised.value.code == "INVALID_ARGUMENT"


@given(st.binary(max_size=100), contexts, contexts)
def test_message_is_what_the_oracle_makes(
    data: bytes, key_context: dict[str, str], context: dict[str, str]
) -> None:
    """A second implementation makes the same bytes from the same nonce, whatever the input."""
    context = {name: value for name, value in context.items() if name not in key_context}
    client = FakeDataPlane()
    envelope = keyfold.Envelope(client, "acme", "eu", context=key_context)
    message = envelope.seal(data, context)
    parts = form.parse(form.MESSAGE, message)
    assert parts.key_context == key_context
    assert parts.context == context
    unwrapped = client.unwrap("acme", parts.wrapped_key, context=key_context)
    vector = {
        "cluster": "acme",
        "key_context": key_context,
        "context": context,
        "data_key": unwrapped.plaintext.hex(),
        "nonce": parts.nonce.hex(),
        "data": data.hex(),
        "wrapped_key": parts.wrapped_key.hex(),
    }
    assert message == oracle.message(vector)
    assert envelope.open(message, context) == data


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(b"KFM\x01\x01".__add__)))
def test_parser_takes_any_bytes(blob: bytes) -> None:
    """Whatever the bytes, the parser reads a message or says that they are none."""
    try:
        parts = form.parse(form.MESSAGE, blob)
    except (keyfold.NotAMessageError, keyfold.UnsupportedMessageError):
        return
    head = form.head(form.MESSAGE, parts.wrapped_key) + parts.bound + parts.nonce
    assert head + bytes(parts.sealed) + parts.commitment == blob


@given(st.data())
def test_parser_takes_changed_messages(data: st.DataObject) -> None:
    """The same for bytes that come close to a message, with lengths that lie."""
    blob = bytearray(bytes.fromhex(VECTORS[0]["message"]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(blob)))
        end = data.draw(st.integers(start, len(blob)))
        blob[start:end] = data.draw(st.binary(max_size=6))
    try:
        parts = form.parse(form.MESSAGE, bytes(blob))
    except keyfold.MessageInvalidError:
        return
    assert form.head(form.MESSAGE, parts.wrapped_key) + bytes(parts.rest) == blob


# --- attacks ---


def test_every_flipped_bit_is_refused() -> None:
    """No bit of a message can change without an error."""
    envelope = envelope_of(FakeDataPlane())
    message = envelope.seal(b"4111", {"row": "17"})
    for bit in range(len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(keyfold.InvalidInputError):
            envelope.open(bytes(changed))


def test_every_cut_and_extension_is_refused() -> None:
    """A message opens whole, with nothing before or behind it."""
    envelope = envelope_of(FakeDataPlane())
    message = envelope.seal(b"4111", {"row": "17"})
    wrong = [message[:size] for size in range(len(message))]
    wrong += [message[size:] for size in range(1, len(message))]
    wrong += [message + b"\x00", message + message, b"\x00" + message]
    for bad in wrong:
        with pytest.raises(keyfold.InvalidInputError):
            envelope.open(bad)


@pytest.mark.parametrize("one_key", [True, False])
def test_parts_of_two_messages_are_refused(one_key: bool) -> None:  # noqa: FBT001
    """Messages cannot be put together from two, with one data key or two, at any place."""
    envelope = keyfold.Envelope(
        FakeDataPlane(), "acme", "eu", context={"t": "c"}, max_messages=2 if one_key else 1
    )
    first, second = envelope.seal(b"4111", {"row": "17"}), envelope.seal(b"4222", {"row": "18"})
    assert len(first) == len(second)
    for cut in range(len(first)):
        mixed = first[:cut] + second[cut:]
        if mixed not in (first, second):
            with pytest.raises(keyfold.InvalidInputError):
                envelope.open(mixed)


def test_reordered_parts_are_refused() -> None:
    """The parts of a message have one order."""
    envelope = envelope_of(FakeDataPlane())
    message = envelope.seal(b"4111", {"row": "17"})
    parts = form.parse(form.MESSAGE, message)
    at = len(message) - len(parts.rest)
    places = [at, at + len(parts.bound), at + len(parts.bound) + 24, len(message) - 32]
    pieces = [message[a:b] for a, b in pairwise([0, *places, len(message)])]
    for index in range(len(pieces) - 1):
        swapped = [*pieces]
        swapped[index], swapped[index + 1] = swapped[index + 1], swapped[index]
        with pytest.raises(keyfold.InvalidInputError):
            envelope.open(b"".join(swapped))


@pytest.mark.parametrize("size", [1, 16, 31, 33, 64, 4_096])
def test_another_secret_in_place_of_the_data_key(size: int) -> None:
    """A wrapped key of something else, which the server would unwrap here, opens nothing."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    parts = form.parse(form.MESSAGE, envelope.seal(b"4111"))
    client.add("acme", b"other" * 20, {"table": "cards"}, bytes(size))
    with pytest.raises(keyfold.MessageCorruptError):
        envelope.open(form.head(form.MESSAGE, b"other" * 20) + bytes(parts.rest))


def test_one_data_key_in_another_place() -> None:
    """A data key that is wrapped for another cluster or context does not take its messages along.

    Whoever may rewrap can move a wrapped key, but the message is bound to its place itself.
    """
    client = FakeDataPlane()
    parts = form.parse(form.MESSAGE, envelope_of(client).seal(b"4111"))
    key = client.unwrap("acme", parts.wrapped_key, context={"table": "cards"}).plaintext
    for cluster, context in (("acme", {}), ("other", {"table": "cards"})):
        client.add(cluster, parts.wrapped_key, context, key)
    with pytest.raises(keyfold.MessageCorruptError):
        keyfold.Envelope(client, "other", "eu").open(
            form.head(form.MESSAGE, parts.wrapped_key) + parts.rest
        )
    moved = form.encode_context({}) + form.encode_context({"table": "cards"})
    rest = moved + bytes(parts.rest)[len(parts.bound) :]
    with pytest.raises(keyfold.MessageCorruptError):
        keyfold.Envelope(client, "acme", "eu").open(
            form.head(form.MESSAGE, parts.wrapped_key) + rest
        )


def test_context_of_the_envelope_is_that_of_the_key() -> None:
    """Whoever may make data keys with another context only cannot write into this table."""
    client = FakeDataPlane()
    forged = keyfold.Envelope(client, "acme", "eu", context={"app": "evil"}).seal(
        b"forged", {"table": "cards"}
    )
    with pytest.raises(keyfold.MessageContextError, match="'table'"):
        envelope_of(client).open(forged)
    assert client.opened == 0


def test_huge_lengths_cost_nothing() -> None:
    """Lengths that lie are noticed before anything is copied or asked of the server."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    for blob in (
        b"KFM\x01\x01" + b"\xff" * 1_000_000,
        b"KFM\x01\x01\x00\x01w\xff\xff" + b"\xff" * 1_000_000,
        b"KFM\x01\x01\x00\x01w\x00\x10" + (b"\xff\xff" + b"k" * 65_535) * 20,
    ):
        with pytest.raises(keyfold.NotAMessageError):
            envelope.open(blob)
    assert client.opened == 0


# --- what seal and open take ---


@pytest.mark.parametrize(
    ("context", "fault"),
    [
        ({"": "x"}, "has an empty key"),
        ({"k": "v" * 4_096}, "is too large"),
        ({f"{index}": "" for index in range(17)}, "has 17 pairs"),
        ({"k": "\ud800"}, "lone surrogate"),
        ({"table": "orders"}, "has another value of 'table'"),
    ],
)
def test_wrong_contexts_are_named(context: object, fault: str) -> None:
    """The error says what is wrong with a context, before any call."""
    client = FakeDataPlane()
    with pytest.raises(keyfold.InvalidContextError, match=fault):
        envelope_of(client).seal(b"", context)  # type: ignore[arg-type]
    assert client.made == 0


@pytest.mark.parametrize(
    ("context", "fault"),
    [
        ({"row": 17}, r"context\['row'\] must be str, not int"),
        ({17: "row"}, "a key of context must be str, not int"),
        (["row"], "context must be a mapping of str to str, not list"),
        ("row", "context must be a mapping of str to str, not str"),
        (17, "context must be a mapping of str to str, not int"),
        ("", "context must be a mapping of str to str, not str"),
        (0, "context must be a mapping of str to str, not int"),
    ],
)
def test_only_a_context_is_taken(context: object, fault: str) -> None:
    """A wrong type is named, and not taken for a message of another row."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    message = envelope.seal(b"", {"row": "17"})
    with pytest.raises(keyfold.ArgumentTypeError, match=fault):
        envelope.open(message, context)  # type: ignore[arg-type]
    with pytest.raises(keyfold.ArgumentTypeError, match=fault):
        envelope.seal(b"", context)  # type: ignore[arg-type]
    assert client.made == 1


def test_pair_of_the_envelope_may_be_given_again() -> None:
    """A pair that the envelope has anyway is no contradiction."""
    envelope = envelope_of(FakeDataPlane())
    message = envelope.seal(b"x", {"table": "cards", "row": "17"})
    assert form.parse(form.MESSAGE, message).context == {"row": "17"}
    assert envelope.open(message, {"table": "cards", "row": "17"}) == b"x"


def test_demanded_pairs_must_be_there() -> None:
    """`open` refuses a message of another row, or of none."""
    envelope = envelope_of(FakeDataPlane())
    message = envelope.seal(b"x", {"row": "17"})
    for demanded in ({"row": "18"}, {"column": "number"}, {"table": "orders"}):
        with pytest.raises(keyfold.MessageContextError, match="is demanded"):
            envelope.open(message, demanded)


@pytest.mark.parametrize("wrong", ["text", 17, None, ["x"]])
def test_only_bytes_are_taken(wrong: object) -> None:
    """Text, such as base64, and numbers are refused by name."""
    envelope = envelope_of(FakeDataPlane())
    with pytest.raises(TypeError, match="data must be bytes"):
        envelope.seal(wrong)  # type: ignore[arg-type]
    for method in (envelope.open, envelope.rekey):
        with pytest.raises(TypeError, match="message must be bytes"):
            method(wrong)  # type: ignore[arg-type]


def test_too_much_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that one message cannot hold is refused before a key is used for it."""
    monkeypatch.setattr(form, "MAX_DATA", 10)
    client = FakeDataPlane()
    envelope = envelope_of(client)
    assert envelope.open(envelope.seal(bytes(10))) == bytes(10)
    with pytest.raises(keyfold.DataTooLargeError, match="11 bytes"):
        envelope.seal(bytes(11))


@pytest.mark.parametrize("cluster", ["", "c" * 129, "größe"])
def test_wrong_clusters_are_named(cluster: str) -> None:
    """An envelope is of one cluster, whose name is a name."""
    with pytest.raises(keyfold.InvalidNameError, match="cluster's name"):
        keyfold.Envelope(FakeDataPlane(), cluster, "eu")


@pytest.mark.parametrize(
    "bounds", [{"max_messages": 0}, {"max_bytes": -1}, {"max_age": -1}, {"max_age": float("nan")}]
)
def test_wrong_bounds_are_refused(bounds: dict[str, float]) -> None:
    """A data key that may seal nothing is a mistake."""
    with pytest.raises(ValueError, match="at least 1"):
        keyfold.Envelope(FakeDataPlane(), "acme", "eu", **bounds)  # type: ignore[arg-type]
