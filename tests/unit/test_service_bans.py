"""Revoke of clusters whose rows cannot be believed, as replicas carry it out (A6)."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING
from keyfold_server import telemetry
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterBannedError,
    ClusterNotFoundError,
    KeyfoldError,
    NotAllowedError,
    RevokedError,
    RowNotAuthenticError,
    StoreUnavailableError,
    Unusable,
)
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.domain.rights import Identity
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.cache_entries import ClusterView
from keyfold_server.service.life.listing import page_token
from keyfold_server.service.life.revocation import RetireGenerationRequest
from keyfold_server.store import blessing
from replicas import House, Member, house_in

ME: Final = Identity(("dns:app.example",), "certificate")

UID: Final = "(SELECT uid FROM clusters WHERE name = 'acme')"

SPOILT: Final = {
    "a byte of the own row": "UPDATE clusters SET epoch = epoch + 1 WHERE name = 'acme'",
    "a byte of a region": f"UPDATE regions SET state_since = 1 WHERE cluster_uid = {UID}",
    "no regions": f"DELETE FROM regions WHERE cluster_uid = {UID}",
    "no row at all": "DELETE FROM clusters WHERE name = 'acme'",
    "the log's entry": (
        "UPDATE log SET detail = '' WHERE number = "
        "(SELECT max(number) FROM log WHERE cluster = 'acme' AND version IS NOT NULL)"
    ),
}
"""What somebody who can write the store does to cluster acme."""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with the clusters acme, of an organization, and other, both in use."""
    member = await house.replica()
    for name in ("acme", "other"):
        await member.enable(name, {"eu": "fake:one"}, organization="mine")
        await member.wrap(name)
    return member


def edit(house: House, *statements: str) -> None:
    """Edits the store behind Keyfold's back."""
    with closing(sqlite3.connect(house.file)) as file:
        for statement in statements:
            assert file.execute(statement).rowcount == 1, statement
        file.commit()


def logged(house: House, cluster: str = "acme") -> list[tuple[str, str, str, str]]:
    """Reads what the log has of a cluster: kind, caller, action and outcome."""
    columns = "kind, caller, action, outcome"
    with closing(sqlite3.connect(house.file)) as file:
        query = f"SELECT {columns} FROM log WHERE cluster = ? ORDER BY number"
        return file.execute(query, (cluster,)).fetchall()


@contextmanager
def as_one_who(member: Member, grant: str) -> Iterator[None]:
    """Has the replica's callers be one with a single grant."""
    text = f'[[grant]]\ncallers = ["{ME.name}"]\n{grant}\n'
    member.rights = parse(text, "policy.toml").rights(ME)
    try:
        yield
    finally:
        member.rights = EVERYTHING


@pytest.mark.parametrize("how", SPOILT)
async def test_a_spoilt_cluster_can_be_revoked(house: House, one: Member, how: str) -> None:
    """A6: whatever became of the rows, Revoke stops every replica that holds the keys."""
    two = await house.replica()
    blob = await two.wrap()
    await two.wrap("other")
    edit(house, SPOILT[how])
    assert one.serves()
    assert two.serves()
    result = await one.hurry().ban()
    assert result.confirmed == (one.changes.replica,)
    assert [each.replica for each in result.pending] == [two.changes.replica]
    assert not one.serves()
    await two.poll()
    assert not two.serves()
    for member in (one, two, await house.replica()):
        with pytest.raises(ClusterBannedError):
            await member.unwrap(blob)
        with pytest.raises(ClusterBannedError):
            await member.wrap()
    again = await one.ban()
    assert again.ban.repeated
    assert again.ban.number == result.ban.number
    assert set(again.confirmed) >= {one.changes.replica, two.changes.replica}
    assert one.serves("other")
    assert two.serves("other")


CALLS: Final[dict[str, Callable[[Member], Awaitable[object]]]] = {
    "GetStatus": lambda one: one.status(),
    "Rotate": lambda one: one.rotate(),
    "Restore": lambda one: one.restore(),
    "Enable": lambda one: one.enable(),
    "AddRegions": lambda one: one.add_regions({"us": "fake:one"}),
    "Revoke of a region": lambda one: one.revoke(regions=["eu"]),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_banned_cluster_refuses_every_call(house: House, one: Member, how: str) -> None:
    """A6: a ban comes before any row, whether the rows are there or gone."""
    two = await house.replica()
    edit(house, SPOILT[how])
    await one.hurry().ban()
    for member in (one, two, await house.replica()):
        for name, call in CALLS.items():
            with pytest.raises(ClusterBannedError) as caught:
                await call(member)
            assert caught.value.cluster == "acme", name
    listed = house.store.clusters(ClusterFilter(), "", 9)
    named = [each.cluster for each in listed if isinstance(each, KeyfoldError)]
    assert named == ["acme"]


async def test_a_banned_cluster_without_rows_is_listed(house: House, one: Member) -> None:
    """A6: an operator who may see a banned cluster finds it, though no row of it is left."""
    for name in ("a", "b", "zoo"):
        await one.enable(name)
    edit(
        house,
        *(f"DELETE FROM clusters WHERE name = '{name}'" for name in ("acme", "b")),
    )
    await one.hurry().ban()
    await one.ban("b")

    async def pages(size: int) -> list[str]:
        names, token, more = [], "", True
        while more:
            page = await one.replica.listing.page(one.rights, ClusterFilter(), size, token)
            found = [e.cluster if isinstance(e, Unusable) else e.cluster.name for e in page.entries]
            names += [name for name in found if name is not None]
            more, token = page.more, page_token(names[-1]) if names else ""
        return names

    everything = ["a", "acme", "b", "other", "zoo"]
    assert await pages(100) == everything
    assert await pages(1) == everything
    assert await pages(2) == everything
    with as_one_who(one, 'roles = ["operator"]\nclusters = ["ac*", "z*"]'):
        assert await pages(1) == ["acme", "zoo"]
    with as_one_who(one, 'roles = ["operator"]\norganizations = ["mine"]'):
        assert await pages(1) == ["other"]
    which = ClusterFilter(state=State.ENABLED)
    page = await one.replica.listing.page(one.rights, which, 9, "")
    assert len(page.entries) == 3


async def test_a_generation_of_a_spoilt_cluster_cannot_be_retired(
    house: House, one: Member
) -> None:
    """A6: nobody can tell which KEK a number means there; a Revoke stops every generation."""
    await one.rotate(new_generation=True)
    edit(house, SPOILT["a byte of a region"])
    request = RetireGenerationRequest("acme", "eu", 1, bring_back=False, reason="")
    with pytest.raises(RowNotAuthenticError):
        await one.replica.revocation.retire(one.asked("RetireGeneration", request))
    await one.hurry().ban()
    assert not one.serves()


async def test_mended_rows_do_not_end_a_ban(house: House, one: Member) -> None:
    """A6: rows that verify again, as from a backup, serve nobody while the name is banned."""
    edit(house, "UPDATE clusters SET epoch = 9 WHERE name = 'acme'")
    await one.hurry().ban()
    edit(house, "UPDATE clusters SET epoch = 0 WHERE name = 'acme'")
    for member in (one, await house.replica()):
        for call in (member.wrap, member.restore, member.status):
            with pytest.raises(ClusterBannedError):
                await call()


async def test_part_of_a_spoilt_cluster_cannot_be_revoked(house: House, one: Member) -> None:
    """A6: a ban stops a whole cluster, so a Revoke of some regions does not ban it, and says so."""
    edit(house, SPOILT["a byte of a region"])
    with pytest.raises(RowNotAuthenticError, match="call Revoke without regions, which needs no"):
        await one.revoke(regions=["eu"])
    assert one.serves()


async def test_an_unknown_name_is_not_banned(house: House, one: Member) -> None:
    """A6, R5: a name that the store and the replica never knew is not found, and not logged."""
    with pytest.raises(ClusterNotFoundError):
        await one.revoke("nobody")
    assert logged(house, "nobody") == []
    await one.enable("nobody")


async def test_a_ban_is_in_the_log(house: House, one: Member) -> None:
    """A6, R5: the log says who banned a cluster, and who asked again."""
    edit(house, SPOILT["no row at all"])
    await one.hurry().ban()
    await one.ban()
    assert logged(house)[-2:] == [
        ("BAN", "local", "rpc:cluster:revoke", "done"),
        ("ATTEMPT", "local", "rpc:cluster:revoke", "repeated"),
    ]


async def test_a_repeated_request_bans_once(house: House, one: Member) -> None:
    """R6, A6: a Revoke with a request_id is safe to repeat after a ban."""
    edit(house, SPOILT["a byte of the own row"])
    first = await one.hurry().ban(request_id="r")
    again = await one.ban(request_id="r")
    assert not first.ban.repeated
    assert again.ban.repeated
    assert again.ban.number == first.ban.number


async def test_a_request_from_before_the_damage_bans(house: House, one: Member) -> None:
    """A6, R6: a repeated Revoke bans a cluster whose rows were spoilt after the first."""
    await one.hurry().revoke(request_id="r")
    edit(house, SPOILT["a byte of the own row"])
    assert not (await one.ban(request_id="r")).ban.repeated


ORGANIZATION: Final = 'roles = ["operator"]\norganizations = ["{}"]'


@pytest.mark.parametrize("how", SPOILT)
async def test_who_may_ban(house: House, one: Member, how: str) -> None:
    """A6: a grant that no organization narrows, or one that matches the last verified view."""
    stranger = await house.replica()
    edit(house, SPOILT[how])
    with as_one_who(one, ORGANIZATION.format("theirs")), pytest.raises(ClusterNotFoundError):
        await one.revoke()
    with as_one_who(stranger, ORGANIZATION.format("mine")), pytest.raises(ClusterNotFoundError):
        # This replica never verified the cluster, so it does not know its organization.
        await stranger.revoke()
    with as_one_who(one, 'roles = ["auditor"]'), pytest.raises(NotAllowedError):
        await one.revoke()
    assert one.serves()
    with as_one_who(one, ORGANIZATION.format("mine")):
        await one.hurry().ban()
        assert (await one.ban()).ban.repeated
    with as_one_who(stranger, 'roles = ["operator"]\nclusters = ["acme"]'):
        await stranger.hurry().ban()


@pytest.mark.parametrize("how", SPOILT)
async def test_a_spoilt_cluster_leaves_memory_within_a_sweep(
    house: House, one: Member, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A6: replicas hold what is in memory against the rows, although no entry says they changed."""
    two = await house.replica()
    await two.wrap()
    await two.wrap("other")
    edit(house, SPOILT[how])
    reason = "CLUSTER_NOT_FOUND" if how == "no row at all" else "ROW_NOT_AUTHENTIC"
    count = telemetry.CLUSTERS_DISTRUSTED.labels(reason)
    before = count._value.get()
    for member in (one, two):
        assert member.serves()
        await member.verify()
        assert not member.serves()
        assert member.serves("other")
        with pytest.raises((RowNotAuthenticError, ClusterNotFoundError)):
            await member.wrap()
        with pytest.raises((RowNotAuthenticError, ClusterNotFoundError)):
            await member.status()
    assert count._value.get() == before + 2
    assert "dropped the keys of cluster acme" in caplog.text
    # A caller of the cluster's organization can still ban it.
    with as_one_who(two, ORGANIZATION.format("mine")):
        await two.hurry().ban()


async def test_a_ban_that_no_poll_has_read_is_found_by_the_sweep(house: House, one: Member) -> None:
    """A6: the verification finds a ban, too."""
    two = await house.replica()
    await two.wrap()
    edit(house, SPOILT["a byte of the own row"])
    await one.hurry().ban()
    assert two.serves()
    await two.verify()
    assert not two.serves()


async def test_whole_clusters_stay_in_memory(house: House, one: Member) -> None:
    """A6: the verification drops nothing whose rows are whole, and calls no KMS."""
    calls = house.calls()
    await one.verify()
    assert one.serves()
    assert one.serves("other")
    assert one.line.counts["named"] == 1
    assert house.calls() == calls


async def test_a_store_that_is_away_drops_nothing(house: House, one: Member) -> None:
    """A6, S2: a store that cannot be asked says nothing about rows; the next turn asks again."""
    edit(house, SPOILT["a byte of a region"])
    one.line.fail("named", StoreUnavailableError("away"))
    await one.verify()
    assert one.serves()
    one.line.mend()
    await one.verify()
    assert not one.serves()


async def test_a_view_that_came_after_the_read_stays(house: House, one: Member) -> None:
    """A6, R2: what the verification read before a change says nothing about the change."""
    edit(house, "UPDATE clusters SET epoch = 9 WHERE name = 'acme'")
    held = one.line.hold("named", answered=True)
    verifying = asyncio.create_task(one.verify())
    await held.reached()
    edit(house, "UPDATE clusters SET epoch = 0 WHERE name = 'acme'")
    one.loads.invalidate("acme")
    await one.wrap()
    one.line.let_go("named")
    await verifying
    assert one.serves()


async def test_a_view_from_a_read_before_the_damage_is_found_at_once(
    house: House, one: Member
) -> None:
    """A6: a view that takes another's place while the verification reads is verified, too."""
    edit(house, SPOILT["a byte of the own row"])
    held = one.line.hold("named", answered=True)
    verifying = asyncio.create_task(one.replica._verification.turn())
    await held.reached()
    # As a read does that began before the damage and ends now.
    view = one.cache.peek("acme")
    assert view is not None
    one.loads.invalidate("acme")
    one.cache.put_view(ClusterView(view.cluster, Timing(), ServedRegions()))
    one.line.let_go("named")
    await verifying
    assert one.cache.peek("acme") is None
    assert one.serves("other")


async def test_many_clusters_take_their_turns(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6, S12: each cluster is verified once per round, in bounded statements."""
    one = await house.replica()
    names = [f"c-{number:03}" for number in range(120)]
    for name in names:
        await one.enable(name)
        await one.wrap(name)
    asked: list[list[str]] = []
    read = house.store.named

    def named(some: Sequence[str]) -> dict[str, Cluster | Unusable]:
        asked.append(list(some))
        return read(some)

    monkeypatch.setattr(house.store, "named", named)
    await one.verify()
    assert sorted(itertools.chain.from_iterable(asked)) == names
    assert [len(some) for some in asked] == [50, 50, 20]


async def test_a_blessing_and_a_restore_serve_the_old_wrapped_keys(
    house: House, one: Member
) -> None:
    """A6: a ban ends with a blessing and then a Restore, on every replica, and not before."""
    two = await house.replica()
    blob = await two.wrap()
    edit(house, SPOILT["a byte of a region"])
    await one.hurry().ban(request_id="r")
    await two.poll()
    blessing.bless(house.store, blessing.look(house.store, "acme"), "a drill", house.clock)
    for member in (one, two):
        await member.poll()
        with pytest.raises(RevokedError):
            await member.unwrap(blob)
    await two.restore()
    await one.poll()
    for member in (one, two):
        assert (await member.unwrap(blob)).plaintext == b"k" * 32
    # The old request is answered from the state as it is now, and bans nothing.
    again = await one.revoke(request_id="r")
    assert again.mutation.replayed
    assert again.mutation.superseded
    assert (await one.unwrap(blob)).plaintext == b"k" * 32
