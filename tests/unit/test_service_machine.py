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

from keyfold_server.domain.errors import (
    CouldNotTellError,
    KeyfoldError,
    RefusedError,
    RegionExistsError,
    RevokedError,
)
from replicas import House, Member

T = TypeVar("T")

URIS: Final = ("fake:one", "fake:two")
REGIONS: Final = ("eu", "us")
TTL: Final = 60.0
GRACE: Final = 900.0

MEMORY: Final = 6.0
"""Seconds after which a refusal or an outage that is over is forgotten: 5, and a little."""

BELIEVED: Final = 16.0
"""Seconds for which an outage that is over may still count as one: pause and belief."""


@dataclass
class ModelRegion:
    """A region as it should be: the version that wraps each generation, oldest first."""

    uri: str
    versions: list[int]
    revoked: bool = False


@dataclass
class Blob:
    """A wrapped key that was returned, which must open for ever."""

    region: str
    generation: int
    plaintext: bytes
    wrapped: bytes = field(repr=False)


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
        self.regions: dict[str, ModelRegion] = {}
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

    @initialize()
    def enabled(self) -> None:
        self.run(self.one.enable(specs={"eu": URIS[0]}))
        self.regions["eu"] = ModelRegion(URIS[0], [1])

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

    def newest_usable(self, uri: str) -> bool:
        return self.usable(uri, len(self.keys[uri]))

    @rule(uri=st.sampled_from(URIS))
    def add_region(self, uri: str) -> None:
        result = self.tried(self.one.add_regions({"us": uri}))
        if "us" in self.regions:
            if self.regions["us"].uri != uri:
                assert isinstance(result, RegionExistsError), result
        elif self.newest_usable(uri):
            assert not isinstance(result, KeyfoldError), result
            self.regions["us"] = ModelRegion(uri, [len(self.keys[uri])])
        else:
            assert isinstance(result, RefusedError | CouldNotTellError), result

    @rule(
        uri=st.sampled_from([None, *URIS]),
        names=st.lists(st.sampled_from(REGIONS), min_size=1, unique=True),
        fresh=st.booleans(),
    )
    def rotate(self, uri: str | None, names: list[str], *, fresh: bool) -> None:
        named = {n: self.regions[n] for n in names if n in self.regions}
        if not named:
            return
        result = self.tried(self.one.rotate(dict.fromkeys(named, uri), new_generation=fresh))
        if any(region.revoked for region in named.values()):
            assert isinstance(result, RevokedError), result
        elif all(
            self.newest_usable(uri or r.uri) and all(self.usable(r.uri, v) for v in r.versions)
            for r in named.values()
        ):
            assert not isinstance(result, KeyfoldError), result
            for region in named.values():
                region.uri = uri or region.uri
                region.versions = [len(self.keys[region.uri])] * (len(region.versions) + fresh)
        else:
            assert isinstance(result, RefusedError | CouldNotTellError), result

    @rule(names=st.lists(st.sampled_from(REGIONS), unique=True))
    def revoke(self, names: list[str]) -> None:
        chosen = [n for n in names if n in self.regions]
        result = self.tried(self.one.revoke(regions=chosen))
        assert not isinstance(result, KeyfoldError), result
        for name in chosen or self.regions:
            self.regions[name].revoked = True

    @rule()
    def restore(self) -> None:
        result = self.tried(self.one.restore())
        assert not isinstance(result, KeyfoldError), result
        revoked = {n for n, region in self.regions.items() if region.revoked}
        good = {
            n
            for n in revoked
            if all(self.usable(self.regions[n].uri, v) for v in self.regions[n].versions)
        }
        assert set(result.regions) == good
        assert set(result.failed) == revoked - good
        for name in good:
            self.regions[name].revoked = False

    @rule()
    def restart(self) -> None:
        cut = self.outage[0]
        self.run(self.one.stop())
        if cut:
            self.house.provider.disconnect()
        self.house.members.clear()
        self.one = self.run(self.house.replica())

    # What callers do

    def check(self, region: ModelRegion, version: int, result: object) -> None:
        """Holds an answer against what must be."""
        on, since = self.keys[region.uri][version - 1]
        out, turned = self.outage
        if region.revoked:
            assert isinstance(result, RevokedError), result
            return
        if isinstance(result, KeyfoldError):
            assert isinstance(result, RefusedError | CouldNotTellError), result
        if on and not out and self.now - max(since, turned) >= MEMORY:
            assert not isinstance(result, KeyfoldError), result
        if out and self.now - turned >= TTL + GRACE:
            assert isinstance(result, CouldNotTellError | RefusedError), result
        if not on and self.now - since >= TTL + GRACE:
            assert isinstance(result, KeyfoldError), result
        if not on and not out and self.now - since >= TTL and self.now - turned >= BELIEVED:
            assert isinstance(result, RefusedError), result

    @rule(name=st.sampled_from(REGIONS), plaintext=st.binary(min_size=1, max_size=40))
    def wrap(self, name: str, plaintext: bytes) -> None:
        region = self.regions.get(name)
        if region is None:
            return
        result = self.tried(self.one.wrap(region=name, plaintext=plaintext))
        self.check(region, region.versions[-1], result)
        if isinstance(result, bytes):
            self.blobs.append(Blob(name, len(region.versions), plaintext, result))

    @precondition(lambda self: self.blobs)
    @rule(data=st.data())
    def unwrap(self, data: st.DataObject) -> None:
        blob = data.draw(st.sampled_from(self.blobs))
        region = self.regions[blob.region]
        result = self.tried(self.one.unwrap(blob.wrapped))
        self.check(region, region.versions[blob.generation - 1], result)
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
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestReplica = ReplicaMachine.TestCase
