"""Batches and Rewrap on a whole replica: one bad item, or one region that hangs, fails alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ContextMismatchError,
    DeadlineError,
    InvalidBatchError,
    InvalidContextError,
    InvalidNameError,
    InvalidPlaintextError,
    KeyDisabledError,
    KeyfoldError,
    NotAWrappedKeyError,
    RegionNotFoundError,
    RevokedError,
    UnknownKekError,
    UnsupportedWrappedKeyError,
    WrappedKeyCorruptError,
    WrongClusterError,
)
from keyfold_server.service.data.data_plane import Destination
from replicas import House, Member, house_in

WrapItem = tuple[str, bytes, Mapping[str, str] | None]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme in eu (fake:one) and us (fake:two), and cluster zeta."""
    member = await house.replica()
    await member.enable(specs={"eu": "fake:one", "us": "fake:two"})
    await member.enable("zeta")
    return member


async def wrap_batch(
    one: Member, items: list[WrapItem], context: Mapping[str, str] | None = None, within: float = 10
) -> list[bytes | KeyfoldError]:
    """Wraps a batch in acme."""
    made = await one.call(lambda c: one.plane.wrap_batch("acme", items, context or {}, c), within)
    return [result for result, _ in made]


async def test_a_batchs_answers_are_in_its_items_order(one: Member) -> None:
    """A batch's results are in the items' order, over regions and contexts."""
    items: list[WrapItem] = [
        ("eu" if i % 3 else "us", str(i).encode(), {"i": str(i)} if i % 2 else None)
        for i in range(1_000)
    ]
    results = await wrap_batch(one, items, {"shared": "yes"})
    assert len(results) == 1_000
    blobs: list[tuple[bytes, Mapping[str, str] | None]] = []
    for result, item in zip(results, items, strict=True):
        assert isinstance(result, bytes)
        blobs.append((result, item[2]))
    opened = await one.call(lambda c: one.plane.unwrap_batch("acme", blobs, {"shared": "yes"}, c))
    for (key, granted), (region, plaintext, _) in zip(opened, items, strict=True):
        assert granted is not None
        assert (key, granted.kek.region) == (plaintext, region)
    # Each opens by itself, with the batch's context or its own, which replaces it.
    assert (await one.unwrap(blobs[1][0], context={"i": "1"})).plaintext == b"1"
    with pytest.raises(ContextMismatchError):
        await one.unwrap(blobs[1][0], context={"i": "1", "shared": "yes"})


async def test_one_bad_item_fails_alone(one: Member) -> None:
    """Each item has its own result or error."""
    results = await wrap_batch(
        one,
        [
            ("eu", b"good", None),
            ("eu", b"", None),
            ("mars", b"k", None),
            ("-bad", b"k", None),
            ("eu", b"k" * 4097, None),
            ("eu", b"k", {"": "x"}),
            ("us", b"good", None),
        ],
    )
    kinds = [type(r) for r in results]
    assert kinds == [
        bytes,
        InvalidPlaintextError,
        RegionNotFoundError,
        InvalidNameError,
        InvalidPlaintextError,
        InvalidContextError,
        bytes,
    ]


async def test_each_way_of_not_opening_has_its_own_error(one: Member) -> None:
    """Each item gets the reason that fits its fault."""
    blob = await one.wrap()
    other = await one.wrap("zeta")
    changed = bytearray(blob)
    changed[-1] ^= 1
    tag = bytearray(blob)
    tag[45] ^= 1
    unknown = bytearray(blob)
    unknown[5] ^= 1
    items: list[tuple[bytes, Mapping[str, str] | None]] = [
        (blob, None),
        (b"", None),
        (b"\x02" + blob[1:], None),
        (bytes(unknown), None),
        (bytes(changed), None),
        (bytes(tag), None),
        (blob, {"other": "context"}),
        (other, None),
        (blob, None),
    ]
    made = await one.call(lambda c: one.plane.unwrap_batch("acme", items, {}, c))
    results = [result for result, _ in made]
    kinds = [type(r) for r in results if isinstance(r, KeyfoldError)]
    assert kinds == [
        NotAWrappedKeyError,
        UnsupportedWrappedKeyError,
        UnknownKekError,
        WrappedKeyCorruptError,
        ContextMismatchError,
        ContextMismatchError,
        WrongClusterError,
    ]
    assert results[0] == results[-1] == b"k" * 32


async def test_a_bad_shared_context_fails_the_items_that_take_it(one: Member) -> None:
    """An item's own context replaces the batch's, good or bad."""
    results = await wrap_batch(one, [("eu", b"k", None), ("eu", b"k", {"own": "x"})], {"": "bad"})
    assert isinstance(results[0], InvalidContextError)
    assert isinstance(results[1], bytes)


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_batch_has_1_to_1000_items(one: Member, count: int) -> None:
    """A batch of no items, or of more than 1,000, is refused as a whole."""
    with pytest.raises(InvalidBatchError):
        await wrap_batch(one, [("eu", b"k", None)] * count)
    with pytest.raises(InvalidBatchError):
        await one.call(lambda c: one.plane.unwrap_batch("acme", [(b"", None)] * count, {}, c))
    with pytest.raises(InvalidBatchError):
        await one.call(lambda c: one.plane.rewrap_batch("acme", [(b"", {}, None)] * count, c))


async def test_a_region_that_hangs_fails_alone(house: House, one: Member) -> None:
    """The other items have results at the deadline at the latest."""
    wrapped = await wrap_batch(one, [("eu", b"k", None), ("us", b"k", None)])
    blobs: list[tuple[bytes, Mapping[str, str] | None]] = [
        (blob, None) for blob in wrapped if isinstance(blob, bytes)
    ]
    one.loads.drop_all()
    house.provider.hang("fake:two")
    await one.wrap(region="eu")  # However late the machine is, this one's key is there in time.
    results = await wrap_batch(one, [("us", b"k", None), ("eu", b"k", None)], within=0.5)
    assert isinstance(results[0], DeadlineError)
    assert isinstance(results[1], bytes)
    opened = await one.call(lambda c: one.plane.unwrap_batch("acme", blobs, {}, c), 0.5)
    assert opened[0][0] == b"k"
    assert isinstance(opened[1][0], DeadlineError)
    moved = await one.call(
        lambda c: one.plane.rewrap_batch("acme", [(b[0], {}, None) for b in blobs], c), 0.5
    )
    assert not isinstance(moved[0], KeyfoldError)
    assert isinstance(moved[1], DeadlineError)


async def test_a_region_that_is_refused_or_revoked_fails_alone(house: House, one: Member) -> None:
    """One region's refusal or revocation fails only its own items."""
    house.provider.disable("fake:two")
    results = await wrap_batch(one, [("us", b"k", None), ("eu", b"k", None)])
    assert isinstance(results[0], KeyDisabledError)
    assert (results[0].cluster, results[0].region) == ("acme", "us")
    assert isinstance(results[1], bytes)
    await one.revoke(regions=["us"])
    results = await wrap_batch(one, [("us", b"k", None), ("eu", b"k", None)])
    assert isinstance(results[0], RevokedError)
    assert isinstance(results[1], bytes)


async def test_rewrap_without_destination_keeps_everything(house: House, one: Member) -> None:
    """Rewrap moves a key to its region's newest generation, and says if it was current already."""
    blob = await one.wrap(region="us", context={"a": "b"})
    assert await one.rewrap(blob, context={"a": "b"}) == (blob, 1, True)
    await one.rotate({"us": None}, new_generation=True)
    moved, generation, current = await one.rewrap(blob, context={"a": "b"})
    assert (generation, current) == (2, False)
    opened = await one.unwrap(moved, context={"a": "b"})
    assert (opened.plaintext, opened.region, opened.generation) == (b"k" * 32, "us", 2)
    assert (await one.rewrap(moved, context={"a": "b"}))[2]
    assert (await one.unwrap(blob, context={"a": "b"})).generation == 1


async def test_rewrap_moves_to_another_cluster_region_and_context(one: Member) -> None:
    """A destination's context replaces the old one; cluster and region may be kept."""
    blob = await one.wrap(context={"a": "b"})
    moved, _, current = await one.rewrap(blob, Destination("zeta", None, {}), context={"a": "b"})
    assert not current
    assert (await one.unwrap(moved, "zeta")).region == "eu"
    with pytest.raises(WrongClusterError):
        await one.unwrap(moved, "acme")
    moved, _, _ = await one.rewrap(blob, Destination(None, "us", {"c": "d"}), context={"a": "b"})
    assert (await one.unwrap(moved, context={"c": "d"})).region == "us"
    same, _, current = await one.rewrap(
        blob, Destination(None, None, {"a": "b"}), context={"a": "b"}
    )
    assert current
    assert same == blob
    with pytest.raises(RegionNotFoundError):
        await one.rewrap(blob, Destination("zeta", "us", {}), context={"a": "b"})
    with pytest.raises(ClusterNotFoundError):
        await one.rewrap(blob, Destination("nobody", None, {}), context={"a": "b"})
    with pytest.raises(InvalidContextError) as caught:
        await one.rewrap(blob, Destination(None, None, {"": "x"}), context={"a": "b"})
    assert caught.value.field == "destination.context"


async def test_a_spoiled_key_is_not_called_current(one: Member) -> None:
    """Rewrap opens a wrapped key even if nothing would change."""
    blob = bytearray(await one.wrap())
    blob[45] ^= 1
    with pytest.raises(ContextMismatchError):
        await one.rewrap(bytes(blob))


async def test_a_batch_of_rewraps_goes_to_many_places(one: Member) -> None:
    """Each item has its own destination, and its own error."""
    blob = await one.wrap()
    results = await one.call(
        lambda c: one.plane.rewrap_batch(
            "acme",
            [
                (blob, {}, None),
                (blob, {}, Destination("zeta", None, {"x": "y"})),
                (blob, {"wrong": "context"}, None),
                (blob, {}, Destination("nobody", None, {})),
                (blob, {}, Destination(None, "us", {})),
            ],
            c,
        )
    )
    assert results[0] == (blob, 1, True)
    assert isinstance(results[1], tuple)
    assert (await one.unwrap(results[1][0], "zeta", {"x": "y"})).plaintext == b"k" * 32
    assert isinstance(results[2], ContextMismatchError)
    assert isinstance(results[3], ClusterNotFoundError)
    assert isinstance(results[4], tuple)


async def test_calls_of_clusters_that_another_replica_just_made(house: House, one: Member) -> None:
    """A cluster that another replica made is found at once, without waiting for a poll."""
    two = await house.replica()
    with pytest.raises(ClusterNotFoundError):
        await two.wrap("new")
    await two.wrap("acme")
    await one.enable("new")
    await one.add_regions({"ap": "fake:one"})
    await two.wrap("new")
    await two.wrap("acme", "ap")
    await two.wrap("zeta")
    await one.rotate(cluster="zeta", new_generation=True)
    blob = await one.wrap("zeta")
    assert (await two.unwrap(blob, "zeta")).generation == 2
