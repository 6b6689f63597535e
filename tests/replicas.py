"""Whole replicas on fakes: real service, real SQLite store, fake KMS, fake clock.

A test drives what a server does by itself: it lets polls happen, and makes the keeper look for
refreshes that are due. Nothing sleeps; the test waits for work that threads do.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import callers
import new_store
from audit_chain import verified_events
from callers import EVERYTHING
from fakes import FakeClock, FakeProvider
from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.bounds import Bounds, Rates
from keyfold_server.domain.errors import (
    BusyError,
    KeyfoldError,
    UnknownProviderError,
    UnreachableError,
)
from keyfold_server.domain.key_names import KeyNames
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec, RootKey
from keyfold_server.domain.ports import Store
from keyfold_server.domain.provider import KeyProvider, Unwrapped, Wrapped
from keyfold_server.domain.rights import Caller, Rights
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.call import Call, NeedsLoad
from keyfold_server.service.data.data_plane import Destination, UnwrapResult
from keyfold_server.service.life.clusters import AddRegionsRequest, EnableRequest
from keyfold_server.service.life.deletion import (
    DeleteClusterRequest,
    DeleteResult,
    UndeleteClusterRequest,
)
from keyfold_server.service.life.reports import ClusterReport
from keyfold_server.service.life.requests import MutationCall, MutationRequest, MutationResult
from keyfold_server.service.life.restoration import RestoreRequest, RestoreResult
from keyfold_server.service.life.revocation import BanResult, RevokeRequest, RevokeResult
from keyfold_server.service.life.rotation import RotateRequest, RotateResult
from keyfold_server.service.replica import Replica
from keyfold_server.service.upkeep.turns import SLOTS
from keyfold_server.service.upkeep.verification import TURNS
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=MutationRequest)

ROUNDS: Final = 8
"""Most tries of a call before it gives up, as in the server's shell."""

LONG: Final = 20.0
"""Real seconds after which a test that still waits counts as broken."""


UNHURRIED: Final = Rates(per_key=1e6, per_account=1e6, per_provider=1e6)
"""Rates that no test reaches while its clock stands still."""


class Held:
    """Calls of one store method, which wait until a test releases them."""

    def __init__(self, threads: str, *, answered: bool) -> None:
        self.threads = threads
        self.answered = answered
        self.entered = threading.Event()
        self.released = threading.Event()

    def release(self) -> None:
        """Lets the calls go on."""
        self.released.set()

    async def reached(self) -> None:
        """Returns once a call is held."""
        assert await asyncio.to_thread(self.entered.wait, LONG)

    def wait(self) -> None:
        """Holds the calling thread."""
        self.entered.set()
        assert self.released.wait(LONG)


class Line:
    """One replica's line to a store; a test counts, holds or fails its calls.

    A poll waits until a test lets it go, so that a replica is as far behind as the test wants.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leave = threading.Semaphore(0)
        self._ended = False
        self._held: dict[str, Held] = {}
        self._faults: dict[str, list[Exception | None]] = {}
        self.counts: Counter[str] = Counter()
        self.asked = 0

    def hold(self, method: str, *, answered: bool = False, threads: str = "") -> Held:
        """Holds a method's calls: before they reach the store or, if `answered`, after.

        With `threads`, holds only calls in threads whose names begin so.
        """
        held = self._held[method] = Held(threads, answered=answered)
        return held

    def let_go(self, method: str) -> None:
        """Ends a hold."""
        self._held.pop(method).release()

    def fail(self, method: str, error: Exception, times: int = 1_000_000) -> None:
        """Answers a method's next calls with an error."""
        self._faults[method] = [error] * times

    def mend(self) -> None:
        """Ends every fault."""
        self._faults.clear()

    def let_poll(self) -> None:
        """Lets one poll go on."""
        self._leave.release()

    def end(self) -> None:
        """Ends every hold, for good."""
        self._ended = True
        self._leave.release(1_000)
        for held in self._held.values():
            held.release()
        self._held.clear()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method
        # A change reads its cluster together with the record of its request.
        name = {"requested": "cluster"}.get(name, name)

        @functools.wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            if name == "poll" and not self._ended:
                self.asked += 1
                self._leave.acquire()
            self.counts[name] += 1
            held = self._held.get(name)
            if held is not None and not threading.current_thread().name.startswith(held.threads):
                held = None
            if held is not None and not held.answered:
                held.wait()
            faults = self._faults.get(name)
            if faults:
                fault = faults.pop()
                if fault is not None:
                    raise fault.at() if isinstance(fault, KeyfoldError) else fault
            result = method(*args, **kwargs)
            if held is not None and held.answered:
                held.wait()
            return result

        return called


class _Severed:
    """A connection to the KMS on which no call arrives."""

    type = "FAKE"

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider

    def canonical(self, key: RootKey) -> RootKey:
        return self._provider.canonical(key)

    def account(self, key: RootKey) -> str:
        return self._provider.account(key)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        raise UnreachableError("this replica is cut off from the fake KMS")

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        raise UnreachableError("this replica is cut off from the fake KMS")


class Member:
    """One replica and its callers.

    Attributes:
        rights: Rights of the callers: everything, until a test sets others.
    """

    def __init__(
        self, house: House, timing: Timing, bounds: Bounds, served: ServedRegions | None = None
    ) -> None:
        self.house = house
        self.line = Line(house.store)
        self.replica = Replica(
            house.provider_of,
            KeyNames(
                lambda region: house.platform.get(region, house.platform.get("")),
                tuple(house.platform.values()),
                house.type_of,
            ),
            cast("Store", self.line),
            house.clock,
            timing,
            bounds=bounds,
            served=served,
            random=house.random,
        )
        self.replica.run_operations(lambda _: self.rights)
        self.loads = self.replica.loads
        self.changes = self.replica.changes
        self.cache = self.loads._cache
        self.plane = self.replica.data_plane
        self.rights: Rights = EVERYTHING
        self.stopped = False

    async def start(self) -> Member:
        """Registers with the store. A test drives the upkeep itself."""
        await self.changes.start()
        return self

    async def stop(self) -> None:
        """Stops as a server does."""
        if not self.stopped:
            self.stopped = True
            self.house.provider.mend()
            self.line.end()
            await self.replica.stop()

    def cut_off(self, *, cut: bool = True) -> None:
        """Cuts this replica alone off from the KMS, or ends that."""
        provider = _Severed(self.house.provider) if cut else self.house.provider
        self.replica._kms._made["FAKE"] = provider

    def hurry(self) -> Member:
        """Makes Revoke look once at who has confirmed, without waiting."""
        waiting = self.replica.revocation._acknowledgements
        waiting._timing = replace(waiting._timing, revoke_wait=0.0)
        return self

    # What a server does by itself

    async def poll(self) -> None:
        """Polls the store, applies what changed, and reports it."""
        for _ in range(2):  # The first may have begun, by its clock, long ago.
            await self.poll_once()

    async def poll_once(self) -> None:
        """Lets one poll go on, which may have begun long ago."""
        polls, failing = self.line.counts["poll"], self.changes.poll.failing
        seen = self.changes.staleness.last_poll
        self.changes.poll.soon.set()
        self.line.let_poll()

        def over() -> bool:
            return (
                self.changes.staleness.last_poll is not seen
                or self.changes.rolled_back
                or (self.line.counts["poll"] > polls and (failing or self.changes.poll.failing))
            )

        await until(over)

    async def look(self) -> None:
        """Starts the refreshes and announcements that are due, and waits for them."""
        self.loads.freshness.run_due(self.house.clock.monotonic())
        self.loads.announcements.run_due()
        await self.settle()

    async def sweep(self) -> None:
        """Runs every slot of the sweep, and writes the observations."""
        for slot in range(SLOTS):
            await self.replica.sweep.turn(slot)
        await self.settle()
        await self.replica._health.flush()

    async def verify(self) -> None:
        """Verifies every cluster in memory, as a replica does at least once per sweep."""
        for _ in range(TURNS):
            await self.replica._verification.turn()

    async def flush_uses(self) -> None:
        """Writes the last uses, as a replica does once a minute."""
        await self.replica._uses.flush()

    async def settle(self) -> None:
        """Waits until nothing is under way."""
        while tasks := [
            *self.replica._tasks._under_way,
            *self.replica._refusals._tasks._under_way,
        ]:
            await asyncio.wait(tasks, timeout=LONG)
        await spin()

    # What callers do

    async def call(self, core: Callable[[Call], T], within: float = 10.0) -> T:
        """Carries out a data-plane call as the server's shell does."""
        try:
            return core(Call(self.rights))
        except NeedsLoad as lacking:
            needs = lacking.needs
        clock = self.house.clock
        call = Call(self.rights, clock.monotonic())
        deadline = call.arrived + within
        for _ in range(ROUNDS):
            await self.loads.satisfy(needs, call, deadline)
            try:
                return core(call)
            except NeedsLoad as lacking:
                needs = lacking.needs
        raise BusyError("the cluster's keys keep changing under this call")

    async def wrap(
        self,
        cluster: str = "acme",
        region: str = "eu",
        plaintext: bytes = b"k" * 32,
        context: Mapping[str, str] | None = None,
        within: float = 10.0,
    ) -> bytes:
        """Wraps a key."""
        blob, _, _ = await self.call(
            lambda c: self.plane.wrap(cluster, region, plaintext, context or {}, c), within
        )
        return blob

    async def unwrap(
        self,
        blob: bytes,
        cluster: str = "acme",
        context: Mapping[str, str] | None = None,
        within: float = 10.0,
    ) -> UnwrapResult:
        """Opens a wrapped key."""
        return await self.call(lambda c: self.plane.unwrap(cluster, blob, context or {}, c), within)

    async def rewrap(
        self,
        blob: bytes,
        target: Destination | None = None,
        cluster: str = "acme",
        context: Mapping[str, str] | None = None,
    ) -> tuple[bytes, int, bool]:
        """Moves a wrapped key."""
        return await self.call(lambda c: self.plane.rewrap(cluster, blob, context or {}, target, c))

    def warm(self, cluster: str = "acme", region: str = "eu") -> bytes:
        """Wraps from memory alone."""
        return self.plane.wrap(cluster, region, b"k" * 32, {}, Call(self.rights))[0]

    def serves(self, cluster: str = "acme", region: str = "eu") -> bool:
        """Returns whether a call would be answered from memory alone, right now."""
        try:
            self.warm(cluster, region)
        except (NeedsLoad, KeyfoldError):
            return False
        return True

    def asked(
        self,
        rpc: str,
        request: RequestT,
        request_id: str = "",
        caller: str = "local",
        within: float = 10.0,
    ) -> MutationCall[RequestT]:
        """Makes the call of a method that changes a cluster."""
        deadline = self.house.clock.monotonic() + within
        who = Caller(self.rights) if caller == "local" else callers.caller(caller)
        return MutationCall(who, rpc, request_id, request, deadline)

    async def enable(
        self,
        cluster: str = "acme",
        specs: Mapping[str, Spec] | None = None,
        *,
        regions: Sequence[str] = (),
        organization: str | None = None,
        request_id: str = "",
        caller: str = "local",
        validate_only: bool = False,
        within: float = 10.0,
    ) -> MutationResult:
        """Enables a cluster; by default in region eu under fake:one."""
        given = region_specs(specs if specs is not None else {"eu": "fake:one"})
        request = EnableRequest(cluster, organization, tuple(regions), given, validate_only)
        call = self.asked("Enable", request, request_id, caller, within)
        return await self.replica.clusters.enable(call)

    async def add_regions(
        self,
        specs: Mapping[str, Spec],
        cluster: str = "acme",
        *,
        regions: Sequence[str] = (),
        organization: str | None = None,
        request_id: str = "",
        validate_only: bool = False,
        into_revoked: bool = False,
    ) -> MutationResult:
        """Adds regions."""
        given, listed = region_specs(specs), tuple(regions)
        request = AddRegionsRequest(
            cluster, organization, listed, given, validate_only, into_revoked=into_revoked
        )
        call = self.asked("AddRegions", request, request_id)
        return await self.replica.clusters.add_regions(call)

    async def rotate(
        self,
        specs: Mapping[str, Spec] | None = None,
        cluster: str = "acme",
        *,
        new_generation: bool = False,
        request_id: str = "",
        validate_only: bool = False,
        only_named_regions: bool = False,
        within: float = 10.0,
    ) -> RotateResult:
        """Rotates; by default region eu under its own key."""
        given = region_specs(specs if specs is not None else {"eu": None})
        request = RotateRequest(cluster, given, new_generation, validate_only, only_named_regions)
        call = self.asked("Rotate", request, request_id, within=within)
        return await self.replica.rotation.rotate(call)

    async def revoke(
        self,
        cluster: str = "acme",
        regions: Sequence[str] = (),
        *,
        request_id: str = "",
        caller: str = "local",
        within: float = 10.0,
    ) -> RevokeResult:
        """Revokes a cluster whose rows are whole."""
        request = RevokeRequest(cluster, tuple(regions), "")
        call = self.asked("Revoke", request, request_id, caller, within)
        result = await self.replica.revocation.revoke(call)
        assert isinstance(result, RevokeResult)
        return result

    async def ban(
        self, cluster: str = "acme", *, request_id: str = "", within: float = 10.0
    ) -> BanResult:
        """Revokes a cluster whose rows cannot be believed."""
        call = self.asked("Revoke", RevokeRequest(cluster, (), ""), request_id, within=within)
        result = await self.replica.revocation.revoke(call)
        assert isinstance(result, BanResult)
        return result

    async def restore(
        self, cluster: str = "acme", regions: Sequence[str] = (), *, request_id: str = ""
    ) -> RestoreResult:
        """Restores."""
        request = RestoreRequest(cluster, tuple(regions), "")
        call = self.asked("Restore", request, request_id)
        return await self.replica.restoration.restore(call)

    async def delete(
        self,
        cluster: str = "acme",
        regions: Sequence[str] = (),
        *,
        days: float | None = None,
        request_id: str = "",
        validate_only: bool = False,
    ) -> DeleteResult:
        """Deletes some regions; by default all of them."""
        waiting = None if days is None else round(days * 86_400_000)
        request = DeleteClusterRequest(
            cluster, tuple(regions), not regions, waiting, "", validate_only
        )
        return await self.replica.deletion.delete(self.asked("DeleteCluster", request, request_id))

    async def undelete(
        self, cluster: str = "acme", regions: Sequence[str] = (), *, request_id: str = ""
    ) -> MutationResult:
        """Takes deletions back."""
        request = UndeleteClusterRequest(cluster, tuple(regions), "")
        call = self.asked("UndeleteCluster", request, request_id)
        return await self.replica.deletion.undelete(call)

    async def erase(self, after: float = 60.0) -> None:
        """Lets time pass, and then takes this replica's turn to erase what is due."""
        await self.house.after(after)
        await self.replica.erasure.turn()

    async def status(self, cluster: str = "acme", within: float = 10.0) -> ClusterReport:
        """Reads the status."""
        return await self.replica.status.get(
            self.rights, cluster, self.house.clock.monotonic() + within
        )


Spec = None | str | KeySpec | RegionSpec | RegionPolicy
"""A region's spec in short: a URI, `PLATFORM`, a key spec, a policy alone, or a whole spec."""


def region_specs(specs: Mapping[str, Spec]) -> tuple[RegionSpec, ...]:
    """Spells out region specs."""
    return tuple(_region_spec(region, spec) for region, spec in specs.items())


def _region_spec(region: str, spec: Spec) -> RegionSpec:
    if isinstance(spec, RegionSpec):
        return spec
    if isinstance(spec, RegionPolicy):
        return RegionSpec(region, None, spec)
    if isinstance(spec, str):
        spec = KeySpec("PLATFORM") if spec == "PLATFORM" else KeySpec("FAKE", spec)
    return RegionSpec(region, spec)


def under(
    uri: str, *, ttl: float | None = None, grace: float | None = None, auto_rotate: bool = False
) -> RegionSpec:
    """Makes a spec with a policy; `House` puts the region's name in."""
    return RegionSpec("eu", KeySpec("FAKE", uri), RegionPolicy(ttl, grace, auto_rotate))


class House:
    """Replicas on one store, with one KMS and one clock.

    The KMS has the root keys fake:one and fake:two.
    """

    def __init__(self, folder: Path) -> None:
        self.clock = self.a_clock()
        self.provider = FakeProvider()
        for name in ("one", "two"):
            self.provider.create_key(name)
        self.platform: dict[str, RootKey] = {}
        self.file = folder / "keyfold.db"
        self.store = self.a_store(folder)
        self.members: list[Member] = []
        self.drawn: list[bytes] = []

    def a_clock(self) -> FakeClock:
        """Makes the house's clock."""
        return FakeClock()

    def a_store(self, folder: Path) -> SqlStore:
        """Opens the house's store."""
        key = folder / "service.key"
        if not self.file.exists():
            new_store.lay(self.file, key)
        return open_store(f"sqlite:///{self.file}", key, clock=self.clock)

    def provider_of(self, type_: str) -> KeyProvider:
        """Returns the provider, as the catalog would."""
        if type_ != "FAKE":
            raise UnknownProviderError(f"there is no provider {type_}", field="key_spec.type")
        return self.provider

    def type_of(self, uri: str) -> str:
        """Returns the type of the provider that a uri belongs to, as the catalog would."""
        return "FAKE"

    def random(self, size: int) -> bytes:
        """Draws random bytes, and remembers those that may be keys."""
        drawn = os.urandom(size)
        if size == KEY_SIZE:
            self.drawn.append(drawn)
        return drawn

    async def replica(
        self,
        *,
        max_clusters: int = 1_000,
        rates: Rates = UNHURRIED,
        bounds: Bounds | None = None,
        served: ServedRegions | None = None,
        **timing: float,
    ) -> Member:
        """Starts a replica; by default one that serves every region."""
        bounds = replace(bounds or Bounds(), cached_clusters=max_clusters, kms_rates=rates)
        member = Member(self, Timing(**({"store_poll": 0.001} | timing)), bounds, served)
        self.members.append(member)
        return await member.start()

    async def after(self, seconds: float) -> None:
        """Lets time pass, after which every replica polls."""
        self.clock.advance(seconds)
        for member in self.members:
            if not member.stopped:
                await member.poll()

    def calls(self, operation: str = "unwrap", uri: str | None = None) -> int:
        """Counts calls to the KMS."""
        return sum(
            count
            for (op, where, _), count in self.provider.counts.items()
            if op == operation and uri in (None, where)
        )

    def trail(self, cluster: str | None) -> list[tuple[str, str, str]]:
        """Reads a cluster's audit trail: who did what, and how it ended; None: of no cluster."""
        verified_events(self.store, cluster)
        with closing(sqlite3.connect(self.file)) as file:
            return file.execute(
                "SELECT caller, action, outcome FROM log WHERE cluster IS ? ORDER BY number",
                (cluster,),
            ).fetchall()

    async def close(self) -> None:
        """Ends everything."""
        self.provider.mend()
        for member in self.members:
            await member.stop()
        self.store.close()


@asynccontextmanager
async def house_in(folder: Path) -> AsyncIterator[House]:
    """Yields a house, and takes it down afterwards."""
    house = House(folder)
    try:
        yield house
    finally:
        await house.close()


def in_service(replica: Replica) -> bool:
    """Says whether a replica may use keys now."""
    try:
        replica.check_serving()
    except KeyfoldError:
        return False
    return True


async def spin(turns: int = 10) -> None:
    """Lets the loop run everything that is ready."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Returns once a condition is true that threads make true."""
    ends = asyncio.get_running_loop().time() + LONG
    for turn in itertools.count():
        if condition():
            return
        assert asyncio.get_running_loop().time() < ends, "waited in vain"
        await asyncio.sleep(0 if turn < 50 else 0.001)


async def entered(hang: Any, count: int = 1) -> None:
    """Returns once a hang holds so many calls."""
    await asyncio.to_thread(hang.wait_entered, count)
