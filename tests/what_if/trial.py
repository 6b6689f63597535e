"""A trial of `what_if`: what it says about a customer's action, and what the action really does.

A case makes a customer's keys at a site, and clusters that use them. It asks what would stop, does
it at the site, has a Recheck made, and tries Wrap, Unwrap and Rotate of everything, at once and
when the last of it should have stopped. Then it takes the action back, and tries again.

A case is a function of its seed, so a difference comes up again with the seed that it names.
"""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from callers import EVERYTHING, caller
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    GenerationRetiredError,
    KeyDeletedError,
    KeyfoldError,
    KmsError,
    RevokedError,
)
from keyfold_server.domain.key_usage import KeyUse
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec, RootKey
from keyfold_server.domain.what_if import (
    Foresees,
    KeyImpact,
    Reach,
    WhatIf,
    When,
)
from keyfold_server.providers.shared.lease import LONGEST
from keyfold_server.service.life.key_usage import AMBIENT, KeySelector
from keyfold_server.service.life.rechecks import RecheckRequest
from keyfold_server.service.life.revocation import RetireGenerationRequest
from keyfold_server.service.loading import announcements
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest
from keyfold_server.service.root_keys.scope import Scope
from replicas import House, Member
from what_if.sites import Site

ORGANIZATION: Final = "acme"
REGIONS: Final = ("ap", "eu", "us")
ACTIONS: Final = (
    WhatIf.DISABLE,
    WhatIf.DELETE,
    WhatIf.REMOVE_PRINCIPAL,
    WhatIf.REMOVE_UNWRAP_PERMISSION,
    WhatIf.DISABLE,
    WhatIf.REMOVE_WRAP_PERMISSION,
    WhatIf.DISABLE,
    WhatIf.REMOVE_DESCRIBE_PERMISSION,
)
"""The actions of a run's cases, which take their turns; the first one has the most to it."""

FORGOTTEN: Final = 31.0
"""Seconds after which Keyfold remembers no refusal, backoff or pause of a renewal any more."""


class SiteHouse(House):
    """Replicas whose customers have their keys at a site."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.site = site
        super().__init__(folder)

    def a_clock(self) -> Any:
        return self.site.clock

    def type_of(self, uri: str) -> str:
        return self.site.type

    def provider_of(self, type_: str) -> Any:
        return self.site.provider if type_ == self.site.type else super().provider_of(type_)


@asynccontextmanager
async def site_house(folder: Path, site: Site) -> AsyncIterator[SiteHouse]:
    """Yields a house at a site, and takes it down afterwards."""
    house = SiteHouse(folder, site)
    with pytest.MonkeyPatch.context() as patch:
        # A Recheck waits by the loop's clock before it tells of a refusal again.
        patch.setattr(announcements, "HASTENED", 0.0)
        try:
            yield house
        finally:
            await house.close()


@dataclass(frozen=True)
class Question:
    """What a case asks, and then does.

    Attributes:
        what: The action.
        uri: The key; empty: every key of the principal or the holder.
        version: The version; empty: the whole key.
        principal: The principal, empty for the server's own identity; None: every principal.
        holder: What holds the keys; empty: no matter.
    """

    what: WhatIf
    uri: str
    version: str = ""
    principal: str | None = None
    holder: str = ""

    @property
    def selector(self) -> KeySelector:
        """The question in the service's words."""
        principal = AMBIENT if self.principal == "" else self.principal or ""
        return KeySelector(self.uri, self.version, principal, self.holder)


@dataclass
class Truth:
    """How a use really ended.

    Attributes:
        wraps: The error of Wrap by region; None: it worked.
        unwraps: The error of Unwrap by region and generation.
    """

    wraps: dict[tuple[str, str], KeyfoldError | None] = field(default_factory=dict)
    unwraps: dict[tuple[str, str, int], KeyfoldError | None] = field(default_factory=dict)


class Trial:
    """One case."""

    def __init__(self, house: SiteHouse, seed: str, what: WhatIf) -> None:
        """Prepares a case of an action; the seed decides all else."""
        self.house = house
        self.what = what
        self.site = house.site
        self.rng = random.Random(seed)
        self.uris: list[str] = []
        self.blobs: dict[tuple[str, str, int], bytes] = {}
        self.members: list[Member] = []
        self.differences: list[str] = []
        self.served_on = 0

    async def run(self) -> list[tuple[KeyUse, KeyImpact]]:
        """Carries the case out, and returns what was said."""
        await self._build()
        question = self._question()
        rows = await self._asked(question)
        await self._warm()
        users = self._principals(question)
        self.site.press(question.what, self._target(question), question.version, users)
        await self._compare(question, rows)
        await self._take_back(question, rows, users)
        self.site.clear()
        self.differences = [f"{question}: {each}" for each in self.differences]
        return rows

    @property
    def one(self) -> Member:
        """The replica that carries out changes."""
        return self.members[0]

    # The case

    async def _build(self) -> None:
        rng = self.rng
        keys = [
            self.site.create_key(multi_region=rng.random() < 0.25)
            for _ in range(rng.choice((1, 2, 2, 3)))
        ]
        for key in keys:
            if rng.random() < 0.2:
                self.site.new_version(key)
        self.uris = [*keys, *(each for key in keys for each in self.site.variants(key))]
        if "" in self.site.principals:
            self.house.platform[""] = RootKey(self.site.type, rng.choice(keys))
        for _ in range(1 + (rng.random() < 0.3)):
            self.members.append((await self.house.replica()).hurry())
        await self._issue()
        for number in range(rng.choice((1, 1, 2, 3))):
            await self._enable(f"c{number}")
        for number in range(rng.choice((0, 1, 2, 3, 4, 6))):
            self.house.clock.advance(1)
            await self._change(number)
        for member in self.members:
            await member.poll()

    async def _issue(self) -> None:
        """Has Keyfold issue an external id, and the customer trust it, if the provider has any."""
        if self.site.type != "AWS_KMS":
            return
        spec = KeySpec(self.site.type, self.uris[0], self.site.principals[0])
        asked = AccessPolicyRequest(spec, Scope("", "", ORGANIZATION))
        issued = await self.one.replica.access_policies.get(caller(), asked)
        self.site.trust(issued.external_id)

    def _spec(self, region: str, policy: RegionPolicy) -> RegionSpec:
        rng = self.rng
        if self.house.platform and rng.random() < 0.15:
            return RegionSpec(region, KeySpec("PLATFORM"), policy)
        uri = rng.choice(self.uris)
        if self.site.pins(uri):
            policy = replace(policy, auto_rotate=False)
        return RegionSpec(
            region, KeySpec(self.site.type, uri, rng.choice(self.site.principals)), policy
        )

    def _policy(self) -> RegionPolicy:
        rng = self.rng
        return RegionPolicy(
            rng.choice((None, 0.0, 5.0, 60.0, 900.0)),
            rng.choice((None, 0.0, 60.0, 3_600.0)),
            rng.random() < 0.3,
        )

    async def _enable(self, name: str) -> None:
        names = self.rng.sample(REGIONS, self.rng.choice((1, 2, 3)))
        specs = {region: self._spec(region, self._policy()) for region in names}
        await self.one.enable(name, specs, organization=ORGANIZATION)
        for region in names:
            await self._wrap(name, region)

    async def _wrap(self, cluster: str, region: str) -> None:
        blob = await self.one.wrap(cluster, region)
        self.blobs[cluster, region, self._cluster(cluster).region(region).newest.number] = blob

    def _cluster(self, name: str) -> Cluster:
        found = self.house.store.cluster(name)
        assert isinstance(found, Cluster)
        return found

    def _clusters(self) -> list[Cluster]:
        return [self._cluster(name) for name in sorted({name for name, _, _ in self.blobs})]

    async def _change(self, number: int) -> None:
        """Changes something that a customer or an operator may change."""
        rng = self.rng
        cluster = rng.choice(self._clusters())
        region = rng.choice(cluster.regions)
        how = rng.choice(
            (
                *("version", "version", "rotate", "move", "generation", "racing", "retire"),
                *("revoke", "delete"),
            )
        )
        if how == "version":
            self.site.new_version(region.newest.current.root.uri)
            return
        if how == "delete":
            how = "revoke"
            if not region.in_service and region.purge_time is None:
                await self.one.delete(cluster.name, [region.name])
        if not region.in_service:
            return
        if how == "revoke":
            await self.one.revoke(cluster.name, [region.name])
        elif how == "retire":
            old = [each for each in region.generations[:-1] if each.retired_at is None]
            if old:
                await self._retire(cluster.name, region.name, rng.choice(old).number)
        else:
            fresh = how in ("generation", "racing") or self.site.pins(region.key_spec.uri)
            # A key with a version in its uri cannot be followed.
            policy = replace(region.policy, auto_rotate=False)
            spec = self._spec(region.name, policy) if how == "move" else RegionSpec(region.name)
            if spec.key_spec == region.key_spec:
                spec = RegionSpec(region.name)
            uri = region.newest.current.root.uri
            with self._racing(uri if how == "racing" and not self.site.pins(uri) else None):
                await self.one.rotate(
                    {region.name: spec}, cluster.name, new_generation=fresh, within=30
                )
            await self._wrap(cluster.name, region.name)

    async def _retire(self, cluster: str, region: str, generation: int) -> None:
        request = RetireGenerationRequest(cluster, region, generation, bring_back=False, reason="")
        await self.one.replica.revocation.retire(self.one.asked("RetireGeneration", request))

    @contextmanager
    def _racing(self, uri: str | None) -> Iterator[None]:
        """Lets the customer rotate a key between two wraps of one Rotate."""
        provider: Any = self.site.provider
        if uri is None:
            yield
            return
        wrap, wraps = provider.wrap, 0

        def raced(*args: Any, **kwargs: Any) -> Any:
            nonlocal wraps
            wraps += 1
            if wraps == 2:
                self.site.new_version(uri)
            return wrap(*args, **kwargs)

        provider.wrap = raced
        try:
            yield
        finally:
            del provider.wrap

    def _question(self) -> Question:
        rng, what = self.rng, self.what
        used = sorted(
            {g.current.root.uri for c in self._clusters() for r in c.regions for g in r.generations}
        )
        uri = rng.choice(used if rng.random() < 0.9 else self.uris)
        if what is WhatIf.REMOVE_PRINCIPAL:
            # A principal that is gone is gone for every key. Vault has one for all.
            if self.site.type == "VAULT_TRANSIT":
                key = RootKey(self.site.type, uri)
                return Question(what, "", holder=self.site.provider.account(key))
            gone = rng.choice(self.site.principals)
            return Question(what, "" if gone else uri, principal=gone)
        if what is not WhatIf.DISABLE:
            uri = self.site.whole_uri(uri)
        principal: str | None = None
        if what not in (WhatIf.DISABLE, WhatIf.DELETE) and self.site.type != "VAULT_TRANSIT":
            named = [each for each in self.site.principals if each]
            principal = rng.choice((None, None, *named))
        versions = sorted(
            {
                generation.current.key_version
                for cluster in self._clusters()
                for region in cluster.regions
                for generation in region.generations
                if self._same_key(generation.current.root.uri, uri)
            }
        )
        provider = self.site.provider
        assert isinstance(provider, Foresees)
        version = ""
        if provider.reach(what) is not Reach.KEY and versions and rng.random() < 0.6:
            uri = self.site.whole_uri(uri)
            version = rng.choice(versions)
            self.site.versions(uri, version)
        return Question(what, uri, version, principal)

    def _same_key(self, uri: str, other: str) -> bool:
        return self.site.whole(uri) == self.site.whole(other)

    def _principals(self, question: Question) -> list[str]:
        if question.principal is not None:
            return [question.principal]
        return list(self.site.principals)

    def _target(self, question: Question) -> str:
        return question.uri or self.uris[0]

    # The answer

    async def _asked(self, question: Question) -> list[tuple[KeyUse, KeyImpact]]:
        """Asks, page by page, and checks what was said of all uses together."""
        rows: list[tuple[KeyUse, KeyImpact]] = []
        size = self.rng.choice((1, 3, 100))
        page_after = functools.partial(
            self.one.replica.key_usage.page,
            EVERYTHING,
            question.selector,
            size,
            what=question.what,
        )
        page = first = await page_after("")
        rows += zip(page.uses, page.impacts, strict=True)
        while page.next_token:
            page = await page_after(page.next_token)
            rows += zip(page.uses, page.impacts, strict=True)
        for use, said in rows:
            if use.superseded and said.stops:
                self.differences.append(f"a wrap of history stops: {use}")
        current = [use for use, _ in rows if not use.superseded]
        vendors = any(
            self._same_key(key.uri, question.uri) and question.principal in (None, key.principal)
            for key in self.house.platform.values()
        )
        of_key = question.what is WhatIf.DISABLE
        if of_key and first.safety.safe != (not current and not vendors):
            self.differences.append(f"safe: {first.safety}, but {current}")
        if first.safety.visible != len(rows):
            self.differences.append(f"{first.safety.visible} uses, but {len(rows)} rows")
        return rows

    # The truth

    async def _warm(self) -> None:
        """Has every replica open every KEK, as if all were in use."""
        for member in self.members:
            await member.poll()
        await self._tried()

    async def _tried(self, member: Member | None = None) -> Truth:
        """Tries Wrap of every region, and Unwrap of every generation's blob."""
        member = member or self.one
        truth = Truth()
        for cluster in self._clusters():
            for region in cluster.regions:
                place = cluster.name, region.name
                truth.wraps[place] = await _error(member.wrap(*place))
                for generation in region.generations:
                    blob = self.blobs.get((*place, generation.number))
                    if blob is not None:
                        error = await _error(member.unwrap(blob, cluster.name))
                        truth.unwraps[(*place, generation.number)] = error
        return truth

    async def _recheck(self) -> None:
        """Has every region proven now, as a customer's automation would."""
        rechecks = self.one.replica.rechecks
        rechecks._wait = 0.0
        deadline = self.house.clock.monotonic() + 30
        for cluster in self._clusters():
            await rechecks.recheck(caller(), RecheckRequest(cluster.name, (), ""), deadline)
        for member in self.members:
            await member.poll()

    async def _compare(self, question: Question, rows: list[tuple[KeyUse, KeyImpact]]) -> None:
        await self._recheck()
        for member in self.members:
            self._check(rows, await self._tried(member), 0.0, "after a Recheck")
        passed = 0.0
        for within in sorted({each.stops_within for _, each in rows}):
            if within > passed:
                await self.house.after(within - passed + 0.001)
                passed = within
                for member in self.members:
                    self._check(rows, await self._tried(member), within, f"after {within:g} s")
        await self._compare_rotations(question, rows, "now", really=False)
        if question.what is WhatIf.REMOVE_PRINCIPAL and not passed:
            await self.house.after(LONGEST)
        await self._compare_restores(rows)

    async def _compare_restores(self, rows: list[tuple[KeyUse, KeyImpact]]) -> None:
        """Restores what is revoked, and compares that with the words about it."""
        for cluster in self._clusters():
            for region in cluster.regions:
                if region.in_service or region.purge_time is not None:
                    continue
                place = cluster.name, region.name
                fails = any(
                    "; Restore fails" in said.because
                    for use, said in rows
                    if (use.cluster, use.region) == place and not use.superseded
                )
                done = await self.one.restore(cluster.name, [region.name])
                if fails != bool(done.failed):
                    self.differences.append(f"Restore of {place}: {done.failed}, but {fails}")
                if not done.failed:
                    await self.one.revoke(cluster.name, [region.name])

    def _check(
        self, rows: list[tuple[KeyUse, KeyImpact]], truth: Truth, passed: float, when: str
    ) -> None:
        by_place = {
            (use.cluster, use.region, use.generation): said
            for use, said in rows
            if not use.superseded
        }
        for cluster in self._clusters():
            for region in cluster.regions:
                for generation in region.generations:
                    place = cluster.name, region.name, generation.number
                    said = by_place.get(place)
                    if generation is region.newest:
                        self._match(
                            f"Wrap in {place} {when}",
                            truth.wraps[place[:2]],
                            said if said is not None and said.stops_wrap else None,
                            passed,
                            out=not region.in_service,
                        )
                    if place in truth.unwraps:
                        self._match(
                            f"Unwrap of {place} {when}",
                            truth.unwraps[place],
                            said if said is not None and said.stops_unwrap else None,
                            passed,
                            out=not region.in_service or generation.retired_at is not None,
                        )

    def _match(
        self,
        what: str,
        found: KeyfoldError | None,
        said: KeyImpact | None,
        passed: float,
        *,
        out: bool,
    ) -> None:
        """Compares how a use ended with what was said about it; None: that nothing stops it."""
        if out:
            if said is not None or not isinstance(
                found, RevokedError | KeyDeletedError | GenerationRetiredError
            ):
                self.differences.append(f"{what}: out of use, but {found!r} and {said}")
            return
        if said is None:
            if found is not None:
                self.differences.append(f"{what}: {found!r}, and nothing was said to stop")
            return
        if found is None:
            # What does not stop at once may stop sooner than it has to, as with a session's end.
            if said.when is When.AT_ONCE or passed >= said.stops_within:
                self.differences.append(f"{what}: it worked, but {said}")
            self.served_on += 1
        elif said.error is not KmsError and type(found) is not said.error:
            self.differences.append(f"{what}: {found!r}, but {said}")

    async def _compare_rotations(
        self, question: Question, rows: list[tuple[KeyUse, KeyImpact]], when: str, *, really: bool
    ) -> None:
        """Rotates every region in service, and compares that with what was said.

        Args:
            question: What the customer did.
            rows: What was said.
            when: The time, for people.
            really: Whether to store what works; what was said to fail is always tried in full.
        """
        for cluster in self._clusters():
            for region in cluster.regions:
                if not region.in_service:
                    continue
                place = cluster.name, region.name
                said = {
                    each.error
                    for use, each in rows
                    if (use.cluster, use.region) == place and each.stops_rotation
                }
                found = await self._rotate(*place, really=really or bool(said))
                what = f"Rotate of {place} {when}"
                if said and (found is None or not {type(found), KmsError} & said):
                    self.differences.append(f"{what}: {found!r}, but {said}")
                elif not said and found is not None and not self._of_primary(question, *place):
                    self.differences.append(f"{what}: {found!r}, and nothing was said to stop")

    async def _rotate(self, cluster: str, region: str, *, really: bool) -> KeyfoldError | None:
        pinned = self.site.pins(self._cluster(cluster).region(region).key_spec.uri)
        rotation = self.one.rotate(
            {region: None}, cluster, new_generation=pinned, within=30, validate_only=not really
        )
        return await _error(rotation)

    def _of_primary(self, question: Question, cluster: str, region: str) -> bool:
        """Says whether a rotation may fail since the version that was taken away is the primary.

        The store does not know which version is, so the answer says so in its reasons.
        """
        uri = self._cluster(cluster).region(region).newest.current.root.uri
        of_version = bool(question.version) or self.site.pins(question.uri)
        return of_version and self._same_key(uri, question.uri)

    async def _take_back(
        self, question: Question, rows: list[tuple[KeyUse, KeyImpact]], users: list[str]
    ) -> None:
        lost = any(each.stops and not each.resumes and not each.needs for _, each in rows)
        if not lost:
            self.site.take_back(question.what, self._target(question), question.version, users)
        await self._compare_resumed(question, rows, "taken back")
        if any(each.needs for _, each in rows) and not self.differences:
            self.site.do_what_it_needs(question.what, self._target(question), question.version)
            when = "taken back, and what it needs done"
            await self._compare_resumed(question, [], when)

    async def _compare_resumed(
        self, question: Question, rows: list[tuple[KeyUse, KeyImpact]], when: str
    ) -> None:
        """Checks that what resumes by itself does, and that nothing else does."""
        await self.house.after(FORGOTTEN)
        stays = [
            (use, replace(each, when=When.AT_ONCE, error=KmsError))
            for use, each in rows
            if not each.resumes
        ]
        for member in self.members:
            self._check(stays, await self._tried(member), 0.0, when)
        await self._compare_rotations(question, stays, when, really=True)


@dataclass
class Result:
    """How cases ended.

    Attributes:
        cases: The number of cases.
        rows: The number of rows about which something was said.
        stopping: The number of rows of which something was said to stop.
        served_on: The number of uses that went on for a while, though something was said to stop.
        differences: Every difference between what was said and what happened.
    """

    cases: int = 0
    rows: int = 0
    stopping: int = 0
    served_on: int = 0
    differences: list[str] = field(default_factory=list)


async def tried(
    site: Site, folder: Path, seed: str, number: int, what: WhatIf, result: Result
) -> None:
    """Carries one case out, in a folder of its own, and adds it to the result."""
    folder /= f"{what.name}-{number}"
    folder.mkdir(parents=True)
    async with site_house(folder, site) as house:
        trial = Trial(house, f"{seed}/{number}", what)
        rows = await trial.run()
    shutil.rmtree(folder)
    result.cases += 1
    result.rows += len(rows)
    result.stopping += sum(each.stops for _, each in rows)
    result.served_on += trial.served_on
    result.differences += [f"case {seed}/{number}: {each}" for each in trial.differences]


async def _error(call: Any) -> KeyfoldError | None:
    try:
        await call
    except KeyfoldError as error:
        return error
    return None
