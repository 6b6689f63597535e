"""A stored KEK is bound to its cluster, region, generation and organization (protocol C5)."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import wrapped_key_oracle as oracle
from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding, wipe
from keyfold_server.domain.errors import KekMismatchError

VECTORS = json.loads((oracle.VECTORS / "binding.json").read_text(encoding="utf-8"))["vectors"]

BINDING = Binding("orders", "eu-central-1", bytes(range(16)), "acme")
KEY = bytes(range(100, 132))

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


def bound_of(vector: dict[str, Any]) -> Binding:
    """Returns the binding of a vector's inputs."""
    return Binding(
        vector["cluster"],
        vector["region"],
        bytes.fromhex(vector["kek_id"]),
        vector["organization"],
    )


def test_vectors_are_those_of_the_second_implementation() -> None:
    """The vector file is the result of an implementation that shares no code with the server."""
    text = (oracle.VECTORS / "binding.json").read_text(encoding="utf-8")
    assert text == oracle.text_of(oracle.binding_file())


@every_vector
def test_canonical_bytes_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    """The bytes bound to a root key's ciphertext never change (C5)."""
    assert bound_of(vector).canonical().hex() == vector["canonical"]


@every_vector
def test_map_is_that_of_the_vectors(vector: dict[str, Any]) -> None:
    """The names in customers' key policies never change; no organization, no entry (C5)."""
    assert bound_of(vector).as_map() == vector["map"]


@every_vector
def test_payload_is_that_of_the_vectors(vector: dict[str, Any]) -> None:
    """The payload that a root key wraps never changes, and gives the KEK back."""
    payload = bound_of(vector).payload(bytes.fromhex(vector["key"]))
    assert payload.hex() == vector["payload"]
    assert bound_of(vector).open_payload(payload).hex() == vector["key"]


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_payload_has_65_bytes(kind: type[bytes | bytearray]) -> None:
    """A payload is small enough for RSA-OAEP-256 under 2,048 bits, and can be wiped."""
    payload = BINDING.payload(kind(KEY))
    assert isinstance(payload, bytearray)
    assert len(payload) == PAYLOAD_SIZE == 65


def test_opening_wipes_the_payload() -> None:
    """Once the KEK is taken out, its bytes are in one place only."""
    payload = BINDING.payload(KEY)
    key = BINDING.open_payload(payload)
    assert key == KEY
    assert payload == bytes(65)


@pytest.mark.parametrize("at", [*range(33)])
def test_changed_version_or_digest_is_a_mismatch(at: int) -> None:
    """A payload of another version or another binding gives no key, and is wiped."""
    payload = BINDING.payload(KEY)
    payload[at] ^= 0x80
    with pytest.raises(KekMismatchError) as caught:
        BINDING.open_payload(payload)
    assert payload == bytes(65)
    assert (caught.value.cluster, caught.value.region) == ("orders", "eu-central-1")


@pytest.mark.parametrize("size", [0, 1, 32, 33, 64, 66, 72, 4_096])
def test_payload_of_another_length_is_a_mismatch(size: int) -> None:
    """Only 65 bytes are a payload: a shorter key never passes for one, nor a padded one."""
    payload = (BINDING.payload(KEY) + bytes(size))[:size]
    with pytest.raises(KekMismatchError):
        BINDING.open_payload(payload)
    assert payload == bytes(size)


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(BINDING, cluster="order"),
        dataclasses.replace(BINDING, region="eu-central-2"),
        dataclasses.replace(BINDING, kek_id=bytes(16)),
        dataclasses.replace(BINDING, organization="acme2"),
        dataclasses.replace(BINDING, organization=None),
        dataclasses.replace(BINDING, cluster="orderse", region="u-central-1"),
    ],
)
def test_payload_of_another_binding_is_a_mismatch(other: Binding) -> None:
    """A KEK that was stored for one cluster cannot be put in another's row (C5)."""
    with pytest.raises(KekMismatchError):
        BINDING.open_payload(other.payload(KEY))


def test_mismatch_says_nothing_of_the_key() -> None:
    """An error never contains the unwrapped bytes."""
    payload = dataclasses.replace(BINDING, region="us").payload(KEY)
    with pytest.raises(KekMismatchError) as caught:
        BINDING.open_payload(payload)
    assert KEY.hex() not in repr(caught.value)
    assert repr(KEY) not in repr(caught.value.__dict__)


def test_binding_is_a_value() -> None:
    """Two bindings of the same names are equal, and a binding cannot be changed."""
    twin = dataclasses.replace(BINDING)
    assert twin == BINDING
    assert hash(twin) == hash(BINDING)
    with pytest.raises(dataclasses.FrozenInstanceError):
        BINDING.cluster = "other"  # type: ignore[misc]


def test_wipe_zeroes_in_place() -> None:
    """Every other reference to the same buffer sees zeros, too."""
    buffer = bytearray(KEY)
    view = memoryview(buffer)
    wipe(buffer)
    assert bytes(view) == bytes(32)
