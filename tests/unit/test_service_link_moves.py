"""A key link that moves to another key with all that use it: nothing is lost or goes unsaid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import pytest

from keyfold_server.access.policy.file import parse
from keyfold_server.domain.cluster import Region
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    KeyDisabledError,
    KeyfoldError,
    KeyLinkInUseError,
    KeyLinkMovingError,
    KeyLinkNotFoundError,
    KeyNotGrantedError,
    OperationExistsError,
    OrganizationNotEmptyError,
    OrganizationNotFoundError,
)
from keyfold_server.domain.key_links import LinkUser
from keyfold_server.domain.keyspec import KeySpec, RegionSpec
from keyfold_server.domain.operations import (
    LEASE,
    ActionKind,
    Failure,
    Operation,
    OperationKey,
    Work,
    full_name,
    owner_of,
)
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.service.organizations.key_links import LinkReport
from keyfold_server.service.organizations.requests import (
    CreateKeyLinkRequest,
    DeleteKeyLinkRequest,
    DeleteOrganizationRequest,
    OrganizationCall,
    OrganizationRequest,
    UpdateKeyLinkRequest,
)
from regional import RegionalHouse
from replicas import House, Member, entered, until

ONE: Final = KeySpec("FAKE", "fake:one")
TWO: Final = KeySpec("FAKE", "fake:two")
THREE: Final = KeySpec("FAKE", "fake:three")
LINK: Final = RegionSpec("eu", key_link="main")
MOVE: Final = Work(ActionKind.MOVE_LINK, organization="org", key_link="main", key_spec=TWO)
BACK: Final = replace(MOVE, key_spec=ONE)
ONE_BY_ONE: Final = replace(MOVE, at_once=1)
RequestT = TypeVar("RequestT", bound=OrganizationRequest)
NAME: Final = f"operations/{owner_of('local')}/op"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A house with three keys."""
    built = House(tmp_path)
    built.provider.create_key("three")
    try:
        yield built
    finally:
        await built.close()


async def linked(
    member: Member, count: int, *, name: str = "main", key: KeySpec = ONE, geo: str = ""
) -> dict[str, bytes]:
    """Links a key, enables clusters c000, c001 … with it, and returns the first wrapped keys."""
    request = CreateKeyLinkRequest("org", name, "", "" if geo else "eu", geo, key)
    await member.replica.key_links.create(organized(member, "CreateKeyLink", request))
    blobs = {}
    for number in range(count):
        cluster = f"c{number:03}"
        await member.enable(cluster, {"eu": RegionSpec("eu", key_link=name)}, organization="org")
        blobs[cluster] = await member.wrap(cluster, "eu")
    return blobs


def organized(member: Member, rpc: str, request: RequestT) -> OrganizationCall[RequestT]:
    """Makes a call of a method that changes an organization."""
    deadline = member.house.clock.monotonic() + 60
    return OrganizationCall(Caller(member.rights), rpc, "", request, deadline)


async def start(
    member: Member, work: Work = MOVE, name: str = "op", *, dry_run: bool = False
) -> Operation | None:
    """Starts an operation."""
    deadline = member.house.clock.monotonic() + 60
    result = await member.replica.operations.start(
        Caller(member.rights), name, work, deadline, dry_run=dry_run
    )
    return result.operation


async def look(member: Member) -> None:
    """Has a replica take the operations that no replica runs."""
    assert member.replica._runner is not None
    await member.replica._runner.look()


async def settled(member: Member) -> None:
    """Waits until a replica runs no operation."""
    runner = member.replica._runner
    assert runner is not None
    await until(lambda: not runner._runs)


async def moved(
    member: Member, work: Work = MOVE, name: str = "op"
) -> tuple[tuple[int, int, int], list[Failure]]:
    """Moves the link, and returns what was done, failed and skipped, and what failed."""
    await start(member, work, name)
    await look(member)
    await settled(member)
    return counted(member, name)


def known(member: Member, name: str = "op") -> Operation:
    """Returns an operation as the store has it."""
    found = member.house.store.operation(OperationKey(owner_of("local"), name))
    assert found is not None
    return found


def counted(member: Member, name: str = "op") -> tuple[tuple[int, int, int], list[Failure]]:
    """Returns how many regions an operation has done, failed and skipped, and its failures."""
    operation = known(member, name)
    progress = operation.progress
    failures = member.house.store.operation_failures(operation.uid)
    return (progress.done, progress.failed, progress.skipped), failures


async def shown(member: Member, name: str = "main") -> LinkReport:
    """Returns what GetKeyLink shows."""
    return await member.replica.key_links.get(member.rights, "org", name)


def region(house: House, cluster: str, name: str = "eu") -> Region:
    """Returns a region as the store has it."""
    found = house.store.cluster(cluster)
    assert found is not None
    return found.region(name)


async def opens(member: Member, blobs: dict[str, bytes]) -> None:
    """Opens each cluster's first wrapped key, from KEKs that the KMS opens now."""
    await member.poll()
    for cluster, blob in blobs.items():
        assert (await member.unwrap(blob, cluster)).plaintext == b"k" * 32


async def take_over(house: House, member: Member) -> None:
    """Has a replica go on with a move whose lease has run out, and that is still open then."""
    report = await shown(member)
    assert report.move is not None
    assert report.move.open
    house.clock.advance(LEASE + 1)
    await member.poll()
    await look(member)
    await settled(member)


def kill(member: Member) -> None:
    """Ends a replica's runs where they are; nothing is written any more."""
    runner = member.replica._runner
    assert runner is not None
    for task in list(runner._tasks._under_way):
        task.cancel()


async def test_a_link_moves_with_all_its_users(house: House) -> None:
    """Each user has the new key, re-wrapped once; others stay, and wrapped keys stay valid."""
    member = await house.replica()
    blobs = await linked(member, 3)
    await member.enable("own", {"eu": "fake:one"}, organization="org")
    await member.enable("other", {"eu": "fake:one"}, organization="another")
    counts, failures = await moved(member)
    assert (counts, failures) == ((3, 0, 0), [])
    for cluster in blobs:
        found = region(house, cluster)
        assert (found.key_spec, found.link) == (TWO, "main")
        assert found.newest.current.number == 2
    assert {region(house, name).key_spec for name in ("own", "other")} == {ONE}
    report = await shown(member)
    assert (report.link.key_spec, report.link.proven) == (TWO, ("eu",))
    assert (report.move, report.unmoved, report.use.count) == (None, 0, 3)
    house.provider.delete("fake:one")
    await opens(member, blobs)


async def test_a_link_without_users_moves_at_once(house: House) -> None:
    """There is nothing to rotate, and the operation ends."""
    member = await house.replica()
    await linked(member, 0)
    assert await moved(member) == ((0, 0, 0), [])
    report = await shown(member)
    assert (report.link.key_spec, report.move) == (TWO, None)


async def test_the_link_shows_its_move(house: House) -> None:
    """From the start on it has the new key, and says which it had, who moves it, and how far."""
    member = await house.replica()
    await linked(member, 3)
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(member, ONE_BY_ONE)
    report = await shown(member)
    assert report.link.key_spec == TWO
    assert report.move is not None
    assert (report.move.previous, report.move.operation) == (ONE, NAME)
    assert (report.unmoved, report.use.count) == (3, 3)
    await look(member)
    await entered(hang)
    house.provider.mend()
    await settled(member)
    assert (await shown(member)).move is None


async def test_what_comes_to_the_link_meanwhile_takes_the_new_key(house: House) -> None:
    """Enable and Rotate with the link give the new key, and the operation passes them over."""
    member = await house.replica()
    blobs = await linked(member, 2)
    await member.enable("z-own", {"eu": "fake:three"}, organization="org")
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(member, ONE_BY_ONE)
    await look(member)
    await entered(hang)
    await member.enable("z-new", {"eu": LINK}, organization="org")
    await member.rotate({"eu": LINK}, "z-own")
    for name in ("z-new", "z-own"):
        assert region(house, name).key_spec == TWO
    house.provider.mend()
    await settled(member)
    (done, failed, _), _ = counted(member)
    assert (done, failed) == (2, 0)
    assert region(house, "z-new").newest.current.number == 1
    await opens(member, blobs)


async def test_an_enable_that_races_with_the_start_takes_no_old_key(house: House) -> None:
    """An Enable whose proof was of the old key is refused; repeated, it takes the new one (C9)."""
    member = await house.replica()
    await linked(member, 1)
    held = member.line.hold("apply")
    enabling = asyncio.create_task(member.enable("late", {"eu": LINK}, organization="org"))
    await held.reached()
    await start(member)
    member.line.let_go("apply")
    with pytest.raises(ConcurrentChangeError, match="ask again"):
        await enabling
    assert house.store.cluster("late") is None
    await member.enable("late", {"eu": LINK}, organization="org")
    await look(member)
    await settled(member)
    assert counted(member)[0] == (1, 0, 1)
    assert region(house, "late").key_spec == TWO


async def test_a_region_that_leaves_the_link_is_not_taken_back(house: House) -> None:
    """A rotation to a key of its own, in the middle of the move, stands: found before, or not."""
    member = await house.replica()
    blobs = await linked(member, 6)
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(member, ONE_BY_ONE)
    await look(member)
    await entered(hang)
    house.provider.mend()
    hang = house.provider.hang("fake:two", ("wrap",))
    await entered(hang)
    # The next one is in the operation's hands already, the last one is not.
    for cluster in ("c001", "c005"):
        await member.rotate({"eu": "fake:three"}, cluster)
    house.provider.mend()
    await settled(member)
    (done, failed, skipped), failures = counted(member)
    assert (done, failed, failures) == (4, 0, [])
    assert skipped in {1, 2}
    for cluster in blobs:
        left = cluster in {"c001", "c005"}
        found = region(house, cluster)
        assert (found.key_spec, found.link) == ((THREE, "") if left else (TWO, "main"))
    assert (await shown(member)).move is None
    await opens(member, blobs)


async def test_a_revoked_region_stays_and_a_second_operation_moves_it(house: House) -> None:
    """It is listed, and the link is MOVING until the region is restored and moved as well."""
    member = await house.replica()
    blobs = await linked(member, 3)
    await member.hurry().revoke("c001")
    counts, failures = await moved(member)
    assert counts == (2, 1, 0)
    assert [(each.cluster, each.reason) for each in failures] == [("c001", "REVOKED")]
    report = await shown(member)
    assert report.move is not None
    assert (report.move.previous, report.move.open, report.unmoved) == (ONE, False, 1)
    assert report.move.operation == NAME
    with pytest.raises(KeyLinkInUseError, match="keyfold links move"):
        await update(member, key_spec=THREE)
    await update(member, description="moving")
    counts, _ = await moved(member, name="again")
    assert counts == (0, 1, 2)
    assert (await shown(member)).unmoved == 1
    await member.restore("c001")
    assert region(house, "c001").key_spec == ONE
    counts, failures = await moved(member, name="third")
    assert (counts, failures) == ((1, 0, 2), [])
    report = await shown(member)
    assert (report.move, report.link.description) == (None, "moving")
    house.provider.delete("fake:one")
    await opens(member, blobs)


async def test_a_link_that_is_not_at_its_end_comes_there_otherwise_too(house: House) -> None:
    """Where the regions that are left leave the link, or are deleted, nothing is left to move."""
    member = await house.replica()
    blobs = await linked(member, 3)
    for cluster in ("c000", "c001"):
        await member.hurry().revoke(cluster)
    await moved(member)
    assert (await shown(member)).unmoved == 2
    await member.delete("c000")
    report = await shown(member)
    assert (report.unmoved, report.use.count) == (1, 3)
    await member.restore("c001")
    await member.rotate({"eu": "fake:one"}, "c001")
    assert (await shown(member)).move is None
    await member.undelete("c000")
    report = await shown(member)
    assert report.move is not None
    assert report.unmoved == 1
    await member.restore("c000")
    counts, _ = await moved(member, name="again")
    assert counts == (1, 0, 1)
    assert (await shown(member)).move is None
    await opens(member, blobs)


async def test_an_old_key_that_refuses_loses_nothing(house: House) -> None:
    """Regions whose old key is disabled wait for it; enabled again, they move."""
    member = await house.replica()
    blobs = await linked(member, 3)
    house.provider.disable("fake:one")
    counts, failures = await moved(member)
    assert counts == (0, 3, 0)
    assert {each.reason for each in failures} == {"KEY_DISABLED"}
    report = await shown(member)
    assert (report.link.key_spec, report.unmoved) == (TWO, 3)
    house.provider.enable("fake:one")
    counts, failures = await moved(member, name="again")
    assert (counts, failures) == ((3, 0, 0), [])
    house.provider.delete("fake:one")
    await opens(member, blobs)


async def test_a_new_key_that_does_not_work_moves_nothing(house: House) -> None:
    """It is tried before anything is stored: neither the link nor an operation changes."""
    member = await house.replica()
    blobs = await linked(member, 2)
    before = await shown(member)
    house.provider.disable("fake:two")
    for dry_run in (False, True):
        with pytest.raises(KeyDisabledError):
            await start(member, dry_run=dry_run)
    assert await shown(member) == before
    assert house.store.operations(OperationKey("", ""), 10) == []
    await opens(member, blobs)


async def test_a_dry_run_of_a_move(house: House) -> None:
    """It proves the key, counts, and stores nothing; what is there already costs no call."""
    member = await house.replica()
    await linked(member, 3)
    before = await shown(member)
    await member.rotate({"eu": "fake:two"}, "c001")
    deadline = house.clock.monotonic() + 60
    for work, calls in ((MOVE, 6), (BACK, 0)):
        result = await member.replica.operations.start(
            Caller(member.rights), "", work, deadline, dry_run=True
        )
        assert result.operation is None
        assert result.census is not None
        assert (result.census.regions, result.census.kms_calls) == (2, calls)
    assert (await shown(member)).link == before.link


async def test_a_cancelled_move_goes_on_or_back(house: House) -> None:
    """What is moved stays, the rest waits; the same key goes on, and the previous one goes back."""
    member = await house.replica()
    blobs = await linked(member, 6)
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(member, ONE_BY_ONE)
    await look(member)
    await entered(hang)
    await member.replica.operations.cancel(Caller(member.rights), "op")
    house.clock.advance(2)
    house.provider.mend()
    await settled(member)
    operation = known(member)
    assert operation.outcome == "cancelled"
    done = operation.progress.done
    assert 0 < done < 6
    report = await shown(member)
    assert (report.link.key_spec, report.unmoved) == (TWO, 6 - done)
    assert report.move is not None
    assert not report.move.open
    counts, _ = await moved(member, BACK, "back")
    assert counts == (done, 0, 6 - done)
    report = await shown(member)
    assert (report.link.key_spec, report.move) == (ONE, None)
    assert {region(house, cluster).key_spec for cluster in blobs} == {ONE}
    assert (await moved(member, name="forth"))[0] == (6, 0, 0)
    house.provider.delete("fake:one")
    await opens(member, blobs)


async def test_nothing_else_changes_a_link_that_moves(house: House) -> None:
    """Deleting, updating and moving it, and deleting its organization, are refused meanwhile."""
    member = await house.replica()
    await linked(member, 1)
    await start(member)
    for again in (MOVE, BACK, replace(MOVE, key_spec=THREE)):
        with pytest.raises(KeyLinkMovingError, match=NAME):
            await start(member, again, "second")
    with pytest.raises(KeyLinkMovingError):
        await start(member, name="second", dry_run=True)
    for change in ({"description": "new"}, {"key_spec": TWO}, {"key_spec": THREE}):
        with pytest.raises(KeyLinkMovingError, match=NAME):
            await update(member, **change)
    delete = organized(member, "DeleteKeyLink", DeleteKeyLinkRequest("org", "main"))
    with pytest.raises(KeyLinkMovingError, match=NAME):
        await member.replica.key_links.delete(delete)
    gone = organized(member, "DeleteOrganization", DeleteOrganizationRequest("org"))
    with pytest.raises(OrganizationNotEmptyError):
        await member.replica.organization_service.delete(gone)
    assert len(house.store.operations(OperationKey("", ""), 10)) == 1
    await look(member)
    await settled(member)
    await update(member, description="new")


async def update(member: Member, **change: object) -> None:
    """Calls UpdateKeyLink for the link."""
    given = {"description": None, "key_spec": None} | change
    request = UpdateKeyLinkRequest("org", "main", **given)  # type: ignore[arg-type]
    await member.replica.key_links.update(organized(member, "UpdateKeyLink", request))


async def test_the_same_name_is_the_same_move(house: House) -> None:
    """Repeated, the start shows the operation, open or ended, and moves nothing again."""
    member = await house.replica()
    await linked(member, 1)
    first = await start(member)
    assert await start(member) == first
    with pytest.raises(OperationExistsError):
        await start(member, replace(MOVE, at_once=2))
    await look(member)
    await settled(member)
    link = (await shown(member)).link
    repeated = await start(member)
    assert repeated is not None
    assert repeated.ended
    assert (await shown(member)).link == link


async def test_twins_start_one_move(house: House) -> None:
    """Two replicas that start the same operation at once start one."""
    one, two = await house.replica(), await house.replica()
    await linked(one, 1)
    results = await asyncio.gather(start(one), start(two), return_exceptions=True)
    started = [each for each in results if isinstance(each, Operation)]
    assert started
    assert all(isinstance(each, (Operation, ConcurrentChangeError)) for each in results), results
    assert {each.uid for each in started} == {known(one).uid}
    await look(one)
    await settled(one)
    assert counted(one)[0] == (1, 0, 0)


@pytest.mark.parametrize("at_once", [1, 16])
async def test_another_replica_goes_on_with_a_move(house: House, at_once: int) -> None:
    """After a crash nothing is done twice, the counts are exact, and the link comes to its end."""
    first, second = await house.replica(), await house.replica()
    blobs = await linked(first, 12)
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(first, replace(MOVE, at_once=at_once))
    await look(first)
    await entered(hang)
    before = first.line.counts["apply"]
    hang.release()
    # At most eight regions of one key are under way at once, so some are left.
    await until(lambda: first.line.counts["apply"] > before)
    kill(first)
    house.provider.mend()
    await settled(first)
    await first.settle()
    await take_over(house, second)
    assert counted(second) == ((12, 0, 0), [])
    assert (await shown(second)).move is None
    assert {region(house, cluster).newest.current.number for cluster in blobs} == {2}
    house.provider.delete("fake:one")
    await opens(second, blobs)


async def test_a_replica_that_dies_at_the_very_end(house: House) -> None:
    """The end of the operation and that of the move are one change: both come, or neither."""
    first, second = await house.replica(), await house.replica()
    await linked(first, 2)
    await start(first)
    held = first.line.hold("change_organization")
    await look(first)
    await held.reached()
    kill(first)
    first.line.fail("change_organization", ConcurrentChangeError("cut off"))
    first.line.let_go("change_organization")
    await settled(first)
    await first.settle()
    assert not known(first).ended
    await take_over(house, second)
    assert counted(second) == ((2, 0, 0), [])
    assert (await shown(second)).move is None


async def test_a_move_ends_when_its_caller_loses_the_right(house: House) -> None:
    """What is moved stays, and the link is MOVING until somebody with the right goes on."""
    member = await house.replica()
    await linked(member, 4)
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(member, ONE_BY_ONE)
    await look(member)
    await entered(hang)
    everything = member.rights
    policy = parse('[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["auditor"]\n', "policy.toml")
    member.rights = policy.rights(Identity(("jwt:i#op",), "token"))
    house.provider.mend()
    await settled(member)
    assert known(member).outcome == "NOT_ALLOWED"
    member.rights = everything
    report = await shown(member)
    assert report.move is not None
    assert not report.move.open
    assert report.unmoved > 0
    await moved(member, name="again")
    assert (await shown(member)).move is None


GRANTS: Final = """
[[grant]]
callers = ["jwt:i#acme"]
roles = ["operator"]
organizations = ["org"]
keys = [{ type = "FAKE", uri = "fake:one", principal = "ambient" },
        { type = "FAKE", uri = "fake:two", principal = "ambient" }]

[[grant]]
callers = ["jwt:i#robot"]
roles = ["operator"]
clusters = ["c*"]
organizations = ["org"]
keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]

[[grant]]
callers = ["jwt:i#other"]
roles = ["operator"]
organizations = ["another"]
keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]
"""


async def test_who_may_move_a_link(house: House) -> None:
    """C1, C7: an operator of the organization, to a granted key; before any call of a KMS."""
    member = await house.replica()
    await linked(member, 1)
    policy, everything = parse(GRANTS, "policy.toml"), member.rights
    calls = len(house.provider.calls)

    async def error(name: str, work: Work = MOVE) -> type[KeyfoldError] | None:
        member.rights = policy.rights(Identity((f"jwt:i#{name}",), "token"))
        for dry_run in (True, False):
            try:
                await start(member, work, dry_run=dry_run)
            except KeyfoldError as raised:
                found: type[KeyfoldError] | None = type(raised)
                if not dry_run:
                    return found
        return None

    assert await error("acme", replace(MOVE, key_spec=THREE)) is KeyNotGrantedError
    assert await error("robot") is OrganizationNotFoundError
    assert await error("other") is OrganizationNotFoundError
    assert await error("acme", replace(MOVE, key_link="none")) is KeyLinkNotFoundError
    assert len(house.provider.calls) == calls
    assert await error("acme") is None
    member.rights = everything
    assert (await shown(member)).link.key_spec == TWO


async def test_the_log_tells_of_a_move(house: House) -> None:
    """Its start and its end are entries of the operation and decisions about the organization."""
    member = await house.replica()
    await linked(member, 1)
    await moved(member)
    house.provider.disable("fake:three")
    with pytest.raises(KeyDisabledError):
        await start(member, replace(MOVE, key_spec=THREE), "bad")
    trail = [
        (c, a, o) for c, a, o in house.trail(None) if "key_link:mov" in a or ":operation:" in a
    ]
    assert trail == [
        ("local", "rpc:key_link:move", "done"),
        ("local", "rpc:operation:start", "done"),
        ("", "server:key_link:moved", "done"),
        ("", "server:operation:end", "done"),
        ("local", "rpc:key_link:move", "KEY_DISABLED"),
    ]


GEO: Final = KeySpec("FAKE", "fake:eu-central-1.mrk-one")
NEW: Final = KeySpec("FAKE", "fake:eu-central-1.mrk-two")
PLACES: Final = {"frankfurt": "eu-central-1", "ireland": "eu-west-1"}


async def test_a_geos_link_moves_in_every_region(tmp_path: Path) -> None:
    """All replicas are proven before anything moves, and each region gets its own replica."""
    house = RegionalHouse(tmp_path)
    for place in PLACES.values():
        house.provider.create_key(f"{place}.mrk-one")
    house.provider.create_key("eu-central-1.mrk-two")
    table = {region: {"FAKE": (place,)} for region, place in PLACES.items()}
    try:
        member = await house.with_regions(table, geos={"EU": tuple(PLACES)})
        await linked(member, 0, key=GEO, geo="EU")
        blobs = {}
        for number in range(3):
            specs = {name: RegionSpec(name, key_link="main") for name in PLACES}
            await member.enable(f"c{number:03}", specs, organization="org")
            blobs[f"c{number:03}"] = await member.wrap(f"c{number:03}", "ireland")
        work = replace(MOVE, key_spec=NEW)
        with pytest.raises(KeyfoldError, match="ireland"):
            await start(member, work)
        assert (await shown(member)).link.key_spec == GEO
        house.provider.create_key("eu-west-1.mrk-two")
        assert await moved(member, work) == ((6, 0, 0), [])
        for number in range(3):
            for name, place in PLACES.items():
                spec = region(house, f"c{number:03}", name).key_spec
                assert spec.uri == f"fake:{place}.mrk-two"
        report = await shown(member)
        assert (report.move, report.use.count) == (None, 6)
        assert report.use.users[0] == LinkUser("c000", "frankfurt")
        assert (await moved(member, work, "again"))[0] == (0, 0, 6)
        for place in PLACES.values():
            house.provider.delete(f"fake:{place}.mrk-one")
        await opens(member, blobs)
    finally:
        await house.close()


def test_the_full_name_is_that_of_the_operation() -> None:
    """The name that a link shows is the one by which callers know its operation."""
    assert full_name(OperationKey(owner_of("local"), "op")) == NAME
