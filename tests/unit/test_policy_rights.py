"""What grants together let a caller do: default deny, hidden and denied, keys as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import a_cluster
from keyfold_server.access.policy import rights as policy_module
from keyfold_server.access.policy.development import Development
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.grants import KEY_SEPARATORS, ROLES, RULES, Grant, KeyGrant, Role
from keyfold_server.access.policy.rights import CachedPolicy, GrantedRights, Policy, purposes
from keyfold_server.domain.cluster import existing
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    KeyfoldError,
    KeyNotGrantedError,
    NotAllowedError,
    RegionNotFoundError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import (
    Claim,
    Identity,
    NameableKeys,
    Purpose,
    Rights,
    Verdict,
)

_ME = Identity(("local",), "loopback")
_CLUSTERS = ("a1", "a2", "b")
_ORGANIZATIONS = (None, "acme", "globex")
_REGIONS = ("eu", "us")
_NAMED: tuple[tuple[str, ...], ...] = ((), ("eu",), ("us",), ("eu", "us"))
_KEYS = (RootKey("T", "k"), RootKey("T", "k", "p"), RootKey("T", "m", "p"), RootKey("PLATFORM", ""))
_CONTEXTS: tuple[dict[str, str], ...] = ({}, {"app": "x"}, {"app": "y", "more": "z"})


def _patterns(*texts: str) -> Patterns:
    return Patterns(tuple(map(Pattern, texts)))


def _key(uri: str, principal: str | None = None) -> KeyGrant:
    as_whom = None if principal is None else Pattern(principal, KEY_SEPARATORS)
    return KeyGrant("T", Pattern(uri, KEY_SEPARATORS), as_whom)


def _grant(
    *roles: str,
    clusters: Iterable[str] | None = None,
    organizations: Iterable[str] | None = None,
    regions: Iterable[str] | None = None,
    context: dict[str, str] | None = None,
    keys: tuple[KeyGrant, ...] = (),
) -> Grant:
    return Grant(
        "policy.toml:1",
        _patterns("local"),
        frozenset().union(*(ROLES[role] for role in roles)),
        None if clusters is None else _patterns(*clusters),
        None if organizations is None else _patterns(*organizations),
        None if regions is None else _patterns(*regions),
        context,
        keys,
    )


def _rights(*grants: Grant) -> GrantedRights:
    return GrantedRights(_ME, grants)


def _some(values: tuple[str, ...]) -> st.SearchStrategy[list[str] | None]:
    return st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=2)


_GRANTS = st.builds(
    lambda roles, **rest: _grant(*roles, **rest),
    roles=st.lists(st.sampled_from(sorted(ROLES)), min_size=1, max_size=2),
    clusters=_some(("a*", "a1", "b")),
    organizations=_some(("acme", "*")),
    regions=_some(("e*", "us")),
    context=st.none() | st.just({"app": "x"}) | st.just({"app": "y"}),
    keys=st.lists(
        st.sampled_from([_key("k"), _key("*", "p"), _key("m", "q"), KeyGrant("PLATFORM")]),
        max_size=2,
    ).map(tuple),
)


# Each example asks a thousand questions.
_FEWER = settings(max_examples=25)


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except KeyfoldError:
        return False
    return True


def _may_call(
    rights: Rights,
    method: str,
    cluster: str,
    organization: str | None,
    regions: tuple[str, ...],
) -> bool:
    """Checks by the names, and again with the organization, as the service does."""
    return _passes(lambda: rights.check_named(method, cluster, regions)) and _passes(
        lambda: rights.check_cluster(method, cluster, organization, regions)
    )


def _allowed(rights: Rights) -> Iterator[object]:
    """Returns every question of a small world to which the answer is yes."""
    methods = sorted(RULES)
    yield from (("check", m) for m in methods if _passes(partial(rights.check, m)))
    for cluster, organization in product(_CLUSTERS, _ORGANIZATIONS):
        for method, regions in product(methods, _NAMED):
            if _may_call(rights, method, cluster, organization, regions):
                yield "call", method, cluster, organization, regions
        for region in _REGIONS:
            if rights.sees(cluster, organization, region):
                yield "sees", cluster, organization, region
            for purpose, context in product(Purpose, _CONTEXTS):
                use = rights.use(cluster, organization, region, purpose)
                if use.verdict is Verdict.ALLOWED and (
                    not use.contexts or any(c.items() <= context.items() for c in use.contexts)
                ):
                    yield "use", cluster, organization, region, purpose, str(context)
    for place, part, key in product((None, *_CLUSTERS), (None, *_REGIONS), _KEYS):
        if _passes(partial(rights.check_key, place, "acme", part, key)):
            yield "key", place, part, key


@_FEWER
@given(st.lists(_GRANTS, max_size=3), _GRANTS)
def test_a_further_grant_never_takes_away(grants: list[Grant], more: Grant) -> None:
    """A further grant takes nothing away, and one grant less adds nothing."""
    assert set(_allowed(_rights(*grants))) <= set(_allowed(_rights(*grants, more)))


@_FEWER
@given(st.lists(_GRANTS, max_size=3))
def test_the_order_of_grants_decides_nothing(grants: list[Grant]) -> None:
    """The order of grants does not matter."""
    assert set(_allowed(_rights(*grants))) == set(_allowed(_rights(*reversed(grants))))


def test_without_a_grant_only_health_and_oneself_may_be_asked() -> None:
    """Default deny: a caller that no grant names may do nothing else."""
    health = {("check", f"grpc.health.v1.Health/{name}") for name in ("Check", "List", "Watch")}
    own = {("check", "GetCaller")}
    assert set(_allowed(_rights())) == health | own


_OWN = [method for method, rule in RULES.items() if "/" not in method and not rule.open]


@given(st.sets(st.sampled_from(sorted(ROLES)), min_size=1))
def test_a_holding_names_the_methods_that_it_allows(roles: set[str]) -> None:
    """A caller is shown exactly the methods that the grant, alone, lets it call."""
    rights = _rights(_grant(*roles))
    [holding] = rights.holdings
    for method in _OWN:
        try:
            rights.check(method)
        except NotAllowedError:
            assert method not in holding.methods
        else:
            assert method in holding.methods


def test_a_holding_for_some_clusters_has_no_method_for_an_organization() -> None:
    """A method for an organization as a whole is not offered to whom it would be refused."""
    narrow, whole = _rights(_grant("admin", clusters=["a*"]), _grant("admin")).holdings
    assert {m for m in _OWN if RULES[m].organization} == set(whole.methods) - set(narrow.methods)


def test_a_holding_names_the_keys_that_it_allows() -> None:
    """A caller is shown the keys that it may name, with the principal for each."""
    policy = """
    [[grant]]
    callers = ["local"]
    roles = ["operator"]
    keys = [
        { type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "arn:aws:iam::*:role/k" },
        { type = "GCP_CLOUD_KMS", uri = "p/*", principal = "ambient", options = { a = "b" } },
        { type = "PLATFORM" },
    ]
    """
    [holding] = CachedPolicy(parse(policy, "p")).rights(_ME).holdings
    assert holding.keys == (
        NameableKeys("AWS_KMS", "arn:aws:kms:*:*:key/*", "arn:aws:iam::*:role/k", {}),
        NameableKeys("GCP_CLOUD_KMS", "p/*", "ambient", {"a": "b"}),
        NameableKeys("PLATFORM", "", "ambient", {}),
    )
    [all_keys] = Development().rights(_ME).holdings
    assert all_keys.keys == (NameableKeys("*", "", "*", {}),)


def test_any_grant_opens_reflection() -> None:
    """A caller with any grant may read the contract by reflection; one without may not."""
    method = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    _rights(_grant("crypto:wrap", clusters=["a1"])).check(method)
    with pytest.raises(NotAllowedError):
        _rights().check(method)


@given(
    st.lists(_GRANTS, max_size=3),
    st.sampled_from(_CLUSTERS),
    st.sampled_from(_ORGANIZATIONS),
    st.sampled_from(_REGIONS),
    st.sampled_from(sorted(Purpose, key=str)),
)
def test_a_use_is_decided_as_its_method_is(
    grants: list[Grant], cluster: str, organization: str | None, region: str, purpose: Purpose
) -> None:
    """If a use is refused, so is its method; what the caller does not see is hidden (C7)."""
    rights = _rights(*grants)
    use = rights.use(cluster, organization, region, purpose)
    method = purpose.value.capitalize()
    passes = _passes(lambda: rights.check_cluster(method, cluster, organization, (region,)))
    assert passes is (use.verdict is Verdict.ALLOWED)
    assert rights.sees(cluster, organization, region) is (use.verdict is not Verdict.HIDDEN)
    if passes:
        rights.check_named(method, cluster, (region,))
        rights.check(method)


@_FEWER
@given(st.lists(_GRANTS, max_size=3))
def test_names_alone_refuse_nothing_that_is_allowed(grants: list[Grant]) -> None:
    """What passes with the organization known has also passed by the names and by the role."""
    rights = _rights(*grants)
    for method, cluster, organization, regions in product(
        sorted(RULES), _CLUSTERS, _ORGANIZATIONS, _NAMED
    ):
        if _passes(partial(rights.check_cluster, method, cluster, organization, regions)):
            rights.check_named(method, cluster, regions)
            rights.check(method)


def test_crypto_narrowed_to_one_side() -> None:
    """`crypto:wrap` only wraps, `crypto:unwrap` only unwraps; Rewrap needs both."""
    for word, purpose, mine, others in (
        ("crypto:wrap", Purpose.WRAP, "GenerateDataKey", "BatchUnwrap"),
        ("crypto:unwrap", Purpose.UNWRAP, "BatchUnwrap", "GenerateDataKey"),
    ):
        rights = _rights(_grant(word))
        for each in Purpose:
            allowed = rights.use("a1", None, "eu", each).verdict is Verdict.ALLOWED
            assert allowed is (each is purpose)
        rights.check(mine)
        with pytest.raises(NotAllowedError):
            rights.check(others)
        with pytest.raises(NotAllowedError, match="crypto:"):
            rights.check("Rewrap")
    _rights(_grant("crypto:wrap", clusters=["a1"]), _grant("crypto:unwrap")).check("Rewrap")


def test_a_context_is_demanded_only_while_every_grant_demands_one() -> None:
    """Each grant with a context is an alternative; one without a context allows any context."""
    x, y = _grant("crypto", context={"app": "x"}), _grant("crypto:wrap", context={"app": "y"})
    assert _rights(x, y).use("a1", None, "eu", Purpose.WRAP).contexts == (
        {"app": "x"},
        {"app": "y"},
    )
    assert _rights(x, y).use("a1", None, "eu", Purpose.UNWRAP).contexts == ({"app": "x"},)
    free = _grant("crypto", clusters=["a1"])
    assert _rights(x, free).use("a1", None, "eu", Purpose.WRAP).contexts == ()
    assert _rights(x, free).use("b", None, "eu", Purpose.WRAP).contexts == ({"app": "x"},)
    auditor = _grant("auditor")
    assert _rights(x, auditor).use("b", None, "eu", Purpose.WRAP).contexts == ({"app": "x"},)


def test_a_hidden_cluster_answers_as_one_that_does_not_exist() -> None:
    """Type, text and fields are those for a cluster that does not exist (protocol C7)."""
    with pytest.raises(ClusterNotFoundError) as missing:
        existing(None, "b")
    rights = _rights(_grant("admin", clusters=["a*"]), _grant("admin", organizations=["acme"]))
    for check in (
        partial(_rights(_grant("admin", clusters=["a*"])).check_named, "Rotate", "b", ("eu",)),
        partial(rights.check_cluster, "Rotate", "b", None, ("eu",)),
        partial(rights.check_cluster, "GetStatus", "b", "globex", ()),
    ):
        with pytest.raises(ClusterNotFoundError) as hidden:
            check()
        assert vars(hidden.value) == vars(missing.value)
        assert str(hidden.value) == str(missing.value)
    rights.check_named("Rotate", "b", ("eu",))
    rights.check_cluster("Rotate", "b", "acme", ("eu",))


def test_a_hidden_region_answers_as_one_that_does_not_exist() -> None:
    """Type, text and fields are those for a region that the cluster lacks (protocol C7)."""
    with pytest.raises(RegionNotFoundError) as missing:
        a_cluster("a1").region("us")
    rights = _rights(_grant("admin", regions=["e*"]))
    rights.check_named("Rotate", "a1", ("us",))
    with pytest.raises(RegionNotFoundError) as hidden:
        rights.check_cluster("Rotate", "a1", None, ("eu", "us"))
    assert vars(hidden.value) == vars(missing.value)
    assert rights.use("a1", None, "us", Purpose.WRAP).verdict is Verdict.HIDDEN


def test_what_may_be_seen_is_refused_by_the_role_that_is_lacking() -> None:
    """A visible cluster's refusal names the role to ask for, and what it is for."""
    rights = _rights(_grant("auditor"), _grant("operator", regions=["eu"]))
    _rights(_grant("auditor")).check_cluster("GetStatus", "a1", None, ())
    for check in (
        partial(_rights(_grant("auditor")).check, "Rotate"),
        partial(_rights(_grant("auditor")).check_named, "Rotate", "a1", ("us",)),
        partial(rights.check_named, "Rotate", "a1", ("eu", "us")),
        partial(rights.check_cluster, "Rotate", "a1", None, ("eu", "us")),
    ):
        with pytest.raises(NotAllowedError, match=r"the role operator \(.*rotates") as refused:
            check()
        assert "local may not call Rotate" in refused.value.message


def test_making_a_cluster_out_of_reach_is_refused_by_its_name() -> None:
    """Enable outside of the caller's pattern is never NOT_FOUND."""
    rights = _rights(_grant("operator", clusters=["a*"], organizations=["acme"], regions=["eu"]))
    rights.check_named("Enable", "a9", ("eu",))
    rights.check_cluster("Enable", "a9", "acme", ("eu",))
    for check in (
        partial(rights.check_named, "Enable", "b", ("eu",)),
        partial(rights.check_named, "Enable", "a9", ("eu", "us")),
        partial(rights.check_named, "AddRegions", "a9", ("us",)),
        partial(rights.check_cluster, "Enable", "a9", "globex", ("eu",)),
        partial(rights.check_cluster, "Enable", "a9", None, ("eu",)),
        partial(rights.check_cluster, "Enable", "a9", "acme", ("us",)),
    ):
        with pytest.raises(NotAllowedError):
            check()


@pytest.mark.parametrize("method", ["Revoke", "Restore"])
def test_all_regions_are_not_for_who_has_some(method: str) -> None:
    """No region means all regions: refused by the names, whatever regions the cluster has."""
    narrow = _rights(_grant("operator", regions=["eu"]), _grant("operator", regions=["us"]))
    for check in (
        partial(narrow.check_named, method, "a1", ()),
        partial(narrow.check_cluster, method, "a1", None, ()),
    ):
        with pytest.raises(NotAllowedError, match="name the regions"):
            check()
    narrow.check_named(method, "a1", ("eu", "us"))
    narrow.check_cluster(method, "a1", None, ("eu", "us"))
    # Another role's grant on all regions is no grant to revoke them all.
    seeing = _rights(_grant("operator", regions=["eu"]), _grant("auditor"))
    with pytest.raises(NotAllowedError, match="name the regions"):
        seeing.check_named(method, "a1", ())
    _rights(_grant("operator")).check_named(method, "a1", ())


def test_key_tuples_do_not_combine() -> None:
    """Key A as principal B is not granted by A as P and M as B, in one grant or in two (C1)."""
    one = _rights(_grant("operator", keys=(_key("k", "p"), _key("m", "q"))))
    two = _rights(
        _grant("operator", keys=(_key("k", "p"),)), _grant("operator", keys=(_key("m", "q"),))
    )
    for rights in (one, two):
        for uri, principal, fits in (
            ("k", "p", True),
            ("m", "q", True),
            ("k", "q", False),
            ("m", "p", False),
            ("k", "", False),
        ):
            key = RootKey("T", uri, principal)
            assert _passes(partial(rights.check_key, "a1", None, "eu", key)) is fits


def test_keys_do_not_leave_their_grant() -> None:
    """A key counts for its own grant's clusters, organizations, regions and role (protocol C1)."""
    rights = _rights(
        _grant("operator", clusters=["a1"], regions=["eu"], keys=(_key("k"),)),
        _grant("operator", organizations=["acme"], keys=(_key("m"),)),
        replace(_grant("auditor"), keys=(_key("z"),)),
        _grant("operator"),
    )
    k, m = RootKey("T", "k"), RootKey("T", "m")
    rights.check_key("a1", None, "eu", k)
    rights.check_key("b", "acme", "us", m)
    for cluster, organization, region, key in (
        ("b", None, "eu", k),
        ("a1", None, "us", k),
        ("a1", None, None, k),
        ("a1", None, "eu", m),
        ("a1", "globex", "eu", m),
        ("a1", None, "eu", RootKey("T", "z")),
        ("a1", None, "eu", RootKey("PLATFORM", "")),
    ):
        with pytest.raises(KeyNotGrantedError) as refused:
            rights.check_key(cluster, organization, region, key)
        assert refused.value.field == "key_spec"


def test_a_key_for_no_cluster_takes_a_grant_on_all() -> None:
    """TestKey without cluster and organization needs a grant for all of them."""
    key = RootKey("T", "k")
    _rights(_grant("operator", keys=(_key("k"),))).check_key(None, None, None, key)
    _rights(_grant("operator", regions=["eu"], keys=(_key("k"),))).check_key(None, None, "eu", key)
    for narrow in (
        _grant("operator", clusters=["a*"], keys=(_key("k"),)),
        _grant("operator", organizations=["*"], keys=(_key("k"),)),
        _grant("operator", regions=["eu"], keys=(_key("k"),)),
    ):
        with pytest.raises(KeyNotGrantedError, match="without a cluster"):
            _rights(narrow, _grant("admin")).check_key(None, None, None, key)


def test_a_key_for_an_organization_takes_a_grant_on_it() -> None:
    """C1: TestKey and GetAccessPolicy for an organization take the grant that may link the key."""
    key = RootKey("T", "k")
    grant = _grant("operator", organizations=["acme"], keys=(_key("k"),))
    _rights(grant).check_key(None, "acme", None, key)
    for narrow, organization in (
        (grant, "globex"),
        (grant, None),
        (_grant("operator", organizations=["acme"], keys=(_key("other"),)), "acme"),
        (_grant("auditor", organizations=["acme"], keys=(_key("k"),)), "acme"),
        (_grant("operator", clusters=["a*"], keys=(_key("k"),)), "acme"),
        (_grant("operator", organizations=["acme"], regions=["eu"], keys=(_key("k"),)), "acme"),
    ):
        with pytest.raises(KeyNotGrantedError):
            _rights(narrow).check_key(None, organization, None, key)


def test_any_of_a_caller_s_names_is_enough() -> None:
    """A certificate may prove several names; a grant to any of them counts."""
    held = Policy((_grant("auditor"),), _patterns("dns:web"))
    both = Identity(("dns:web", "local"), "certificate")
    held.rights(both).check("GetStatus")
    assert held.rights(both).identity is both
    assert held.believes(both)
    assert not held.believes(_ME)
    with pytest.raises(NotAllowedError):
        held.rights(Identity(("dns:web",), "certificate")).check("GetStatus")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many names nor long ones fill memory, and forgetting changes no answer."""
    monkeypatch.setattr(policy_module, "_REMEMBERED", 4)
    monkeypatch.setattr(policy_module, "_CALLERS", 4)
    rights = _rights(_grant("crypto", clusters=["a*"]))
    for number in range(20):
        for cluster, verdict in (("a", Verdict.ALLOWED), ("b", Verdict.HIDDEN)):
            for region in (f"r{number}", f"r{number}" * 100):
                assert rights.use(cluster, None, region, Purpose.WRAP).verdict is verdict
        assert len(rights._wrap) <= 4
        assert all(len(region) <= 128 for _, _, region in rights._wrap)
    force = CachedPolicy(Policy(()))
    for number in range(20):
        one = Identity((f"dns:{number}",), "certificate")
        assert force.rights(one) is force.rights(Identity(one.names, one.proof))
        assert len(force._rights) <= 4


@pytest.mark.parametrize("name", ["local", "socket:/run/keyfold/keyfold.sock"])
def test_the_development_default_is_for_local_callers(name: str) -> None:
    """Without policy, TLS and tokens a local caller may do everything."""
    rights = Development().rights(Identity((name,), "loopback"))
    for method in RULES:
        rights.check(method)
        rights.check_named(method, "any", ())
        rights.check_cluster(method, "any", "acme", ())
    for key in (*_KEYS, RootKey("AWS_KMS", "arn:aws:kms:x:1:key/y", "role", (("a", "b"),))):
        rights.check_key(None, None, None, key)
        rights.check_key("any", "acme", "eu", key)
    assert rights.use("any", None, "eu", Purpose.UNWRAP).verdict is Verdict.ALLOWED


def test_the_development_default_is_for_nobody_else() -> None:
    """Under it any other caller has no rights, and Keyfold believes nobody."""
    development = Development()
    stranger = Identity(("spiffe://td/local", "dns:local", "uri:socket:x"), "certificate")
    assert set(_allowed(development.rights(stranger))) == set(_allowed(_rights()))
    assert not development.believes(_ME)
    assert development.broken is None
    assert not development.reload()


def test_the_data_plane_is_told_by_its_roles() -> None:
    """Only methods that use KEKs have purposes, which are those of their roles."""
    assert {m: purposes(m) for m in RULES if purposes(m)} == {
        "Wrap": (Purpose.WRAP,),
        "GenerateDataKey": (Purpose.WRAP,),
        "BatchWrap": (Purpose.WRAP,),
        "Unwrap": (Purpose.UNWRAP,),
        "BatchUnwrap": (Purpose.UNWRAP,),
        "Rewrap": (Purpose.WRAP, Purpose.UNWRAP),
        "BatchRewrap": (Purpose.WRAP, Purpose.UNWRAP),
    }
    assert Role.OPERATOR in RULES["Enable"].roles


def _token(*claims: Claim) -> Identity:
    return Identity(("local",), "token", claims)


@_FEWER
@given(st.lists(_GRANTS, max_size=2), _GRANTS, st.sampled_from(["acme", "globex"]))
def test_a_claim_is_worth_the_organization_that_it_names(
    others: list[Grant], grant: Grant, organization: str
) -> None:
    """C7: by a claim a caller may do what a grant for that one organization lets it do."""
    open_ = replace(grant, organizations=None, organization_claim="org")
    me = _token(Claim("org", organization))
    claimed = GrantedRights(me, [*others, open_])
    written = GrantedRights(me, [*others, replace(grant, organizations=_patterns(organization))])
    assert list(_allowed(claimed)) == list(_allowed(written))
    assert claimed.digest == written.digest
    assert claimed.coverage(None) == written.coverage(None)
    assert claimed.organizations("GetStatus") == written.organizations("GetStatus")


@_FEWER
@given(
    st.lists(_GRANTS, max_size=2),
    _GRANTS,
    st.sampled_from([(), (Claim("org", "", "is a list"),), (Claim("tenant", "acme"),)]),
)
def test_a_claim_that_names_none_is_worth_nothing(
    others: list[Grant], grant: Grant, claims: tuple[Claim, ...]
) -> None:
    """C7: without one valid organization in its token, the caller has its other grants alone."""
    by_claim = replace(grant, organization_claim="org")
    without = GrantedRights(_token(*claims), others)
    assert list(_allowed(GrantedRights(_token(*claims), [*others, by_claim]))) == list(
        _allowed(without)
    )


def test_organizations_narrow_what_a_claim_may_name() -> None:
    """A grant with both holds for who names one of them, and for that one alone."""
    grant = replace(_grant("auditor", organizations=["a*", "b"]), organization_claim="org")
    rights = GrantedRights(_token(Claim("org", "acme")), [grant])
    assert rights.organizations("GetStatus") == ("acme",)
    assert rights.sees("c", "acme")
    assert not rights.sees("c", "alpha")
    other = GrantedRights(_token(Claim("org", "globex")), [grant])
    assert other.coverage(None) == ()
    with pytest.raises(NotAllowedError, match="claim org names an organization for which it does"):
        other.check("GetStatus")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ((), "the caller has no token with the claim org"),
        ((Claim("org", "", "is a list, and not a string"),), "the claim org is a list, and not a"),
    ],
)
def test_why_a_claim_does_not_do_is_told_where_it_matters(
    claims: tuple[Claim, ...], why: str
) -> None:
    """Who lacks a role that the grant has hears why it does not hold; nobody else does."""
    by_claim = replace(_grant("operator", "auditor"), organization_claim="org")
    rights = GrantedRights(_token(*claims), [by_claim, _grant("crypto")])
    for method in ("Enable", "ListEvents", "GetStatus"):
        with pytest.raises(NotAllowedError, match=why):
            rights.check(method)
    with pytest.raises(NotAllowedError) as told:
        rights.check("DeleteCluster")
    assert "claim" not in told.value.message
    rights.check("Wrap")


def test_what_belongs_to_a_caller_goes_with_the_organization_in_its_token() -> None:
    """C7: who administers two customers has nothing of one while its token names the other."""
    by_claim = replace(_grant("operator"), organization_claim="org")
    owners = {
        GrantedRights(_token(*claims), [by_claim, _grant("crypto")]).owner
        for claims in ((), (Claim("org", "acme"),), (Claim("org", "globex"),))
    }
    assert owners == {"local", "organization:acme local", "organization:globex local"}
    assert GrantedRights(_token(Claim("org", "acme")), [_grant("crypto")]).owner == "local"
