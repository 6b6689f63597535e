"""Real replicas that serve one region each, beside one that serves all, on one PostgreSQL.

The replica of a region has the root key of that region alone, so it needs nothing of another
region's KMS. Every method of the contract is tried for a region that its replica does not serve.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning import operations_proto_pb2 as longrunning
from google.protobuf.field_mask_pb2 import FieldMask

from e2e.conftest import SharedStore, StartServer
from e2e.grpcurl import Grpcurl
from e2e.server import Server
from e2e.test_metrics import metrics_of
from e2e.wire import Refusal, refusal, spec
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import event_service_pb2_grpc as events_service
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import operations_pb2 as ops
from keyfold.v1 import organization_service_pb2 as org
from keyfold.v1 import organization_service_pb2_grpc as org_service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.rpc.methods import SERVICES
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import open_store

PLACES: Final = {
    "eu": "eu.keyfold.example:7443",
    "us": "us.keyfold.example:7443",
    "*": "control.keyfold.example:7443",
}

WRONG: Final = "WRONG_REGION"

SHARED: Final = "shared"
"""The name of a root key that both regions may use."""

CLUSTER: Final = "prod"
"""A cluster in eu and us whose wrapped keys the calls use."""


class Stubs:
    """A connection to one server, with the stubs of every service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.keys = service.KeyManagementServiceStub(channel)
        self.events = events_service.EventServiceStub(channel)
        self.organizations = org_service.OrganizationServiceStub(channel)
        self.operations: Any = operations_pb2_grpc.OperationsStub(channel)  # type: ignore[no-untyped-call]


@dataclass
class World:
    """A replica of eu, one of us, and a control replica, with a connection to each.

    Attributes:
        servers: The servers, by what they serve.
        at: The connections, by what the server serves.
        us_key: A key that was wrapped for region us of the cluster.
        eu_key: One for region eu.
        keys: The root keys of both regions.
        store: The store.
        files: The key file of each server, by what it serves.
    """

    servers: dict[str, Server]
    at: dict[str, Stubs]
    keys: Path
    store: SharedStore
    files: dict[str, Path] = field(default_factory=dict)
    us_key: bytes = b""
    eu_key: bytes = b""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new(self, *regions: str) -> str:
        """Enables a cluster at the control replica, and returns its name."""
        name = f"c{next(self._numbers)}"
        specs = [spec(region) for region in regions or ("eu", "us")]
        self.at["*"].keys.Enable(pb.EnableRequest(cluster=name, region_specs=specs), timeout=20)
        return name

    def revoked(self) -> str:
        """Enables a cluster, revokes it, and returns its name."""
        name = self.new()
        self.at["*"].keys.Revoke(pb.RevokeRequest(cluster=name), timeout=20)
        return name

    def name(self) -> str:
        """Returns a name that nothing has."""
        return f"n{next(self._numbers)}"

    def organization(self) -> str:
        """Makes an organization, and returns its name."""
        name = self.name()
        made = org.CreateOrganizationRequest(organization=org.Organization(organization=name))
        self.at["*"].organizations.CreateOrganization(made, timeout=20)
        return name

    def link(self, *, made: bool) -> org.KeyLink:
        """Returns a key link for us of a new organization, and makes it if asked to."""
        link = org.KeyLink(
            organization=self.organization(),
            key_link="link",
            region="us",
            key_spec=spec("us").key_spec,
        )
        if made:
            request = org.CreateKeyLinkRequest(key_link=link)
            self.at["*"].organizations.CreateKeyLink(request, timeout=20)
        return link


@pytest.fixture(scope="module")
def world(start_module_server: StartServer, shared_store: SharedStore) -> Iterator[World]:
    """Starts the servers, each with the root keys of what it serves."""
    folder = shared_store.settings["KEYFOLD_SERVICE_KEY"]
    assert folder is not None
    common = Path(folder).parent
    whole = KeyFile(common / "keys.json")
    for region in ("eu", "us", SHARED):
        whole.create(region)
    files = {"*": whole.path}
    made = json.loads(whole.path.read_text())
    for region in ("eu", "us"):
        files[region] = common / f"keys-{region}.json"
        files[region].write_text(json.dumps(_only(made, region)))
        files[region].chmod(0o600)
    servers = {
        serves: start_module_server(
            keys=(),
            ready=False,
            **shared_store.settings,
            KEYFOLD_LOCAL_KEYS=str(files[serves]),
            KEYFOLD_SERVES=serves,
            KEYFOLD_SERVED_AT=",".join(f"{r}={place}" for r, place in PLACES.items()),
            KEYFOLD_CACHE_TTL="1s",
            KEYFOLD_SWEEP_INTERVAL="10s",
        )
        for serves in ("eu", "us", "*")
    }
    for server in servers.values():
        server.launch()
    for server in servers.values():
        server.wait_ready()
    channels = {
        serves: grpc.insecure_channel(
            server.target, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        for serves, server in servers.items()
    }
    stubs = {r: Stubs(each) for r, each in channels.items()}
    built = World(servers, stubs, whole.path, shared_store, files)
    specs = [spec("eu"), spec("us")]
    built.at["*"].keys.Enable(pb.EnableRequest(cluster=CLUSTER, region_specs=specs), timeout=20)
    wraps = {
        region: built.at[region]
        .keys.Wrap(pb.WrapRequest(cluster=CLUSTER, region=region, plaintext=b"p" * 32), timeout=20)
        .wrapped_key
        for region in ("eu", "us")
    }
    built.eu_key, built.us_key = wraps["eu"], wraps["us"]
    try:
        yield built
    finally:
        for each in channels.values():
            each.close()


def _only(made: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns what a key file holds, with the key of a region and the one that all share."""
    return {**made, "keys": {each: made["keys"][each] for each in (name, SHARED)}}


# --- every method ----------------------------------------------------------------------


def _item(status: Any) -> str:
    """Returns the reason of an item's status; empty if it has no error."""
    return Refusal.of(status).reason if status.code else ""


def _wrap(world: World, at: Stubs) -> None:
    del world
    at.keys.Wrap(pb.WrapRequest(cluster=CLUSTER, region="us", plaintext=b"k"), timeout=20)


def _unwrap(world: World, at: Stubs) -> None:
    at.keys.Unwrap(pb.UnwrapRequest(cluster=CLUSTER, wrapped_key=world.us_key), timeout=20)


def _generate(world: World, at: Stubs) -> None:
    del world
    at.keys.GenerateDataKey(pb.GenerateDataKeyRequest(cluster=CLUSTER, region="us"), timeout=20)


def _rewrap(world: World, at: Stubs) -> None:
    at.keys.Rewrap(pb.RewrapRequest(cluster=CLUSTER, wrapped_key=world.us_key), timeout=20)


def _batch_wrap(world: World, at: Stubs) -> str:
    del world
    items = [pb.BatchWrapItem(plaintext=b"k")]
    asked = pb.BatchWrapRequest(cluster=CLUSTER, region="us", items=items)
    [result] = at.keys.BatchWrap(asked, timeout=20).results
    return _item(result.error)


def _batch_unwrap(world: World, at: Stubs) -> str:
    items = [pb.BatchUnwrapItem(wrapped_key=world.us_key)]
    asked = pb.BatchUnwrapRequest(cluster=CLUSTER, items=items)
    [result] = at.keys.BatchUnwrap(asked, timeout=20).results
    return _item(result.error)


def _batch_rewrap(world: World, at: Stubs) -> str:
    items = [pb.BatchRewrapItem(wrapped_key=world.us_key)]
    asked = pb.BatchRewrapRequest(cluster=CLUSTER, items=items)
    [result] = at.keys.BatchRewrap(asked, timeout=20).results
    return _item(result.error)


def _enable(world: World, at: Stubs) -> None:
    at.keys.Enable(pb.EnableRequest(cluster=world.name(), region_specs=[spec("us")]), timeout=20)


def _add_regions(world: World, at: Stubs) -> None:
    asked = pb.AddRegionsRequest(cluster=world.new("eu"), region_specs=[spec("us")])
    at.keys.AddRegions(asked, timeout=20)


def _rotate(world: World, at: Stubs) -> None:
    asked = pb.RotateRequest(cluster=world.new(), region_specs=[res.RegionSpec(region="us")])
    at.keys.Rotate(asked, timeout=20)


def _revoke(world: World, at: Stubs) -> None:
    at.keys.Revoke(pb.RevokeRequest(cluster=world.new(), regions=["us"]), timeout=20)


def _restore(world: World, at: Stubs) -> str:
    cluster = world.revoked()
    done = at.keys.Restore(pb.RestoreRequest(cluster=cluster, regions=["us"]), timeout=20)
    return "".join(_item(each.error) for each in done.not_restored)


def _retire(world: World, at: Stubs) -> None:
    cluster, keys = world.new(), world.at["*"].keys
    asked = pb.RotateRequest(
        cluster=cluster, region_specs=[res.RegionSpec(region="us")], new_generation=True
    )
    keys.Rotate(asked, timeout=20)
    for back in (False, True):
        retire = pb.RetireGenerationRequest(
            cluster=cluster, region="us", generation=1, bring_back=back
        )
        at.keys.RetireGeneration(retire, timeout=20)


def _delete(world: World, at: Stubs) -> None:
    asked = pb.DeleteClusterRequest(cluster=world.revoked(), regions=["us"])
    at.keys.DeleteCluster(asked, timeout=20)


def _undelete(world: World, at: Stubs) -> None:
    cluster = world.revoked()
    asked = pb.DeleteClusterRequest(cluster=cluster, regions=["us"])
    world.at["*"].keys.DeleteCluster(asked, timeout=20)
    at.keys.UndeleteCluster(pb.UndeleteClusterRequest(cluster=cluster), timeout=20)


def _test_key(world: World, at: Stubs) -> None:
    del world
    asked = pb.TestKeyRequest(key_spec=spec("us").key_spec, cluster=CLUSTER, region="us")
    assert at.keys.TestKey(asked, timeout=20).accessible


def _access_policy(world: World, at: Stubs) -> None:
    del world
    asked = pb.GetAccessPolicyRequest(key_spec=spec("us").key_spec, cluster=CLUSTER, region="us")
    at.keys.GetAccessPolicy(asked, timeout=20)


def _recheck(world: World, at: Stubs) -> None:
    del world
    at.keys.Recheck(pb.RecheckRequest(cluster=CLUSTER, regions=["us"]), timeout=20)


def _status(world: World, at: Stubs) -> None:
    del world
    at.keys.GetStatus(pb.GetStatusRequest(cluster=CLUSTER), timeout=20)


def _list_clusters(world: World, at: Stubs) -> None:
    del world
    at.keys.ListClusters(pb.ListClustersRequest(), timeout=20)


def _list_key_usage(world: World, at: Stubs) -> None:
    del world
    selector = pb.KeySelector(uri="local:us")
    at.keys.ListKeyUsage(pb.ListKeyUsageRequest(selector=selector), timeout=20)


def _caller(world: World, at: Stubs) -> None:
    del world
    at.keys.GetCaller(pb.GetCallerRequest(), timeout=20)


def _start_operation(world: World, at: Stubs) -> None:
    asked = pb.StartOperationRequest(
        operation=world.name(),
        action=ops.OperationAction(recheck=ops.RecheckAction()),
        scope=ops.OperationScope(clusters=ops.ClustersScope(clusters=[CLUSTER])),
    )
    at.keys.StartOperation(asked, timeout=20)


def _watch(world: World, at: Stubs) -> None:
    del world
    stream = at.events.WatchEvents(
        events.WatchEventsRequest(clusters=[CLUSTER], states=True), timeout=20
    )
    next(iter(stream))
    stream.cancel()


def _create_link(world: World, at: Stubs) -> None:
    request = org.CreateKeyLinkRequest(key_link=world.link(made=False))
    at.organizations.CreateKeyLink(request, timeout=20)


def _update_link(world: World, at: Stubs) -> None:
    link = world.link(made=True)
    request = org.UpdateKeyLinkRequest(key_link=link, update_mask=FieldMask(paths=["key_spec"]))
    at.organizations.UpdateKeyLink(request, timeout=20)


def _read_links(world: World, at: Stubs) -> None:
    link = world.link(made=True)
    owner, name = link.organization, link.key_link
    read = org.GetKeyLinkRequest(organization=owner, key_link=name)
    at.organizations.GetKeyLink(read, timeout=20)
    listed = org.ListKeyLinksRequest(organization=link.organization)
    assert at.organizations.ListKeyLinks(listed, timeout=20).key_links
    gone = org.DeleteKeyLinkRequest(organization=owner, key_link=name)
    at.organizations.DeleteKeyLink(gone, timeout=20)


def _organizations(world: World, at: Stubs) -> None:
    made = org.Organization(organization=world.name())
    stub = at.organizations
    stub.CreateOrganization(org.CreateOrganizationRequest(organization=made), timeout=20)
    named = org.GetOrganizationRequest(organization=made.organization)
    stub.GetOrganization(named, timeout=20)
    stub.ListOrganizations(org.ListOrganizationsRequest(), timeout=20)
    made.display_name = "of somebody"
    changed = org.UpdateOrganizationRequest(
        organization=made, update_mask=FieldMask(paths=["display_name"])
    )
    stub.UpdateOrganization(changed, timeout=20)
    gone = org.DeleteOrganizationRequest(organization=made.organization)
    stub.DeleteOrganization(gone, timeout=20)


def _log(world: World, at: Stubs) -> None:
    del world
    at.events.ListEvents(events.ListEventsRequest(), timeout=20)
    at.events.VerifyEvents(events.VerifyEventsRequest(), timeout=20)
    at.events.GetAnchor(events.GetAnchorRequest(), timeout=20)
    at.events.ListCursors(events.ListCursorsRequest(), timeout=20)
    at.events.ListUsage(events.ListUsageRequest(), timeout=20)


def _cursors(world: World, at: Stubs) -> None:
    watched = events.WatchEventsRequest(events=True, cursor=world.name())
    stream = at.events.WatchEvents(watched, timeout=20)
    first = next(iter(stream))
    advance = events.AdvanceCursorRequest(
        cursor=watched.cursor, session=first.cursor_session, resume_token=first.resume_token
    )
    at.events.AdvanceCursor(advance, timeout=20)
    stream.cancel()
    at.events.DeleteCursor(events.DeleteCursorRequest(cursor=watched.cursor), timeout=20)


def _operations(world: World, at: Stubs) -> None:
    asked = pb.StartOperationRequest(
        operation=world.name(),
        action=ops.OperationAction(recheck=ops.RecheckAction()),
        scope=ops.OperationScope(clusters=ops.ClustersScope(clusters=[CLUSTER])),
    )
    name = world.at["*"].keys.StartOperation(asked, timeout=20).name
    # Started again: it exists, so that this replica has nothing to carry out.
    at.keys.StartOperation(asked, timeout=20)
    at.operations.ListOperations(longrunning.ListOperationsRequest(), timeout=20)
    at.operations.GetOperation(longrunning.GetOperationRequest(name=name), timeout=20)
    at.operations.WaitOperation(longrunning.WaitOperationRequest(name=name), timeout=20)
    at.operations.DeleteOperation(longrunning.DeleteOperationRequest(name=name), timeout=20)


def _cancel(world: World, at: Stubs) -> str:
    asked = longrunning.CancelOperationRequest(name=world.name())
    try:
        at.operations.CancelOperation(asked, timeout=20)
    except grpc.RpcError as error:
        found = refusal(error).reason
        assert found == "OPERATION_NOT_FOUND"
    return ""


@dataclass(frozen=True)
class Row:
    """What becomes of a method that concerns region us.

    Attributes:
        methods: The methods that the call makes.
        call: Makes it at a server; returns the reason of its item, if it has one.
        eu: The reason at the replica of eu; empty: it is answered.
        us: The reason at the replica of us. A control replica always answers.
    """

    methods: tuple[str, ...]
    call: Callable[[World, Stubs], str | None]
    eu: str = ""
    us: str = ""


ROWS: Final = (
    Row(("Wrap",), _wrap, WRONG),
    Row(("Unwrap",), _unwrap, WRONG),
    Row(("GenerateDataKey",), _generate, WRONG),
    Row(("Rewrap",), _rewrap, WRONG),
    Row(("BatchWrap",), _batch_wrap, WRONG),
    Row(("BatchUnwrap",), _batch_unwrap, WRONG),
    Row(("BatchRewrap",), _batch_rewrap, WRONG),
    Row(("Enable",), _enable, WRONG),
    Row(("AddRegions",), _add_regions, WRONG),
    Row(("Rotate",), _rotate, WRONG),
    Row(("Restore",), _restore, WRONG),
    Row(("TestKey",), _test_key, WRONG),
    Row(("Recheck",), _recheck, WRONG),
    Row(("CreateKeyLink",), _create_link, WRONG),
    Row(("UpdateKeyLink",), _update_link, WRONG),
    Row(("StartOperation",), _start_operation, WRONG, WRONG),
    Row(("Revoke",), _revoke),
    Row(("RetireGeneration",), _retire),
    Row(("DeleteCluster",), _delete),
    Row(("UndeleteCluster",), _undelete),
    Row(("GetAccessPolicy",), _access_policy),
    Row(("GetStatus",), _status),
    Row(("ListClusters",), _list_clusters),
    Row(("ListKeyUsage",), _list_key_usage),
    Row(("GetCaller",), _caller),
    Row(("GetKeyLink", "ListKeyLinks", "DeleteKeyLink"), _read_links),
    Row(
        (
            "CreateOrganization",
            "GetOrganization",
            "ListOrganizations",
            "UpdateOrganization",
            "DeleteOrganization",
        ),
        _organizations,
    ),
    Row(("ListEvents", "VerifyEvents", "GetAnchor", "ListCursors", "ListUsage"), _log),
    Row(("WatchEvents",), _watch),
    Row(("AdvanceCursor", "DeleteCursor"), _cursors),
    Row(("ListOperations", "GetOperation", "WaitOperation", "DeleteOperation"), _operations),
    Row(("CancelOperation",), _cancel),
)


def test_the_table_has_every_method() -> None:
    """A method that is added to the contract needs a row: is it refused elsewhere, or not?"""
    files = (pb, events, org, longrunning)
    declared = {
        method.name
        for file in files
        for name in SERVICES
        for found in [file.DESCRIPTOR.services_by_name.get(name.rpartition(".")[2])]
        if found is not None
        for method in found.methods
    }
    rows = [name for row in ROWS for name in row.methods]
    assert sorted(rows) == sorted(declared)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.methods[0])
def test_each_method_for_a_region(world: World, row: Row) -> None:
    """What needs the KMS of us is refused by the replica of eu, which has no way to that KMS.

    Everything else works on every replica, and the replica of us has the root key of us alone.
    """
    for serves, expected in (("eu", row.eu), ("us", row.us), ("*", "")):
        try:
            found = row.call(world, world.at[serves]) or ""
        except grpc.RpcError as error:
            answer = refusal(error)
            found = answer.reason or answer.code.name
            if found == WRONG:
                wide = row.us == WRONG
                assert answer.code is grpc.StatusCode.FAILED_PRECONDITION
                assert answer.metadata["served_at"] == PLACES["*" if wide else "us"]
                assert answer.metadata.get("region", "") == ("" if wide else "us")
        assert found == expected, (serves, row.methods)


# --- what a person sees ----------------------------------------------------------------


def test_grpcurl_shows_where_to_call(world: World, grpcurl: str) -> None:
    """A client that is not ours sees the reason and the address."""
    asks = Grpcurl(grpcurl, world.servers["eu"])
    told = asks.refused("Wrap", cluster=CLUSTER, region="us", plaintext="aw==")
    assert "this replica does not serve region us; call us.keyfold.example:7443" in told
    assert WRONG in told
    assert '"served_at": "us.keyfold.example:7443"' in told


def test_the_command_line_shows_where_to_call(world: World) -> None:
    """The command line says how to repeat the command; the address is not made up."""
    told = world.servers["eu"].cli("recheck", CLUSTER, "--region", "us", code=4)
    assert "does not serve region us" in told
    assert "--target us.keyfold.example:7443" in told


def test_the_log_says_at_the_start_what_is_served(world: World) -> None:
    """An operator sees from the first lines which process serves what."""
    assert "serving region eu alone" in world.servers["eu"].log()
    assert "serving every region" in world.servers["*"].log()


# --- revocation ------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["eu", "us", "*"])
def test_revoke_at_any_replica_stops_all(world: World, where: str) -> None:
    """R9: no replica is the wrong one to revoke at, and each confirms or is pending."""
    cluster = world.new()
    wraps = {
        region: pb.WrapRequest(cluster=cluster, region=region, plaintext=b"k")
        for region in ("eu", "us")
    }
    for region, asked in wraps.items():
        world.at[region].keys.Wrap(asked, timeout=20)
        world.at["*"].keys.Wrap(asked, timeout=20)
    done = world.at[where].keys.Revoke(pb.RevokeRequest(cluster=cluster), timeout=20)
    assert len(done.confirmed) + len(done.pending) == len(world.servers)
    for serves, asked in itertools.product(world.at, wraps.values()):
        with pytest.raises(grpc.RpcError) as caught:
            world.at[serves].keys.Wrap(asked, timeout=20)
        assert refusal(caught.value).reason == "REVOKED", serves


# --- health ----------------------------------------------------------------------------


def _shared(world: World) -> str:
    """Enables a cluster in both regions under one root key, and uses it everywhere."""
    name = world.name()
    specs = [spec(region, f"local:{SHARED}") for region in ("eu", "us")]
    world.at["*"].keys.Enable(pb.EnableRequest(cluster=name, region_specs=specs), timeout=20)
    for serves, region in (("eu", "eu"), ("us", "us"), ("*", "eu")):
        _used(world, serves, name, region)
    return name


def _used(world: World, serves: str, cluster: str, region: str) -> None:
    asked = pb.WrapRequest(cluster=cluster, region=region, plaintext=b"k")
    world.at[serves].keys.Wrap(asked, timeout=20)


def _health(world: World, serves: str, cluster: str) -> dict[str, str]:
    """Reads the health of a cluster's regions at a replica."""
    status = world.at[serves].keys.GetStatus(pb.GetStatusRequest(cluster=cluster), timeout=20)
    return {
        region.region: res.Health.Name(region.health).removeprefix("HEALTH_")
        for region in status.status.regions
    }


def _becomes(world: World, serves: str, cluster: str, expected: dict[str, str]) -> None:
    """Waits until a replica shows a health: it reads what others have seen from the store."""
    ends = time.monotonic() + 20
    while (found := _health(world, serves, cluster)) != expected:
        assert time.monotonic() < ends, found
        time.sleep(0.1)


def _region(world: World, serves: str, cluster: str, region: str) -> res.RegionStatus:
    """Reads the status of one region at a replica."""
    status = world.at[serves].keys.GetStatus(pb.GetStatusRequest(cluster=cluster), timeout=20)
    [found] = [each for each in status.status.regions if each.region == region]
    return found


_FAILING: Final = re.compile(
    r'^keyfold_root_key_failing_seconds\{health="UNREACHABLE",region="eu"\} (\S+)$', re.MULTILINE
)


def _failing(world: World) -> float | None:
    """Reads for how long a root key of eu has failed, as the one replica that counts shows it."""
    found = [each for s in world.servers.values() for each in _FAILING.findall(metrics_of(s))]
    return max(map(float, found), default=None)


def test_an_outage_of_one_region_stays_there_without_a_break(world: World) -> None:
    """F5: eu's replica loses its way to a key that us and the control replica reach.

    Their good answers, in sweeps and at every status, hide nothing: all show eu as away since the
    beginning of the outage, from which the alert's metric counts, and us as healthy.
    """
    cluster = _shared(world)
    expected = {"eu": "UNREACHABLE", "us": "HEALTHY"}
    file = world.files["eu"]
    kept = file.read_bytes()
    file.write_text("this is no key file")
    try:
        began = time.monotonic()
        _becomes(world, "eu", cluster, expected)
        _becomes(world, "*", cluster, expected)
        first = _region(world, "*", cluster, "eu")
        # A sweep takes 10 seconds; the metric comes every 30.
        while time.monotonic() < began + 12 or _failing(world) is None:
            for serves in ("*", "us", "eu"):
                assert _health(world, serves, cluster) == expected, serves
            assert time.monotonic() < began + 90
            time.sleep(0.5)
        now = _region(world, "*", cluster, "eu")
        assert now.health_time == first.health_time
        assert now.last_check_time.ToMilliseconds() > first.last_check_time.ToMilliseconds()
        assert any("replicas that serve every region used the root key" in n for n in now.notices)
        shown = _failing(world)
        assert shown is None or 0 <= shown <= time.monotonic() - began + 1
    finally:
        file.write_bytes(kept)
    well = {"eu": "HEALTHY", "us": "HEALTHY"}
    _becomes(world, "eu", cluster, well)
    _becomes(world, "*", cluster, well)


def test_a_key_refused_in_one_region_is_permitted_in_another(world: World) -> None:
    """F2, F5: eu's replica is refused. Both statuses are steady, and us goes on working."""
    cluster = _shared(world)
    file = world.files["eu"]
    kept = file.read_bytes()
    made = json.loads(kept)
    del made["keys"][SHARED]
    file.write_text(json.dumps(made))
    try:
        expected = {"eu": "KEY_NOT_FOUND", "us": "HEALTHY"}
        _becomes(world, "eu", cluster, expected)
        _becomes(world, "*", cluster, expected)
        for _ in range(12):
            with pytest.raises(grpc.RpcError) as caught:
                _used(world, "eu", cluster, "eu")
            assert refusal(caught.value).reason == "KEY_NOT_FOUND"
            _used(world, "us", cluster, "us")
            _used(world, "*", cluster, "eu")
            for serves in ("*", "us", "eu"):
                assert _health(world, serves, cluster) == expected, serves
            time.sleep(0.5)
    finally:
        file.write_bytes(kept)


# --- what a region's process can open --------------------------------------------------


def test_a_process_holds_no_kek_of_another_region(world: World) -> None:
    """After every kind of call, the memory of eu's process holds eu's KEKs, and none of us."""
    cluster = world.new()
    for region in ("eu", "us"):
        asked = pb.WrapRequest(cluster=cluster, region=region, plaintext=b"k")
        world.at[region].keys.Wrap(asked, timeout=20)
    for row in ROWS:
        with suppress(grpc.RpcError):
            row.call(world, world.at["eu"])
    keks = {name: _keks(world, name) for name in (CLUSTER, cluster)}
    # Used a moment ago, so that it is in memory for sure: the search finds what is there.
    for region in ("eu", "us"):
        asked = pb.WrapRequest(cluster=cluster, region=region, plaintext=b"k")
        world.at[region].keys.Wrap(asked, timeout=20)
    found = {serves: _memory_has(server.pid, keks) for serves, server in world.servers.items()}
    assert (cluster, "eu") in found["eu"]
    assert (cluster, "us") in found["us"]
    assert {region for _, region in found["eu"]} == {"eu"}
    assert {region for _, region in found["us"]} == {"us"}


def _keks(world: World, cluster: str) -> dict[str, bytes]:
    """Opens the KEKs of a cluster with both root keys, as nobody but a test can."""
    settings = world.store.settings
    url, key, password = (
        settings[f"KEYFOLD_{name}"] for name in ("STORE", "SERVICE_KEY", "STORE_PASSWORD_FILE")
    )
    assert url is not None
    assert key is not None
    assert password is not None
    store = open_store(url, Path(key), clock=SystemClock(), password_file=Path(password))
    try:
        found = store.cluster(cluster)
    finally:
        store.close()
    assert found is not None
    local = LocalProvider(world.keys)
    opened = {}
    for region in found.regions:
        binding, wrap = found.binding(region.name, region.newest), region.newest.current
        got = local.unwrap(wrap.root, wrap.key_version, wrap.ciphertext, binding, budget=5)
        opened[region.name] = bytes(binding.open_payload(bytearray(got.plaintext)))
    return opened


_WRITABLE: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")


def _memory_has(pid: int, keks: dict[str, dict[str, bytes]]) -> set[tuple[str, str]]:
    """Returns the clusters and regions whose KEKs a process has in its writable memory."""
    wanted = {(name, region): kek for name, each in keks.items() for region, kek in each.items()}
    found: set[tuple[str, str]] = set()
    try:
        memory = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115  closed below
    except PermissionError:
        said = "only root may read the memory of a server, which forbids it to others"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    with memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place = _WRITABLE.match(line)
            if place is None:
                continue
            start, end = (int(each, 16) for each in place.groups())
            memory.seek(start)
            try:
                held = memory.read(end - start)
            except OSError:
                continue
            found |= {where for where, kek in wanted.items() if kek in held}
    return found
