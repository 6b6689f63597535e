"""Erasure: what a deletion ends for good, and what nobody has to fear from it (protocol D2-D5)."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from builders import NOW, an_event, enabled
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.changes import Change, deleted, revoked
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    KeyfoldError,
    OrganizationMismatchError,
    RegionNotFoundError,
    StoreUnavailableError,
    UnknownKekError,
)
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.service.life.revocation import RevokeRequest
from keyfold_server.service.upkeep import erasure
from replicas import House, Member, house_in

DAY = 86_400.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme, in use in regions eu and us under fake:one."""
    member = await house.replica(revoke_wait=0.0)
    await member.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await member.wrap()
    await member.erase()
    return member


def states(house: House, name: str = "acme") -> dict[str, State]:
    """Reads the states of a cluster's regions."""
    cluster = house.store.cluster(name)
    return {} if cluster is None else {each.name: each.state for each in cluster.regions}


def metric(name: str) -> float:
    """Reads a metric."""
    return REGISTRY.get_sample_value(name) or 0.0


async def opens(member: Member, blob: bytes) -> bool:
    """Opens a wrapped key."""
    return (await member.unwrap(blob)).plaintext == b"k" * 32


def trail(house: House) -> list[tuple[str, str, str, str]]:
    """Reads the log's entries about acme: kind, caller, action and outcome."""
    with closing(sqlite3.connect(house.file)) as file:
        return file.execute(
            "SELECT kind, caller, action, outcome FROM log WHERE cluster = 'acme' ORDER BY number"
        ).fetchall()


async def gone(member: Member, name: str = "acme") -> None:
    """Revokes, deletes and erases a cluster."""
    await member.revoke(name)
    await member.delete(name, days=0)
    await member.erase()


async def test_a_cluster_ends_and_its_name_begins_anew(house: House, one: Member) -> None:
    """D5: old wrapped keys open nothing once their cluster is erased, whatever has its name."""
    other = await house.replica()
    blob = await one.wrap("acme", "eu")
    assert await opens(other, blob)
    erased = metric("keyfold_regions_erased_total")
    await gone(one)
    assert metric("keyfold_regions_erased_total") == erased + 2
    assert states(house) == {}
    assert trail(house)[-1] == ("ERASURE", "", erasure.ACTION, "done")
    await other.poll()
    for member in (one, other):
        with pytest.raises(ClusterNotFoundError):
            await member.unwrap(blob)
        with pytest.raises(ClusterNotFoundError):
            await member.status()
        for again in (member.undelete(), member.restore(), member.delete()):
            with pytest.raises(ClusterNotFoundError):
                await again
    await one.enable(specs={"eu": "fake:one"})
    new = await one.wrap("acme", "eu")
    await other.poll()
    for member in (one, other):
        assert await opens(member, new)
        with pytest.raises(UnknownKekError):
            await member.unwrap(blob)


async def test_a_region_leaves_its_cluster(house: House, one: Member) -> None:
    """D1: of a cluster that goes on, the erased region alone is gone."""
    eu, us = [await one.wrap("acme", region) for region in ("eu", "us")]
    await one.revoke(regions=["eu"])
    await one.delete(regions=["eu"], days=0)
    await one.erase()
    assert states(house) == {"us": State.ENABLED}
    assert await opens(one, us)
    with pytest.raises(UnknownKekError):
        await one.unwrap(eu)
    with pytest.raises(RegionNotFoundError):
        await one.undelete(regions=["eu"])
    # The region can be added again, with a KEK of its own.
    await one.add_regions({"eu": "fake:two"})
    assert await opens(one, await one.wrap("acme", "eu"))


async def test_a_deletion_is_taken_back_at_the_last_moment(house: House, one: Member) -> None:
    """D2: one second before the time, with the KMS out of reach, nothing is lost."""
    blob = await one.wrap("acme", "eu")
    await one.revoke()
    await one.delete(days=600 / DAY)
    await one.erase(540)
    await one.erase(59)
    house.provider.hang()
    await one.undelete()
    await one.erase(61)
    assert states(house) == {"eu": State.REVOKED, "us": State.REVOKED}
    house.provider.mend()
    await one.restore()
    assert await opens(one, blob)


async def test_a_late_undelete_still_counts(house: House, one: Member) -> None:
    """D2: as long as nothing is erased, a deletion can be taken back, also past its time."""
    await one.revoke()
    await one.delete(days=0)
    house.clock.advance(300)
    await one.undelete(regions=["us"])
    await one.erase()
    assert states(house) == {"us": State.REVOKED}


async def test_a_step_of_the_clock_erases_nothing(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: after a step past the due time there is a day in which nothing goes."""
    await one.revoke()
    await one.delete()
    with caplog.at_level(logging.INFO):
        await one.erase(8 * DAY)
    assert "11520 minutes no server looked" in caplog.text
    assert "(2 regions are due)" in caplog.text
    assert metric("keyfold_erasures_due") == 2
    assert metric("keyfold_erasures_paused_seconds") == DAY
    for _ in range(150):
        await one.erase(9 * 60)
    assert states(house) == {"eu": State.DELETED, "us": State.DELETED}
    assert metric("keyfold_erasures_paused_seconds") == DAY - 150 * 540
    with caplog.at_level(logging.INFO):
        for _ in range(11):
            await one.erase(9 * 60)
    assert states(house) == {}
    assert "erasing goes on" in caplog.text
    assert metric("keyfold_erasures_due") == metric("keyfold_erasures_paused_seconds") == 0


async def test_two_replicas_erase_once(house: House, one: Member) -> None:
    """D3: of two replicas one has the turn, and the other shows nothing of it."""
    other = await house.replica()
    await one.revoke()
    await one.delete(days=0)
    house.clock.advance(60)
    await one.replica.erasure.turn()
    await other.replica.erasure.turn()
    assert [kind for kind, *_ in trail(house)].count("ERASURE") == 1
    assert metric("keyfold_erasures_due") == 0


async def test_many_are_erased_in_one_turn(house: House) -> None:
    """D3: what is due does not wait for as many turns as there are pages of it."""
    member = await house.replica()
    await member.erase()
    names = [f"c-{number}" for number in range(120)]
    for name in names:
        enabled(house.store, name)
    house.store.apply([Change(name, revoked(name, (), NOW), an_event()) for name in names])
    house.store.apply([Change(name, deleted(name, (), 0), an_event()) for name in names])
    await member.erase()
    with closing(sqlite3.connect(house.file)) as file:
        assert file.execute("SELECT count(*) FROM clusters").fetchone() == (0,)


async def test_one_that_cannot_be_erased_does_not_spoil_the_others(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """D3, A1: rows that are not authentic stay as they are, and the log says so once."""
    await one.enable("bad")
    await one.wrap("bad")
    for name in ("bad", "acme"):
        await one.revoke(name)
        await one.delete(name, days=0)
    with closing(sqlite3.connect(house.file)) as file, file:
        file.execute("UPDATE clusters SET organization = 'x' WHERE name = 'bad'")
    for _ in range(3):
        await one.erase()
    assert states(house) == {}
    told = [r for r in caplog.records if "cluster bad cannot be erased" in r.getMessage()]
    assert len(told) == 1
    assert metric("keyfold_erasures_due") == 1


async def test_a_store_that_fails_is_tried_again(house: House, one: Member) -> None:
    """D3: an erasure that the store did not take, or a clearing, is made up for later."""
    await one.revoke()
    await one.delete(days=0)
    one.line.fail("apply", StoreUnavailableError("no"), 1)
    await one.erase()
    assert set(states(house).values()) == {State.DELETED}
    one.line.fail("clear_traces", StoreUnavailableError("the disk is full"), 1)
    await one.erase()
    assert states(house) == {}
    cleared = one.line.counts["clear_traces"]
    # Not at once again, since each attempt may hold others up.
    await one.erase()
    assert one.line.counts["clear_traces"] == cleared
    await one.erase(9 * 60)
    await one.erase(9 * 60)
    assert one.line.counts["clear_traces"] == cleared + 1
    await one.erase(9 * 60)
    await one.erase(9 * 60)
    assert one.line.counts["clear_traces"] == cleared + 1


async def test_a_revoke_of_what_is_gone_bans_nothing(house: House, one: Member) -> None:
    """A6: a replica that has not heard of the erasure yet still finds no cluster to revoke."""
    other = await house.replica()
    await other.wrap("acme", "eu")
    await gone(one)
    call = other.asked("Revoke", RevokeRequest("acme", (), ""))
    with pytest.raises(ClusterNotFoundError):
        await other.replica.revocation.revoke(call)
    assert "BAN" not in [kind for kind, *_ in trail(house)]
    await one.enable()
    assert await opens(one, await one.wrap("acme", "eu"))


def narrow(organization: str) -> Rights:
    """Returns the rights of an operator of one organization, who may name any fake key."""
    me = Identity(("spiffe://example.org/me",), "certificate")
    return parse(
        '[[grant]]\ncallers = ["spiffe://example.org/me"]\nroles = ["operator", "crypto"]\n'
        f'organizations = ["{organization}"]\n'
        'keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]\n'
        'clusters = ["free", "used", "erased"]\n',
        "policy.toml",
    ).rights(me)


async def refused(member: Member, name: str, organization: str) -> KeyfoldError:
    """Enables a cluster, which must be refused."""
    with pytest.raises(KeyfoldError) as caught:
        await member.enable(name, organization=organization)
    return caught.value


async def test_another_organization_learns_nothing(house: House, one: Member) -> None:
    """C8, D5: a name that another organization has used answers as one that it uses."""
    for name in ("used", "erased"):
        await one.enable(name, organization="theirs")
    await gone(one, "erased")
    other = await house.replica()
    other.rights = narrow("mine")
    await other.enable("free", organization="mine")
    used, erased = [await refused(other, name, "mine") for name in ("used", "erased")]
    assert (type(used), used.message.replace("used", "")) == (
        type(erased),
        erased.message.replace("erased", ""),
    )
    # Who may see both organizations hears why.
    assert isinstance(await refused(one, "erased", "mine"), OrganizationMismatchError)
    await one.enable("erased", organization="theirs")


async def test_request_ids_are_not_inherited(house: House, one: Member) -> None:
    """D5: a request_id of the old cluster is a new one for the next cluster of its name."""
    await one.revoke(request_id="same")
    await one.delete(days=0, request_id="same")
    await one.erase()
    await one.enable(request_id="same")
    again = await one.revoke(request_id="same")
    assert not again.mutation.replayed
    assert states(house) == {"eu": State.REVOKED}
