"""Organizations and key links over the wire: what a customer links, and what its clusters get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

import callers
from e2e.wire import Refusal, refused, stubs
from fakes import FakeProvider
from in_process import InProcess, serving
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import event_service_pb2_grpc as event_service
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import organization_service_pb2 as org
from keyfold.v1 import organization_service_pb2_grpc as org_service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.clock import SystemClock
from regional import RegionalProvider

REGIONS: Final = ResidencyPolicy(
    geos=Geos.of({"eu-west-1": ["EU"], "eu-central-1": ["EU"], "us-east-1": []})
)


class VendorsRegions(RegionalProvider):
    """A KMS in whose regions the vendor keeps a key for each customer."""

    def held_by_vendor(self, key: RootKey) -> bool:
        del key
        return True


class Wire:
    """A server, with its three services and the customers' KMS of its keys."""

    def __init__(self, server: InProcess, channel: grpc.Channel, kms: RegionalProvider) -> None:
        self.server = server
        self.kms = kms
        self.keys = service.KeyManagementServiceStub(channel)
        self.orgs = org_service.OrganizationServiceStub(channel)
        self.events = event_service.EventServiceStub(channel)

    def call(self, method: str, request: Any) -> Any:
        """Makes a call of any of the services."""
        return self._method(method)(request, timeout=20)

    def refused(self, method: str, request: Any) -> Refusal:
        """Makes a call that must be refused."""
        return refused(self._method(method), request, 20)

    def _method(self, name: str) -> Callable[..., Any]:
        for stub in (self.keys, self.orgs, self.events):
            found: Callable[..., Any] | None = getattr(stub, name, None)
            if found is not None:
                return found
        raise AssertionError(name)

    def key(self, name: str, region: str = "eu") -> res.KeySpec:
        """Makes a root key of a region, and returns its spec."""
        uri = f"{region}.{name}"
        self.kms.create_key(uri)
        return res.KeySpec(type="REG", uri=f"fake:{uri}")

    def organize(self, name: str = "acme", **settings: Any) -> org.Organization:
        """Makes an organization."""
        request = org.CreateOrganizationRequest(
            organization=org.Organization(organization=name, **settings)
        )
        made: org.Organization = self.call("CreateOrganization", request).organization
        return made

    def link(self, name: str, key: res.KeySpec, **fields: Any) -> org.KeyLink:
        """Links a key."""
        made: org.KeyLink = self.call("CreateKeyLink", linking(name, key, **fields)).key_link
        return made

    def enable(self, cluster: str, *specs: res.RegionSpec, **fields: Any) -> res.ClusterStatus:
        """Enables a cluster of acme."""
        fields = {"organization": "acme"} | fields
        request = pb.EnableRequest(cluster=cluster, region_specs=specs, **fields)
        status: res.ClusterStatus = self.call("Enable", request).status
        return status

    def status(self, cluster: str) -> res.ClusterStatus:
        """Returns a cluster's status."""
        status: res.ClusterStatus = self.call(
            "GetStatus", pb.GetStatusRequest(cluster=cluster)
        ).status
        return status

    def found(self, name: str, organization: str = "acme") -> org.KeyLink:
        """Returns a link."""
        request = org.GetKeyLinkRequest(organization=organization, key_link=name)
        link: org.KeyLink = self.call("GetKeyLink", request).key_link
        return link


def linking(name: str, key: res.KeySpec, **fields: Any) -> org.CreateKeyLinkRequest:
    """Returns the request that links a key, by default for region eu of acme."""
    validate_only = fields.pop("validate_only", False)
    request_id = fields.pop("request_id", "")
    fields = {"organization": "acme", **({} if "geo" in fields else {"region": "eu"})} | fields
    link = org.KeyLink(key_link=name, key_spec=key, **fields)
    return org.CreateKeyLinkRequest(
        key_link=link, validate_only=validate_only, request_id=request_id
    )


@contextmanager
def wired(folder: Path, **setup: Any) -> Iterator[Wire]:
    """Serves an empty store with a KMS whose keys have regions."""
    kms = VendorsRegions()
    kms.create_key("platform")
    vendors = RootKey("REG", "fake:platform")
    with ExitStack() as stack:
        server = stack.enter_context(
            serving(
                folder,
                FakeProvider(),
                others={"REG": lambda: kms},
                platform=lambda _: vendors,
                regions=REGIONS,
                **setup,
            )
        )
        stack.enter_context(stubs(server.target))
        yield Wire(server, stack.enter_context(grpc.insecure_channel(server.target)), kms)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """An empty server."""
    with wired(tmp_path) as made:
        yield made


def test_an_organization_from_its_making_to_its_end(wire: Wire) -> None:
    """Create, Get, List, Update and Delete, each with what the contract says of it."""
    made = wire.organize(display_name="Acme Inc.", max_clusters=7)
    assert made.default_key == org.DEFAULT_KEY_REQUIRE_OWN
    assert "refused" in made.default_description
    assert made.etag
    assert wire.organize(display_name="Acme Inc.", max_clusters=7) == made
    wire.organize("beta")

    get = org.GetOrganizationRequest(organization="acme")
    assert wire.call("GetOrganization", get).organization == made
    listed = wire.call("ListOrganizations", org.ListOrganizationsRequest(page_size=1))
    assert [each.organization for each in listed.organizations] == ["acme"]
    request = org.ListOrganizationsRequest(page_token=listed.next_page_token)
    rest = wire.call("ListOrganizations", request)
    assert ([each.organization for each in rest.organizations], rest.next_page_token) == (
        ["beta"],
        "",
    )

    update = org.UpdateOrganizationRequest(
        organization=org.Organization(organization="acme", max_clusters=9), etag=made.etag
    )
    changed = wire.call("UpdateOrganization", update).organization
    assert (changed.max_clusters, changed.display_name) == (9, "Acme Inc.")
    assert wire.refused("UpdateOrganization", update).reason == "ETAG_MISMATCH"
    clear = org.UpdateOrganizationRequest(
        organization=org.Organization(organization="acme"),
        update_mask=FieldMask(paths=["max_clusters", "display_name"]),
    )
    cleared = wire.call("UpdateOrganization", clear).organization
    assert (cleared.max_clusters, cleared.display_name) == (0, "")

    delete = org.DeleteOrganizationRequest(organization="acme", etag=changed.etag)
    assert wire.refused("DeleteOrganization", delete).reason == "ETAG_MISMATCH"
    delete.etag = ""
    wire.call("DeleteOrganization", delete)
    assert wire.refused("GetOrganization", get).reason == "ORGANIZATION_NOT_FOUND"


def test_what_only_validates_stores_nothing(wire: Wire) -> None:
    """`validate_only` answers as the request would, and leaves an event and nothing else."""
    request = org.CreateOrganizationRequest(
        organization=org.Organization(organization="acme"), validate_only=True
    )
    assert wire.call("CreateOrganization", request).organization.organization == "acme"
    get = org.GetOrganizationRequest(organization="acme")
    assert wire.refused("GetOrganization", get).reason == "ORGANIZATION_NOT_FOUND"
    key = wire.key("one")
    link = wire.link("main", key, validate_only=True)
    assert (link.key_spec, link.use) == (key, org.KEY_LINK_USE_AVAILABLE)
    links = org.ListKeyLinksRequest(organization="acme")
    assert wire.refused("ListKeyLinks", links).reason == "ORGANIZATION_NOT_FOUND"
    shown = wire.call("ListEvents", events.ListEventsRequest()).events
    assert [(e.action, e.outcome, e.organization) for e in shown] == [
        ("rpc:organization:create", "validated", "acme"),
        ("rpc:key_link:create", "validated", "acme"),
    ]


def test_a_repeated_request_is_carried_out_once(wire: Wire) -> None:
    """R6: a request_id answers from the state of now, and says what came in between."""
    request = org.CreateOrganizationRequest(
        organization=org.Organization(organization="acme"), request_id="r"
    )
    first = wire.call("CreateOrganization", request)
    again = wire.call("CreateOrganization", request)
    assert (again.organization, again.replayed, again.superseded) == (
        first.organization,
        True,
        False,
    )
    wire.link("main", wire.key("one"))
    assert wire.call("CreateOrganization", request).superseded
    request.organization.max_clusters = 3
    assert wire.refused("CreateOrganization", request).reason == "REQUEST_ID_REUSED"
    delete = org.DeleteKeyLinkRequest(organization="acme", key_link="main", request_id="d")
    assert not wire.call("DeleteKeyLink", delete).replayed
    assert wire.call("DeleteKeyLink", delete).replayed


def test_one_that_only_clusters_name_exists(wire: Wire) -> None:
    """A cluster's organization needs no registration; it has the defaults until it is made."""
    key = wire.key("one")
    wire.enable("prod", res.RegionSpec(region="eu", key_spec=key))
    get = org.GetOrganizationRequest(organization="acme")
    found = wire.call("GetOrganization", get).organization
    assert (found.etag, found.cluster_count) == ("", 1)
    assert found.default_key == org.DEFAULT_KEY_REQUIRE_OWN
    wire.link("main", key)
    listed = wire.call("ListOrganizations", org.ListOrganizationsRequest()).organizations
    assert [(each.organization, each.key_link_count, each.etag) for each in listed] == [
        ("acme", 1, "")
    ]
    for validate_only in (False, True):
        delete = org.DeleteOrganizationRequest(organization="acme", validate_only=validate_only)
        refusal = wire.refused("DeleteOrganization", delete)
        assert refusal.reason == "ORGANIZATION_NOT_EMPTY"
        assert "clusters prod and key links main; delete them first" in refusal.message
        assert "holders" not in refusal.message


def test_a_link_is_proven_when_it_is_made(wire: Wire) -> None:
    """A key that does not work is not linked, and nothing is stored."""
    key = wire.key("one")
    wire.kms.disable("fake:eu.one")
    assert wire.refused("CreateKeyLink", linking("main", key)).reason == "KEY_DISABLED"
    get = org.GetKeyLinkRequest(organization="acme", key_link="main")
    assert wire.refused("GetKeyLink", get).reason == "ORGANIZATION_NOT_FOUND"
    wire.kms.enable("fake:eu.one")
    before = len(wire.kms.calls)
    link = wire.link("main", key, description="for data")
    assert {call.operation for call in wire.kms.calls[before:]} == {"wrap", "unwrap"}
    bound = wire.kms.calls[-1].binding
    assert bound is not None
    assert (bound.cluster, bound.region, bound.organization) == ("", "eu", "acme")
    assert (link.use, link.users_count, link.description) == (
        org.KEY_LINK_USE_AVAILABLE,
        0,
        "for data",
    )
    assert wire.found("main") == link


def test_a_link_is_proven_when_it_is_changed(wire: Wire) -> None:
    """While no region uses it, a link takes another key; a description needs no proof."""
    wire.link("main", wire.key("one"))
    other = wire.key("two")
    wire.kms.disable("fake:eu.two")
    link = org.KeyLink(organization="acme", key_link="main", key_spec=other)
    update = org.UpdateKeyLinkRequest(key_link=link)
    assert wire.refused("UpdateKeyLink", update).reason == "KEY_DISABLED"
    assert wire.found("main").key_spec.uri == "fake:eu.one"
    wire.kms.enable("fake:eu.two")
    before = wire.found("main")
    changed = wire.call("UpdateKeyLink", update).key_link
    assert changed.key_spec == other
    assert changed.etag != before.etag
    calls = len(wire.kms.calls)
    described = org.KeyLink(organization="acme", key_link="main", description="new")
    wire.call("UpdateKeyLink", org.UpdateKeyLinkRequest(key_link=described))
    assert wire.found("main").description == "new"
    assert len(wire.kms.calls) == calls
    stale = org.UpdateKeyLinkRequest(key_link=described, etag=before.etag)
    assert wire.refused("UpdateKeyLink", stale).reason == "ETAG_MISMATCH"


def test_a_cluster_gets_its_organizations_keys(wire: Wire) -> None:
    """LINKED: regions without a key spec, or without a spec at all, take the link of theirs."""
    wire.organize(default_key=org.DEFAULT_KEY_LINKED)
    eu, us = wire.key("one"), wire.key("one", "us")
    wire.link("main", eu)
    wire.link("other", us, region="us")

    status = wire.enable("prod", res.RegionSpec(region="eu"), regions=["eu", "us"])

    assert [(r.region, r.key_spec.uri, r.key_link, r.key_owner) for r in status.regions] == [
        ("eu", "fake:eu.one", "main", res.KEY_OWNER_ORGANIZATION),
        ("us", "fake:us.one", "other", res.KEY_OWNER_ORGANIZATION),
    ]
    assert wire.enable("prod", regions=["us", "eu"]) == status
    used = wire.found("main")
    assert (used.use, used.users_count) == (org.KEY_LINK_USE_IN_USE, 1)
    assert [(user.cluster, user.region) for user in used.users] == [("prod", "eu")]
    listed = wire.call("ListKeyLinks", org.ListKeyLinksRequest(organization="acme")).key_links
    assert [(link.key_link, link.users_count) for link in listed] == [("main", 1), ("other", 1)]


@pytest.mark.parametrize("method", ["Enable", "AddRegions"])
def test_a_region_without_a_key_is_refused_as_the_rule_says(wire: Wire, method: str) -> None:
    """Nothing falls back silently: each rule has its own error, and nothing is stored."""
    own = res.RegionSpec(region="own", key_spec=wire.key("own", "own"))
    request: Any = pb.EnableRequest(cluster="prod", organization="acme", region_specs=[own])
    if method == "AddRegions":
        wire.call("Enable", request)
        request = pb.AddRegionsRequest(cluster="prod")
    request.region_specs.append(res.RegionSpec(region="eu"))

    refusal = wire.refused(method, request)
    assert refusal.reason == "KEY_SPEC_MISSING"
    assert "REQUIRE_OWN" in refusal.message
    wire.organize(default_key=org.DEFAULT_KEY_LINKED)
    assert wire.refused(method, request).reason == "KEY_LINK_MISSING"
    wire.link("main", wire.key("one"))
    wire.server.provider.create_key("eu")
    fake = res.KeySpec(type="FAKE", uri="fake:eu")
    wire.link("second", fake)
    refusal = wire.refused(method, request)
    assert refusal.reason == "KEY_LINK_AMBIGUOUS"
    assert "main (REG), second (FAKE)" in refusal.message
    request.region_specs[-1].key_link = "second"
    wire.call(method, request)
    assert [r.key_link for r in wire.status("prod").regions] == ["second", ""]


def test_the_platforms_key_only_where_the_organization_says_so(wire: Wire) -> None:
    """PLATFORM: a region that names no key takes the vendor's; the status says whose it is."""
    wire.organize(default_key=org.DEFAULT_KEY_PLATFORM)
    own = res.RegionSpec(region="own", key_spec=wire.key("own", "own"))
    status = wire.enable("prod", own, regions=["own", "eu"])
    assert [(r.region, r.key_spec.type, r.key_owner) for r in status.regions] == [
        ("eu", "PLATFORM", res.KEY_OWNER_PLATFORM),
        ("own", "REG", res.KEY_OWNER_CLUSTER),
    ]


def test_the_first_wrapped_key_opens_at_every_station(wire: Wire) -> None:
    """C6: from PLATFORM to a link, to an own key, and back, callers' wrapped keys stay valid."""
    wire.enable("prod", res.RegionSpec(region="eu", key_spec=res.KeySpec(type="PLATFORM")))
    wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"the first")
    first = wire.call("Wrap", wrap).wrapped_key
    wire.link("main", wire.key("one"))
    stations = [
        res.RegionSpec(region="eu", key_link="main"),
        res.RegionSpec(region="eu", key_spec=wire.key("two")),
        res.RegionSpec(region="eu", key_link="main"),
        res.RegionSpec(region="eu"),
        res.RegionSpec(region="eu", key_spec=res.KeySpec(type="PLATFORM")),
    ]
    owners = []
    for station in stations:
        wire.call("Rotate", pb.RotateRequest(cluster="prod", region_specs=[station]))
        [region] = wire.status("prod").regions
        owners.append((region.key_owner, region.key_link, len(region.generations)))
        opened = wire.call("Unwrap", pb.UnwrapRequest(cluster="prod", wrapped_key=first))
        assert opened.plaintext == b"the first"
    assert owners == [
        (res.KEY_OWNER_ORGANIZATION, "main", 2),
        (res.KEY_OWNER_CLUSTER, "", 2),
        (res.KEY_OWNER_ORGANIZATION, "main", 2),
        (res.KEY_OWNER_ORGANIZATION, "main", 2),
        (res.KEY_OWNER_PLATFORM, "", 2),
    ]


def test_a_region_adopts_a_link_of_the_key_that_it_has(wire: Wire) -> None:
    """Adopting changes no key then, and leaving by a key_spec of the same key keeps it, too."""
    key = wire.key("one")
    wire.enable("prod", res.RegionSpec(region="eu", key_spec=key))
    wire.link("main", key)
    for spec, link in (
        (res.RegionSpec(region="eu", key_link="main"), "main"),
        (res.RegionSpec(region="eu", key_spec=key), ""),
    ):
        wire.call("Rotate", pb.RotateRequest(cluster="prod", region_specs=[spec]))
        [region] = wire.status("prod").regions
        assert (region.key_spec, region.key_link) == (key, link)
        assert wire.found("main").users_count == bool(link)


def test_a_link_in_use_is_neither_deleted_nor_changed(wire: Wire) -> None:
    """Both name the regions that use it, and the change says how to move them one by one."""
    key = wire.key("one")
    wire.link("main", key)
    for cluster in ("prod", "test"):
        wire.enable(cluster, res.RegionSpec(region="eu", key_link="main"))
    link = org.KeyLink(organization="acme", key_link="main", key_spec=wire.key("two"))
    for tried in (False, True):
        delete = org.DeleteKeyLinkRequest(organization="acme", key_link="main", validate_only=tried)
        update = org.UpdateKeyLinkRequest(key_link=link, validate_only=tried)
        refusals = [wire.refused("DeleteKeyLink", delete), wire.refused("UpdateKeyLink", update)]
        for refusal in refusals:
            assert refusal.reason == "KEY_LINK_IN_USE"
            assert "prod/eu, test/eu" in refusal.message
        assert "until its keys are erased" in refusals[0].message
        assert "move_link" in refusals[1].message
    update = org.UpdateKeyLinkRequest(key_link=link)
    alone = res.RegionSpec(region="eu", key_spec=key)
    wire.call("Rotate", pb.RotateRequest(cluster="test", region_specs=[alone]))

    # Off the link, change the link, on the link again.
    for spec in (
        res.RegionSpec(region="eu", key_spec=link.key_spec),
        None,
        res.RegionSpec(region="eu", key_link="main"),
    ):
        if spec is None:
            wire.call("UpdateKeyLink", update)
        else:
            wire.call("Rotate", pb.RotateRequest(cluster="prod", region_specs=[spec]))
    [region] = wire.status("prod").regions
    assert (region.key_spec.uri, region.key_link) == ("fake:eu.two", "main")


def test_a_link_that_is_deleted_while_a_cluster_is_proven(wire: Wire) -> None:
    """The Enable ends with a reason, and nothing is half done: no cluster, no link."""
    wire.link("main", wire.key("one"))
    hang = wire.kms.hang("fake:eu.one")
    enable = pb.EnableRequest(
        cluster="prod",
        organization="acme",
        region_specs=[res.RegionSpec(region="eu", key_link="main")],
    )
    with ThreadPoolExecutor(1) as pool:
        enabling = pool.submit(wire.refused, "Enable", enable)
        hang.wait_entered()
        wire.call("DeleteKeyLink", org.DeleteKeyLinkRequest(organization="acme", key_link="main"))
        hang.release()
        refusal = enabling.result(30)
    wire.kms.mend()
    assert refusal.reason == "CONCURRENT_CHANGE"
    assert "key link main" in refusal.message
    status = pb.GetStatusRequest(cluster="prod")
    assert wire.refused("GetStatus", status).reason == "CLUSTER_NOT_FOUND"


def test_wrong_links(wire: Wire) -> None:
    """Each kind of link that cannot be, with its own reason, and nothing is stored."""
    key = wire.key("one")
    wire.link("main", key)
    elsewhere = wire.key("one", "us-east-1")
    cases: dict[str, org.CreateKeyLinkRequest] = {
        "twice": linking("second", wire.key("two")),
        "other values": linking("main", wire.key("three")),
        "elsewhere": linking("third", elsewhere, region="eu-west-1"),
        "no place": linking("third", key, region=""),
        "two places": linking("third", key, region="eu", geo="EU"),
        "no such geo": linking("third", key, geo="NOWHERE"),
        "not for a geo": linking("third", wire.key("four", "eu-west-1"), geo="EU"),
        "the vendor's": linking("third", res.KeySpec(type="PLATFORM"), region="us"),
        "no key": linking("third", res.KeySpec(), region="us"),
        "description": linking("third", key, region="us", description="\n"),
        "name": linking("-", key, region="us"),
        "organization": linking("third", key, region="us", organization="a/b"),
    }
    reasons = {what: wire.refused("CreateKeyLink", case).reason for what, case in cases.items()}
    assert reasons == {
        "twice": "KEY_LINK_EXISTS",
        "other values": "KEY_LINK_EXISTS",
        "elsewhere": "KEY_ELSEWHERE",
        "no place": "INVALID_KEY_LINK",
        "two places": "INVALID_KEY_LINK",
        "no such geo": "UNKNOWN_GEO",
        "not for a geo": "INVALID_KEY_SPEC",
        "the vendor's": "INVALID_KEY_LINK",
        "no key": "INVALID_KEY_SPEC",
        "description": "INVALID_KEY_LINK",
        "name": "INVALID_NAME",
        "organization": "INVALID_NAME",
    }
    without = org.CreateKeyLinkRequest(
        key_link=org.KeyLink(organization="acme", key_link="third", region="us")
    )
    assert wire.refused("CreateKeyLink", without).reason == "INVALID_KEY_SPEC"
    listed = wire.call("ListKeyLinks", org.ListKeyLinksRequest(organization="acme")).key_links
    assert [link.key_link for link in listed] == ["main"]


def test_wrong_uses_of_a_link(wire: Wire) -> None:
    """A link that does not exist, or is for another region, and one beside another key."""
    wire.link("main", wire.key("one"))
    cases = {
        "KEY_LINK_NOT_FOUND": res.RegionSpec(region="eu", key_link="none"),
        "KEY_LINK_ELSEWHERE": res.RegionSpec(region="us", key_link="main"),
        "INVALID_KEY_SPEC": res.RegionSpec(region="eu", key_link="main", key_spec=wire.key("two")),
        "INVALID_NAME": res.RegionSpec(region="eu", key_link="a/b"),
    }
    for reason, spec in cases.items():
        enable = pb.EnableRequest(cluster="prod", organization="acme", region_specs=[spec])
        assert wire.refused("Enable", enable).reason == reason
    alone = pb.EnableRequest(cluster="prod", region_specs=[cases["KEY_LINK_NOT_FOUND"]])
    refusal = wire.refused("Enable", alone)
    assert refusal.reason == "KEY_LINK_NOT_FOUND"
    assert "belongs to no organization" in refusal.message


def test_wrong_settings(wire: Wire) -> None:
    """Each value that no organization can have, by the path of its field."""
    cases: dict[str, dict[str, Any]] = {
        "organization.cluster_patterns[0]": {"cluster_patterns": ["*"]},
        "organization.cluster_patterns[1]": {"cluster_patterns": ["a-*", "a/b"]},
        "organization.cluster_patterns": {"cluster_patterns": ["a"] * 65},
        "organization.display_name": {"display_name": "a" * 257},
        "organization.default_key": {"default_key": 99},
    }
    for field, settings in cases.items():
        request = org.CreateOrganizationRequest(
            organization=org.Organization(organization="acme", **settings)
        )
        refusal = wire.refused("CreateOrganization", request)
        assert (refusal.reason, refusal.fields) == ("INVALID_ORGANIZATION", (field,))
    wire.organize()
    for paths in ([], ["etag"], ["max_clusters", "nonsense"]):
        update = org.UpdateOrganizationRequest(
            organization=org.Organization(organization="acme"), update_mask=FieldMask(paths=paths)
        )
        assert wire.refused("UpdateOrganization", update).reason == "INVALID_UPDATE_MASK"


def test_limits_of_an_organization(wire: Wire) -> None:
    """The cluster, the name and the link beyond what the organization may have are refused."""
    wire.organize(max_clusters=1, max_key_links=1, cluster_patterns=["acme-*"])
    key = wire.key("one")
    spec = res.RegionSpec(region="eu", key_spec=key)
    before = len(wire.kms.calls)
    named = pb.EnableRequest(cluster="prod", organization="acme", region_specs=[spec])
    assert wire.refused("Enable", named).reason == "CLUSTER_NAME_NOT_ALLOWED"
    assert len(wire.kms.calls) == before
    wire.enable("acme-1", spec)
    wire.enable("acme-1", spec)
    second = pb.EnableRequest(cluster="acme-2", organization="acme", region_specs=[spec])
    assert wire.refused("Enable", second).reason == "TOO_MANY_CLUSTERS"
    wire.link("main", key)
    more = linking("more", wire.key("one", "us"), region="us")
    assert wire.refused("CreateKeyLink", more).reason == "TOO_MANY_KEY_LINKS"
    wire.enable("else", spec, organization="other")


def test_a_link_for_a_geo(wire: Wire) -> None:
    """One multi-Region key serves every region of a geo, each with its own proven replica."""
    key = wire.key("mrk-1", "eu-west-1")
    refusal = wire.refused("CreateKeyLink", linking("europe", key, geo="EU"))
    assert refusal.reason == "KEY_NOT_FOUND"
    assert "region eu-central-1: there is no replica" in refusal.message
    wire.kms.create_key("eu-central-1.mrk-1")

    link = wire.link("europe", key, geo="EU")

    assert [(each.region, each.key_spec.uri, each.reason) for each in link.replicas] == [
        ("eu-central-1", "fake:eu-central-1.mrk-1", ""),
        ("eu-west-1", "fake:eu-west-1.mrk-1", ""),
    ]
    wire.organize(default_key=org.DEFAULT_KEY_LINKED)
    status = wire.enable("prod", regions=["eu-west-1", "eu-central-1"])
    assert [(r.key_spec.uri, r.key_link) for r in status.regions] == [
        ("fake:eu-central-1.mrk-1", "europe"),
        ("fake:eu-west-1.mrk-1", "europe"),
    ]
    one = linking("west", wire.key("two", "eu-west-1"), region="eu-west-1")
    assert wire.refused("CreateKeyLink", one).reason == "KEY_LINK_EXISTS"


def test_a_geo_that_has_gained_a_region(tmp_path: Path) -> None:
    """Its links show which region they lack, and serve it once they are proven there."""
    kms = RegionalProvider()
    keys = ["eu-west-1.mrk-1", "eu-central-1.mrk-1"]
    for name in keys:
        kms.create_key(name)
    regions = ["eu-west-1"], ["eu-west-1", "eu-central-1"]
    key = res.KeySpec(type="REG", uri="fake:eu-west-1.mrk-1")

    def served(geo: list[str]) -> Any:
        policy = ResidencyPolicy(geos=Geos.of({region: ["EU"] for region in geo}))
        return serving(tmp_path, FakeProvider(), others={"REG": lambda: kms}, regions=policy)

    with served(regions[0]) as server, grpc.insecure_channel(server.target) as channel:
        Wire(server, channel, kms).link("europe", key, geo="EU")
    with served(regions[1]) as server, grpc.insecure_channel(server.target) as channel:
        wire = Wire(server, channel, kms)
        shown = wire.found("europe").replicas
        assert [(each.region, each.reason) for each in shown] == [
            ("eu-central-1", "KEY_LINK_ELSEWHERE"),
            ("eu-west-1", ""),
        ]
        spec = res.RegionSpec(region="eu-central-1", key_link="europe")
        enable = pb.EnableRequest(cluster="prod", organization="acme", region_specs=[spec])
        assert wire.refused("Enable", enable).reason == "KEY_LINK_ELSEWHERE"
        again = org.KeyLink(organization="acme", key_link="europe", key_spec=key)
        proven = wire.call("UpdateKeyLink", org.UpdateKeyLinkRequest(key_link=again)).key_link
        assert [each.reason for each in proven.replicas] == ["", ""]
        wire.call("Enable", enable)


POLICY: Final = """
[[grant]]
callers = ["dns:vendor"]
roles = ["admin"]
keys = [{ type = "REG", uri = "fake:*", principal = "ambient" }]

[[grant]]
callers = ["dns:acme"]
roles = ["operator"]
organizations = ["acme"]
keys = [{ type = "REG", uri = "fake:eu.acme-*", principal = "ambient" }]

[[grant]]
callers = ["dns:auditor"]
roles = ["auditor"]
organizations = ["acme"]

[[grant]]
callers = ["dns:robot"]
roles = ["operator"]
clusters = ["acme-*"]
organizations = ["acme"]
keys = [{ type = "REG", uri = "fake:eu.acme-*", principal = "ambient" }]
"""


class Disguise:
    """The policy above, for whoever a test is just now.

    Attributes:
        name: The name of every caller.
    """

    def __init__(self) -> None:
        self.name = ""
        self._policy = CachedPolicy(parse(POLICY, "policy.toml"))

    def rights(self, identity: Identity) -> Rights:
        return self._policy.rights(Identity((f"dns:{self.name}",), identity.proof))

    @property
    def claims(self) -> frozenset[str]:
        return self._policy.claims

    def believes(self, identity: Identity) -> bool:
        del identity
        return False


@contextmanager
def as_callers(folder: Path) -> Iterator[Callable[[str], Wire]]:
    """Serves under a policy; gives a function that calls as somebody."""
    disguise = Disguise()
    who = Callers(disguise, callers.LOCAL, SystemClock())
    with wired(folder, who=who) as wire:

        def become(name: str) -> Wire:
            disguise.name = name
            return wire

        yield become


def test_who_may_do_what(tmp_path: Path) -> None:
    """C7: admin makes organizations, their operators link keys, auditors read, each its own."""
    with as_callers(tmp_path) as become:
        vendor = become("vendor")
        for name in ("acme", "other"):
            vendor.organize(name, cluster_patterns=[f"{name}-*"])
        vendor.link("theirs", vendor.key("theirs"), organization="other")

        acme = become("acme")
        create = org.CreateOrganizationRequest(organization=org.Organization(organization="acme"))
        assert acme.refused("CreateOrganization", create).reason == "NOT_ALLOWED"
        acme.link("main", acme.key("acme-1"))
        foreign = linking("second", acme.key("stolen"), region="us")
        assert acme.refused("CreateKeyLink", foreign).reason == "KEY_NOT_GRANTED"
        listed = acme.call("ListOrganizations", org.ListOrganizationsRequest()).organizations
        assert [each.organization for each in listed] == ["acme"]

        auditor = become("auditor")
        assert auditor.found("main").key_spec.uri == "fake:eu.acme-1"
        delete = org.DeleteKeyLinkRequest(organization="acme", key_link="main")
        assert auditor.refused("DeleteKeyLink", delete).reason == "NOT_ALLOWED"

        for name in ("acme", "auditor"):
            other = become(name)
            for method, request in (
                ("GetOrganization", org.GetOrganizationRequest(organization="{}")),
                ("ListKeyLinks", org.ListKeyLinksRequest(organization="{}")),
                ("GetKeyLink", org.GetKeyLinkRequest(organization="{}", key_link="theirs")),
            ):
                answers = []
                for hidden in ("other", "nobody"):
                    request.organization = hidden
                    refusal = other.refused(method, request)
                    answers.append((refusal.reason, refusal.message.replace(hidden, "X")))
                assert answers[0] == answers[1]
                assert answers[0][0] == "ORGANIZATION_NOT_FOUND"
        shown = become("auditor").call("ListEvents", events.ListEventsRequest()).events
        assert {event.organization for event in shown} == {"acme"}

        robot = become("robot")
        assert robot.refused("DeleteKeyLink", delete).reason == "ORGANIZATION_NOT_FOUND"
        robot.enable("acme-1", res.RegionSpec(region="eu", key_link="main"))
        assert become("acme").found("main").users_count == 1


def test_an_organization_gives_nobody_a_key(tmp_path: Path) -> None:
    """C1: a key from a link or a default rule needs the grant that it needs in a request."""
    with as_callers(tmp_path) as become:
        vendor = become("vendor")
        vendor.link("secret", vendor.key("secret"))
        vendor.organize(default_key=org.DEFAULT_KEY_PLATFORM)
        robot = become("robot")
        before = len(robot.kms.calls)
        for spec in (res.RegionSpec(region="eu", key_link="secret"), res.RegionSpec(region="eu")):
            enable = pb.EnableRequest(cluster="acme-1", organization="acme", region_specs=[spec])
            assert robot.refused("Enable", enable).reason == "KEY_NOT_GRANTED"
        assert len(robot.kms.calls) == before


def test_an_operator_of_one_organization_keeps_to_its_names(tmp_path: Path) -> None:
    """C8: where neither grant nor organization narrows names, nobody finds out others' names."""
    with as_callers(tmp_path) as become:
        vendor = become("vendor")
        key = vendor.key("acme-1")
        spec = res.RegionSpec(region="eu", key_spec=key)
        vendor.enable("taken", spec, organization="other")

        acme = become("acme")
        for name in ("taken", "free"):
            enable = pb.EnableRequest(cluster=name, organization="acme", region_specs=[spec])
            refusal = acme.refused("Enable", enable)
            assert refusal.reason == "NOT_ALLOWED"
            assert "cluster_patterns" in refusal.message
        become("vendor").organize(cluster_patterns=["acme-*"])
        acme = become("acme")
        for name in ("taken", "free"):
            enable = pb.EnableRequest(cluster=name, organization="acme", region_specs=[spec])
            assert acme.refused("Enable", enable).reason == "CLUSTER_NAME_NOT_ALLOWED"
        acme.enable("acme-1", spec)
