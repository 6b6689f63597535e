"""Operations: work on many regions that any replica carries on, and that does nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import callers
import watching
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import (
    KeyfoldError,
    NotAllowedError,
    OperationEndedError,
    OperationExistsError,
    OperationNotFoundError,
    OperationRunningError,
    StoreUnavailableError,
    UnreachableError,
)
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.operations import (
    LEASE,
    ActionKind,
    Failure,
    Operation,
    OperationKey,
    Work,
    owner_of,
)
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.service.kms.gates import SHARE
from replicas import House, Member, entered, until

ROTATE: Final = Work(ActionKind.ROTATE, organization="org")
KEY: Final = OperationKey(owner_of("local"), "op")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A house with two keys."""
    built = House(tmp_path)
    for name in ("one", "two"):
        if f"fake:{name}" not in built.provider.uris():
            built.provider.create_key(name)
    try:
        yield built
    finally:
        await built.close()


async def clusters(member: Member, count: int, **options: Any) -> list[str]:
    """Enables clusters c000, c001 … of organization org, each in eu and us."""
    names = [f"c{number:03}" for number in range(count)]
    keys = options.pop("keys", {"eu": "fake:one", "us": "fake:one"})
    for name in names:
        await member.enable(name, keys, organization=options.get("organization", "org"))
    return names


def caller_of(member: Member) -> Caller:
    """Returns the caller of a replica's calls."""
    return Caller(member.rights)


async def start(member: Member, work: Work = ROTATE, name: str = "op") -> Operation:
    """Starts an operation."""
    deadline = member.house.clock.monotonic() + 60
    result = await member.replica.operations.start(
        caller_of(member), name, work, deadline, dry_run=False
    )
    assert result.operation is not None
    return result.operation


async def look(member: Member) -> None:
    """Has a replica look for operations that no replica runs."""
    assert member.replica._runner is not None
    await member.replica._runner.look()


def running(member: Member) -> int:
    """Returns how many operations a replica runs."""
    assert member.replica._runner is not None
    return len(member.replica._runner._runs)


async def settled(member: Member) -> None:
    """Waits until a replica runs no operation."""
    await until(lambda: not running(member))


async def carried_out(
    member: Member, work: Work = ROTATE, name: str = "op"
) -> tuple[Operation, list[Failure]]:
    """Starts an operation, and returns it once it has ended, with what it lists."""
    operation = await start(member, work, name)
    await look(member)
    await settled(member)
    return known(member, operation.key)


def known(member: Member, key: OperationKey = KEY) -> tuple[Operation, list[Failure]]:
    """Returns an operation as the store has it, with what it lists."""
    found = member.house.store.operation(key)
    assert found is not None
    return found, member.house.store.operation_failures(found.uid)


def kill(member: Member) -> None:
    """Ends a replica's runs where they are; nothing is written any more."""
    runner = member.replica._runner
    assert runner is not None
    for task in list(runner._tasks._under_way):
        task.cancel()


def counts(operation: Operation) -> tuple[int, int, int]:
    """Returns how many regions were done, failed and skipped."""
    progress = operation.progress
    return progress.done, progress.failed, progress.skipped


def rights(text: str, name: str = "jwt:i#op") -> Rights:
    """Returns the rights of a caller under a policy."""
    return parse(text, "policy.toml").rights(Identity((name,), "token"))


async def test_a_store_that_is_away_is_no_failure_of_the_task(house: House) -> None:
    """S3, W4: a replica serves on without its store, so its looks for operations must not fail."""
    member = await house.replica()
    await clusters(member, 1)
    member.line.fail("free_operations", StoreUnavailableError("away"))
    await start(member)
    for _ in range(3):
        await look(member)
    assert running(member) == 0
    member.line.mend()
    await look(member)
    await settled(member)
    assert counts(known(member)[0]) == (2, 0, 0)


async def test_an_operation_rotates_every_region_of_an_organization(house: House) -> None:
    """Each region is re-wrapped under the newest version, once, and the counts say so."""
    member = await house.replica()
    await clusters(member, 5)
    await member.enable("other", {"eu": "fake:one"}, organization="another")
    house.provider.new_version("fake:one")
    operation, failures = await carried_out(member)
    assert operation.outcome == "done"
    assert counts(operation) == (10, 0, 0)
    assert operation.total == 10
    assert failures == []
    for number in range(5):
        cluster = house.store.cluster(f"c{number:03}")
        assert cluster is not None
        assert [r.newest.current.key_version for r in cluster.regions] == ["2", "2"]
        assert [r.newest.current.number for r in cluster.regions] == [2, 2]
    other = house.store.cluster("other")
    assert other is not None
    assert other.regions[0].newest.current.key_version == "1"


async def test_wrapped_keys_stay_valid_through_an_operation(house: House) -> None:
    """A key wrapped before opens after an operation has moved every region to another key."""
    member = await house.replica()
    await clusters(member, 2)
    blob = await member.wrap("c000", "eu")
    work = replace(ROTATE, key_spec=KeySpec("FAKE", "fake:two"))
    operation, _ = await carried_out(member, work)
    assert counts(operation) == (4, 0, 0)
    house.provider.delete("fake:one")
    await member.poll()
    assert (await member.unwrap(blob, "c000")).plaintext == b"k" * 32


async def test_an_operation_again_skips_what_is_there(house: House) -> None:
    """A second operation with the same target needs nothing, so that it may follow failures."""
    member = await house.replica()
    await clusters(member, 2)
    work = replace(ROTATE, key_spec=KeySpec("FAKE", "fake:two"))
    await carried_out(member, work)
    operation, _ = await carried_out(member, work, "again")
    assert counts(operation) == (0, 0, 4)


@pytest.mark.parametrize("at_once", [1, 16])
async def test_a_replica_that_dies_leaves_its_operation_to_another(
    house: House, at_once: int
) -> None:
    """Another replica goes on once the lease has passed; nothing is done twice (R6)."""
    first, second = await house.replica(), await house.replica()
    await clusters(first, 12)
    house.provider.new_version("fake:one")
    hang = house.provider.hang("fake:one", ("wrap",))
    await start(first, replace(ROTATE, new_generation=True, at_once=at_once))
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
    await look(second)
    assert not running(second), "the lease of the dead replica still holds"
    house.clock.advance(LEASE + 1)
    await second.poll()
    await look(second)
    await settled(second)
    operation, failures = known(first)
    assert counts(operation) == (24, 0, 0)
    assert failures == []
    for number in range(12):
        cluster = house.store.cluster(f"c{number:03}")
        assert cluster is not None
        assert [len(region.generations) for region in cluster.regions] == [2, 2]


async def test_two_replicas_race_for_one_operation(house: House) -> None:
    """One replica gets the lease, and the regions are rotated once each."""
    members = [await house.replica() for _ in range(3)]
    await clusters(members[0], 6)
    await start(members[0], replace(ROTATE, new_generation=True))
    await asyncio.gather(*(look(member) for member in members))
    assert sum(map(running, members)) == 1
    for member in members:
        await settled(member)
    operation, _ = known(members[0])
    assert counts(operation) == (12, 0, 0)
    cluster = house.store.cluster("c003")
    assert cluster is not None
    assert [len(region.generations) for region in cluster.regions] == [2, 2]


async def test_a_replica_that_lost_its_lease_writes_nothing_more(house: House) -> None:
    """A replica that slept past its lease stops, and the other one's counts stand."""
    first, second = await house.replica(), await house.replica()
    await clusters(first, 3)
    hang = house.provider.hang("fake:one", ("wrap",))
    await start(first, replace(ROTATE, new_generation=True))
    await look(first)
    await entered(hang)
    first.line.fail("change_operation", UnreachableError("cut off"))
    house.clock.advance(LEASE + 1)
    await second.poll()
    second.replica._kms._made["FAKE"] = house.provider
    await look(second)
    house.provider.mend()
    await settled(second)
    first.line.mend()
    await settled(first)
    operation, _ = known(first)
    assert counts(operation) == (6, 0, 0)
    cluster = house.store.cluster("c001")
    assert cluster is not None
    assert [len(region.generations) for region in cluster.regions] == [2, 2]


async def test_failures_are_stepped_over_and_listed(house: House) -> None:
    """Regions whose key refuses fail with the KMS's reason, and all others are done."""
    member = await house.replica()
    await clusters(member, 3, keys={"eu": "fake:one", "us": "fake:two"})
    house.provider.disable("fake:two")
    operation, failures = await carried_out(member)
    assert counts(operation) == (3, 3, 0)
    assert [(each.cluster, each.region) for each in failures] == [
        ("c000", "us"),
        ("c001", "us"),
        ("c002", "us"),
    ]
    assert {each.reason for each in failures} == {"KEY_DISABLED"}


async def test_a_region_that_was_revoked_meanwhile_is_a_failure(house: House) -> None:
    """A Revoke does not wait for an operation, which lists the region with the reason (R9)."""
    member = await house.replica()
    await clusters(member, 4)
    hang = house.provider.hang("fake:one", ("wrap",))
    await start(member, replace(ROTATE, at_once=1))
    await look(member)
    await entered(hang)
    revoked = await member.hurry().revoke("c002")
    assert revoked.mutation.number is not None
    house.provider.mend()
    await settled(member)
    operation, failures = known(member)
    assert counts(operation) == (6, 2, 0)
    assert {(each.cluster, each.reason) for each in failures} == {("c002", "REVOKED")}


async def test_two_operations_over_the_same_regions(house: House) -> None:
    """Both end with exact counts; one that lost a race tries again."""
    member = await house.replica()
    await clusters(member, 6)
    await start(member, replace(ROTATE, new_generation=True), "one")
    await start(member, replace(ROTATE, new_generation=True), "two")
    await look(member)
    await settled(member)
    for name in ("one", "two"):
        operation, failures = known(member, OperationKey(KEY.owner, name))
        assert counts(operation) == (12, 0, 0), failures
    cluster = house.store.cluster("c003")
    assert cluster is not None
    assert [len(region.generations) for region in cluster.regions] == [3, 3]


async def test_the_same_name_with_the_same_work_is_the_same_operation(house: House) -> None:
    """A repeated start returns the operation as it is, and starts nothing."""
    member = await house.replica()
    await clusters(member, 1)
    operation, _ = await carried_out(member)
    result = await member.replica.operations.start(
        caller_of(member), "op", ROTATE, house.clock.monotonic() + 60, dry_run=False
    )
    assert result.replayed
    assert result.operation == operation
    with pytest.raises(OperationExistsError):
        await start(member, replace(ROTATE, new_generation=True))


async def test_each_caller_chooses_among_names_of_its_own(house: House) -> None:
    """Another caller's operation neither takes a name nor can be seen without a grant (C7, C8)."""
    member = await house.replica()
    await start(member)
    deadline = house.clock.monotonic() + 60
    other = callers.caller("jwt:i#other")
    result = await member.replica.operations.start(
        other, "op", replace(ROTATE, at_once=3), deadline, dry_run=False
    )
    assert result.operation is not None
    assert not result.replayed
    narrow = Caller(
        rights('[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["operator"]\nclusters = ["c*"]\n')
    )
    for name in ("op", f"operations/{KEY.owner}/op"):
        with pytest.raises(OperationNotFoundError):
            await member.replica.operations.get(narrow, name)
    assert (await member.replica.operations.page(narrow, 0, "")).operations == ()
    auditor = Caller(
        rights('[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["auditor"]\norganizations = ["org"]\n')
    )
    seen = await member.replica.operations.get(auditor, f"operations/{KEY.owner}/op")
    assert seen.key == KEY
    assert len((await member.replica.operations.page(auditor, 0, "")).operations) == 2


async def test_a_dry_run_counts_and_changes_nothing(house: House) -> None:
    """The census has regions, keys, calls and their time; no KMS is asked, nothing is stored."""
    rates = Rates(per_key=20, per_account=200, per_provider=1_000)
    member = await house.replica(rates=rates)
    await clusters(member, 3, keys={"eu": "fake:one", "us": "fake:two"})
    before = len(house.provider.calls)
    result = await member.replica.operations.start(
        caller_of(member), "", ROTATE, house.clock.monotonic() + 60, dry_run=True
    )
    assert result.operation is None
    census = result.census
    assert census is not None
    assert (census.regions, census.keys, census.kms_calls) == (6, 2, 18)
    assert census.seconds == pytest.approx(0.9)
    assert len(house.provider.calls) == before
    assert house.store.operations(OperationKey("", ""), 10) == []


async def test_a_cancelled_operation_ends_once_what_is_under_way_has_ended(house: House) -> None:
    """What was done stays and is counted; cancelling it again is refused."""
    member = await house.replica()
    await clusters(member, 8)
    hang = house.provider.hang("fake:one", ("wrap",))
    await start(member, replace(ROTATE, at_once=1))
    await look(member)
    await entered(hang)
    operations, who = member.replica.operations, caller_of(member)
    with pytest.raises(OperationRunningError):
        await operations.delete(who, "op")
    await operations.cancel(who, "op")
    await operations.cancel(who, "op")
    house.clock.advance(2)
    house.provider.mend()
    await settled(member)
    operation, _ = known(member)
    assert operation.outcome == "cancelled"
    assert 0 < operation.progress.done < 16
    with pytest.raises(OperationEndedError):
        await operations.cancel(who, "op")
    await operations.delete(who, "op")
    with pytest.raises(OperationNotFoundError):
        await operations.get(who, "op")


async def test_an_operation_whose_replica_died_can_be_cancelled(house: House) -> None:
    """Any replica ends it, without beginning another region."""
    first, second = await house.replica(), await house.replica()
    await clusters(first, 2)
    await start(first)
    await second.replica.operations.cancel(caller_of(second), "op")
    await look(second)
    await settled(second)
    operation, _ = known(first)
    assert operation.outcome == "cancelled"
    assert counts(operation) == (0, 0, 0)


async def test_an_operation_stops_when_its_caller_loses_the_right(house: House) -> None:
    """It ends with the reason, what was done stays, and nothing more is done."""
    member = await house.replica()
    await clusters(member, 8)
    hang = house.provider.hang("fake:one", ("wrap",))
    await start(member, replace(ROTATE, at_once=1))
    await look(member)
    await entered(hang)
    member.rights = rights('[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["auditor"]\n')
    house.provider.mend()
    await settled(member)
    operation, _ = known(member)
    assert operation.outcome == NotAllowedError.reason
    assert operation.progress.done < 16


async def test_a_narrowed_caller_touches_only_what_it_may(house: House) -> None:
    """Regions that its caller may see and not rotate fail; those it may not see are no items."""
    member = await house.replica()
    await clusters(member, 3)
    member.rights = rights(
        '[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["operator"]\nclusters = ["c000"]\n'
        '[[grant]]\ncallers = ["jwt:i#op"]\nroles = ["auditor"]\nclusters = ["c001"]\n'
    )
    operation = await start(member)
    await look(member)
    await settled(member)
    operation, failures = known(member, operation.key)
    assert counts(operation) == (2, 2, 0)
    assert {(each.cluster, each.reason) for each in failures} == {("c001", "NOT_ALLOWED")}


async def test_named_clusters_that_do_not_exist_are_failures(house: House) -> None:
    """A name that is wrong, or hidden, does not go unsaid, and the others are done."""
    member = await house.replica()
    await clusters(member, 2)
    work = Work(ActionKind.ROTATE, clusters=("c000", "c001", "nobody"))
    operation, failures = await carried_out(member, work)
    assert counts(operation) == (4, 1, 0)
    assert [(each.cluster, each.region, each.reason) for each in failures] == [
        ("nobody", "", "CLUSTER_NOT_FOUND")
    ]


@pytest.mark.parametrize(
    ("work", "done"),
    [
        (Work(ActionKind.ROTATE, key_uri="fake:two"), 3),
        (Work(ActionKind.ROTATE, key_uri="fake:two", key_version="1"), 3),
        (Work(ActionKind.ROTATE, key_uri="fake:two", key_version="7"), 0),
        (Work(ActionKind.ROTATE, principal=""), 6),
        (Work(ActionKind.ROTATE, principal="somebody"), 0),
        (Work(ActionKind.ROTATE, organization="nobody"), 0),
        (Work(ActionKind.TEST, organization="org"), 6),
        (Work(ActionKind.RECHECK, organization="org"), 6),
        (Work(ActionKind.POLICY, organization="org", policy=RegionPolicy(cache_ttl=5)), 6),
    ],
)
async def test_every_scope_and_action(house: House, work: Work, done: int) -> None:
    """Each scope finds its regions, and each action does its work on them."""
    member = await house.replica()
    await clusters(member, 3, keys={"eu": "fake:one", "us": "fake:two"})
    operation, failures = await carried_out(member, work)
    assert failures == []
    assert counts(operation) == (done, 0, 0)
    if work.policy is not None:
        cluster = house.store.cluster("c002")
        assert cluster is not None
        assert {region.policy for region in cluster.regions} == {work.policy}
        assert [region.newest.current.number for region in cluster.regions] == [1, 1]


@pytest.mark.parametrize("kind", [ActionKind.TEST, ActionKind.RECHECK])
async def test_keys_that_do_not_work_are_failures(house: House, kind: ActionKind) -> None:
    """A test or a recheck of many regions lists those whose key does not work."""
    member = await house.replica()
    await clusters(member, 2, keys={"eu": "fake:one", "us": "fake:two"})
    house.provider.deny("fake:two")
    operation, failures = await carried_out(member, Work(kind, organization="org"))
    assert counts(operation) == (2, 2, 0)
    assert {each.reason for each in failures} == {"ACCESS_DENIED"}


async def test_a_kms_that_hangs_holds_up_its_own_regions_alone(house: House) -> None:
    """The other key's regions are done while one key's KMS gives no answer."""
    member = await house.replica()
    await clusters(member, 12, keys={"eu": "fake:one", "us": "fake:two"})
    hang = house.provider.hang("fake:one", ("unwrap",))
    await start(member)
    await look(member)
    await entered(hang)

    def others() -> bool:
        return all(
            region.newest.current.number == 2
            for number in range(12)
            for region in house.store.cluster(f"c{number:03}").regions  # type: ignore[union-attr]
            if region.name == "us"
        )

    await until(others)
    house.provider.mend()
    await settled(member)
    operation, _ = known(member)
    assert counts(operation) == (24, 0, 0)


@pytest.mark.parametrize(
    "work",
    [
        replace(ROTATE, at_once=0),
        replace(ROTATE, at_once=65),
        replace(ROTATE, reason="x" * 1_025),
        Work(ActionKind.POLICY, organization="org"),
        Work(ActionKind.ROTATE, clusters=tuple(f"c{n}" for n in range(1_001))),
        Work(ActionKind.ROTATE, organization="no name"),
        replace(ROTATE, key_spec=KeySpec("FAKE", "")),
    ],
)
async def test_work_that_cannot_be_right_is_refused(house: House, work: Work) -> None:
    """The error says what is wrong, and nothing is stored."""
    member = await house.replica()
    with pytest.raises(KeyfoldError) as raised:
        await start(member, work)
    assert raised.value.field is not None
    assert house.store.operations(OperationKey("", ""), 10) == []


async def test_the_log_tells_of_an_operation(house: House) -> None:
    """Start, cancelling, end and deletion are entries of the log, with who and how many."""
    member = await house.replica()
    await clusters(member, 1)
    await carried_out(member)
    await member.replica.operations.delete(caller_of(member), "op")
    actions = [(c, a, o) for c, a, o in house.trail(None) if ":operation:" in a]
    assert actions == [
        ("local", "rpc:operation:start", "done"),
        ("", "server:operation:end", "done"),
        ("local", "rpc:operation:delete", "done"),
    ]


async def test_readers_of_events_hear_of_an_operation(house: House) -> None:
    """R8: WatchEvents tells of start and end, by their kind, in order, with the counts."""
    member = await house.replica()
    await clusters(member, 1)
    await member.poll()
    asked = WatchRequest(events=True, which=EventFilter(kinds=frozenset({EntryKind.OPERATION})))
    async with watching.reader(member, asked) as each:
        await each.begun()
        await carried_out(member)
        await member.poll()
        await watching.settled(member)
        told = [(shown.event.action, shown.event.kind) for shown in each.events]
        assert told == [
            ("rpc:operation:start", EntryKind.OPERATION),
            ("server:operation:end", EntryKind.OPERATION),
        ]
        end = each.events[1].event
        assert (end.request["done"], end.request["operation"]) == (2, "op")
        assert end.organization == "org"


async def test_steps_share_transactions(house: House) -> None:
    """S8: steps that are under way at once are read and committed together, each by itself."""
    member = await house.replica()
    await clusters(member, 16)
    before = member.line.counts["apply"]
    operation, _ = await carried_out(member, replace(ROTATE, at_once=16))
    assert counts(operation) == (32, 0, 0)
    assert member.line.counts["apply"] - before < 32
    steps = [entry for entry in house.trail("c000") if entry[1] == "rpc:cluster:rotate"]
    assert len(steps) == 2


async def test_a_callers_cold_load_goes_first_at_every_gate(house: House) -> None:
    """A call of a caller finds slots and rates as if no operation ran: of its key and its account.

    The operation has more regions waiting than the KMS has slots. Every call of it hangs, and a
    caller's load of the same account, of the same key and of another, passes the gates at once.
    """
    member = await house.replica()
    await clusters(member, 20)
    await member.enable("mine", {"eu": "fake:one", "us": "fake:two"})
    held = house.provider.hang("fake:one", ("wrap",))
    await start(member, replace(ROTATE, at_once=64))
    await look(member)
    await entered(held)
    for region in ("us", "eu"):
        async with asyncio.timeout(20):
            await member.wrap("mine", region)
    gates = member.replica._kms._gates._gates
    for gate in gates.values():
        # Calls that yield hold at most half of the slots, however many wait.
        assert gate.other.yielding <= gate.other.at_once * SHARE
    house.provider.mend()
    await settled(member)
    assert counts(known(member)[0]) == (40, 0, 0)


@pytest.mark.parametrize(
    "work",
    [
        ROTATE,
        Work(ActionKind.POLICY, clusters=("a", "b"), policy=RegionPolicy(cache_ttl=1.5)),
        Work(ActionKind.ROTATE, principal="", key_spec=KeySpec("FAKE", "u", "p", (("a", "b"),))),
        Work(ActionKind.ROTATE, key_uri="u", key_version="v", new_generation=True, reason="why"),
    ],
)
def test_work_survives_the_store(work: Work) -> None:
    """What the store has of an operation's work is the work, so that a repeated start compares."""
    assert Work.decoded(work.encoded()) == work
