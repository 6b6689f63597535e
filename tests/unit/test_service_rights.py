"""Rights: the service enforces them, and no caller can step around a narrow grant."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.longrunning import operations_proto_pb2

from callers import EVERYTHING
from keyfold.v1 import event_service_pb2, organization_service_pb2
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.grants import RULES
from keyfold_server.access.policy.rights import Policy
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ContextNotGrantedError,
    KeyfoldError,
    KeyNotGrantedError,
    NotAllowedError,
    RegionNotFoundError,
    UnknownKekError,
    WrongClusterError,
)
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.service.data.call import Call, NeedsLoad
from keyfold_server.service.data.data_plane import Destination
from keyfold_server.service.life.listing import page_token
from keyfold_server.service.life.reports import ClusterReport
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from replicas import House, Member, house_in

APP = Identity(("dns:app.example",), "certificate")

ONE_AS = '{ type = "FAKE", uri = "fake:one", principal = "ambient" }'
TWO_AS = '{ type = "FAKE", uri = "fake:two", principal = "somebody" }'

KEYS = 'keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]'


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a store and a KMS with fake:one and fake:two, without a replica yet."""
    async with house_in(tmp_path) as house:
        yield house


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme of organization a in eu and us, and beta of b in eu."""
    one = await house.replica()
    await one.enable("acme", {"eu": "fake:one", "us": "fake:one"}, organization="a")
    await one.enable("beta", {"eu": "fake:two"}, organization="b")
    return one


def rights(*grants: str) -> Rights:
    """Returns the rights of the caller; each grant is written without its callers."""
    text = "".join(f'[[grant]]\ncallers = ["{APP.name}"]\n{grant}\n' for grant in grants)
    return parse(text, "policy.toml").rights(APP)


@contextmanager
def as_one_who(member: Member, *grants: str) -> Iterator[None]:
    """Gives the replica's callers these grants and no others."""
    member.rights = rights(*grants)
    try:
        yield
    finally:
        member.rights = EVERYTHING


async def refused(call: Awaitable[object]) -> KeyfoldError:
    """Returns the error with which a call is refused."""
    with pytest.raises(KeyfoldError) as caught:
        await call
    return caught.value


def told(error: KeyfoldError, *names: str) -> tuple[object, ...]:
    """Returns everything in an error but the names that the caller gave."""
    text = error.message
    for name in names:
        text = re.sub(rf"\b{name}\b", "NAME", text)
    return (type(error), text, error.field, error.retry_after, error.provider_request_id)


def test_every_method_has_a_rule() -> None:
    """Every method of the contract has a rule; without one it would be refused to everybody."""
    services = (
        pb.DESCRIPTOR.services_by_name["KeyManagementService"],
        event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
        organization_service_pb2.DESCRIPTOR.services_by_name["OrganizationService"],
        operations_proto_pb2.DESCRIPTOR.services_by_name["Operations"],
    )
    methods = {name for service in services for name in service.methods_by_name}
    # What follows a colon is a part of a method that has a rule of its own.
    assert {name.partition(":")[0] for name in RULES if "/" not in name} == methods
    assert methods <= set(RULES)


async def test_who_has_no_grant_may_do_nothing(one: Member) -> None:
    """Default deny: without a grant no method is allowed, and the store is not read."""
    nobody = Policy(()).rights(APP)
    before = dict(one.line.counts)
    for method in RULES:
        if not RULES[method].open:
            with pytest.raises(NotAllowedError):
                nobody.check(method)
    one.rights = nobody
    assert type(await refused(one.wrap())) is ClusterNotFoundError
    assert type(await refused(one.revoke())) is ClusterNotFoundError
    assert type(await refused(one.status())) is ClusterNotFoundError
    assert dict(one.line.counts) == before


@pytest.mark.parametrize("warm", [True, False])
async def test_a_hidden_cluster_looks_like_one_that_is_not(one: Member, warm: bool) -> None:  # noqa: FBT001
    """A cluster that the caller may not see gets the answer of one that does not exist (C7)."""
    blob = await one.wrap("beta")
    if not warm:
        one.loads.drop_all()
    grants = {
        "by name": 'roles = ["admin"]\nclusters = ["acme"]',
        "by organization": 'roles = ["admin"]\nclusters = ["*e*"]\norganizations = ["a"]',
    }
    calls: list[Callable[[str], Awaitable[object]]] = [
        one.wrap,
        lambda name: one.wrap(name, "nowhere"),
        lambda name: one.unwrap(blob, name),
        lambda name: one.rotate({"eu": None}, name),
        one.revoke,
        one.restore,
        one.status,
        lambda name: one.add_regions({"as": "fake:one"}, name),
    ]
    for grant in grants.values():
        for call in calls:
            with as_one_who(one, grant + f"\n{KEYS}"):
                hidden = await refused(call("beta"))
                absent = await refused(call("gone"))
            assert told(hidden, "beta") == told(absent, "gone")
            assert isinstance(hidden, ClusterNotFoundError)


async def test_hidden_and_absent_cost_the_store_the_same(one: Member) -> None:
    """A hidden cluster costs as many reads of the store as one that does not exist."""
    await one.wrap("beta")
    counts = {}
    with as_one_who(one, 'roles = ["crypto"]\norganizations = ["a"]'):
        for name in ("beta", "gone"):
            before = one.line.counts["cluster"]
            await refused(one.wrap(name))
            counts[name] = one.line.counts["cluster"] - before
    assert counts["beta"] == counts["gone"] == 1


async def test_a_hidden_region_looks_like_one_that_is_not(one: Member) -> None:
    """A caller whose grant is narrowed to regions learns nothing of the others (protocol C7)."""
    blob = await one.wrap("acme", "us")
    with as_one_who(one, f'roles = ["admin"]\nregions = ["eu"]\n{KEYS}'):
        hidden = await refused(one.wrap("acme", "us"))
        absent = await refused(one.wrap("acme", "as"))
        assert isinstance(hidden, RegionNotFoundError)
        assert told(hidden, "us") == told(absent, "as")
        assert isinstance(await refused(one.unwrap(blob)), UnknownKekError)
        assert [r.region.name for r in (await one.status()).regions] == ["eu"]
        assert isinstance(await refused(one.revoke("acme", ["us"])), RegionNotFoundError)
        everywhere = await refused(one.revoke("acme"))
        assert isinstance(everywhere, NotAllowedError)
    assert one.serves("acme", "us")


async def test_batches_decide_for_each_item(one: Member) -> None:
    """A batch cannot step around a narrow role: each item has its own answer (protocol C7)."""
    eu, us = await one.wrap("acme", "eu"), await one.wrap("acme", "us")
    with as_one_who(one, 'roles = ["crypto"]\nregions = ["eu"]'):
        wrapped = await one.call(
            lambda c: one.plane.wrap_batch("acme", [("eu", b"k", None), ("us", b"k", None)], {}, c)
        )
        assert [type(r) for r, _ in wrapped] == [bytes, RegionNotFoundError]
        opened = await one.call(
            lambda c: one.plane.unwrap_batch("acme", [(us, None), (eu, None)], {}, c)
        )
        assert [type(r) for r, _ in opened] == [UnknownKekError, bytes]
        target = Destination(None, "us", {})
        moved = await one.call(
            lambda c: one.plane.rewrap_batch("acme", [(eu, {}, None), (eu, {}, target)], c)
        )
        assert [type(r) for r in moved] == [tuple, RegionNotFoundError]


async def test_wrap_only_cannot_unwrap(one: Member) -> None:
    """A grant to wrap does not allow unwrapping, nor the other way; Rewrap takes both."""
    blob = await one.wrap()
    with as_one_who(one, 'roles = ["crypto:wrap"]'):
        await one.wrap()
        assert isinstance(await refused(one.unwrap(blob)), NotAllowedError)
        assert isinstance(await refused(one.rewrap(blob)), NotAllowedError)
    with as_one_who(one, 'roles = ["crypto:unwrap"]'):
        assert (await one.unwrap(blob)).region == "eu"
        assert isinstance(await refused(one.wrap()), NotAllowedError)
        assert isinstance(await refused(one.rewrap(blob)), NotAllowedError)
    with as_one_who(one, 'roles = ["crypto"]\nclusters = ["acme"]'):
        assert isinstance(
            await refused(one.rewrap(blob, Destination("beta", "eu", {}))), ClusterNotFoundError
        )


async def test_context_entries_can_be_demanded(one: Member) -> None:
    """A grant with context entries holds for contexts that have them, item by item."""
    blob = await one.wrap(context={"app": "x", "row": "1"})
    with as_one_who(one, 'roles = ["crypto"]\ncontext = { app = "x" }'):
        await one.wrap(context={"app": "x", "row": "2"})
        assert (await one.unwrap(blob, context={"app": "x", "row": "1"})).region == "eu"
        for context in ({}, {"app": "y"}, {"row": "x"}):
            assert isinstance(await refused(one.wrap(context=context)), ContextNotGrantedError)
            assert isinstance(
                await refused(one.unwrap(blob, context=context)), ContextNotGrantedError
            )
        batch = await one.call(
            lambda c: one.plane.wrap_batch(
                "acme", [("eu", b"k", {"app": "y"}), ("eu", b"k", None)], {"app": "x"}, c
            )
        )
        assert [type(r) for r, _ in batch] == [ContextNotGrantedError, bytes]
        opened = await one.call(
            lambda c: one.plane.unwrap_batch("acme", [(blob, None)], {"app": "y"}, c)
        )
        assert [type(r) for r, _ in opened] == [ContextNotGrantedError]
        away = Destination(None, None, {"app": "y"})
        assert isinstance(
            await refused(one.rewrap(blob, away, context={"app": "x", "row": "1"})),
            ContextNotGrantedError,
        )


async def test_anothers_cluster_is_named_to_who_may_see_it(one: Member) -> None:
    """Only a caller who may see the other cluster learns that a wrapped key is of that one."""
    blob = await one.wrap("beta")
    assert isinstance(await refused(one.unwrap(blob, "acme")), WrongClusterError)
    one.loads.drop_all()
    with as_one_who(one, 'roles = ["crypto"]\norganizations = ["a"]'):
        error = await refused(one.unwrap(blob, "acme"))
    assert isinstance(error, UnknownKekError)
    assert "beta" not in error.message


@pytest.mark.parametrize(
    "keys",
    [
        "",
        'keys = [{ type = "FAKE", uri = "fake:other", principal = "ambient" }]',
        'keys = [{ type = "FAKE", uri = "fake:two", principal = "somebody" }]',
        'keys = [{ type = "PLATFORM" }]',
        # Each part stands in some tuple, and never together.
        f"keys = [{ONE_AS}, {TWO_AS}]",
    ],
)
async def test_a_key_that_may_not_be_named_costs_no_call(
    house: House, one: Member, keys: str
) -> None:
    """TestKey, Enable, AddRegions and Rotate refuse such a key without a KMS call (C1)."""
    before = len(house.provider.calls)
    with as_one_who(one, f'roles = ["admin"]\n{keys}'):
        specs = {"eu": "fake:two"}
        calls: list[Awaitable[object]] = [
            one.enable("new", specs),
            one.enable("new", specs, validate_only=True),
            one.add_regions({"as": "fake:two"}),
            one.rotate(specs),
            one.rotate({"eu": KeySpec("FAKE", "fake:two", "nobody")}),
            one.replica.trials.test(
                Caller(one.rights), TestKeyRequest(KeySpec("FAKE", "fake:two"), Scope("", "", None))
            ),
            one.replica.trials.test(
                Caller(one.rights),
                TestKeyRequest(KeySpec("FAKE", "fake:two"), Scope("acme", "eu", "a")),
            ),
        ]
        for call in calls:
            assert isinstance(await refused(call), KeyNotGrantedError)
    assert len(house.provider.calls) == before


async def test_the_platform_key_is_named_only_where_written(house: House, one: Member) -> None:
    """PLATFORM is a key like another: a caller needs a grant to name it (protocol C1)."""
    house.platform[""] = RootKey("FAKE", "fake:one")
    before = len(house.provider.calls)
    with as_one_who(one, f'roles = ["operator"]\n{KEYS}'):
        assert isinstance(await refused(one.enable("p", {"eu": "PLATFORM"})), KeyNotGrantedError)
        assert isinstance(await refused(one.rotate({"eu": "PLATFORM"})), KeyNotGrantedError)
    assert len(house.provider.calls) == before
    with as_one_who(one, 'roles = ["operator"]\nkeys = [{ type = "PLATFORM" }]'):
        await one.enable("p", {"eu": "PLATFORM"})


async def test_one_forbidden_key_among_many_costs_no_call(house: House, one: Member) -> None:
    """Keyfold checks all keys of a request before it tries the first (protocol C1)."""
    before = len(house.provider.calls)
    keys = 'keys = [{ type = "FAKE", uri = "fake:one", principal = "ambient" }]'
    with as_one_who(one, f'roles = ["operator"]\n{keys}'):
        specs = {"eu": "fake:one", "us": "fake:two"}
        error = await refused(one.enable("new", specs))
        assert isinstance(error, KeyNotGrantedError)
        assert error.region == "us"
        assert isinstance(await refused(one.rotate(specs)), KeyNotGrantedError)
        assert isinstance(
            await refused(one.add_regions({"x": "fake:one", "y": "fake:two"})), KeyNotGrantedError
        )
    assert len(house.provider.calls) == before


async def test_rotating_a_regions_own_key_names_none(one: Member) -> None:
    """The newest version of the key that a region has needs no grant of that key."""
    with as_one_who(one, 'roles = ["operator"]'):
        assert (await one.rotate({"eu": None})).mutation.number
        assert (await one.rotate({"eu": "fake:one"})).mutation.number


async def test_a_cluster_outside_ones_pattern_is_not_made(house: House, one: Member) -> None:
    """Making a cluster outside of one's grants is refused before any look-up (protocol C8)."""
    calls, reads = len(house.provider.calls), one.line.counts["cluster"]
    with as_one_who(one, f'roles = ["operator"]\nclusters = ["acme-*"]\n{KEYS}'):
        assert isinstance(await refused(one.enable("mine")), NotAllowedError)
        assert isinstance(await refused(one.enable("beta")), NotAllowedError)
    with as_one_who(one, f'roles = ["operator"]\nclusters = ["m*"]\norganizations = ["a"]\n{KEYS}'):
        assert isinstance(await refused(one.enable("mine", organization="b")), NotAllowedError)
        assert isinstance(await refused(one.enable("mine")), NotAllowedError)
    assert one.line.counts["cluster"] == reads
    assert len(house.provider.calls) == calls


async def test_a_list_holds_what_the_caller_may_see(one: Member) -> None:
    """Pages hold only visible clusters, and neither they nor their ends tell of others."""
    for number in range(7):
        await one.enable(f"b-{number}", organization="b")
    await one.enable("zeta", organization="a")

    async def names(rights: Rights, which: ClusterFilter, size: int) -> list[list[str]]:
        pages, token = [], ""
        while True:
            page = await one.replica.listing.page(rights, which, size, token)
            seen = [e.cluster.name for e in page.entries if isinstance(e, ClusterReport)]
            pages.append(seen)
            if not page.more:
                return pages
            token = page_token(seen[-1])

    mine = rights('roles = ["auditor"]\norganizations = ["a"]')
    assert await names(mine, ClusterFilter(), 1) == [["acme"], ["zeta"]]
    assert await names(mine, ClusterFilter(), 2) == [["acme", "zeta"]]
    narrow = rights('roles = ["auditor"]\nregions = ["eu"]\nclusters = ["acme"]')
    await one.rotate({"us": "fake:two"})
    assert await names(narrow, ClusterFilter(key_uri="fake:one"), 9) == [["acme"]]
    assert await names(narrow, ClusterFilter(key_uri="fake:two"), 9) == [[]]
    # Whether a key wraps is not at hand here, so the filter could give a hidden region away.
    one.house.provider.deny("fake:two", "wrap")
    await one.house.after(61)
    await one.status()
    await one.replica._health.flush()
    assert await names(mine, ClusterFilter(can_wrap=False), 9) == [["acme"]]
    assert await names(narrow, ClusterFilter(can_wrap=False), 9) == [[]]


async def test_a_repeated_request_id_is_looked_at_after_authorization(one: Member) -> None:
    """A request_id does not reveal a cluster that the caller may not see (protocol R6)."""
    await one.revoke("beta", request_id="r-1")
    with as_one_who(one, 'roles = ["admin"]\norganizations = ["a"]'):
        assert isinstance(await refused(one.revoke("beta", request_id="r-1")), ClusterNotFoundError)


def test_a_call_without_a_decision_gets_no_key(one: Member) -> None:
    """The keyring yields a KEK only with a decision for that item (protocol C7)."""
    with pytest.raises(TypeError, match="rights"):
        Call()  # type: ignore[call-arg]
    with pytest.raises((NeedsLoad, ClusterNotFoundError)):
        one.plane.wrap("acme", "eu", b"k", {}, Call(Policy(()).rights(APP)))
