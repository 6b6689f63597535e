"""Auto-rotation: regions whose policy says so follow their root key within the sweep."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from callers import EVERYTHING
from fakes import FakeProvider
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KeyNotGrantedError,
    KeyVersionPinnedError,
    NotAllowedError,
    RevokedError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec, RootKey
from keyfold_server.domain.operations import ActionKind, Work
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.domain.rights import DENIED, Caller, Purpose
from keyfold_server.service.upkeep import auto_rotation
from keyfold_server.service.upkeep.server_caller import CALLER, SERVER_CALLER
from replicas import House, Member, house_in, under, until

INTERVAL = 600
PINNED = "fake:pinned"
ROTATED = (CALLER, "rpc:cluster:rotate", "done")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House, monkeypatch: pytest.MonkeyPatch) -> Member:
    """Gives a replica with cluster acme under fake:one, which it follows."""
    monkeypatch.setattr(auto_rotation, "_PAUSE", 0.0)
    member = await house.replica()
    await member.enable(specs={"eu": under("fake:one", auto_rotate=True)})
    return member


def versions(house: House, cluster: str = "acme") -> list[str]:
    """Reads the key versions of a cluster's KEKs, oldest generation first."""
    found = house.store.cluster(cluster)
    assert found is not None
    return [g.current.key_version for g in found.regions[0].generations]


async def swept(house: House, member: Member) -> None:
    """Lets an interval pass and has a replica sweep."""
    await house.after(INTERVAL)
    await member.sweep()


async def test_a_new_version_is_followed_within_the_sweep(house: House, one: Member) -> None:
    """The sweep re-wraps the KEK with an audit event; the old version is not needed."""
    blob = await one.wrap()
    house.provider.new_version("fake:one")
    await swept(house, one)
    assert versions(house) == ["2"]
    assert house.trail("acme")[-1] == ROTATED
    house.provider.disable("fake:one", "1")
    one.loads.drop_all()
    assert (await one.unwrap(blob)).plaintext == b"k" * 32


async def test_every_region_under_the_key_is_re_wrapped(house: House, one: Member) -> None:
    """One sweep is enough for all KEKs under a root key, of each generation."""
    names = ["acme", "b", "c", "d"]
    for name in names[1:]:
        await one.enable(name, {"eu": under("fake:one", auto_rotate=True)})
    await one.rotate(new_generation=True)
    house.provider.new_version("fake:one")
    await swept(house, one)
    assert [versions(house, name) for name in names] == [["2", "2"], ["2"], ["2"], ["2"]]


async def test_one_that_asks_for_it_among_many_is_found(house: House, one: Member) -> None:
    """One sweep rotates all regions, whichever KEKs the sweep itself opens."""
    for name in ("b", "c", "d"):
        await one.enable(name, {"eu": "fake:two"})
        await house.after(1)
    await one.enable("last", {"eu": under("fake:two", auto_rotate=True)})
    house.provider.new_version("fake:two")
    await swept(house, one)
    assert [versions(house, name) for name in ("b", "c", "d", "last")] == [["1"]] * 3 + [["2"]]


async def test_who_does_not_ask_for_it_is_left_alone(house: House, one: Member) -> None:
    """By default `auto_rotate` is off, also beside a region that has it on."""
    await one.enable("still", {"eu": "fake:one"})
    house.provider.new_version("fake:one")
    for _ in range(3):
        await swept(house, one)
    assert versions(house, "acme") == ["2"]
    assert versions(house, "still") == ["1"]


class Pinning(FakeProvider):
    """A KMS in which the uri of one key names a version."""

    def pinned_version(self, key: RootKey) -> str | None:
        return "1" if key.uri == PINNED else None


@pytest.fixture
async def pinning(house: House) -> Member:
    """Gives a replica whose KMS has the key PINNED beside the house's keys."""
    house.provider = Pinning()
    for name in ("one", "two", "pinned"):
        house.provider.create_key(name)
    return await house.replica()


async def test_a_pinned_version_cannot_be_followed(house: House, pinning: Member) -> None:
    """`auto_rotate` that would never do anything is refused when it is set (F5)."""
    followed = under(PINNED, auto_rotate=True)
    with pytest.raises(KeyVersionPinnedError, match="auto_rotate"):
        await pinning.enable(specs={"eu": followed})
    assert not house.calls("wrap")
    await pinning.enable(specs={"eu": PINNED})
    with pytest.raises(KeyVersionPinnedError, match="auto_rotate"):
        await pinning.add_regions({"us": replace(followed, region="us")})
    policy = RegionSpec("eu", None, RegionPolicy(auto_rotate=True))
    for new_generation in (True, False):
        with pytest.raises(KeyVersionPinnedError):
            await pinning.rotate({"eu": policy}, new_generation=new_generation)
    await pinning.rotate({"eu": under("fake:one", auto_rotate=True)})


async def test_who_follows_cannot_move_to_a_pinned_version(pinning: Member) -> None:
    """A rotation to a pinned version has to end `auto_rotate`, which the region would keep (F5)."""
    await pinning.enable(specs={"eu": under("fake:one", auto_rotate=True)})
    with pytest.raises(KeyVersionPinnedError, match="auto_rotate"):
        await pinning.rotate({"eu": PINNED})
    await pinning.rotate({"eu": under(PINNED)})


@pytest.mark.parametrize(
    ("work", "pinned"),
    [
        (Work(ActionKind.ROTATE, key_spec=KeySpec("FAKE", PINNED)), ["follows"]),
        (Work(ActionKind.ROTATE), ["pinned"]),
        (Work(ActionKind.ROTATE, new_generation=True), []),
        (Work(ActionKind.POLICY, policy=RegionPolicy(auto_rotate=True)), ["pinned"]),
    ],
)
async def test_a_dry_run_counts_what_a_pinned_version_makes_fail(
    pinning: Member, work: Work, pinned: list[str]
) -> None:
    """The census says how many regions fail, and they are those that fail then."""
    await pinning.enable("follows", {"eu": under("fake:one", auto_rotate=True)})
    await pinning.enable("plain", {"eu": "fake:one"})
    await pinning.enable("pinned", {"eu": PINNED})
    operations, runner = pinning.replica.operations, pinning.replica._runner
    assert runner is not None
    start = functools.partial(operations.start, Caller(EVERYTHING), "op", work, 1e9)
    census = (await start(dry_run=True)).census
    assert census is not None
    assert census.pinned == len(pinned)
    made = (await start(dry_run=False)).operation
    assert made is not None
    await runner.look()
    await until(lambda: not runner._runs)
    failures = pinning.house.store.operation_failures(made.uid)
    told = [(each.cluster, each.reason) for each in failures]
    assert told == [(cluster, "KEY_VERSION_PINNED") for cluster in pinned]


async def test_nothing_happens_without_a_newer_version(house: House, one: Member) -> None:
    """A key of one version costs no calls beyond those of the sweep."""
    before, asked = house.trail("acme"), house.calls("wrap")
    for _ in range(3):
        await swept(house, one)
    assert house.calls("wrap") - asked == 3
    assert house.calls("describe") == 3
    assert house.trail("acme") == before


async def test_those_who_are_not_behind_are_not_read(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands of clusters under one root key, the server reads those that lag behind."""
    monkeypatch.setattr(auto_rotation, "_PAGE", 1)
    for name in ("b", "c", "d"):
        await one.enable(name, {"eu": "fake:one"})
    await one.rotate(new_generation=True)
    read = one.line.counts["clusters"]
    await swept(house, one)
    assert one.line.counts["clusters"] - read == 1
    house.provider.new_version("fake:one")
    await swept(house, one)
    assert versions(house) == ["2", "2"]
    # The page that holds it, and the empty one after it.
    assert one.line.counts["clusters"] - read == 3


async def test_one_replica_rotates(house: House, one: Member) -> None:
    """F5: of two replicas that sweep at once, the one with the turn rotates, once."""
    two = await house.replica()
    house.provider.new_version("fake:one")
    await house.after(INTERVAL)
    await asyncio.gather(one.sweep(), two.sweep())
    assert versions(house) == ["2"]
    assert house.trail("acme").count(ROTATED) == 1


async def test_an_operator_who_rotates_meanwhile_wins(house: House, one: Member) -> None:
    """S5: a lost compare-and-swap changes nothing, and the next sweep finds nothing to do."""
    two = await house.replica()
    house.provider.new_version("fake:one")
    await house.after(INTERVAL)
    held = one.line.hold("apply")
    sweeping = asyncio.create_task(one.sweep())
    await held.reached()
    await two.rotate({"eu": "fake:two"})
    one.line.let_go("apply")
    await sweeping
    trail = house.trail("acme")
    assert ROTATED not in trail
    assert (CALLER, "rpc:cluster:rotate", "CONCURRENT_CHANGE") in trail
    found = house.store.cluster("acme")
    assert found is not None
    assert found.regions[0].newest.current.root.uri == "fake:two"
    await swept(house, one)
    assert house.trail("acme") == trail


async def test_a_failure_is_told_of_once(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """R5: a rotation that keeps failing is audited and logged once, not in each sweep."""
    caplog.set_level(logging.WARNING)
    await one.rotate(new_generation=True)
    found = house.store.cluster("acme")
    assert found is not None
    old = found.regions[0].generations[0].kek_id
    unwrap = house.provider.unwrap

    def refusing(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        if binding.kek_id == old:
            raise AccessDeniedError("the policy refuses this context")
        return unwrap(key, key_version, ciphertext, binding, budget=budget)

    house.provider.unwrap = refusing  # type: ignore[method-assign]
    house.provider.new_version("fake:one")
    for _ in range(4):
        await swept(house, one)
    failed = [entry for entry in house.trail("acme") if entry[0] == CALLER]
    assert failed == [(CALLER, "rpc:cluster:rotate", "ACCESS_DENIED")]
    assert sum("auto_rotate of acme/eu failed" in r.message for r in caplog.records) == 1
    assert versions(house) == ["1", "1"]
    house.provider.unwrap = unwrap  # type: ignore[method-assign]
    await swept(house, one)
    assert versions(house) == ["2", "2"]


async def test_a_platform_key_that_was_changed_is_not_moved_to(house: House, one: Member) -> None:
    """A changed setting orphans nothing and moves nothing; Rotate does, if asked."""
    house.platform[""] = RootKey("FAKE", "fake:one")
    policy = RegionPolicy(auto_rotate=True)
    await one.enable("vendor", {"eu": RegionSpec("eu", KeySpec("PLATFORM"), policy)})
    house.platform[""] = RootKey("FAKE", "fake:two")
    house.provider.new_version("fake:one")
    for _ in range(3):
        await swept(house, one)
    assert versions(house, "vendor") == ["1"]
    assert versions(house, "acme") == ["2"]


async def test_a_revoked_region_is_not_rotated(house: House, one: Member) -> None:
    """The sweep does not call the KMS of a revoked region, whatever its policy."""
    await one.revoke()
    house.provider.new_version("fake:one")
    await swept(house, one)
    assert versions(house) == ["1"]
    with pytest.raises(RevokedError):
        await one.wrap()


def test_its_rights_are_to_rotate_and_nothing_else() -> None:
    """C1: the server's own caller names no key, uses no KEK and calls no other method."""
    rights = SERVER_CALLER.rights
    assert rights.identity.name == CALLER
    rights.check_named("Rotate", "acme", ("eu",))
    rights.check_cluster("Rotate", "acme", None, ("eu",))
    for rpc in ("Revoke", "Restore", "Enable", "GetStatus"):
        with pytest.raises(NotAllowedError):
            rights.check_named(rpc, "acme", ())
        with pytest.raises(NotAllowedError):
            rights.check_cluster(rpc, "acme", None, ())
    with pytest.raises(KeyNotGrantedError):
        rights.check_key("acme", None, "eu", RootKey("FAKE", "fake:two"))
    assert {rights.use("acme", None, "eu", purpose) for purpose in Purpose} == {DENIED}
