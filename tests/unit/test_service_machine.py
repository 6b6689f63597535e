"""A whole replica against a model of what must succeed, what must be refused, and what may be."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from behaviour import (
    Power,
    Region,
    Request,
    State,
    Verdict,
    asked,
    outcomes,
    refusals,
    state_of,
    verdicts,
)
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    CouldNotTellError,
    KeyfoldError,
    RefusedError,
    RevokedError,
)
from keyfold_server.domain.lifecycle import State as Life
from replicas import House, Member

T = TypeVar("T")

URIS: Final = ("fake:one", "fake:two")
REGIONS: Final = ("eu", "us")
TTL: Final = 60.0
GRACE: Final = 900.0


@dataclass
class Blob:
    """A wrapped key that was returned, which must open for ever."""

    region: str
    generation: int
    plaintext: bytes
    wrapped: bytes = field(repr=False)


def shown(cluster: Cluster) -> State:
    """Reads a cluster as the model has it."""
    return state_of(
        {
            region.name: Region(
                region.key_spec.uri, len(region.generations), region.state is Life.REVOKED
            )
            for region in cluster.regions
        }
    )


def verdict(result: object) -> Verdict | None:
    """Returns how a use ended, in the model's terms, or None for an end that is never allowed."""
    if isinstance(result, RevokedError):
        return Verdict.REVOKED
    if isinstance(result, RefusedError):
        return Verdict.REFUSED
    if isinstance(result, CouldNotTellError):
        return Verdict.COULD_NOT_TELL
    return None if isinstance(result, KeyfoldError) else Verdict.SERVED


class ReplicaMachine(RuleBasedStateMachine):
    """Drives one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.house = House(Path(self.folder.name))
        self.one: Member = self.run(self.house.replica())
        # When each version was switched last, and whether it is on.
        self.keys: dict[str, list[tuple[bool, float]]] = {u: [(True, -1e9)] for u in URIS}
        self.outage: tuple[bool, float] = (False, -1e9)
        self.state: State = None
        # The version of its root key that wraps each generation, oldest first.
        self.versions: dict[str, list[int]] = {}
        self.blobs: list[Blob] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def tried(self, work: Coroutine[Any, Any, T]) -> T | KeyfoldError:
        async def settled() -> T | KeyfoldError:
            try:
                return await work
            except KeyfoldError as error:
                return error
            finally:
                await self.one.settle()

        return self.run(settled())

    @property
    def now(self) -> float:
        return self.house.clock.monotonic()

    @property
    def regions(self) -> dict[str, Region]:
        return dict(self.state or ())

    @initialize()
    def enabled(self) -> None:
        done = self.run(self.one.enable(specs={"eu": URIS[0]}))
        self.changed(Request("Enable", ("eu",), (("eu", URIS[0]),)), done.cluster)

    # What the customer and the world do

    @rule(uri=st.sampled_from(URIS))
    def new_version(self, uri: str) -> None:
        self.house.provider.new_version(uri)
        self.keys[uri].append((True, self.now))

    @rule(uri=st.sampled_from(URIS), data=st.data(), on=st.booleans())
    def switch_version(self, uri: str, data: st.DataObject, *, on: bool) -> None:
        number = data.draw(st.integers(1, len(self.keys[uri])))
        (self.house.provider.enable if on else self.house.provider.disable)(uri, str(number))
        if self.keys[uri][number - 1][0] is not on:
            self.keys[uri][number - 1] = (on, self.now)

    @rule(uri=st.sampled_from(URIS), on=st.booleans())
    def switch_key(self, uri: str, *, on: bool) -> None:
        (self.house.provider.enable if on else self.house.provider.disable)(uri)
        self.keys[uri] = [(on, since if was is on else self.now) for was, since in self.keys[uri]]

    @rule(on=st.booleans())
    def switch_outage(self, *, on: bool) -> None:
        if on is not self.outage[0]:
            if on:
                self.house.provider.disconnect()
            else:
                self.house.provider.mend()
            self.outage = (on, self.now)

    @rule(seconds=st.sampled_from([1.0, 7.0, 20.0, 45.0, 61.0, 1_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.house.after(seconds))
        self.run(self.one.look())

    # What the operator does

    def usable(self, uri: str, version: int) -> bool:
        return not self.outage[0] and self.keys[uri][version - 1][0]

    def provable(self, name: str, region: Region) -> bool:
        return all(self.usable(region.uri, version) for version in self.versions[name])

    def possible(self, request: Request, after: State) -> bool:
        """Whether every root key that a change has to call answers."""
        needed = asked(request, self.state, after)
        return all(self.usable(uri, len(self.keys[uri])) for uri in needed.wraps) and all(
            self.provable(name, self.regions[name]) for name in needed.opens
        )

    def asked_for(self, request: Request, result: Cluster | KeyfoldError) -> None:
        """Compares the answer to a change with what the model allows."""
        refused = refusals(self.state, request)
        if refused:
            assert isinstance(result, KeyfoldError), result
            assert result.reason in refused
        elif any(self.possible(request, after) for after in outcomes(self.state, request)):
            assert not isinstance(result, KeyfoldError), result
            self.changed(request, result)
        else:
            assert isinstance(result, RefusedError | CouldNotTellError), result

    def changed(self, request: Request, cluster: Cluster) -> None:
        """Takes over what a change has made, if the model allows it."""
        after = shown(cluster)
        assert after in outcomes(self.state, request), (self.state, request, after)
        assert self.possible(request, after)
        for name, region in after or ():
            if name not in self.versions or (
                request.method == "Rotate" and name in request.regions
            ):
                self.versions[name] = [len(self.keys[region.uri])] * region.generations
        self.state = after

    @rule(uri=st.sampled_from(URIS), into_revoked=st.booleans())
    def add_region(self, uri: str, *, into_revoked: bool) -> None:
        result = self.tried(self.one.add_regions({"us": uri}, into_revoked=into_revoked))
        request = Request("AddRegions", ("us",), (("us", uri),), into_revoked=into_revoked)
        self.asked_for(request, result if isinstance(result, KeyfoldError) else result.cluster)

    @rule(
        uri=st.sampled_from([None, *URIS]),
        names=st.lists(st.sampled_from(REGIONS), min_size=1, unique=True),
        fresh=st.booleans(),
    )
    def rotate(self, uri: str | None, names: list[str], *, fresh: bool) -> None:
        result = self.tried(self.one.rotate(dict.fromkeys(names, uri), new_generation=fresh))
        uris = () if uri is None else tuple((name, uri) for name in names)
        request = Request("Rotate", tuple(names), uris, fresh)
        self.asked_for(
            request, result if isinstance(result, KeyfoldError) else result.mutation.cluster
        )

    @rule(names=st.lists(st.sampled_from(REGIONS), unique=True))
    def revoke(self, names: list[str]) -> None:
        result = self.tried(self.one.revoke(regions=names))
        self.asked_for(
            Request("Revoke", tuple(names)),
            result if isinstance(result, KeyfoldError) else result.mutation.cluster,
        )

    @rule()
    def restore(self) -> None:
        result = self.tried(self.one.restore())
        assert not isinstance(result, KeyfoldError), result
        revoked = {name for name, region in self.regions.items() if region.revoked}
        good = {name for name in revoked if self.provable(name, self.regions[name])}
        assert set(result.regions) == good
        assert set(result.failed) == revoked - good
        self.changed(Request("Restore"), result.mutation.cluster)
        assert {name for name, region in self.regions.items() if region.revoked} == revoked - good

    @rule()
    def restart(self) -> None:
        cut = self.outage[0]
        self.run(self.one.stop())
        if cut:
            self.house.provider.disconnect()
        self.house.members.clear()
        self.one = self.run(self.house.replica())

    # What callers do

    def check(self, name: str, generation: int, result: object) -> None:
        """Compares an answer with what the model demands."""
        region = self.regions[name]
        on, since = self.keys[region.uri][self.versions[name][generation - 1] - 1]
        out, turned = self.outage
        power = Power(on, self.now - since, out, self.now - turned)
        may = verdicts(power, ttl=TTL, grace=GRACE)
        assert verdict(result) in ({Verdict.REVOKED} if region.revoked else may), (result, power)

    @rule(name=st.sampled_from(REGIONS), plaintext=st.binary(min_size=1, max_size=40))
    def wrap(self, name: str, plaintext: bytes) -> None:
        region = self.regions.get(name)
        if region is None:
            return
        result = self.tried(self.one.wrap(region=name, plaintext=plaintext))
        self.check(name, region.generations, result)
        if isinstance(result, bytes):
            self.blobs.append(Blob(name, region.generations, plaintext, result))

    @precondition(lambda self: self.blobs)
    @rule(data=st.data())
    def unwrap(self, data: st.DataObject) -> None:
        blob = data.draw(st.sampled_from(self.blobs))
        result = self.tried(self.one.unwrap(blob.wrapped))
        self.check(blob.region, blob.generation, result)
        if not isinstance(result, KeyfoldError):
            assert result.plaintext == blob.plaintext
            assert (result.region, result.generation) == (blob.region, blob.generation)

    @invariant()
    def nothing_revoked_is_in_memory(self) -> None:
        view = self.one.cache.view("acme")
        for opened in view.open.values() if view is not None else ():
            assert not self.regions[opened.region.region.name].revoked

    def teardown(self) -> None:
        try:
            if self.blobs:
                self.house.provider.mend()
                for uri in URIS:
                    self.house.provider.enable(uri)
                self.run(self.house.after(1_000))
                self.run(self.one.restore())
                for blob in self.blobs:
                    assert self.run(self.one.unwrap(blob.wrapped)).plaintext == blob.plaintext
        finally:
            self.run(self.house.close())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()


ReplicaMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestReplica = ReplicaMachine.TestCase
