"""Batches of any length: how the client cuts them and joins their results."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

import keyfold
from keyfold.calls.batches import split, unwraps
from keyfold.v1 import key_management_service_pb2 as api
from served import KEY, Served, numbered_keys, served
from wire_errors import UNAVAILABLE, WireError

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""The most bytes of a request that the server takes."""

INTERNAL = WireError(grpc.StatusCode.INTERNAL, message="incident 7")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


def _wrapped(results: list[keyfold.Wrapped | keyfold.KeyfoldError]) -> list[bytes]:
    assert all(isinstance(one, keyfold.Wrapped) for one in results)
    return [one.wrapped_key for one in results if isinstance(one, keyfold.Wrapped)]


def _opened(results: list[keyfold.Unwrapped | keyfold.KeyfoldError]) -> list[bytes]:
    assert all(isinstance(one, keyfold.Unwrapped) for one in results)
    return [one.plaintext for one in results if isinstance(one, keyfold.Unwrapped)]


def test_more_than_a_thousand(client: keyfold.Client, server: Served) -> None:
    """The client sends 2,500 keys in three calls and returns their results in order."""
    keys = numbered_keys(2500)
    wrapped = _wrapped(client.batch_wrap("prod", keys, region="eu"))
    assert [len(one.items) for one in server.requests["BatchWrap"]] == [1000, 1000, 500]
    assert _opened(client.batch_unwrap("prod", wrapped)) == keys
    assert [len(one.items) for one in server.requests["BatchUnwrap"]] == [1000, 1000, 500]
    rewrapped = client.batch_rewrap("prod", wrapped)
    assert all(isinstance(one, keyfold.Rewrapped) and one.already_current for one in rewrapped)


def test_more_than_four_mebibytes(client: keyfold.Client, server: Served) -> None:
    """A thousand keys of 4 KiB exceed 4 MiB; requests and responses stay below it."""
    keys = numbered_keys(2000, size=4096)
    results = client.batch_wrap("prod", keys, region="eu", context={"table": "users"})
    wrapped = _wrapped(results)
    assert _opened(client.batch_unwrap("prod", wrapped, context={"table": "users"})) == keys
    sent: list[Message] = server.requests["BatchWrap"] + server.requests["BatchUnwrap"]
    assert max(one.ByteSize() for one in sent) <= MAX_BATCH_BYTES
    assert len(server.requests["BatchWrap"]) == 3
    answer = 4096 + 90 + 10
    assert max(len(one.items) for one in server.requests["BatchWrap"]) * answer < MAX_BATCH_BYTES


def test_one_item_too_large_for_any_call(client: keyfold.Client) -> None:
    """An item too large for any call fails alone, and it is the server that refuses it."""
    results = client.batch_wrap("prod", [bytes(32), bytes(5_000_000), bytes(32)], region="eu")
    assert [type(one) for one in results] == [
        keyfold.Wrapped,
        keyfold.InvalidBatchError,
        keyfold.Wrapped,
    ]


@pytest.mark.parametrize("size", [0, 1, 37, 127, 128, 300, 4096])
def test_parts_are_as_large_as_they_may_be(size: int) -> None:
    """The client counts a part's size to the byte: no part is over the limit or too small."""
    base = api.BatchUnwrapRequest(cluster="prod", context={"table": "users"})
    items = [api.BatchUnwrapItem(wrapped_key=bytes(size), context={"n": "x" * 5000})] * 1500
    parts = list(split(base.ByteSize(), items, lambda one: len(one.wrapped_key)))
    assert sum(map(len, parts)) == 1500
    for part in parts[:-1]:
        request = api.BatchUnwrapRequest(cluster="prod", context=base.context, items=part)
        assert request.ByteSize() <= MAX_BATCH_BYTES
        request.items.append(items[0])
        assert request.ByteSize() > MAX_BATCH_BYTES


def test_items_fail_alone(client: keyfold.Client) -> None:
    """Each item has its own result or its own error, of the classes that single calls use."""
    results = client.batch_wrap(
        "prod",
        [
            keyfold.WrapItem(bytes(32), context={"a": "b"}),
            keyfold.WrapItem(b""),
            keyfold.WrapItem(bytes(32), region="nowhere"),
            bytes(32),
        ],
        region="eu",
        context={"c": "d"},
    )
    assert [type(one) for one in results] == [
        keyfold.Wrapped,
        keyfold.InvalidPlaintextError,
        keyfold.RegionNotFoundError,
        keyfold.Wrapped,
    ]
    first, last = _wrapped([results[0], results[3]])
    opened = client.batch_unwrap(
        "prod", [keyfold.UnwrapItem(first, {"a": "b"}), last, first], context={"c": "d"}
    )
    assert [type(one) for one in opened] == [
        keyfold.Unwrapped,
        keyfold.Unwrapped,
        keyfold.ContextMismatchError,
    ]


def test_destinations(client: keyfold.Client) -> None:
    """An item's own destination overrides the batch's."""
    [first, second] = _wrapped(client.batch_wrap("prod", [bytes(32)] * 2, region="eu"))
    results = client.batch_rewrap(
        "prod",
        [first, keyfold.RewrapItem(second, destination=keyfold.Destination(context={"a": "b"}))],
        destination=keyfold.Destination(region="us"),
    )
    moved = [one.wrapped_key for one in results if isinstance(one, keyfold.Rewrapped)]
    assert client.unwrap("prod", moved[0]).region == "us"
    assert client.unwrap("prod", moved[1], context={"a": "b"}).region == "eu"


def test_a_part_fails_as_a_whole(client: keyfold.Client, server: Served) -> None:
    """A failed call is the result of its own items only; the results of other calls stay."""
    server.fail("BatchWrap", None, INTERNAL, None)
    results = client.batch_wrap("prod", numbered_keys(2500), region="eu")
    kinds = [type(one) for one in results]
    assert kinds == (
        [keyfold.Wrapped] * 1000 + [keyfold.InternalError] * 1000 + [keyfold.Wrapped] * 500
    )


def test_parts_are_repeated(client: keyfold.Client, server: Served) -> None:
    """The client repeats the part that finds the server unavailable, and no other part."""
    server.fail("BatchWrap", None, UNAVAILABLE)
    _wrapped(client.batch_wrap("prod", numbered_keys(2000), region="eu"))
    assert len(server.requests["BatchWrap"]) == 3


def test_results_that_cannot_be_matched() -> None:
    """If a result is missing, all items get an error, so none can get another item's key."""
    [part] = unwraps("prod", [b"1", b"2", b"3"], None)
    results = part.checked([keyfold.Unwrapped(keyfold.Plaintext(b"k"), "eu", 1)] * 2)
    assert [type(one) for one in results] == [keyfold.InternalError] * 3


def test_nothing_to_do(client: keyfold.Client, server: Served) -> None:
    """The client sends nothing for an empty batch."""
    assert client.batch_wrap("prod", [], region="eu") == []
    assert server.requests["BatchWrap"] == []


def test_wrong_items_send_nothing(client: keyfold.Client, server: Served) -> None:
    """The client refuses an item that is not bytes before it sends the first call."""
    items = [*numbered_keys(1500), "a key"]
    with pytest.raises(TypeError, match=r"items\[1500\] must be WrapItem or bytes, not str"):
        client.batch_wrap("prod", items, region="eu")  # type: ignore[arg-type]
    assert server.requests["BatchWrap"] == []


# --- data keys ---


def test_data_keys_of_a_batch(client: keyfold.Client, server: Served) -> None:
    """Each key is another, opens with its context, and has the answers of generate_data_key."""
    context = {"disk": "7"}
    single = client.generate_data_key("prod", "eu", size=64, context=context)
    keys = client.generate_data_keys("prod", "eu", 1200, size=64, context=context)
    assert [len(one.items) for one in server.requests["BatchWrap"]] == [1000, 200]
    assert len({bytes(one.plaintext) for one in keys}) == 1200
    opened = client.batch_unwrap("prod", [one.wrapped_key for one in keys], context=context)
    assert _opened(opened) == [one.plaintext for one in keys]
    assert {(len(one.plaintext), one.generation, one.max_cache_age) for one in keys} == {
        (64, single.generation, single.max_cache_age)
    }
    assert single.max_cache_age > timedelta()


def test_data_keys_that_nobody_may_keep(client: keyfold.Client) -> None:
    """Where the region's cache_ttl is 0, no answer about a plaintext lets anybody keep it."""
    policy = keyfold.RegionPolicy(cache_ttl=timedelta())
    client.enable("strict", [keyfold.RegionSpec("eu", KEY, policy)])
    [key] = client.generate_data_keys("strict", "eu", 1)
    assert key.max_cache_age == timedelta()
    assert client.wrap("strict", "eu", bytes(32)).max_cache_age == timedelta()


@pytest.mark.parametrize(
    ("cluster", "region", "size", "context"),
    [
        ("nowhere", "eu", 32, {}),
        ("prod", "nowhere", 32, {}),
        ("prod", "", 32, {}),
        ("-", "eu", 32, {}),
        ("prod", "eu", 17, {}),
        ("prod", "eu", 17, {"": "x"}),
        ("prod", "eu", 32, {"": "x"}),
    ],
)
def test_data_keys_fail_as_one_does(
    client: keyfold.Client, cluster: str, region: str, size: int, context: dict[str, str]
) -> None:
    """The error is that of generate_data_key, in every detail."""
    facts = []
    for make in (
        lambda: client.generate_data_key(cluster, region, size=size, context=context),
        lambda: client.generate_data_keys(cluster, region, 3, size=size, context=context),
    ):
        with pytest.raises(keyfold.KeyfoldError) as raised:
            make()
        facts.append((type(raised.value), vars(raised.value)))
    assert facts[0] == facts[1]


def test_data_keys_stop_at_the_first_error(client: keyfold.Client, server: Served) -> None:
    """The client makes no further call once one has failed, and returns no key."""
    server.fail("BatchWrap", None, INTERNAL)
    with pytest.raises(keyfold.InternalError):
        client.generate_data_keys("prod", "eu", 5000)
    assert len(server.requests["BatchWrap"]) == 2


def test_no_data_keys(client: keyfold.Client, server: Served) -> None:
    """The client sends nothing for no keys, and refuses fewer."""
    assert client.generate_data_keys("prod", "eu", 0) == []
    with pytest.raises(ValueError, match="count"):
        client.generate_data_keys("prod", "eu", -1)
    assert server.requests["BatchWrap"] == []
