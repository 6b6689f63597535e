"""Every reason of the error tree, seen over the wire with the code that the table gives it.

The server runs in process, on a KMS that can refuse, lie, hang and throttle. Each reason is
provoked by calls alone, or by what a customer, a KMS or somebody with the store's file may do.
"""

from __future__ import annotations

import inspect
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import grpc
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning import operations_proto_pb2 as longrunning
from google.protobuf.duration_pb2 import Duration

import callers
from e2e.wire import Refusal, raw, refusal, refused, spec, stubs
from fakes import FakeProvider
from in_process import InProcess, serving
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import event_service_pb2_grpc as events_service
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import operations_pb2 as ops
from keyfold.v1 import organization_service_pb2 as org
from keyfold.v1 import organization_service_pb2_grpc as org_service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain import errors
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import IssuerUnreachableError, KeyfoldError, KeyInvalidError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.log import Position
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Credential
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.messages.status import code_of
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.operations import operations
from keyfold_server.store.sql import cursors
from keyfold_server.store.tables import log_head
from replicas import in_service

NEVER_SENT: Final = {
    "SETUP": "a server that raises it does not start, so there is nobody to send it",
}
"""Reasons that no call can bring about, each with why."""

TIMING: Final = Timing(refusal_memory=0.0, provider_budget=0.6, store_poll=0.2)


def leaves() -> dict[str, type[KeyfoldError]]:
    """Returns the classes of the tree that have a reason of their own, by reason."""
    found = {}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, KeyfoldError) and "reason" in vars(kind):
            assert kind.reason not in found
            found[kind.reason] = kind
    return found


class Meddling(FakeProvider):
    """A KMS during whose unwrap something else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: dict[str, Callable[[], object]] = {}

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        opened = super().unwrap(key, key_version, ciphertext, binding, budget=budget)
        meddle = self.meanwhile.get(key.uri)
        if meddle is not None:
            meddle()
        return opened


class Reasons:
    """Collects what was seen."""

    def __init__(self, server: InProcess, stub: service.KeyManagementServiceStub) -> None:
        self.server = server
        assert isinstance(server.provider, Meddling)
        self.provider = server.provider
        self.stub = stub
        self.seen: dict[str, Refusal] = {}

    def note(self, answer: Refusal, reason: str) -> None:
        """Checks a refusal against the table, and notes its reason."""
        assert answer.reason == reason, answer
        kind = leaves()[reason]
        assert answer.code is code_of(kind), answer
        assert answer.domain == "keyfold"
        assert answer.metadata["source"] == kind.source
        assert answer.message
        self.seen[reason] = answer

    def see(self, reason: str, method: str, asked: Any, timeout: float = 10.0) -> None:
        """Makes a call that must be refused for a reason."""
        self.note(refused(getattr(self.stub, method), asked, timeout), reason)

    def enable(self, cluster: str, *keys: str, ttl: float | None = None) -> list[res.RegionSpec]:
        """Enables a cluster with a region for each fresh key, of the same name."""
        specs = []
        for key in keys:
            self.provider.create_key(key)
            own = fake(key)
            if ttl is not None:
                own.policy.cache_ttl.FromMilliseconds(int(ttl * 1000))
            specs.append(own)
        self.stub.Enable(pb.EnableRequest(cluster=cluster, region_specs=specs), timeout=9)
        return specs

    def wrap(self, cluster: str, region: str, plaintext: bytes = b"p", **more: Any) -> bytes:
        """Wraps, and returns the wrapped key."""
        asked = pb.WrapRequest(cluster=cluster, region=region, plaintext=plaintext, **more)
        return self.stub.Wrap(asked, timeout=9).wrapped_key


def fake(region: str, uri: str | None = None) -> res.RegionSpec:
    """Returns the region spec of a fake key."""
    return spec(region, uri or f"fake:{region}", "FAKE")


def wrap(cluster: str, region: str, plaintext: bytes = b"p", **more: Any) -> pb.WrapRequest:
    """Returns a request of Wrap."""
    return pb.WrapRequest(cluster=cluster, region=region, plaintext=plaintext, **more)


@pytest.fixture(scope="module")
def reasons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reasons]:
    """The server of this file, with cluster `prod` of regions eu and us."""
    folder = tmp_path_factory.mktemp("reasons")
    kms = Meddling()
    others = {"OTHER": lambda: kms}
    with (
        serving(folder, kms, timing=TIMING, others=others) as server,
        stubs(server.target) as stub,
    ):
        found = Reasons(server, stub)
        found.enable("prod", "eu", "us")
        yield found


def test_input(reasons: Reasons) -> None:
    """Every reason of input that cannot be right."""
    see, one = reasons.see, b"1" * 32
    blob = reasons.wrap("prod", "eu", one)
    with raw(reasons.server.target) as call, pytest.raises(grpc.RpcError) as caught:
        call("Wrap", b"\xff")
    reasons.note(refusal(caught.value), "MALFORMED_REQUEST")
    see("INVALID_NAME", "Wrap", wrap("-", "eu"))
    see("INVALID_PLAINTEXT", "Wrap", wrap("prod", "eu", b""))
    see("INVALID_CONTEXT", "Wrap", wrap("prod", "eu", context={"": ""}))
    see(
        "INVALID_SIZE",
        "GenerateDataKey",
        pb.GenerateDataKeyRequest(cluster="prod", region="eu", size=7),
    )
    policy = fake("eu")
    policy.policy.cache_ttl.seconds = 901
    see("INVALID_POLICY", "Enable", pb.EnableRequest(cluster="x", region_specs=[policy]))
    see("INVALID_REQUEST_ID", "Revoke", pb.RevokeRequest(cluster="prod", request_id="ü"))
    see("INVALID_PAGE", "ListClusters", pb.ListClustersRequest(page_size=-1))
    see("INVALID_BATCH", "BatchWrap", pb.BatchWrapRequest(cluster="prod"))
    see("INVALID_REASON", "Revoke", pb.RevokeRequest(cluster="prod", reason="r" * 1025))
    waiting = Duration(seconds=91 * 86_400)
    late = pb.DeleteClusterRequest(cluster="prod", all_regions=True, waiting_period=waiting)
    see("INVALID_WAITING_PERIOD", "DeleteCluster", late)
    see("REGIONS_NOT_CHOSEN", "DeleteCluster", pb.DeleteClusterRequest(cluster="prod"))
    see("INVALID_RECHECK", "Recheck", pb.RecheckRequest())
    see("INVALID_SELECTOR", "ListKeyUsage", pb.ListKeyUsageRequest())
    see("KEY_NOT_USED", "Recheck", pb.RecheckRequest(key_uri="fake:nobody"))
    empty = res.RegionSpec(region="eu", key_spec=res.KeySpec())
    see("INVALID_KEY_SPEC", "Enable", pb.EnableRequest(cluster="x", region_specs=[empty]))
    odd = spec("eu", "x", "NONE")
    see("UNKNOWN_PROVIDER", "Enable", pb.EnableRequest(cluster="x", region_specs=[odd]))
    see("KEY_SPEC_MISSING", "Enable", pb.EnableRequest(cluster="x"))
    twice = [fake("eu"), fake("eu")]
    see("DUPLICATE_REGION", "Enable", pb.EnableRequest(cluster="x", region_specs=twice))
    nowhere = res.RegionSpec(geo="EMEA", key_spec=fake("eu").key_spec)
    see("UNKNOWN_GEO", "Enable", pb.EnableRequest(cluster="x", region_specs=[nowhere]))
    many = [fake(f"r{n}", "fake:eu") for n in range(65)]
    see("TOO_MANY_REGIONS", "Enable", pb.EnableRequest(cluster="x", region_specs=many))
    two = [fake("eu"), fake("us")]
    unlisted = pb.EnableRequest(cluster="x", regions=["eu"], region_specs=two)
    see("REGION_MISMATCH", "Enable", unlisted)
    foreign = pb.AddRegionsRequest(cluster="prod", organization="o", region_specs=[fake("eu")])
    see("ORGANIZATION_MISMATCH", "AddRegions", foreign)
    see("NOT_A_WRAPPED_KEY", "Unwrap", pb.UnwrapRequest(cluster="prod", wrapped_key=b"x"))
    for reason, position in (
        ("UNSUPPORTED_WRAPPED_KEY", 0),
        ("UNKNOWN_KEK", 2),
        ("WRAPPED_KEY_CORRUPT", -1),
        ("CONTEXT_MISMATCH", 50),
    ):
        changed = bytearray(blob)
        changed[position] ^= 1
        see(reason, "Unwrap", pb.UnwrapRequest(cluster="prod", wrapped_key=bytes(changed)))
    reasons.enable("neighbour", "nb")
    see("WRONG_CLUSTER", "Unwrap", pb.UnwrapRequest(cluster="neighbour", wrapped_key=blob))


def test_state(reasons: Reasons) -> None:
    """Every reason of what exists, does not exist, is revoked or was changed meanwhile."""
    see = reasons.see
    see("CLUSTER_NOT_FOUND", "GetStatus", pb.GetStatusRequest(cluster="ghost"))
    see("REGION_NOT_FOUND", "Wrap", wrap("prod", "ghost"))
    see("CLUSTER_EXISTS", "Enable", pb.EnableRequest(cluster="prod", region_specs=[fake("eu")]))
    other = pb.AddRegionsRequest(cluster="prod", region_specs=[fake("eu", "fake:us")])
    see("REGION_EXISTS", "AddRegions", other)
    reasons.enable("gone", "going")
    revoke = pb.RevokeRequest(cluster="gone", request_id="id")
    reasons.stub.Revoke(revoke, timeout=9)
    see("REVOKED", "Wrap", wrap("gone", "going"))
    more = pb.AddRegionsRequest(cluster="gone", region_specs=[fake("us")])
    see("CLUSTER_REVOKED", "AddRegions", more)
    again = pb.RevokeRequest(cluster="gone", request_id="id", reason="another body")
    see("REQUEST_ID_REUSED", "Revoke", again)

    delete = pb.DeleteClusterRequest(cluster="prod", all_regions=True)
    see("NOT_REVOKED", "DeleteCluster", delete)
    see("NOT_DELETED", "UndeleteCluster", pb.UndeleteClusterRequest(cluster="prod"))
    delete = pb.DeleteClusterRequest(cluster="gone", all_regions=True)
    reasons.stub.DeleteCluster(delete, timeout=9)
    see("KEY_DELETED", "Wrap", wrap("gone", "going"))

    reasons.enable("aged", "old")
    blob = reasons.stub.Wrap(wrap("aged", "old"), timeout=9).wrapped_key
    retire = pb.RetireGenerationRequest(cluster="aged", region="old", generation=1)
    see("GENERATION_IN_USE", "RetireGeneration", retire)
    anew = pb.RotateRequest(
        cluster="aged", region_specs=[res.RegionSpec(region="old")], new_generation=True
    )
    reasons.stub.Rotate(anew, timeout=9)
    reasons.stub.RetireGeneration(retire, timeout=9)
    see("GENERATION_RETIRED", "Unwrap", pb.UnwrapRequest(cluster="aged", wrapped_key=blob))
    retire.generation = 9
    see("GENERATION_NOT_FOUND", "RetireGeneration", retire)

    # Another change comes first, while the KMS unwraps for this one.
    reasons.enable("race", "slow")
    reasons.provider.create_key("quick")
    add = pb.AddRegionsRequest(cluster="race", region_specs=[fake("quick")])
    reasons.provider.meanwhile["fake:slow"] = lambda: reasons.stub.AddRegions(add, timeout=9)
    rotate = pb.RotateRequest(cluster="race", region_specs=[res.RegionSpec(region="slow")])
    see("CONCURRENT_CHANGE", "Rotate", rotate)
    reasons.provider.meanwhile.clear()


def test_organizations(reasons: Reasons) -> None:
    """Every reason of organizations and key links, and of what their clusters take from them."""
    provider = reasons.provider
    for name in ("link-one", "link-two"):
        provider.create_key(name)
    with grpc.insecure_channel(reasons.server.target) as channel:
        stub = org_service.OrganizationServiceStub(channel)

        def see(reason: str, method: str, asked: Any) -> None:
            reasons.note(refused(getattr(stub, method), asked), reason)

        def made(name: str, **fields: Any) -> org.Organization:
            return org.Organization(organization=name, **fields)

        def link(name: str, region: str = "eu", uri: str = "link-one") -> org.CreateKeyLinkRequest:
            key = fake("eu", f"fake:{uri}").key_spec
            return org.CreateKeyLinkRequest(
                key_link=org.KeyLink(organization="org", key_link=name, region=region, key_spec=key)
            )

        create = org.CreateOrganizationRequest(
            organization=made(
                "org",
                default_key=org.DEFAULT_KEY_LINKED,
                cluster_patterns=["org-*"],
                max_clusters=1,
                max_key_links=2,
            )
        )
        stub.CreateOrganization(create, timeout=9)
        create.organization.max_clusters = 9
        see("ORGANIZATION_EXISTS", "CreateOrganization", create)
        create.organization.cluster_patterns[0] = "*"
        see("INVALID_ORGANIZATION", "CreateOrganization", create)
        update = org.UpdateOrganizationRequest(organization=made("org"))
        see("INVALID_UPDATE_MASK", "UpdateOrganization", update)
        update = org.UpdateOrganizationRequest(organization=made("org", max_clusters=2), etag="x")
        see("ETAG_MISMATCH", "UpdateOrganization", update)
        ghost = org.GetOrganizationRequest(organization="ghost")
        see("ORGANIZATION_NOT_FOUND", "GetOrganization", ghost)

        def see_enabled(reason: str, cluster: str, **spec: Any) -> None:
            specs = [res.RegionSpec(region="eu", **spec)]
            asked = pb.EnableRequest(cluster=cluster, organization="org", region_specs=specs)
            reasons.see(reason, "Enable", asked)

        see_enabled("KEY_LINK_MISSING", "org-1")
        stub.CreateKeyLink(link("one"), timeout=9)
        see("KEY_LINK_EXISTS", "CreateKeyLink", link("two"))
        see("INVALID_KEY_LINK", "CreateKeyLink", link("two", ""))
        stub.CreateKeyLink(link("us", "us"), timeout=9)
        see("TOO_MANY_KEY_LINKS", "CreateKeyLink", link("three", "ap"))
        none = org.GetKeyLinkRequest(organization="org", key_link="none")
        see("KEY_LINK_NOT_FOUND", "GetKeyLink", none)
        see_enabled("KEY_LINK_ELSEWHERE", "org-1", key_link="us")
        see_enabled("CLUSTER_NAME_NOT_ALLOWED", "another")
        enable = pb.EnableRequest(cluster="org-1", organization="org", regions=["eu"])
        reasons.stub.Enable(enable, timeout=9)
        see_enabled("TOO_MANY_CLUSTERS", "org-2")
        delete = org.DeleteKeyLinkRequest(organization="org", key_link="one")
        see("KEY_LINK_IN_USE", "DeleteKeyLink", delete)
        see_moving(reasons, channel, delete)
        see(
            "ORGANIZATION_NOT_EMPTY",
            "DeleteOrganization",
            org.DeleteOrganizationRequest(organization="org"),
        )
        delete.key_link = "us"
        stub.DeleteKeyLink(delete, timeout=9)
        local = link("second")
        local.key_link.key_spec.CopyFrom(spec("eu", "fake:link-two", "OTHER").key_spec)
        stub.CreateKeyLink(local, timeout=9)
        more = pb.EnableRequest(cluster="org-2", organization="org", regions=["eu"])
        reasons.see("KEY_LINK_AMBIGUOUS", "Enable", more)


def see_moving(reasons: Reasons, channel: grpc.Channel, delete: org.DeleteKeyLinkRequest) -> None:
    """Sees the reason of a change of link `one` while an operation moves it."""
    reasons.provider.create_key("link-new")
    action = ops.OperationAction(
        move_link=ops.MoveLinkAction(key_spec=fake("eu", "fake:link-new").key_spec)
    )
    scope = ops.OperationScope(key_link=ops.KeyLinkScope(organization="org", key_link="one"))
    start = pb.StartOperationRequest(operation="move", action=action, scope=scope)
    stub = org_service.OrganizationServiceStub(channel)
    with hanging(reasons, "fake:link-one") as entered:
        name = reasons.stub.StartOperation(start, timeout=9).name
        entered(1)
        reasons.note(refused(stub.DeleteKeyLink, delete), "KEY_LINK_MOVING")
    running = operations_pb2_grpc.OperationsStub(channel)  # type: ignore[no-untyped-call]
    assert running.WaitOperation(longrunning.WaitOperationRequest(name=name), timeout=30).done


def test_holders(reasons: Reasons) -> None:
    """Every reason of what holds keys (C9)."""
    for name in ("held.one", "full.one"):
        reasons.provider.create_key(name)

    def enable(organization: str, uri: str) -> pb.EnableRequest:
        return pb.EnableRequest(
            cluster=organization, organization=organization, region_specs=[fake("eu", uri)]
        )

    reasons.stub.Enable(enable("holder", "fake:held.one"), timeout=9)
    reasons.see("KEY_HELD_BY_ANOTHER", "Enable", enable("rival", "fake:held.one"))
    with grpc.insecure_channel(reasons.server.target) as channel:
        stub = org_service.OrganizationServiceStub(channel)
        full = org.Organization(organization="full")
        stub.CreateOrganization(org.CreateOrganizationRequest(organization=full), timeout=9)
        full.holders.extend(f"FAKE:account-{number}" for number in range(1_000))
        stub.UpdateOrganization(org.UpdateOrganizationRequest(organization=full), timeout=9)
    reasons.see("TOO_MANY_HOLDERS", "Enable", enable("full", "fake:full.one"))


@contextmanager
def hanging(reasons: Reasons, uri: str) -> Iterator[Callable[[int], None]]:
    """Makes a key hang; yields a function that waits until so many calls hang."""
    hang = reasons.provider.hang(uri)
    try:
        yield hang.wait_entered
    finally:
        reasons.provider.mend(uri)


def test_waiting(reasons: Reasons) -> None:
    """Every reason of a call that waits: for its twin, in a crowd, or beyond its deadline."""
    stub = reasons.stub
    reasons.enable("crowd", "crowded", ttl=0.0)
    reasons.provider.create_key("twin")
    twin = pb.EnableRequest(cluster="twins", request_id="t", region_specs=[fake("twin")])
    with ThreadPoolExecutor(8) as threads:
        with hanging(reasons, "fake:twin") as entered:
            first = threads.submit(refused, stub.Enable, twin)
            entered(1)
            reasons.see("REQUEST_IN_PROGRESS", "Enable", twin)
            assert reasons.seen["REQUEST_IN_PROGRESS"].retry_after
            reasons.note(first.result(), "UNREACHABLE")
        with hanging(reasons, "fake:crowded"):
            # At TTL 0 each call calls the KMS. A key has four places; a fifth call waits.
            calls: list[Future[Refusal]] = [
                threads.submit(refused, stub.Wrap, wrap("crowd", "crowded")) for _ in range(6)
            ]
            answers = [call.result() for call in calls]
            # A call that waited may have got a place when the first calls ran out of time.
            assert {answer.reason for answer in answers} <= {"UNREACHABLE", "OVERLOADED"}
            reasons.see("DEADLINE_EXCEEDED", "Wrap", wrap("crowd", "crowded"), timeout=0.3)


def test_keys_that_keep_changing(reasons: Reasons) -> None:
    """BUSY: each time that the key was fetched, somebody had changed the cluster meanwhile."""
    reasons.enable("restless", "turning", ttl=0.0)
    reasons.provider.create_key("more")
    numbers = iter(range(60))

    def change() -> None:
        added = fake(f"r{next(numbers)}", "fake:more")
        add = pb.AddRegionsRequest(cluster="restless", region_specs=[added])
        reasons.stub.AddRegions(add, timeout=9)

    reasons.provider.meanwhile["fake:turning"] = change
    try:
        reasons.see("BUSY", "Wrap", wrap("restless", "turning"))
    finally:
        reasons.provider.meanwhile.clear()


def test_kms(reasons: Reasons) -> None:
    """Every reason that a customer's KMS can give, on a key that is in use."""
    provider = reasons.provider
    cases: dict[str, Callable[[str], object]] = {
        "ACCESS_DENIED": lambda uri: provider.deny(uri, "unwrap"),
        "KEY_DISABLED": provider.disable,
        "KEY_PENDING_DELETION": provider.schedule_deletion,
        "KEY_NOT_FOUND": provider.delete,
        "KEY_INVALID": lambda uri: provider.fail(KeyInvalidError("it signs; use another"), uri),
        "KEK_MISMATCH": provider.wrong_plaintext,
        "UNREACHABLE": provider.disconnect,
        "THROTTLED": lambda uri: provider.throttle(uri, 0.1),
        "CREDENTIALS_FAILED": lambda _: provider.break_credentials(),
    }
    for number, (reason, spoil) in enumerate(cases.items()):
        name = f"kms-{number}"
        reasons.enable(name, name, ttl=0.0)
        spoil(f"fake:{name}")
        reasons.see(reason, "Wrap", wrap(name, name))
        assert reasons.seen[reason].metadata["cluster"] == name
        assert reasons.seen[reason].metadata["region"] == name
        provider.mend()


def test_store(reasons: Reasons, tmp_path: Path) -> None:
    """Every reason of the store: edited, locked by another program, stale, rolled back."""
    timing = replace(TIMING, store_max_staleness=1.0)
    with serving(tmp_path, Meddling(), timing=timing) as server, stubs(server.target) as stub:
        own = Reasons(server, stub)
        own.seen = reasons.seen
        own.enable("prod", "eu")
        own.enable("edited", "us")
        with closing(sqlite3.connect(server.store)) as database:
            database.execute("UPDATE clusters SET epoch = 7 WHERE name = 'edited'")
            database.commit()
        own.see("ROW_NOT_AUTHENTIC", "GetStatus", pb.GetStatusRequest(cluster="edited"))
        own.stub.Revoke(pb.RevokeRequest(cluster="edited"), timeout=9)
        own.see("CLUSTER_BANNED", "GetStatus", pb.GetStatusRequest(cluster="edited"))

        # Another program holds the file's lock: no write and no poll succeeds.
        with (
            closing(sqlite3.connect(server.store, isolation_level=None)) as database,
            ThreadPoolExecutor(1) as threads,
        ):
            database.execute("BEGIN IMMEDIATE")
            revoking = threads.submit(
                refused, stub.Revoke, pb.RevokeRequest(cluster="prod"), timeout=20
            )
            until(lambda: not in_service(server.replica))
            own.see("STORE_STALE", "Wrap", wrap("prod", "eu"))
            assert own.seen["STORE_STALE"].retry_after
            own.note(revoking.result(), "STORE_UNAVAILABLE")
            database.execute("ROLLBACK")
        # On a busy machine a replica that came back may become stale again for a moment.
        until(lambda: _serves(own))

        # Somebody puts an earlier copy in its place.
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(server.store)) as now, closing(sqlite3.connect(copy)) as old:
            now.backup(old)
            own.enable("later", "ap")
            old.backup(now)
        # Out of service would not do: on a busy machine it may also be stale for a moment.
        until(lambda: server.replica.changes.rolled_back)
        own.see("STORE_ROLLED_BACK", "Wrap", wrap("prod", "eu"))


def _serves(reasons: Reasons) -> bool:
    try:
        reasons.wrap("prod", "eu")
    except grpc.RpcError:
        return False
    return True


def test_operations(reasons: Reasons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reason of operations: that they are no operations, are not there, have ended or not."""
    with (
        serving(tmp_path, Meddling(), timing=TIMING) as server,
        stubs(server.target) as stub,
        grpc.insecure_channel(server.target) as channel,
    ):
        own = Reasons(server, stub)
        own.seen = reasons.seen
        own.enable("prod", "eu")
        running = operations_pb2_grpc.OperationsStub(channel)  # type: ignore[no-untyped-call]

        def starting(name: str, **other: Any) -> pb.StartOperationRequest:
            scope = ops.OperationScope(clusters=ops.ClustersScope(clusters=["prod"]))
            action = ops.OperationAction(rotate=ops.RotateAction())
            return pb.StartOperationRequest(operation=name, action=action, scope=scope, **other)

        own.see("INVALID_OPERATION", "StartOperation", pb.StartOperationRequest(operation="op"))
        missing = longrunning.GetOperationRequest(name="op")
        own.note(refused(running.GetOperation, missing), "OPERATION_NOT_FOUND")
        hang = own.provider.hang(operations=("wrap",))
        name = stub.StartOperation(starting("op"), timeout=9).name
        own.see("OPERATION_EXISTS", "StartOperation", starting("op", max_concurrency=2))
        deleting = longrunning.DeleteOperationRequest(name=name)
        own.note(refused(running.DeleteOperation, deleting), "OPERATION_RUNNING")
        monkeypatch.setattr(operations, "OPEN_PER_CALLER", 1)
        own.see("TOO_MANY_OPERATIONS", "StartOperation", starting("second"))
        hang.release()
        own.provider.mend()
        wait = longrunning.WaitOperationRequest(name=name)
        assert running.WaitOperation(wait, timeout=30).done
        cancelling = longrunning.CancelOperationRequest(name=name)
        own.note(refused(running.CancelOperation, cancelling), "OPERATION_ENDED")


def test_watches(reasons: Reasons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reason for which a watch ends or does not begin, and every reason of cursors."""
    with (
        # With time to end: without, the transport may cut a stream off before its reason is out.
        serving(tmp_path, Meddling(), timing=TIMING, grace=10) as server,
        stubs(server.target) as stub,
        grpc.insecure_channel(server.target) as channel,
    ):
        own = Reasons(server, stub)
        own.seen = reasons.seen
        own.enable("prod", "eu")
        watching = events_service.EventServiceStub(channel)

        def watch(**asked: Any) -> Iterator[events.WatchEventsResponse]:
            request = events.WatchEventsRequest(events=True, **asked)
            return iter(watching.WatchEvents(request, timeout=30))

        def ends(stream: Iterator[events.WatchEventsResponse], reason: str) -> None:
            with pytest.raises(grpc.RpcError) as caught:
                for _ in stream:
                    pass
            own.note(refusal(caught.value), reason)

        ends(watch(resume_token="garbage"), "RESUME_TOKEN_INVALID")
        old = next(watch()).resume_token
        first = watch(cursor="siem")
        began = next(first)
        assert next(watch(cursor="siem")).cursor_session != began.cursor_session
        ends(first, "CURSOR_TAKEN")
        advance = events.AdvanceCursorRequest(
            cursor="none", session="00", resume_token=began.resume_token
        )
        own.note(refused(watching.AdvanceCursor, advance), "CURSOR_NOT_FOUND")
        server.store_of().expire_cursors(int(time.time() * 1000) + 1, -1_000)
        ends(watch(cursor="siem"), "CURSOR_EXPIRED")
        monkeypatch.setattr(cursors, "PER_OWNER", 1)
        ends(watch(cursor="second"), "TOO_MANY_CURSORS")

        server.on_loop(lambda: setattr(server.replica.watches._sources.feed, "_most", 0))
        behind = watch()
        next(behind)
        stub.Revoke(pb.RevokeRequest(cluster="prod"), timeout=9)
        ends(behind, "WATCH_TOO_SLOW")

        # Long after all replicas and cursors have passed it.
        until(lambda: pruned(server))
        server.on_loop(lambda: server.replica.watches._sources.feed.begin(newest(server)))
        ends(watch(resume_token=old), "RESUME_TOKEN_EXPIRED")
        last = watch()
        next(last)
        server.wait(server.stop())
        ends(last, "DRAINING")


def pruned(server: InProcess) -> bool:
    """Prunes all that may go, and says whether the first entries have gone."""
    store = server.store_of()
    store.prune(int(time.time() * 1000) + 1, -1_000)
    return store._transactions.read(lambda c: log_head.read(c, store.parts[1])).pruned.number > 1


def newest(server: InProcess) -> Position:
    """Returns the place of the newest entry that a server has polled."""
    return server.replica.watches._sources.feed.newest


def until(there: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + 15
    while not there():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_shed_calls_say_when_to_come_again(reasons: Reasons, tmp_path: Path) -> None:
    """A call beyond max_concurrent_calls is OVERLOADED with a RetryInfo, never a bare code."""
    with (
        serving(tmp_path, timing=TIMING, bounds=Bounds(calls=1)) as server,
        stubs(server.target) as stub,
        ThreadPoolExecutor(1) as threads,
    ):
        server.provider.create_key("eu")
        hang = server.provider.hang()
        asked = pb.EnableRequest(cluster="prod", region_specs=[fake("eu")])
        first = threads.submit(refused, stub.Enable, asked)
        hang.wait_entered()
        answer = refused(stub.GetStatus, pb.GetStatusRequest(cluster="prod"))
        reasons.note(answer, "OVERLOADED")
        assert answer.retry_after
        assert first.result().reason == "UNREACHABLE"
        # The place is free again.
        gone = refused(stub.GetStatus, pb.GetStatusRequest(cluster="prod"))
        assert gone.reason == "CLUSTER_NOT_FOUND"


class DeafIssuer:
    """A verifier of tokens that cannot get its issuer's keys."""

    def verify(
        self, token: str, now: float, claims: frozenset[str], *, final: bool = False
    ) -> Credential:
        raise IssuerUnreachableError("the issuer's keys cannot be had", retry_after=5.0)

    async def refresh(self) -> None:
        """Fetches nothing."""


POLICY: Final = """
[[grant]]
callers = ["local"]
roles = ["crypto"]
context = { app = "x" }

[[grant]]
callers = ["local"]
roles = ["operator"]
clusters = ["prod"]
keys = [{ type = "FAKE", uri = "fake:eu", principal = "ambient" }]
"""


def test_what_callers_may_not(reasons: Reasons, tmp_path: Path) -> None:
    """Each way in which the policy or the caller's identity forbids a call has its reason."""
    clock = SystemClock()
    policy = CachedPolicy(parse(POLICY, "policy.toml"))
    policies: Any = SimpleNamespace(
        rights=policy.rights, believes=lambda _: False, claims=frozenset()
    )
    who = Callers(policies, callers.LOCAL, clock)
    with (
        serving(tmp_path, timing=TIMING, who=who) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        note = reasons.note
        stub.Enable(pb.EnableRequest(cluster="prod", region_specs=[fake("eu")]), timeout=5)
        asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")
        note(refused(stub.Wrap, asked), "CONTEXT_NOT_GRANTED")
        elsewhere = pb.EnableRequest(cluster="new", region_specs=[fake("eu")])
        note(refused(stub.Enable, elsewhere), "NOT_ALLOWED")
        rotate = pb.RotateRequest(cluster="prod", region_specs=[fake("eu", "fake:us")])
        note(refused(stub.Rotate, rotate), "KEY_NOT_GRANTED")
        token = (("authorization", "Bearer a.b.c"),)

        def with_token(request: Any, timeout: float) -> Any:
            return stub.Wrap(request, timeout=timeout, metadata=token)

        note(refused(with_token, asked), "CALLER_CREDENTIAL_INVALID")
    folder = tmp_path / "tokens"
    folder.mkdir()
    who = Callers(policies, None, clock, tokens=DeafIssuer())
    with serving(folder, timing=TIMING, who=who) as server, stubs(server.target) as stub:
        note(refused(stub.Wrap, asked), "CALLER_UNKNOWN")
        answer = refused(with_token, asked)
        note(answer, "ISSUER_UNREACHABLE")
        assert answer.retry_after


class Pinned(FakeProvider):
    """A KMS whose uris name one version of a key."""

    def pinned_version(self, key: RootKey) -> str | None:
        return f"1 of {key.uri}"


def test_what_a_provider_cannot_be_asked_for(reasons: Reasons, tmp_path: Path) -> None:
    """A role needs an external id of Keyfold's; a uri with a version has no newest version."""
    with (
        serving(tmp_path, Pinned(), timing=TIMING, others={"AWS_KMS": AwsKmsProvider}) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        stub.Enable(pb.EnableRequest(cluster="prod", region_specs=[fake("eu")]), timeout=5)
        again = pb.RotateRequest(cluster="prod", region_specs=[res.RegionSpec(region="eu")])
        reasons.note(refused(stub.Rotate, again), "KEY_VERSION_PINNED")
        again.new_generation = True
        stub.Rotate(again, timeout=5)
        theirs = res.KeySpec(
            type="AWS_KMS",
            uri="arn:aws:kms:eu-west-1:111122223333:key/0a0b0c0d-1111-2222-3333-444455556666",
            auth_principal="arn:aws:iam::111122223333:role/customer",
        )
        asked = pb.EnableRequest(
            cluster="new", region_specs=[res.RegionSpec(region="eu", key_spec=theirs)]
        )
        reasons.note(refused(stub.Enable, asked), "EXTERNAL_ID_NOT_ISSUED")
        theirs.auth_principal = "seat"
        asked = pb.EnableRequest(
            cluster="new", region_specs=[res.RegionSpec(region="eu", key_spec=theirs)]
        )
        reasons.note(refused(stub.Enable, asked), "SEAT_NOT_RESERVED")
        seat = pb.GetAccessPolicyRequest(key_spec=theirs, cluster="new", region="eu")
        reasons.note(refused(stub.GetAccessPolicy, seat), "SEATS_EXHAUSTED")


def test_a_key_outside_of_its_region(reasons: Reasons, tmp_path: Path) -> None:
    """Where the settings demand residency, a key of unknown place is refused."""
    with (
        serving(tmp_path, timing=TIMING, regions=ResidencyPolicy(required=True)) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        asked = pb.EnableRequest(cluster="prod", region_specs=[fake("eu")])
        reasons.note(refused(stub.Enable, asked), "KEY_ELSEWHERE")


def test_a_region_that_the_replica_does_not_serve(reasons: Reasons, tmp_path: Path) -> None:
    """A replica of one region calls no KMS for another, and says which address serves it."""
    served = ServedRegions.of(["us"], {"eu": "eu.keyfold.example:7443"})
    with (
        serving(tmp_path, timing=TIMING, served=served) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        asked = pb.EnableRequest(cluster="prod", region_specs=[fake("eu")])
        reasons.note(refused(stub.Enable, asked), "WRONG_REGION")
        answer = reasons.seen["WRONG_REGION"]
        assert answer.metadata["region"] == "eu"
        assert answer.metadata["served_at"] == "eu.keyfold.example:7443"
        assert not server.provider.calls


def test_too_many_calls_a_second(reasons: Reasons, tmp_path: Path) -> None:
    """Calls beyond a caller's rate are RATE_LIMITED by Keyfold, which says when to retry."""
    with (
        serving(tmp_path, timing=TIMING, bounds=Bounds(rate_per_caller=1)) as server,
        stubs(server.target) as stub,
    ):
        asked = pb.GetStatusRequest(cluster="prod")
        answers = [refused(stub.GetStatus, asked) for _ in range(3)]
        (limited,) = {a.reason: a for a in answers if a.reason == "RATE_LIMITED"}.values()
        reasons.note(limited, "RATE_LIMITED")
        assert limited.retry_after
        assert limited.metadata["source"] == "keyfold"


def test_every_reason_was_seen(reasons: Reasons) -> None:
    """The tests above have seen every reason of the tree, but for those that are never sent."""
    missing = set(leaves()) - set(reasons.seen) - set(NEVER_SENT)
    assert not missing, f"not seen: {', '.join(sorted(missing))}"
    # A reason that a test has seen must leave the list.
    assert not set(NEVER_SENT) & set(reasons.seen)
    assert set(NEVER_SENT) <= set(leaves())
