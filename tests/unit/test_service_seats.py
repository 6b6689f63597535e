"""Seats: each is the vendor's principal for one cluster-region, and never another one's (C2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    ClusterExistsError,
    InvalidKeySpecError,
    KeyNotGrantedError,
    SeatNotReservedError,
    SeatsExhaustedError,
    SetupError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionSpec, RootKey
from keyfold_server.domain.operations import ActionKind, Work
from keyfold_server.domain.provider import Unwrapped, Wrapped
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.domain.seats import Seat, asks_for_seat, meets, names_seat, seated
from keyfold_server.domain.what_if import WhatIf
from keyfold_server.service.life.key_usage import KeySelector
from keyfold_server.service.life.seating import seated as chosen_seats
from keyfold_server.service.organizations.requests import (
    CreateKeyLinkRequest,
    OrganizationCall,
)
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest, AccessPolicyResult
from keyfold_server.service.root_keys.admission import Admitted
from keyfold_server.service.root_keys.identities import FREE_SHOWN, IdentityState
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse, RegionalProvider
from replicas import Member, until

ASKED: Final = KeySpec("FAKE", "fake:one", "seat")
TWO: Final = KeySpec("FAKE", "fake:two", "seat")
POOL: Final = tuple(Seat(f"seat-{n}", "FAKE", "eu", f"role/s{n}") for n in range(1, 5))


class Choosy(RegionalProvider):
    """A KMS whose keys say whom they let in.

    Attributes:
        lets_in: The principals that a key lets in, by its uri; a key that is not named: all.
        broken: The principals for which the KMS gives no answer.
        tried: Every use of a key, with the principal.
        demands_ids: Whether the calls as a seat need an external id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lets_in: dict[str, set[str]] = {}
        self.broken: set[str] = set()
        self.tried: list[tuple[str, str]] = []
        self.demands_ids = True

    def needs_external_id(self, key: RootKey) -> bool:
        return self.demands_ids and super().needs_external_id(key)

    def _check_trust(self, key: RootKey) -> None:
        if self.demands_ids:
            super()._check_trust(key)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        self._check(key)
        return super().wrap(key, plaintext, binding, budget=budget)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        self._check(key)
        return super().unwrap(key, key_version, ciphertext, binding, budget=budget)

    def _check(self, key: RootKey) -> None:
        self.tried.append((key.uri, key.principal))
        if key.principal in self.broken:
            raise UnreachableError("no answer")
        if key.principal not in self.lets_in.get(key.uri, {key.principal}):
            raise AccessDeniedError("the key's policy does not name the caller")


class House(RegionalHouse):
    """Replicas with a pool of seats."""

    provider: Choosy

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.provider = Choosy()
        for name in ("one", "two", "three"):
            self.provider.create_key(name)

    async def seated(self, pool: tuple[Seat, ...] = POOL) -> Member:
        """Starts a replica whose settings have these seats."""
        member = await self.replica()
        member.replica.seats.pool.seats = pool
        await member.replica.seats.start()
        return member


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a house whose KMS lets in whom its keys name."""
    built = House(tmp_path)
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with four seats in region eu."""
    return await house.seated()


async def policy(
    member: Member,
    spec: KeySpec = ASKED,
    *,
    cluster: str = "",
    organization: str | None = "org",
    seats: int = 0,
    region: str = "eu",
    rights: Rights = EVERYTHING,
) -> AccessPolicyResult:
    """Calls GetAccessPolicy."""
    wanted = AccessPolicyRequest(spec, Scope(cluster, region, organization), seats)
    return await member.replica.access_policies.get(Caller(rights), wanted)


def held(house: House, cluster: str = "acme", region: str = "eu") -> tuple[str, str]:
    """Returns the principals of a region's key spec, and of the root key that wraps."""
    found = house.store.cluster(cluster)
    assert found is not None
    own = found.region(region)
    return own.key_spec.principal, own.newest.current.root.principal


def states(house: House, owner: str = "organization:org") -> dict[str, str]:
    """Returns the cluster that took each seat of an owner."""
    return {s.seat.name: s.cluster for s in house.store.issued_to(owner).seats}


def test_what_asks_for_a_seat() -> None:
    """The word alone asks, or behind the customer's part; no other principal does."""
    assert all(map(asks_for_seat, ("seat", "11111111-2222-3333-4444-555555555555/seat")))
    for other in ("", "Seat", "seats", "arn:aws:iam::1:role/seat", "auth/jwt/role/seat", "/seat"):
        assert not asks_for_seat(other)
    assert (seated("seat", "role/x"), seated("tenant/seat", "app")) == ("role/x", "tenant/app")
    assert names_seat("tenant/APP", "app")
    assert not names_seat("tenant/my-app", "app")


async def test_a_region_takes_the_seat_that_was_reserved(house: House, one: Member) -> None:
    """GetAccessPolicy reserves one, the same again, and Enable stores its real principal."""
    found = await policy(one)
    assert (found.seats, found.policy.principal, found.external_id) == (
        ("seat-1",),
        "role/s1",
        "seat-1",
    )
    assert (await policy(one)).seats == ("seat-1",)
    assert house.provider.calls == []
    await one.enable(specs={"eu": ASKED}, organization="org")
    assert held(house) == ("role/s1", "role/s1")
    assert states(house) == {"seat-1": "acme"}
    assert (await policy(one)).seats == ("seat-2",)
    two = await house.seated()
    assert (await two.unwrap(await one.wrap())).region == "eu"


async def test_a_cluster_without_organization_has_seats_of_its_own(
    house: House, one: Member
) -> None:
    """The owner is the cluster's name where no organization is named (protocol C2)."""
    await policy(one, cluster="acme", organization=None)
    with pytest.raises(SeatNotReservedError, match="for cluster beta"):
        await one.enable("beta", specs={"eu": ASKED})
    await one.enable(specs={"eu": ASKED})
    assert states(house, "cluster:acme") == {"seat-1": "acme"}


async def test_without_a_reserved_seat_no_call_is_made(house: House, one: Member) -> None:
    """SEAT_NOT_RESERVED names the owner and says what to do; nothing falls back."""
    with pytest.raises(SeatNotReservedError) as caught:
        await one.enable(specs={"eu": ASKED}, organization="org")
    assert "for organization org for FAKE keys in region eu; call GetAccess" in caught.value.message
    assert (caught.value.cluster, caught.value.region) == ("acme", "eu")
    await policy(one, organization="other")
    with pytest.raises(SeatNotReservedError):
        await one.enable(specs={"eu": ASKED}, organization="org")
    assert house.provider.calls == []


async def test_an_empty_pool_is_an_error(house: House, one: Member) -> None:
    """SEATS_EXHAUSTED says that the vendor has to add seats; all of the seats or none."""
    with pytest.raises(SeatsExhaustedError, match=r"4 seats are free.*5 more are needed"):
        await policy(one, seats=5)
    assert states(house) == {}
    assert (await policy(one, seats=4)).seats == tuple(s.name for s in POOL)
    with pytest.raises(SeatsExhaustedError, match="0 seats are free"):
        await policy(one, organization="other")
    with pytest.raises(SeatsExhaustedError, match=r"no seats for FAKE keys in region us"):
        await policy(one, region="us")
    with pytest.raises(SeatsExhaustedError, match="at most 64"):
        await policy(one, organization="other", seats=65)
    with pytest.raises(InvalidKeySpecError, match="name the region"):
        await policy(one, region="")
    with pytest.raises(InvalidKeySpecError, match="asks for seats"):
        await policy(one, KeySpec("FAKE", "fake:one"), seats=1)


async def test_the_first_seat_that_the_key_accepts_is_taken(house: House, one: Member) -> None:
    """Seats that the key refuses stay reserved; if it refuses all, its refusal is the answer."""
    await policy(one, seats=3)
    house.provider.lets_in = {"fake:one": {"role/s2"}, "fake:two": set()}
    await one.enable(specs={"eu": ASKED}, organization="org")
    assert held(house)[0] == "role/s2"
    assert states(house) == {"seat-1": "", "seat-2": "acme", "seat-3": ""}
    with pytest.raises(AccessDeniedError, match="tried as seat seat-1, seat-3") as caught:
        await one.enable("beta", specs={"eu": TWO}, organization="org")
    assert caught.value.region == "eu"
    assert house.store.cluster("beta") is None


async def test_choosing_a_seat_is_the_proof(house: House, one: Member) -> None:
    """A link, or a new region, costs as many calls of the KMS with a seat as without one."""
    await policy(one, seats=2)
    await link(one)
    assert house.provider.tried == [("fake:one", "role/s1")] * 2  # To wrap, and to open that.
    house.provider.tried.clear()
    await one.enable(specs=by_link(), organization="org")
    assert house.provider.tried == [("fake:one", "role/s1")] * 2


async def test_a_seat_that_could_not_be_tried_is_not_refused(house: House, one: Member) -> None:
    """A later seat is taken; without one, the answer is that nobody could tell (F6)."""
    await policy(one, seats=2)
    house.provider.broken = {"role/s1"}
    house.provider.lets_in = {"fake:two": {"role/s1"}}
    with pytest.raises(UnreachableError, match="tried as seat seat-1, seat-2"):
        await one.enable(specs={"eu": TWO}, organization="org")
    await one.enable(specs={"eu": ASKED}, organization="org")
    assert held(house)[0] == "role/s2"


async def test_a_refused_seat_does_not_hide_one_that_could_not_be_tried(
    house: House, one: Member
) -> None:
    """Of seats of which one is refused and a later one gets no answer, nobody could tell (F6)."""
    await policy(one, seats=2)
    house.provider.broken = {"role/s2"}
    house.provider.lets_in = {"fake:one": {"role/s2"}}
    with pytest.raises(UnreachableError, match="tried as seat seat-1, seat-2"):
        await one.enable(specs={"eu": ASKED}, organization="org")


async def test_a_seat_that_another_change_tries_comes_last(house: House, one: Member) -> None:
    """An Enable that begins meanwhile tries the next seat, so that neither has to begin again."""
    await policy(one, seats=2)
    hang = house.provider.hang("fake:one", ("wrap",))
    first = asyncio.create_task(one.enable("a", specs={"eu": ASKED}, organization="org"))
    await until(lambda: len(house.provider.tried) == 1)
    second = asyncio.create_task(one.enable("b", specs={"eu": ASKED}, organization="org"))
    await until(lambda: len(house.provider.tried) == 2)
    assert house.provider.tried == [("fake:one", "role/s1"), ("fake:one", "role/s2")]
    hang.release()
    await asyncio.gather(first, second)
    assert states(house) == {"seat-1": "a", "seat-2": "b"}


async def test_a_key_as_a_seat_claims_nothing(house: House, one: Member) -> None:
    """C2, C9: a seat is one owner's, so its key makes nobody the holder of the account."""
    house.provider.demands_ids = False
    house.provider.create_key("A.one")
    house.provider.create_key("A.two")
    for name, organization in (("one", "acme"), ("two", "globex")):
        spec = KeySpec("FAKE", f"fake:A.{name}", "seat")
        await policy(one, spec, organization=organization)
        await one.enable(name, specs={"eu": spec}, organization=organization)
        assert house.store.organization(organization).organization.holders == ()


async def test_of_many_enables_one_gets_the_last_seat(house: House, one: Member) -> None:
    """The others are told that none is reserved, on whichever replica they are."""
    two = await house.seated()
    await policy(one)
    results = await asyncio.gather(
        *(
            member.enable(f"c-{n}-{i}", specs={"eu": ASKED}, organization="org")
            for n, member in enumerate((one, two))
            for i in range(4)
        ),
        return_exceptions=True,
    )
    lost = [each for each in results if isinstance(each, BaseException)]
    assert len(lost) == 7
    assert {type(each) for each in lost} == {SeatNotReservedError}


async def test_as_many_enables_as_seats_all_succeed(house: House, one: Member) -> None:
    """A change that loses a seat to another one takes the next."""
    two = await house.seated()
    await policy(one, seats=4)
    await asyncio.gather(
        *(
            member.enable(f"c-{n}-{i}", specs={"eu": ASKED}, organization="org")
            for n, member in enumerate((one, two))
            for i in range(2)
        )
    )
    assert len(set(states(house).values())) == 4


async def test_a_seat_that_another_change_may_take_comes_last(house: House, one: Member) -> None:
    """Until that change ends, so that changes at once seldom prove a key with the same seat."""
    await policy(one, seats=2)
    seats, root = one.replica.seats, RootKey("FAKE", "fake:one", "seat")
    chosen, ends = asyncio.Event(), asyncio.Event()

    async def change() -> None:
        keys = await seats.keys(root, "acme", "org", "eu")
        await chosen_seats(seats, Admitted({}, {"eu": keys}), "acme", "org")
        chosen.set()
        await ends.wait()

    async def first() -> str:
        return (await seats.keys(root, "beta", "org", "eu"))[0].seat.name

    assert await first() == "seat-1"
    other = asyncio.create_task(change())
    await chosen.wait()
    assert await first() == "seat-2"
    ends.set()
    await other
    assert await first() == "seat-1"


async def test_asking_again_changes_nothing(house: House, one: Member) -> None:
    """Enable, AddRegions and Rotate with `seat` mean the seat that the region has."""
    await policy(one, seats=2)
    await one.enable(specs={"eu": ASKED}, organization="org", request_id="r")
    for request_id in ("r", "", "other"):
        await one.enable(specs={"eu": ASKED}, organization="org", request_id=request_id)
    await one.enable(specs={"eu": KeySpec("FAKE", "fake:one", "role/s1")}, organization="org")
    await one.add_regions({"eu": ASKED})
    with pytest.raises(ClusterExistsError):
        await one.enable(specs={"eu": TWO}, organization="org")
    own = TestKeyRequest(KeySpec("FAKE", "fake:one", "role/s1"), Scope("acme", "eu", "org"))
    assert (await one.replica.trials.test(Caller(EVERYTHING), own)).accessible
    assert (await policy(one, own.key_spec, cluster="acme")).external_id == "seat-1"
    await one.rotate({"eu": ASKED})
    await one.rotate()
    assert held(house) == ("role/s1", "role/s1")
    assert states(house) == {"seat-1": "acme", "seat-2": ""}
    # The policy of a region that has a seat is for that seat, and reserves none.
    assert (await policy(one, cluster="acme")).seats == ("seat-1", "seat-2")


async def test_trying_takes_nothing(house: House, one: Member) -> None:
    """Neither validate_only nor TestKey nor a failed change takes a seat."""
    await policy(one, seats=2)
    await one.enable(specs={"eu": ASKED}, organization="org", validate_only=True)
    house.provider.lets_in = {"fake:one": {"role/s2"}}
    asked = TestKeyRequest(ASKED, Scope("acme", "eu", "org"))
    assert (await one.replica.trials.test(Caller(EVERYTHING), asked)).accessible
    house.provider.lets_in = {"fake:one": set()}
    assert not (await one.replica.trials.test(Caller(EVERYTHING), asked)).accessible
    with pytest.raises(AccessDeniedError):
        await one.enable(specs={"eu": ASKED}, organization="org")
    assert states(house) == {"seat-1": "", "seat-2": ""}


async def test_a_rotation_keeps_the_seat_or_leaves_it_for_good(house: House, one: Member) -> None:
    """To another key as the same seat, if that lets it in; once left, nobody gets a seat again."""
    await policy(one, seats=3)
    await one.enable(specs={"eu": ASKED}, organization="org")
    blob = await one.wrap()
    await one.rotate({"eu": TWO})
    assert held(house) == ("role/s1", "role/s1")
    await one.rotate({"eu": KeySpec("FAKE", "fake:one", "role/s1")})
    house.provider.lets_in = {"fake:two": {"role/s2"}}
    await one.rotate({"eu": TWO})
    assert held(house)[0] == "role/s2"
    house.provider.lets_in = {}
    await one.rotate({"eu": "fake:one"})
    with pytest.raises(KeyNotGrantedError, match="is a seat's"):
        await one.rotate({"eu": KeySpec("FAKE", "fake:one", "role/s1")})
    await one.rotate({"eu": ASKED})
    assert held(house)[0] == "role/s3"
    with pytest.raises(SeatNotReservedError):
        await one.enable("beta", specs={"eu": ASKED}, organization="org")
    assert (await one.unwrap(blob)).region == "eu"
    assert set(states(house).values()) == {"acme"}


async def test_a_revoked_region_comes_back_with_its_seat(house: House, one: Member) -> None:
    """Restore needs no other seat, and none is given to others meanwhile."""
    await policy(one)
    await one.enable(specs={"eu": ASKED}, organization="org")
    await one.hurry().revoke()
    with pytest.raises(SeatNotReservedError):
        await one.enable("beta", specs={"eu": ASKED}, organization="org")
    await one.restore()
    assert held(house) == ("role/s1", "role/s1")
    assert await one.wrap()


@pytest.mark.parametrize("given", ["role/s1", "role/s4", "ROLE/S1", "tenant/role/s1"])
async def test_nobody_names_a_seat(house: House, one: Member, given: str) -> None:
    """A seat's principal is refused wherever a caller names it, and before any KMS call (C1)."""
    await policy(one)
    await one.enable(specs={"eu": ASKED}, organization="org")
    tried, spec = len(house.provider.tried), KeySpec("FAKE", "fake:two", given)
    member = await house.seated(POOL[1:])  # Its settings have lost the seat that is used.
    for each in (one, member):
        with pytest.raises(KeyNotGrantedError, match="is a seat's"):
            await each.enable("beta", specs={"eu": spec}, organization="other")
        with pytest.raises(KeyNotGrantedError, match="is a seat's"):
            await each.add_regions({"us": spec})
        with pytest.raises(KeyNotGrantedError, match="is a seat's"):
            await policy(each, spec, organization="other")
        for scope in (Scope("beta", "eu", "other"), Scope("", "eu", "other")):
            with pytest.raises(KeyNotGrantedError, match="is a seat's"):
                await each.replica.trials.test(Caller(EVERYTHING), TestKeyRequest(spec, scope))
    await one.enable("gamma", organization="org")
    with pytest.raises(KeyNotGrantedError, match="is a seat's"):
        await one.rotate({"eu": spec}, "gamma")
    assert [each for each in house.provider.tried[tried:] if each[1] == given] == []


async def test_a_grant_names_seats_as_such(one: Member) -> None:
    """A key of a grant has the principal `seat`; the seat's own needs no grant (protocol C1)."""
    caller = Identity(("dns:app.example",), "certificate")

    def granted(principal: str) -> Rights:
        text = (
            '[[grant]]\ncallers = ["dns:app.example"]\nroles = ["operator"]\n'
            f'keys = [{{type = "FAKE", uri = "fake:*", principal = "{principal}"}}]\n'
        )
        return parse(text, "policy.toml").rights(caller)

    with pytest.raises(KeyNotGrantedError):
        await policy(one, rights=granted("role/s1"))
    await policy(one, rights=granted("seat"))
    one.rights = granted("ambient")
    with pytest.raises(KeyNotGrantedError):
        await one.enable(specs={"eu": ASKED}, organization="org")
    one.rights = granted("seat")
    await one.enable(specs={"eu": ASKED}, organization="org")


async def link(member: Member, spec: KeySpec = ASKED) -> None:
    """Links a key to the organization."""
    request = CreateKeyLinkRequest("org", "main", "", "eu", "", spec, validate_only=False)
    deadline = member.house.clock.monotonic() + 10
    call = OrganizationCall(Caller(EVERYTHING), "CreateKeyLink", "", request, deadline)
    await member.replica.key_links.create(call)


def by_link() -> Mapping[str, RegionSpec]:
    """Returns the spec of a region that uses the link."""
    return {"eu": RegionSpec("eu", key_link="main")}


async def test_each_user_of_a_link_takes_a_seat_of_its_own(house: House, one: Member) -> None:
    """The link keeps the word and takes none, so that seats still tell its users apart."""
    with pytest.raises(SeatNotReservedError):
        await link(one)
    with pytest.raises(KeyNotGrantedError, match="is a seat's"):
        await link(one, KeySpec("FAKE", "fake:one", "role/s1"))
    await policy(one, seats=2)
    await link(one)
    assert states(house) == {"seat-1": "", "seat-2": ""}
    for name in ("acme", "beta"):
        await one.enable(name, specs=by_link(), organization="org")
        await one.enable(name, specs=by_link(), organization="org")
    assert (held(house, "acme")[0], held(house, "beta")[0]) == ("role/s1", "role/s2")
    with pytest.raises(SeatNotReservedError):
        await one.enable("gamma", specs=by_link(), organization="org")
    shown = await one.replica.key_links.get(EVERYTHING, "org", "main")
    assert (shown.link.key_spec.principal, shown.use.count) == ("seat", 2)
    assert meets(shown.link.key_spec, KeySpec("FAKE", "fake:one", "role/s1"))
    assert not meets(shown.link.key_spec, KeySpec("FAKE", "fake:one"))
    assert not meets(shown.link.key_spec, KeySpec("FAKE", "fake:two", "role/s1"))


async def move(member: Member, spec: KeySpec, *, dry_run: bool = False) -> list[tuple[str, str]]:
    """Moves the link to another key; returns the regions that failed, with the reason."""
    work = Work(ActionKind.MOVE_LINK, organization="org", key_link="main", key_spec=spec)
    replica, name = member.replica, spec.uri.replace(":", "-")
    deadline = member.house.clock.monotonic() + 60
    started = await replica.operations.start(
        Caller(EVERYTHING), name, work, deadline, dry_run=dry_run
    )
    if started.operation is None:
        return []
    runner = replica._runner
    assert runner is not None
    await runner.look()
    await until(lambda: not runner._runs)
    failures = member.house.store.operation_failures(started.operation.uid)
    return [(each.cluster, each.reason) for each in failures]


async def test_a_link_moves_with_the_seats_of_its_users(house: House, one: Member) -> None:
    """The new key is proven with a seat that a user has and keeps, so none has to be free."""
    await policy(one, seats=4)
    await link(one)
    for name in ("acme", "beta", "gamma", "delta"):
        await one.enable(name, specs=by_link(), organization="org")
    blob = await one.wrap()
    house.provider.lets_in = {"fake:two": {"role/s2", "role/s3", "role/s4"}}
    await move(one, TWO, dry_run=True)
    assert (await one.replica.key_links.get(EVERYTHING, "org", "main")).link.key_spec == ASKED
    # A seat that the new key does not let in fails alone, and nobody else's takes its place.
    assert await move(one, TWO) == [("acme", "ACCESS_DENIED")]
    assert held(house, "beta") == ("role/s2", "role/s2")
    house.provider.lets_in = {}
    assert await move(one, replace(TWO, uri="fake:three")) == []
    assert [held(house, n)[0] for n in ("acme", "beta")] == ["role/s1", "role/s2"]
    assert (await one.unwrap(blob)).region == "eu"


async def test_a_key_that_lets_no_seat_in_moves_nothing(house: House, one: Member) -> None:
    """The KMS's own refusal names the users' seats that were tried; left seats are not tried."""
    await policy(one, seats=2)
    await link(one)
    for name in ("acme", "beta"):
        await one.enable(name, specs=by_link(), organization="org")
    await one.rotate({"eu": "fake:one"}, "beta")
    house.provider.lets_in = {"fake:two": {"role/s2"}}
    with pytest.raises(AccessDeniedError, match="tried as seat seat-1,"):
        await move(one, TWO)
    await one.rotate({"eu": "fake:one"})
    with pytest.raises(SeatNotReservedError):
        await move(one, TWO)


async def test_a_replica_region_takes_a_seat_of_its_own(house: House) -> None:
    """A seat is for one cluster-region, so the replica of its key has another one."""
    us = Seat("seat-us", "FAKE", "us-east-1", "role/us")
    eu = Seat("seat-eu", "FAKE", "eu-west-1", "role/eu")
    one = await house.seated((eu, us))
    for region in ("eu-west-1", "us-east-1"):
        house.provider.create_key(f"{region}.mrk-1")
    spec = KeySpec("FAKE", "fake:eu-west-1.mrk-1", "seat")
    await policy(one, spec, region="eu-west-1")
    await one.enable(specs={"eu-west-1": spec}, organization="org")
    replica = {"us-east-1": RegionSpec("us-east-1", replica_of="eu-west-1")}
    with pytest.raises(SeatNotReservedError):
        await one.add_regions(replica)
    await policy(one, spec, region="us-east-1")
    await one.add_regions(replica)
    assert held(house, region="us-east-1")[0] == "role/us"
    await one.rotate({"eu-west-1": spec})
    assert held(house, region="us-east-1")[0] == "role/us"


async def test_an_organizations_identities_are_listed(house: House, one: Member) -> None:
    """GetOrganization shows the external id, each seat's state, and how many seats are free."""
    many = tuple(Seat(f"more-{n}", "FAKE", "us", f"role/m{n}") for n in range(FREE_SHOWN + 5))
    one.replica.seats.pool.seats = (*POOL, *many)
    await policy(one, KeySpec("FAKE", "fake:one", "role/customer"))
    await policy(one, seats=2)
    await one.enable(specs={"eu": ASKED}, organization="org")
    found = await one.replica.identities.of_organization("org")
    assert [(i.state, i.value, i.cluster, i.count) for i in found[1:]] == [
        (IdentityState.RESERVED, "seat-2", "", 1),
        (IdentityState.USED, "seat-1", "acme", 1),
        (IdentityState.FREE, "", "", 2),
        (IdentityState.FREE, "", "", FREE_SHOWN),
    ]
    assert not found[0].is_seat
    assert found[2].principals == ("role/s1",)


async def test_a_seat_and_its_region_find_each_other(house: House, one: Member) -> None:
    """ListKeyUsage by a seat's principal has its one region, and what_if says when that stops."""
    await policy(one, seats=2)
    for name in ("acme", "beta"):
        await one.enable(name, specs={"eu": ASKED}, organization="org")
    await one.rotate({"eu": TWO}, "beta")
    ask = one.replica.key_usage.page
    of_key = await ask(EVERYTHING, KeySelector(uri="fake:one"), 0, "", WhatIf.DISABLE)
    assert [(each.cluster, each.principal, each.superseded_at is None) for each in of_key.uses] == [
        ("acme", "role/s1", True),
        ("beta", "role/s2", False),
    ]
    assert [said.stops for said in of_key.impacts] == [True, False]
    of_seat = await ask(
        EVERYTHING, KeySelector(principal="role/s1"), 0, "", WhatIf.REMOVE_UNWRAP_PERMISSION
    )
    assert [(each.cluster, each.region) for each in of_seat.uses] == [("acme", "eu")]
    assert [said.stops for said in of_seat.impacts] == [True]
    # The word is nobody's principal.
    assert (await ask(EVERYTHING, KeySelector(principal="seat"), 0, "")).uses == ()


async def test_settings_that_lose_a_seat_are_told_so(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """A seat that is issued stays what it is: others are refused at the start, lost ones told."""
    await policy(one, seats=2)
    await one.enable(specs={"eu": ASKED}, organization="org")
    with caplog.at_level(logging.WARNING):
        two = await house.seated(POOL[2:])
    assert "no longer have seat seat-1, which is issued to region eu of cluster acme" in caplog.text
    assert "no longer have seat seat-2, which is issued to organization:org" in caplog.text
    await two.unwrap(await one.wrap())
    await two.rotate()
    await two.enable("beta", specs={"eu": ASKED}, organization="org")
    assert held(house, "beta")[0] == "role/s2"
    for pool in (
        (Seat("seat-1", "FAKE", "eu", "role/other"),),
        (Seat("seat-1", "FAKE", "us", "role/s1"),),
        (Seat("other", "FAKE", "eu", "role/S1"),),
    ):
        with pytest.raises(SetupError, match="KEYFOLD_SEATS"):
            await house.seated(pool)
