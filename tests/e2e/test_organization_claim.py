"""A customer's own administrator, known by a claim of its token, and what it can reach (C7, C8)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from e2e.conftest import StartServer
from e2e.two_customers import (
    METHODS,
    NOBODY,
    POLICY,
    Caller,
    House,
    anonymous,
    key,
    of_class,
    spec,
    two_customers,
)
from e2e.wire import refusal
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import operations_pb2 as ops
from keyfold.v1 import organization_service_pb2 as org
from keyfold.v1 import resources_pb2 as res

OTHER: Final = "globex"
"""The other customer."""

NONE: Final = "zenith"
"""A customer that the vendor does not have."""

_RECHECK: Final = ops.OperationAction(recheck=ops.RecheckAction())


@dataclass(frozen=True)
class Attack:
    """A call that names what belongs to another customer, or nothing at all.

    Attributes:
        method: The method.
        fields: Returns the fields of the request, for the house and the name of a customer.
        plain: Whether the request names nobody, so that what matters is whom the answer names.
    """

    method: str
    fields: Callable[[House, str], dict[str, Any]]
    plain: bool = False

    def request(self, house: House, name: str) -> Any:
        """Returns the request about a customer."""
        return of_class(METHODS[self.method].input_type.name)(**self.fields(house, name))


def _on(cluster: str, **fields: Any) -> Callable[[House, str], dict[str, Any]]:
    """Returns what makes the fields of a request about a cluster of a customer."""
    return lambda _, name: {"cluster": f"{name}-{cluster}", **fields}


def _of(**fields: Any) -> Callable[[House, str], dict[str, Any]]:
    """Returns what makes the fields of a request about a customer."""
    return lambda _, name: {"organization": name, **fields}


def _as_theirs(**fields: Any) -> Callable[[House, str], dict[str, Any]]:
    """Returns what makes the fields of a request that says one's own cluster is a customer's."""
    return lambda _, name: {"cluster": "acme-1", "organization": name, **fields}


def _nothing(**fields: Any) -> Callable[[House, str], dict[str, Any]]:
    return lambda _house, _name: fields


def _link(name: str, link: str = "new") -> org.KeyLink:
    return org.KeyLink(organization=name, key_link=link, region="us", key_spec=key("shared"))


def _their_blob(house: House, name: str) -> bytes:
    """Returns a wrapped key of globex's or, for anybody else, one under a KEK that is not there."""
    blob = bytearray(house.blobs[OTHER])
    if name != OTHER:
        blob[12] ^= 0xFF
    return bytes(blob)


def _start(scope: Callable[[str], ops.OperationScope]) -> Callable[[House, str], dict[str, Any]]:
    return lambda _, name: {"action": _RECHECK, "scope": scope(name), "dry_run": True}


def _move(_: House, name: str) -> dict[str, Any]:
    """Returns the request that moves a key link of a customer to another key."""
    link = ops.KeyLinkScope(organization=name, key_link=f"{name}-link")
    return {
        "operation": "move",
        "action": ops.OperationAction(move_link=ops.MoveLinkAction(key_spec=key("shared"))),
        "scope": ops.OperationScope(key_link=link),
    }


def _operation(house: House, name: str) -> dict[str, Any]:
    return {"name": house.operations[OTHER].replace(OTHER, name)}


def _revocation(house: House, name: str) -> dict[str, Any]:
    """Returns the name of a decision of globex's or, for anybody else, of one that is not there."""
    return {"name": house.revocations[OTHER] if name == OTHER else "operations/decision/99999"}


READS: Final = (
    Attack("GetCaller", _nothing(), plain=True),
    Attack("GetStatus", _on("1")),
    Attack("ListClusters", _nothing(), plain=True),
    Attack("ListClusters", _of()),
    Attack("ListClusters", _nothing(key_uri="local:shared"), plain=True),
    Attack("ListKeyUsage", _nothing(selector={"uri": "local:shared"}), plain=True),
    Attack("ListKeyUsage", _nothing(selector={"auth_principal": "ambient"}), plain=True),
    Attack(
        "ListKeyUsage",
        _nothing(selector={"uri": "local:shared"}, what_if="WHAT_IF_DISABLE"),
        plain=True,
    ),
    Attack("Recheck", _on("1")),
    Attack("Recheck", _on("1", regions=["eu"])),
    Attack("Recheck", lambda _, name: {"key_uri": f"local:{name}"}),
    Attack("Recheck", _nothing(key_uri="local:shared"), plain=True),
    Attack("GetOrganization", _of()),
    Attack("ListOrganizations", _nothing(), plain=True),
    Attack("GetKeyLink", lambda _, name: {"organization": name, "key_link": f"{name}-link"}),
    Attack("ListKeyLinks", _of()),
    Attack("ListEvents", _nothing(page_size=1000), plain=True),
    Attack("ListEvents", lambda _, name: {"filter": {"organization": name}}),
    Attack("ListEvents", lambda _, name: {"filter": {"cluster": f"{name}-1"}}),
    Attack("ListEvents", lambda _, name: {"filter": {"key_uri": f"local:{name}"}}),
    Attack("ListUsage", _nothing(), plain=True),
    Attack("ListUsage", _of()),
    Attack("ListUsage", _on("1")),
    Attack("VerifyEvents", _nothing(), plain=True),
    Attack("GetAnchor", _nothing(), plain=True),
    Attack("WatchEvents", _nothing(states=True), plain=True),
    Attack("WatchEvents", lambda _, name: {"states": True, "clusters": [f"{name}-1"]}),
    Attack("WatchEvents", lambda _, name: {"states": True, "organization": name}),
    Attack("ListCursors", _nothing(), plain=True),
    Attack(
        "AdvanceCursor",
        lambda house, name: {
            "cursor": f"{name}-cursor",
            "session": "00" * 16,
            "resume_token": house.token,
        },
    ),
    Attack("ListOperations", _nothing(name="operations"), plain=True),
    Attack("GetOperation", _operation),
    Attack("GetOperation", lambda _, name: {"name": f"{name}-op"}),
    Attack("WaitOperation", _operation),
    Attack("GetOperation", _revocation),
    Attack("WaitOperation", _revocation),
    Attack("StartOperation", _start(lambda name: ops.OperationScope(organization=name))),
    Attack(
        "StartOperation",
        _start(
            lambda name: ops.OperationScope(
                key_link=ops.KeyLinkScope(organization=name, key_link=f"{name}-link")
            )
        ),
    ),
    Attack(
        "StartOperation",
        _start(lambda n: ops.OperationScope(root_key=ops.RootKeyScope(uri=f"local:{n}"))),
    ),
    Attack(
        "StartOperation",
        _start(lambda n: ops.OperationScope(clusters=ops.ClustersScope(clusters=[f"{n}-1"]))),
    ),
)
"""Calls that change nothing."""

USES: Final = (
    Attack("Wrap", _on("1", region="eu", plaintext=b"k" * 32)),
    Attack("GenerateDataKey", _on("1", region="eu", wrapped_only=True)),
    Attack("Unwrap", lambda house, n: {"cluster": f"{n}-1", "wrapped_key": house.blobs[OTHER]}),
    Attack("Unwrap", lambda h, n: {"cluster": "acme-1", "wrapped_key": _their_blob(h, n)}),
    Attack("Rewrap", lambda house, n: {"cluster": f"{n}-1", "wrapped_key": house.blobs[OTHER]}),
    Attack("Rewrap", lambda h, n: {"cluster": "acme-1", "wrapped_key": _their_blob(h, n)}),
    Attack(
        "Rewrap",
        lambda house, name: {
            "cluster": "acme-1",
            "wrapped_key": house.blobs["acme"],
            "destination": {"cluster": f"{name}-1", "region": "eu"},
        },
    ),
    Attack("BatchWrap", _on("1", region="eu", items=[{"plaintext": b"k" * 32}])),
    Attack(
        "BatchUnwrap",
        lambda h, n: {"cluster": f"{n}-1", "items": [{"wrapped_key": h.blobs[OTHER]}]},
    ),
    Attack(
        "BatchUnwrap",
        lambda h, n: {"cluster": "acme-1", "items": [{"wrapped_key": _their_blob(h, n)}]},
    ),
    Attack(
        "BatchRewrap",
        lambda house, name: {
            "cluster": "acme-1",
            "items": [{"wrapped_key": house.blobs["acme"]}],
            "destination": {"cluster": f"{name}-1", "region": "eu"},
        },
    ),
)
"""Uses of keys."""

CHANGES: Final = (
    Attack("TestKey", _on("1", region="eu", organization="acme", key_spec=key("shared"))),
    Attack("TestKey", _of(region="eu", key_spec=key("shared"))),
    Attack("TestKey", _on("1", region="eu", key_spec=key("shared"))),
    Attack("GetAccessPolicy", _on("1", region="eu", organization="acme", key_spec=key("shared"))),
    Attack("GetAccessPolicy", _of(region="eu", key_spec=key("shared"))),
    Attack("GetAccessPolicy", _on("1", region="eu", key_spec=key("shared"))),
    Attack(
        "Enable",
        lambda _, n: {
            "cluster": f"{n}-1",
            "organization": n,
            "region_specs": [spec(n), spec(n, f"{n}-region")],
        },
    ),
    Attack("Enable", _on("1", organization="acme", region_specs=[spec("acme")])),
    Attack("Enable", _on("1", region_specs=[spec("shared")])),
    Attack("AddRegions", _on("1", region_specs=[spec("shared", "us")])),
    Attack("Rotate", _on("1", region_specs=[{"region": "eu"}], only_named_regions=True)),
    Attack("RetireGeneration", _on("1", region="eu", generation=1)),
    Attack("Revoke", _on("2")),
    Attack("Revoke", _on("2", request_id="again")),
    Attack("Restore", _on("2")),
    Attack("DeleteCluster", _on("2", all_regions=True)),
    Attack("UndeleteCluster", _on("2")),
    Attack(
        "CreateOrganization",
        lambda _, n: {"organization": {"organization": n}, "validate_only": True},
    ),
    Attack(
        "UpdateOrganization",
        lambda _, n: {"organization": {"organization": n, "display_name": "x"}},
    ),
    Attack("DeleteOrganization", _of(validate_only=True)),
    Attack("CreateKeyLink", lambda _, n: {"key_link": _link(n)}),
    Attack("UpdateKeyLink", lambda _, n: {"key_link": _link(n, f"{n}-link")}),
    Attack("DeleteKeyLink", lambda _, n: {"organization": n, "key_link": f"{n}-link"}),
    Attack("StartOperation", _move),
    Attack("CancelOperation", _operation),
    Attack("DeleteOperation", _operation),
    Attack("CancelOperation", _revocation),
    Attack("DeleteOperation", _revocation),
    Attack("DeleteCursor", lambda _, n: {"cursor": f"{n}-cursor"}),
    Attack(
        "DeleteCursor",
        lambda _, n: {
            "cursor": f"{n}-spare",
            "caller": f"organization:{OTHER} jwt:https://issuer#ann",
        },
    ),
)
"""Calls that would change something."""

OWN: Final = (
    Attack("TestKey", _as_theirs(region="eu", key_spec=key("shared"))),
    Attack("GetAccessPolicy", _as_theirs(region="eu", key_spec=key("shared"))),
    Attack("AddRegions", _as_theirs(region_specs=[spec("shared", "us")])),
    Attack("Enable", _as_theirs(region_specs=[spec("shared")])),
    Attack("TestKey", _of(region="eu", key_spec=key("shared"))),
    Attack("GetAccessPolicy", _of(region="eu", key_spec=key("shared"))),
    Attack("ListClusters", lambda _, n: {"organization": "acme", "key_uri": f"local:{n}"}),
    Attack("ListEvents", lambda _, n: {"filter": {"cluster": "acme-1", "organization": n}}),
    Attack("WatchEvents", lambda _, n: {"states": True, "clusters": ["acme-1"], "organization": n}),
    Attack(
        "WatchEvents",
        lambda _, n: {"states": True, "events": True, "filter": {"cluster": f"{n}-1"}},
    ),
    Attack("GetKeyLink", lambda _, name: {"organization": "acme", "key_link": f"{name}-link"}),
    Attack("UpdateKeyLink", lambda _, n: {"key_link": _link("acme", f"{n}-link")}),
    Attack("DeleteKeyLink", lambda _, n: {"organization": "acme", "key_link": f"{n}-link"}),
    Attack(
        "Rotate",
        lambda _, name: {
            "cluster": "acme-1",
            "region_specs": [{"region": "eu", "key_link": f"{name}-link"}],
            "only_named_regions": True,
        },
    ),
)
"""Calls that mix another's names with one's own, which tell nobody of the other."""

ATTACKS: Final = (*READS, *USES, *CHANGES)


@pytest.fixture(scope="module")
def town(
    start_module_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A server with two customers, for tests that leave both as they are."""
    with two_customers(
        start_module_server, tmp_path_factory.mktemp("access"), counted=True
    ) as made:
        yield made


@pytest.fixture
def house(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with two customers."""
    with two_customers(start_server, tmp_path_factory.mktemp("access"), counted=False) as made:
        yield made


def test_every_method_is_attacked() -> None:
    """A method without a line in the table would be one of which nobody knows what it tells."""
    assert {attack.method for attack in ATTACKS} == set(METHODS)


def test_no_call_tells_of_another_customer(town: House) -> None:
    """C7, C8: whatever an administrator calls, the other customer looks like one that is not.

    The other customer is whole afterwards, and its log has nothing of the attempts.
    """
    before, own = town.picture(OTHER), town.caller(org="acme")
    for attack in (*ATTACKS, *OWN):
        about = attack.method, attack.request(town, OTHER)
        there = own.told(*about)
        absent = own.told(attack.method, attack.request(town, NONE))
        if attack.plain:
            assert OTHER not in there, about
        else:
            assert anonymous(there, OTHER) == anonymous(absent, NONE), about
    assert town.picture(OTHER) == before


def test_the_table_would_show_a_leak(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each call of the table tells of the other customer to whoever may know: it can leak."""
    folder = tmp_path_factory.mktemp("access")
    with two_customers(start_server, folder, counted=True) as house:
        _check_that_each_call_tells(house)


def _check_that_each_call_tells(house: House) -> None:
    knowing = (house.caller(org=OTHER), house.vendor)
    for attack in ATTACKS:
        told = False
        for who in knowing:
            there = who.told(attack.method, attack.request(house, OTHER))
            if attack.plain:
                told |= OTHER in there or not there.startswith("Refusal")
                continue
            absent = who.told(attack.method, attack.request(house, NONE))
            told |= anonymous(there, OTHER) != anonymous(absent, NONE)
        assert told, (attack.method, attack.request(house, OTHER))


def test_an_administrator_sees_and_does_what_is_its_own(house: House) -> None:
    """Lists hold one's own, with names, and one's own clusters can be worked with."""
    own = house.caller(org="acme")
    me = own.call("GetCaller")
    assert me.organization == "acme"
    assert {tuple(grant.organization_patterns) for grant in me.grants} == {("acme",)}
    names = [c.cluster for c in own.call("ListClusters").clusters]
    assert names == ["acme-1", "acme-2"]
    listed = own.call("ListOrganizations").organizations
    assert [each.organization for each in listed] == ["acme"]
    shown = own.call("ListEvents", page_size=1000).events
    assert {event.organization for event in shown} == {"acme"}
    usage = own.call("ListKeyUsage", selector={"uri": "local:shared"})
    assert [use.cluster for use in usage.uses] == ["acme-2"]
    assert usage.hidden == 1
    assert [c.name for c in own.call("ListCursors").cursors] == ["acme-cursor", "acme-spare"]
    operations = own.call("ListOperations", name="operations").operations
    assert [each.name for each in operations] == [house.operations["acme"]]
    opened = own.call("Unwrap", cluster="acme-1", wrapped_key=house.blobs["acme"])
    assert opened.plaintext == b"k" * 32
    own.call("Rotate", cluster="acme-1", region_specs=[{"region": "eu", "key_link": "acme-link"}])
    assert own.call("Revoke", cluster="acme-2").confirmed
    own.call("Restore", cluster="acme-2")
    own.call("Revoke", cluster="acme-2")
    own.call("DeleteCluster", cluster="acme-2", all_regions=True)
    own.call("UndeleteCluster", cluster="acme-2")


def test_new_clusters_keep_to_the_organizations_patterns(house: House) -> None:
    """C8: cluster_patterns narrow the names; without them no cluster is made under such a grant."""
    own = house.caller(org="acme")
    for name in ("acme", "globex-9", "other"):
        told = own.refused("Enable", cluster=name, organization="acme", region_specs=[spec("acme")])
        assert told.reason == "CLUSTER_NAME_NOT_ALLOWED"
    new = house.caller(org="newcomer")
    fields = {"cluster": "newcomer-1", "organization": "newcomer", "region_specs": [spec("shared")]}
    told = new.refused("Enable", **fields)
    assert told.reason == "NOT_ALLOWED"
    assert "cluster_patterns" in told.message
    made = org.Organization(organization="newcomer", cluster_patterns=["newcomer-*"])
    house.vendor.call("CreateOrganization", organization=made)
    assert new.call("Enable", **fields).status.organization == "newcomer"
    # Nor does anybody step around the claim by naming no organization.
    told = own.refused("Enable", cluster="acme-9", region_specs=[spec("acme")])
    assert told.reason == "NOT_ALLOWED"


BAD_CLAIMS: Final[dict[str, tuple[object, str]]] = {
    "none": (NOBODY, "the claim org is not in its token"),
    "a list": (["acme"], "the claim org is a list, and not a string"),
    "a list of two": (["acme", "globex"], "the claim org is a list, and not a string"),
    "an empty list": ([], "the claim org is a list, and not a string"),
    "an object": ({"acme": {}}, "the claim org is an object, and not a string"),
    "a number": (7, "the claim org is a number, and not a string"),
    "true": (True, "the claim org is a boolean, and not a string"),
    "null": (None, "the claim org is null, and not a string"),
    "empty": ("", "the claim org is empty"),
    "every organization": ("*", "the claim org is not a valid name"),
    "a pattern": ("acm*", "the claim org is not a valid name"),
    "two names": ("acme globex", "the claim org is not a valid name"),
    "a line break": ("acme\n", "the claim org is not a valid name"),
    "another alphabet": ("\u0430cme", "the claim org is not a valid name"),
    "too long": ("a" * 129, "the claim org is not a valid name"),
}


ADMINS: Final = {"CreateOrganization", "UpdateOrganization", "DeleteOrganization"}


def test_a_claim_that_names_no_organization_gives_nothing(town: House) -> None:
    """The grant does not hold, on any method, and the error says what is wrong with the token."""
    for claim, why in BAD_CLAIMS.values():
        caller = town.caller(org=claim)
        for method in METHODS:
            if METHODS[method].server_streaming:
                told = caller.told(method, of_class(METHODS[method].input_type.name)(states=True))
                assert why in told, (method, claim)
                continue
            if method == "GetCaller":
                me = caller.call(method)
                assert not me.grants
                assert why in " ".join(me.notices)
                continue
            refused = caller.refused(method)
            assert refused.code is grpc.StatusCode.PERMISSION_DENIED, (method, claim)
            assert refused.reason == "NOT_ALLOWED"
            # The grant would not let anybody call these, whatever the token says.
            assert why in refused.message or method in ADMINS, (method, claim)
    # One organization more or less in the same words is another organization.
    for near in ("ACME", "acme-", "acm", "acme.globex"):
        assert not town.caller(org=near).call("ListClusters").clusters


def test_other_claims_name_nobody(town: House) -> None:
    """Only the claim that the policy names counts, whatever else a token says."""
    caller = town.caller(tenant="acme", organization="acme", Org="acme", ORG="acme")
    assert "the claim org is not in its token" in caller.refused("ListClusters").message


def test_an_operation_acts_for_the_organization_that_started_it(house: House) -> None:
    """C7: its steps have the rights of the token; clusters of others are to it as if not there."""
    own, before = house.caller(org="acme"), house.picture(OTHER)
    clusters = ["acme-1", "globex-1", "zenith-1"]
    started = own.call(
        "StartOperation",
        operation="twist",
        action=ops.OperationAction(rotate=ops.RotateAction(new_generation=True)),
        scope=ops.OperationScope(clusters=ops.ClustersScope(clusters=clusters)),
    )
    ended = own.call("WaitOperation", name=started.name)
    assert ended.done
    metadata = ops.OperationMetadata()
    ended.metadata.Unpack(metadata)
    assert (metadata.done, metadata.failed) == (2, 2)
    failed = {each.cluster: (each.reason, each.message) for each in metadata.failures}
    assert failed["globex-1"][0] == "CLUSTER_NOT_FOUND"
    assert anonymous(repr(failed["globex-1"]), OTHER) == anonymous(repr(failed["zenith-1"]), NONE)
    assert house.picture(OTHER) == before
    # With her token for the other customer, the same person has no such operation.
    other = house.caller(org=OTHER)
    assert other.refused("GetOperation", name="twist").reason == "OPERATION_NOT_FOUND"
    named = other.refused("GetOperation", name=started.name)
    assert named.reason == "OPERATION_NOT_FOUND"
    again = other.call(
        "StartOperation",
        operation="twist",
        action=_RECHECK,
        scope=ops.OperationScope(organization=OTHER),
    )
    assert again.name != started.name


def test_no_operation_appears_among_those_of_another_organization(house: House) -> None:
    """C8: who may not see an organization writes nothing into its log, nor among its operations."""
    own, other = house.caller(org="acme"), house.caller(org=OTHER)

    def seen() -> tuple[list[str], list[int]]:
        listed = other.call("ListOperations", name="operations").operations
        told = other.call("ListEvents").events
        return [each.name for each in listed], [each.number for each in told]

    before = seen()
    scopes: tuple[Callable[[str], ops.OperationScope], ...] = (
        lambda name: ops.OperationScope(organization=name),
        lambda name: ops.OperationScope(
            key_link=ops.KeyLinkScope(organization=name, key_link=f"{name}-link")
        ),
    )
    for scope in scopes:
        refused = [
            own.refused(
                "StartOperation",
                operation="intruder",
                action=_RECHECK,
                scope=scope(name),
                reason="call us back",
            )
            for name in (OTHER, NONE)
        ]
        assert refused[0].reason == "ORGANIZATION_NOT_FOUND"
        assert anonymous(repr(refused[0]), OTHER) == anonymous(repr(refused[1]), NONE)
    assert seen() == before


def test_a_page_of_operations_tells_nothing_of_hidden_ones(house: House) -> None:
    """C7: no page token holds the name of an operation that its reader may not see."""
    for name in ("acme", OTHER):
        for number in range(3):
            house.caller("bob", org=name).call(
                "StartOperation",
                operation=f"{name}-{number}",
                action=_RECHECK,
                scope=ops.OperationScope(organization=name),
            )
    own = house.caller("bob", org="acme")
    names, token = [], ""
    while True:
        page = own.call("ListOperations", name="operations", page_size=1, page_token=token)
        names += [each.name for each in page.operations]
        token = page.next_page_token
        if not token:
            break
        assert len(page.operations) == 1
        raw = base64.urlsafe_b64decode(token)
        assert b"acme" not in raw
        assert OTHER.encode() not in raw
    assert len(names) == 4
    assert all("/acme-" in name for name in names)


class Watching:
    """A stream of states and events."""

    def __init__(self, caller: Caller, **fields: Any) -> None:
        request = events.WatchEventsRequest(states=True, events=True, **fields)
        self.stream = caller.method("WatchEvents")(request, timeout=60)
        self.messages = iter(self.stream)
        self.text = ""
        self.token = ""

    def until(self, wanted: Callable[[events.WatchEventsResponse], bool]) -> Watching:
        """Reads on to a message."""
        for message in self.messages:
            self.token = message.resume_token
            message.resume_token = message.cursor_session = ""
            self.text += str(message)
            if wanted(message):
                return self
        raise AssertionError(self.text)

    def until_beat(self) -> Watching:
        """Reads on to the next heartbeat."""
        return self.until(lambda m: m.WhichOneof("message") == "heartbeat")


def test_a_watch_tells_of_ones_own_alone(house: House) -> None:
    """C7, R8: what happens to others, and to a root key that others use as well, stays theirs."""
    watching = Watching(house.caller(org="acme")).until_beat()
    other = house.caller(org=OTHER)
    other.call("Revoke", cluster="globex-2")
    other.call("Restore", cluster="globex-2")
    renamed = org.Organization(organization=OTHER, display_name="Globex")
    house.vendor.call("UpdateOrganization", organization=renamed)
    house.server.dev_keys("disable", "shared")
    assert other.refused("Recheck", cluster="zenith").reason == "CLUSTER_NOT_FOUND"
    other.call("Recheck", cluster="globex-2", regions=["eu"])
    house.caller(org="acme").call("Revoke", cluster="acme-1")
    watching.until(lambda m: m.event.cluster == "acme-1").until_beat().until_beat()
    watching.stream.cancel()
    assert "acme-1" in watching.text
    assert OTHER not in watching.text


def test_a_token_that_is_exchanged_between_two_streams(house: House) -> None:
    """C7: who resumes with a token for the other customer gets the other's states, and no more."""
    first = Watching(house.caller(org="acme")).until_beat()
    first.stream.cancel()
    house.caller(org="acme").call("Revoke", cluster="acme-1")
    house.caller(org=OTHER).call("Revoke", cluster="globex-1")
    second = Watching(house.caller(org=OTHER), resume_token=first.token).until_beat().until_beat()
    second.stream.cancel()
    assert "globex-1" in second.text
    assert "acme" not in second.text
    third = Watching(house.caller(org=["acme"]), resume_token=first.token)
    with pytest.raises(grpc.RpcError) as refused:
        third.until_beat()
    assert refusal(refused.value).reason == "NOT_ALLOWED"
    # A cursor of the same name, under the same subject, is another cursor.
    cursor = Watching(house.caller(org=OTHER), cursor="acme-cursor").until_beat()
    cursor.stream.cancel()
    for name, held in (
        ("acme", ["acme-cursor", "acme-spare"]),
        (OTHER, ["acme-cursor", "globex-cursor", "globex-spare"]),
    ):
        found = house.caller(org=name).call("ListCursors").cursors
        assert [c.name for c in found] == held


def test_a_watch_goes_on_when_grants_go_by_another_claim(house: House) -> None:
    """A new policy reads other claims of the same token, and a stream neither ends nor flaps."""
    caller = house.caller(org="acme", tenant=OTHER)
    watching = Watching(caller).until_beat()
    assert OTHER not in watching.text
    house.policy.write_text(
        POLICY.replace('organization_claim = "org"', 'organization_claim = "tenant"')
    )
    watching.text = ""
    watching.until(lambda m: m.state.cluster == "globex-1")
    for _ in range(3):
        watching.until_beat()
    house.caller(tenant=OTHER).call("Revoke", cluster="globex-1")
    watching.until(lambda m: m.event.cluster == "globex-1").until_beat()
    watching.stream.cancel()
    assert watching.text.count("snapshot_end") == 1
    house.policy.write_text(POLICY.replace('"jwt:https://issuer#*"', '"jwt:https://issuer#x"'))
    ended = Watching(caller)
    with pytest.raises(grpc.RpcError) as refused:
        ended.until(lambda _: False)
    assert refusal(refused.value).reason == "NOT_ALLOWED"


def test_waiting_periods_and_policies_are_ones_own(house: House) -> None:
    """What an administrator may choose for its own clusters, it may choose for no others."""
    own = house.caller(org="acme")
    policy = res.RegionPolicy(cache_ttl=Duration(seconds=30))
    given = res.RegionSpec(region="eu", policy=policy)
    own.call("Rotate", cluster="acme-1", region_specs=[given], only_named_regions=True)
    told = own.refused("Rotate", cluster="globex-1", region_specs=[given], only_named_regions=True)
    assert told.reason == "CLUSTER_NOT_FOUND"
    gone = own.refused(
        "DeleteCluster", cluster="globex-1", all_regions=True, waiting_period=Duration()
    )
    assert gone.reason == "CLUSTER_NOT_FOUND"
