"""A key link that moves again and again while everything else happens, in random orders."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keyfold_server.domain.errors import KeyfoldError, KeyLinkMovingError
from keyfold_server.domain.keyspec import KeySpec, RegionSpec
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.operations import ActionKind, OperationKey, Work, full_name
from keyfold_server.domain.rights import Caller
from keyfold_server.service.organizations.key_links import LinkReport
from keyfold_server.service.organizations.requests import CreateKeyLinkRequest, OrganizationCall
from replicas import House, Member, until

T = TypeVar("T")

KEYS: Final = tuple(KeySpec("FAKE", f"fake:{name}") for name in ("one", "two", "three"))
NAMES: Final = ("a", "b", "c")
LINK: Final = RegionSpec("eu", key_link="main")
MOVE: Final = Work(ActionKind.MOVE_LINK, organization="org", key_link="main", at_once=1)


class LinkMachine(RuleBasedStateMachine):
    """Drives two replicas, of which either may run an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.house = House(Path(self.folder.name))
        self.house.provider.create_key("three")
        self.members: list[Member] = [self.run(self.house.replica()) for _ in range(2)]
        self.one = self.members[0]
        self.blobs: dict[str, bytes] = {}
        self.moves = 0

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

    async def shown(self) -> LinkReport:
        return await self.one.replica.key_links.get(self.one.rights, "org", "main")

    def keys_of_users(self) -> list[KeySpec]:
        """Returns the keys of the regions that use the link and are not deleted."""
        found = [self.house.store.cluster(name) for name in NAMES]
        return [
            region.key_spec
            for cluster in found
            if cluster is not None
            for region in cluster.regions
            if region.link == "main" and region.state is not State.DELETED
        ]

    async def ended(self, member: Member) -> None:
        """Has a replica run what is open, to its end."""
        runner = member.replica._runner
        assert runner is not None
        await runner.look()
        await until(lambda: not runner._runs)

    @initialize()
    def linked(self) -> None:
        request = CreateKeyLinkRequest("org", "main", "", "eu", "", KEYS[0])
        ends = self.house.clock.monotonic() + 60
        call = OrganizationCall(Caller(self.one.rights), "CreateKeyLink", "", request, ends)
        self.run(self.one.replica.key_links.create(call))
        self.enable(NAMES[0])

    @rule(name=st.sampled_from(NAMES))
    def enable(self, name: str) -> None:
        done = self.tried(self.one.enable(name, {"eu": LINK}, organization="org"))
        if not isinstance(done, KeyfoldError) and name not in self.blobs:
            self.blobs[name] = self.run(self.one.wrap(name, "eu"))

    @rule(spec=st.sampled_from(KEYS), now=st.booleans())
    def move(self, spec: KeySpec, *, now: bool) -> None:
        before, self.moves = self.run(self.shown()), self.moves + 1
        start = self.one.replica.operations.start(
            Caller(self.one.rights),
            f"op-{self.moves}",
            replace(MOVE, key_spec=spec),
            self.house.clock.monotonic() + 60,
            dry_run=False,
        )
        done = self.tried(start)
        is_open = before.link.move is not None and before.link.move.open
        after = self.run(self.shown())
        if isinstance(done, KeyfoldError):
            assert not is_open or isinstance(done, KeyLinkMovingError)
            assert after.link == before.link
        else:
            assert not is_open
            assert after.link.key_spec == spec
            if now:
                self.run(self.ended(self.one))

    @rule(which=st.integers(0, 1))
    def go_on(self, which: int) -> None:
        self.run(self.ended(self.members[which]))

    @rule()
    def cancel(self) -> None:
        work = self.one.replica.operations.cancel(Caller(self.one.rights), f"op-{self.moves}")
        self.tried(work)

    @rule(name=st.sampled_from(NAMES))
    def revoke(self, name: str) -> None:
        self.tried(self.one.hurry().revoke(name))

    @rule(name=st.sampled_from(NAMES))
    def restore(self, name: str) -> None:
        self.tried(self.one.restore(name))

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        self.tried(self.one.delete(name))

    @rule(name=st.sampled_from(NAMES))
    def undelete(self, name: str) -> None:
        self.tried(self.one.undelete(name))

    @rule(name=st.sampled_from(NAMES), spec=st.sampled_from((*KEYS, None)))
    def rotate(self, name: str, spec: KeySpec | None) -> None:
        self.tried(self.one.rotate({"eu": LINK if spec is None else spec}, name))

    @rule(spec=st.sampled_from(KEYS), on=st.booleans())
    def switch(self, spec: KeySpec, *, on: bool) -> None:
        (self.house.provider.enable if on else self.house.provider.disable)(spec.uri)

    @invariant()
    def the_link_says_what_its_users_have(self) -> None:
        if not self.blobs:
            return
        report, keys = self.run(self.shown()), self.keys_of_users()
        moved = report.link.move is not None
        unmoved = sum(key != report.link.key_spec for key in keys)
        assert report.unmoved == (unmoved if moved else 0)
        assert moved or not unmoved
        is_open = report.link.move is not None and report.link.move.open
        assert (report.move is not None) is (is_open or unmoved > 0)
        operations = self.house.store.operations(OperationKey("", ""), 1_000)
        assert [full_name(each.key) for each in operations if not each.ended] == (
            [report.link.move.operation] if is_open and report.link.move is not None else []
        )

    def teardown(self) -> None:
        try:
            if self.blobs:
                self.run(self.to_a_clean_end())
        finally:
            self.run(self.house.close())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()

    async def to_a_clean_end(self) -> None:
        """With the keys back and every region in service, one more move ends clean."""
        for spec in KEYS:
            self.house.provider.enable(spec.uri)
        await self.house.after(60)
        await self.ended(self.members[1])
        for name in list(self.blobs):
            for work in (self.one.undelete(name), self.one.restore(name)):
                try:
                    await work
                except KeyfoldError:
                    await self.one.settle()
        link = (await self.shown()).link
        started = await self.one.replica.operations.start(
            Caller(self.one.rights),
            "last",
            replace(MOVE, key_spec=link.key_spec),
            self.house.clock.monotonic() + 60,
            dry_run=False,
        )
        assert started.operation is not None
        await self.ended(self.one)
        last = self.house.store.operation(started.operation.key)
        assert last is not None
        assert last.progress.failed == 0, self.house.store.operation_failures(last.uid)
        report = await self.shown()
        assert (report.move, report.unmoved) == (None, 0)
        await self.one.poll()
        for name, blob in self.blobs.items():
            if self.house.store.cluster(name) is not None:
                assert (await self.one.unwrap(blob, name)).plaintext == b"k" * 32


TestLinkMachine = LinkMachine.TestCase
TestLinkMachine.settings = settings(
    max_examples=10,
    stateful_step_count=15,
    suppress_health_check=list(HealthCheck),
)
