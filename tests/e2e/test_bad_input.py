"""Bad input of every kind: the right code, a stable reason, what to do next, and no change.

Each test of a request compares all that the server shows, and every row that decides, before and
after.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest

from e2e.conftest import StartServer
from e2e.odd_provider import installed
from e2e.server import NotReadyError, Server
from e2e.wire import (
    NotRefusedError,
    Refusal,
    picture,
    raw,
    refusal,
    refused,
    spec,
    stubs,
    told_in_time,
)
from in_process import TRANSPORT
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.errors import SetupError
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import open_store
from lateness import in_time

Code = grpc.StatusCode
INVALID: Final = Code.INVALID_ARGUMENT

_DECISIONS: Final = (
    "clusters",
    "regions",
    "generations",
    "wraps",
    "requests",
)


class World(NamedTuple):
    """One server with a cluster `prod` (eu, us) and a wrapped key of it."""

    server: Server
    stub: service.KeyManagementServiceStub
    wrapped: bytes


def rows(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Returns every row that decides. The log also has attempts that the state refused (R5)."""
    with closing(sqlite3.connect(store)) as database:
        found = {table: sorted(database.execute(f"SELECT * FROM {table}")) for table in _DECISIONS}
        decided = "SELECT number, entry_id FROM log WHERE kind <> 'ATTEMPT' ORDER BY number"
        return found | {"log": database.execute(decided).fetchall()}


@pytest.fixture(scope="module")
def world(
    start_module_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The server of most tests here."""
    server = start_module_server(ready=False, keys=("eu", "us", "spare"))
    server.settings |= installed(tmp_path_factory.mktemp("odd"))
    server.start()
    server.enable("prod")
    # For wrapped keys of another cluster.
    server.enable("other", ["eu"])
    with stubs(server.target) as stub:
        wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k" * 32, context={"a": "b"})
        wrapped = stub.Wrap(wrap, timeout=9).wrapped_key
        # The first use of a cluster changes its row (D6), and no test here shall be that.
        stub.Wrap(pb.WrapRequest(cluster="other", region="eu", plaintext=b"k"), timeout=9)
        yield World(server, stub, wrapped)


@pytest.fixture
def unchanged(world: World) -> Iterator[None]:
    """Compares all that decides before and after a test."""
    shown, stored = picture(world.stub, "prod"), rows(world.server.store)
    yield
    assert picture(world.stub, "prod") == shown
    assert rows(world.server.store) == stored


def check(
    refusal: Refusal,
    code: Code,
    reason: str,
    *,
    field: str | None = None,
    cluster: str | None = "prod",
    region: str | None = None,
    source: str = "keyfold",
) -> None:
    """Checks a refusal against what every error promises."""
    assert (refusal.code, refusal.reason, refusal.domain) == (code, reason, "keyfold")
    assert refusal.metadata["source"] == source
    assert refusal.metadata.get("cluster") == cluster
    if region is not None:
        assert refusal.metadata.get("region") == region
    assert refusal.fields == (() if field is None else (field,))
    # A line for people that says what to do, or names the bound or what is missing.
    assert re.match(r"[^A-Z]|[A-Z_]{3}", refusal.message)
    assert not refusal.message.endswith(".")
    assert "\n" not in refusal.message
    assert re.search(
        r"[;,:]|has no |longer than|more than|between|must be|is not one that", refusal.message
    )


def enable(*specs: res.RegionSpec, cluster: str = "new", **more: Any) -> pb.EnableRequest:
    """Returns a request of Enable."""
    return pb.EnableRequest(cluster=cluster, region_specs=specs, **more)


# Plaintexts, names, contexts


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("plaintext", [b"", bytes(4097)], ids=["empty", "4097"])
def test_plaintext(world: World, plaintext: bytes) -> None:
    """An empty plaintext and one of 4,097 bytes are refused; 1 and 4,096 bytes are taken."""
    asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=plaintext)
    answer = refused(world.stub.Wrap, asked)
    check(answer, INVALID, "INVALID_PLAINTEXT", field="plaintext", region="eu")
    assert "4096" in answer.message
    for size in (1, 4096):
        asked.plaintext = bytes(size)
        assert world.stub.Wrap(asked, timeout=9).wrapped_key


ODD_NAMES: Final = {
    "empty": "",
    "overlong": "n" * 129,
    "huge": "n" * 100_000,
    "space": "a b",
    "newline": "prod\n",
    "nul": "prod\0",
    "dash first": "-prod",
    "dot first": "..",
    "slash": "a/b",
    "umlaut": "größe",
    "emoji": "🔑" * 30_000,
    "quote": "x' OR '1'='1",
    "percent": "prod%",
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_names(world: World, name: str) -> None:
    """Empty, overlong and odd names are INVALID_NAME everywhere, and name their field."""
    stub = world.stub
    wrap = pb.WrapRequest(cluster=name, region="eu", plaintext=b"p")
    revoke = pb.RevokeRequest(cluster="prod", regions=["eu", name])
    expected: list[tuple[Callable[..., Any], Any, str]] = [
        (stub.Wrap, wrap, "cluster"),
        (stub.Unwrap, pb.UnwrapRequest(cluster=name, wrapped_key=world.wrapped), "cluster"),
        (stub.Wrap, pb.WrapRequest(cluster="prod", region=name, plaintext=b"p"), "region"),
        (stub.GetStatus, pb.GetStatusRequest(cluster=name), "cluster"),
        (stub.Enable, enable(spec("eu"), cluster=name), "cluster"),
        (stub.Enable, enable(spec("eu"), spec(name, "local:eu")), "region_specs[1].region"),
        (stub.Enable, enable(spec("eu"), regions=["eu", name]), "regions[1]"),
        (stub.Revoke, revoke, "regions[1]"),
        (stub.Restore, pb.RestoreRequest(cluster=name), "cluster"),
        (stub.Rotate, pb.RotateRequest(cluster=name, region_specs=[spec("eu")]), "cluster"),
    ]
    for call, asked, field in expected:
        answer = refused(call, asked)
        assert (answer.code, answer.reason) == (INVALID, "INVALID_NAME"), (call, answer)
        assert answer.fields in {(field,), (field.removesuffix(".region"),)}
        assert "1 to 128" in answer.message
    if name:
        answer = refused(stub.Enable, enable(spec("eu"), organization=name))
        assert (answer.reason, answer.fields) == ("INVALID_NAME", ("organization",))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "context",
    [
        {str(n): "" for n in range(17)},
        {"k": "v" * 4096},
        {"k" * 2049: "v" * 2048},
        {"": "v"},
        {"ü" * 2048: "x"},
    ],
    ids=["17 pairs", "4097 bytes", "long key", "empty key", "bytes not characters"],
)
def test_context(world: World, context: dict[str, str]) -> None:
    """17 pairs, more than 4 KiB and an empty key are refused wherever a context is taken."""
    stub = world.stub
    target = pb.Destination(context=context)
    calls: list[tuple[Callable[..., Any], Any, str]] = [
        (
            stub.Wrap,
            pb.WrapRequest(cluster="prod", region="eu", plaintext=b"p", context=context),
            "context",
        ),
        (
            stub.Unwrap,
            pb.UnwrapRequest(cluster="prod", wrapped_key=world.wrapped, context=context),
            "context",
        ),
        (
            stub.GenerateDataKey,
            pb.GenerateDataKeyRequest(cluster="prod", region="eu", context=context),
            "context",
        ),
        (
            stub.Rewrap,
            pb.RewrapRequest(
                cluster="prod", wrapped_key=world.wrapped, context={"a": "b"}, destination=target
            ),
            "destination.context",
        ),
    ]
    for call, asked, field in calls:
        check(refused(call, asked), INVALID, "INVALID_CONTEXT", field=field)
    full = {f"{n:03}": "v" * 253 for n in range(16)}  # 16 pairs and 4,096 bytes
    wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"p", context=full)
    assert stub.Wrap(wrap, timeout=9).wrapped_key


# Key specs and regions


KEY_SPECS: Final[dict[str, tuple[res.KeySpec, str, str]]] = {
    "empty": (res.KeySpec(), "INVALID_KEY_SPEC", ""),
    "no type": (res.KeySpec(uri="local:eu"), "INVALID_KEY_SPEC", ".type"),
    "no uri": (res.KeySpec(type="LOCAL"), "INVALID_KEY_SPEC", ".uri"),
    "unknown provider": (res.KeySpec(type="AWS", uri="x"), "UNKNOWN_PROVIDER", ".type"),
    "lower case": (res.KeySpec(type="local", uri="local:eu"), "UNKNOWN_PROVIDER", ".type"),
    "longest type": (res.KeySpec(type="🔑" * 1024, uri="x"), "UNKNOWN_PROVIDER", ".type"),
    "overlong type": (res.KeySpec(type="🔑" * 1025, uri="x"), "INVALID_KEY_SPEC", ".type"),
    "malformed uri": (res.KeySpec(type="LOCAL", uri="local:"), "INVALID_KEY_SPEC", ".uri"),
    "another's uri": (
        res.KeySpec(type="LOCAL", uri="arn:aws:kms:eu-west-1:1:key/x"),
        "INVALID_KEY_SPEC",
        ".uri",
    ),
    "path in uri": (res.KeySpec(type="LOCAL", uri="local:../eu"), "INVALID_KEY_SPEC", ".uri"),
    "control in uri": (res.KeySpec(type="LOCAL", uri="local:eu\x1b"), "INVALID_KEY_SPEC", ".uri"),
    "long uri": (res.KeySpec(type="LOCAL", uri="local:" + "e" * 1020), "INVALID_KEY_SPEC", ".uri"),
    "principal": (
        res.KeySpec(type="LOCAL", uri="local:eu", auth_principal="me"),
        "INVALID_KEY_SPEC",
        ".auth_principal",
    ),
    "option": (
        res.KeySpec(type="LOCAL", uri="local:eu", options={"o": "1"}),
        "INVALID_KEY_SPEC",
        ".options",
    ),
    "17 options": (
        res.KeySpec(type="LOCAL", uri="local:eu", options={str(n): "" for n in range(17)}),
        "INVALID_KEY_SPEC",
        ".options",
    ),
    "platform unset": (res.KeySpec(type="PLATFORM"), "INVALID_KEY_SPEC", ".type"),
    "platform with uri": (res.KeySpec(type="PLATFORM", uri="x"), "INVALID_KEY_SPEC", ""),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("case", KEY_SPECS.values(), ids=KEY_SPECS)
def test_key_specs(world: World, case: tuple[res.KeySpec, str, str]) -> None:
    """An empty or wrong key spec is refused everywhere with its path; nothing is enabled."""
    key_spec, reason, field = case
    stub = world.stub
    bad = res.RegionSpec(region="us", key_spec=key_spec)
    path = f"region_specs[1].key_spec{field}"
    answer = refused(stub.Enable, enable(spec("eu"), bad))
    check(answer, INVALID, reason, field=path, cluster="new", region="us")
    asked = pb.RotateRequest(cluster="prod", region_specs=[spec("eu"), bad])
    check(refused(stub.Rotate, asked), INVALID, reason, field=path, region="us")
    bad.region = "ap"
    add = pb.AddRegionsRequest(cluster="prod", region_specs=[spec("af", "local:eu"), bad])
    check(refused(stub.AddRegions, add), INVALID, reason, field=path, region="ap")
    test = pb.TestKeyRequest(key_spec=key_spec, cluster="prod", region="us")
    check(refused(stub.TestKey, test), INVALID, reason, field=f"key_spec{field}")


@pytest.mark.usefixtures("unchanged")
def test_regions(world: World) -> None:
    """Duplicate, unknown, unlisted and missing regions: each its own reason, all or nothing."""
    stub = world.stub
    twice = enable(spec("eu"), spec("us"), spec("eu"))
    check(
        refused(stub.Enable, twice),
        INVALID,
        "DUPLICATE_REGION",
        field="region_specs[2]",
        cluster="new",
        region="eu",
    )
    revoke = pb.RevokeRequest(cluster="prod", regions=["eu", "eu"])
    check(refused(stub.Revoke, revoke), INVALID, "DUPLICATE_REGION", field="regions[1]")
    for call, asked in (
        (stub.Wrap, pb.WrapRequest(cluster="prod", region="ap", plaintext=b"p")),
        (stub.Revoke, pb.RevokeRequest(cluster="prod", regions=["eu", "ap"])),
        (stub.Restore, pb.RestoreRequest(cluster="prod", regions=["ap"])),
        (stub.Rotate, pb.RotateRequest(cluster="prod", region_specs=[spec("eu"), spec("ap")])),
    ):
        check(refused(call, asked), Code.NOT_FOUND, "REGION_NOT_FOUND", region="ap")
    missing = enable(spec("eu"), regions=["eu", "us", "ap"])
    answer = refused(stub.Enable, missing)
    check(answer, INVALID, "KEY_SPEC_MISSING", field="region_specs", cluster="new", region="us")
    assert "us, ap" in answer.message
    answer = refused(stub.Enable, enable())
    check(answer, INVALID, "KEY_SPEC_MISSING", field="region_specs", cluster="new")
    answer = refused(stub.Enable, enable(spec("eu"), spec("us"), regions=["eu"]))
    check(answer, INVALID, "REGION_MISMATCH", field="region_specs[1].region", cluster="new")
    many = enable(*(spec(f"r{n}", "local:eu") for n in range(65)))
    answer = refused(stub.Enable, many)
    check(answer, INVALID, "TOO_MANY_REGIONS", field="region_specs", cluster="new")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("seconds", "nanos", "said"),
    [
        (-1, 0, "0 to 90 days"),
        (0, -1, "0 to 90 days"),
        (-1, -999_999_999, "0 to 90 days"),
        (90 * 86_400, 1_000_000, "0 to 90 days"),
        (2**63 - 1, 999_999_999, "0 to 90 days"),
        (-(2**63), 0, "0 to 90 days"),
        (1, 1_000_000_000, "not a valid Duration"),
        (0, -1_000_000_000, "not a valid Duration"),
        (1, -1, "not a valid Duration"),
        (-1, 1, "not a valid Duration"),
    ],
)
def test_a_waiting_period(world: World, seconds: int, nanos: int, said: str) -> None:
    """D1: a waiting period is a span of time of 0 to 90 days."""
    asked = pb.DeleteClusterRequest(cluster="prod", all_regions=True)
    asked.waiting_period.seconds, asked.waiting_period.nanos = seconds, nanos
    answer = refused(world.stub.DeleteCluster, asked)
    check(answer, INVALID, "INVALID_WAITING_PERIOD", field="waiting_period")
    assert said in answer.message


@pytest.mark.usefixtures("unchanged")
def test_which_regions_to_delete(world: World) -> None:
    """D1: named one by one or all of them; an empty, unknown or doubled name deletes nothing."""
    delete = world.stub.DeleteCluster
    for asked, reason, field in (
        (pb.DeleteClusterRequest(cluster="prod"), "REGIONS_NOT_CHOSEN", "regions"),
        (
            pb.DeleteClusterRequest(cluster="prod", regions=["eu"], all_regions=True),
            "REGIONS_NOT_CHOSEN",
            "all_regions",
        ),
        (pb.DeleteClusterRequest(cluster="prod", regions=[""]), "INVALID_NAME", "regions[0]"),
        (
            pb.DeleteClusterRequest(cluster="prod", regions=["eu", "eu"]),
            "DUPLICATE_REGION",
            "regions[1]",
        ),
    ):
        check(refused(delete, asked), INVALID, reason, field=field)
    many = pb.DeleteClusterRequest(cluster="prod", regions=[f"r{n}" for n in range(2_001)])
    check(refused(delete, many), INVALID, "TOO_MANY_REGIONS", field="regions")
    unknown = pb.DeleteClusterRequest(cluster="prod", regions=["ap"])
    check(refused(delete, unknown), Code.NOT_FOUND, "REGION_NOT_FOUND", region="ap")


@pytest.mark.usefixtures("unchanged")
def test_many_missing_regions(world: World) -> None:
    """However much is wrong, every client can receive the answer and its reason."""
    names = [f"{n:04}" + "x" * 124 for n in range(63)]
    answer = refused(world.stub.Enable, enable(spec("eu"), regions=["eu", *names]))
    assert (answer.code, answer.reason) == (INVALID, "KEY_SPEC_MISSING")
    assert names[0] in answer.message


def calls_on(cluster: str, wrapped: bytes) -> Iterator[tuple[str, Any]]:
    """Yields a sensible request of every method but Enable, TestKey and ListClusters."""
    yield "Wrap", pb.WrapRequest(cluster=cluster, region="eu", plaintext=b"p")
    yield "Unwrap", pb.UnwrapRequest(cluster=cluster, wrapped_key=wrapped, context={"a": "b"})
    yield "GenerateDataKey", pb.GenerateDataKeyRequest(cluster=cluster, region="eu")
    yield "Rewrap", pb.RewrapRequest(cluster=cluster, wrapped_key=wrapped, context={"a": "b"})
    yield "AddRegions", pb.AddRegionsRequest(cluster=cluster, region_specs=[spec("ap", "local:eu")])
    yield "Rotate", pb.RotateRequest(cluster=cluster, region_specs=[res.RegionSpec(region="eu")])
    yield "Revoke", pb.RevokeRequest(cluster=cluster, request_id="of-nobody")
    yield "Restore", pb.RestoreRequest(cluster=cluster)
    yield "DeleteCluster", pb.DeleteClusterRequest(cluster=cluster, all_regions=True)
    yield "UndeleteCluster", pb.UndeleteClusterRequest(cluster=cluster)
    yield "GetStatus", pb.GetStatusRequest(cluster=cluster)


@pytest.mark.usefixtures("unchanged")
def test_unknown_cluster(world: World) -> None:
    """A cluster that does not exist is CLUSTER_NOT_FOUND in every method, and in each item."""
    for method, asked in calls_on("ghost", world.wrapped):
        answer = refused(getattr(world.stub, method), asked)
        check(answer, Code.NOT_FOUND, "CLUSTER_NOT_FOUND", cluster="ghost")
    move = pb.RewrapRequest(
        cluster="prod",
        wrapped_key=world.wrapped,
        context={"a": "b"},
        destination=pb.Destination(cluster="ghost"),
    )
    check(refused(world.stub.Rewrap, move), Code.NOT_FOUND, "CLUSTER_NOT_FOUND", cluster="ghost")
    batch = pb.BatchWrapRequest(
        cluster="ghost", region="eu", items=[pb.BatchWrapItem(plaintext=b"p")]
    )
    (result,) = world.stub.BatchWrap(batch, timeout=9).results
    check(Refusal.of(result.error), Code.NOT_FOUND, "CLUSTER_NOT_FOUND", cluster="ghost")


@pytest.mark.usefixtures("unchanged")
def test_sizes_policies_ids_pages_reasons(world: World) -> None:
    """Odd sizes, policies, request ids, pages and reasons are refused with their paths."""
    stub = world.stub
    for size in (1, 15, 33, 2**32 - 1):
        generate = pb.GenerateDataKeyRequest(cluster="prod", region="eu", size=size)
        check(refused(stub.GenerateDataKey, generate), INVALID, "INVALID_SIZE", field="size")
    for name, seconds in (("cache_ttl", 901), ("cache_ttl", -1), ("outage_grace", 86_401)):
        own = spec("eu")
        getattr(own.policy, name).seconds = seconds
        path = f"region_specs[0].policy.{name}"
        answer = refused(stub.Enable, enable(own))
        check(answer, INVALID, "INVALID_POLICY", field=path, cluster="new", region="eu")
    for request_id in ("x" * 129, "ü", "a\nb", "\x7f"):
        revoke = pb.RevokeRequest(cluster="prod", request_id=request_id)
        check(refused(stub.Revoke, revoke), INVALID, "INVALID_REQUEST_ID", field="request_id")
    revoke = pb.RevokeRequest(cluster="prod", reason="x" * 1025)
    check(refused(stub.Revoke, revoke), INVALID, "INVALID_REASON", field="reason")
    for page, field in (
        (pb.ListClustersRequest(page_size=-1), "page_size"),
        (pb.ListClustersRequest(page_size=1001), "page_size"),
        (pb.ListClustersRequest(page_token="nonsense!"), "page_token"),
        (pb.ListClustersRequest(page_token="////"), "page_token"),
        (pb.ListClustersRequest.FromString(b"\x10\x4d"), "state"),
        (pb.ListClustersRequest.FromString(b"\x18\x4d"), "health"),
    ):
        check(refused(stub.ListClusters, page), INVALID, "INVALID_PAGE", field=field, cluster=None)


# Batches


@pytest.mark.usefixtures("unchanged")
def test_batch_counts(world: World) -> None:
    """A batch of 0 and one of 1,001 items are refused whole; 1,000 are taken."""
    stub, wrapped = world.stub, world.wrapped
    for count in (0, 1_001):
        calls: list[tuple[Callable[..., Any], Any]] = [
            (
                stub.BatchWrap,
                pb.BatchWrapRequest(
                    cluster="prod", region="eu", items=[pb.BatchWrapItem(plaintext=b"p")] * count
                ),
            ),
            (
                stub.BatchUnwrap,
                pb.BatchUnwrapRequest(
                    cluster="prod", items=[pb.BatchUnwrapItem(wrapped_key=wrapped)] * count
                ),
            ),
            (
                stub.BatchRewrap,
                pb.BatchRewrapRequest(
                    cluster="prod", items=[pb.BatchRewrapItem(wrapped_key=wrapped)] * count
                ),
            ),
        ]
        for call, asked in calls:
            answer = refused(call, asked)
            check(answer, INVALID, "INVALID_BATCH", field="items")
            assert "1 to 1,000" in answer.message
    thousand = pb.BatchWrapRequest(
        cluster="prod", region="eu", items=[pb.BatchWrapItem(plaintext=b"p")] * 1_000
    )
    assert len(stub.BatchWrap(thousand, timeout=9).results) == 1_000


@pytest.mark.usefixtures("unchanged")
def test_batch_bytes(world: World) -> None:
    """More than 4 MiB in, or out, is refused before any work with what to do: split it."""
    fits_in = pb.BatchWrapRequest(
        cluster="prod", region="eu", items=[pb.BatchWrapItem(plaintext=bytes(4096))] * 1_000
    )
    assert fits_in.ByteSize() < 4 * 1024 * 1024
    answer = refused(world.stub.BatchWrap, fits_in)
    check(answer, INVALID, "INVALID_BATCH", field="items", region="eu")
    assert "the answer would have" in answer.message
    assert "split" in answer.message

    too_large = pb.BatchUnwrapRequest(
        cluster="prod", items=[pb.BatchUnwrapItem(wrapped_key=bytes(4300))] * 1_000
    )
    assert too_large.ByteSize() > 4 * 1024 * 1024
    answer = refused(world.stub.BatchUnwrap, too_large)
    check(answer, INVALID, "INVALID_BATCH", field="items", cluster=None)
    assert "split" in answer.message

    # The largest answer that is allowed does arrive.
    del fits_in.items[990:]
    results = world.stub.BatchWrap(fits_in, timeout=9).results
    assert len(results) == 990
    assert all(result.HasField("answer") for result in results)


@pytest.mark.usefixtures("unchanged")
def test_one_bad_item_fails_alone(world: World) -> None:
    """Each bad item among good ones has its own error; the good ones are answered."""
    stub, wrapped = world.stub, world.wrapped
    good = pb.BatchWrapItem(plaintext=b"p")
    wrap = pb.BatchWrapRequest(
        cluster="prod",
        region="eu",
        items=[
            good,
            pb.BatchWrapItem(plaintext=b""),
            good,
            pb.BatchWrapItem(plaintext=b"p", region="ap"),
            pb.BatchWrapItem(plaintext=b"p", region="-"),
            pb.BatchWrapItem(plaintext=b"p", context={"": ""}),
            good,
        ],
    )
    wraps = stub.BatchWrap(wrap, timeout=9).results
    assert [r.HasField("answer") for r in wraps] == [True, False, True, False, False, False, True]
    errors = [Refusal.of(r.error) for r in wraps if r.HasField("error")]
    assert [(e.code, e.reason, e.domain) for e in errors] == [
        (INVALID, "INVALID_PLAINTEXT", "keyfold"),
        (Code.NOT_FOUND, "REGION_NOT_FOUND", "keyfold"),
        (INVALID, "INVALID_NAME", "keyfold"),
        (INVALID, "INVALID_CONTEXT", "keyfold"),
    ]
    assert all(e.metadata["cluster"] == "prod" for e in errors)

    foreign = stub.Wrap(
        pb.WrapRequest(cluster="other", region="eu", plaintext=b"p"), timeout=9
    ).wrapped_key
    blobs = [wrapped, b"", wrapped[:50], foreign, wrapped[:-1] + bytes([wrapped[-1] ^ 1]), wrapped]
    unwrap = pb.BatchUnwrapRequest(
        cluster="prod",
        context={"a": "b"},
        items=[pb.BatchUnwrapItem(wrapped_key=blob) for blob in blobs],
    )
    rewrap = pb.BatchRewrapRequest(
        cluster="prod",
        context={"a": "b"},
        items=[pb.BatchRewrapItem(wrapped_key=blob) for blob in blobs],
    )
    for results in (
        stub.BatchUnwrap(unwrap, timeout=9).results,
        stub.BatchRewrap(rewrap, timeout=9).results,
    ):
        assert [Refusal.of(r.error).reason if r.HasField("error") else "" for r in results] == [
            "",
            "NOT_A_WRAPPED_KEY",
            "NOT_A_WRAPPED_KEY",
            "WRONG_CLUSTER",
            "WRAPPED_KEY_CORRUPT",
            "",
        ]


def test_one_hanging_region_fails_alone(world: World) -> None:
    """A region whose KMS hangs fails its own items and no others."""
    server, stub = world.server, world.stub
    flag = Path(server.settings["ODD_HANG"] or "")
    stub.Enable(enable(spec("eu"), spec("stuck", "odd:hang-1", "ODD"), cluster="half"), timeout=9)
    server.restart()  # Nothing is in memory then; the channel reconnects by itself.
    flag.touch()
    try:
        with stubs(server.target) as fresh:
            batch = pb.BatchWrapRequest(
                cluster="half",
                items=[
                    pb.BatchWrapItem(plaintext=b"p", region=region)
                    for region in ("eu", "stuck", "eu", "stuck")
                ],
            )
            results = told_in_time(lambda: fresh.BatchWrap(batch, timeout=1.5)).results
            assert [result.HasField("answer") for result in results] == [True, False, True, False]
            for result in (results[1], results[3]):
                check(
                    Refusal.of(result.error),
                    Code.DEADLINE_EXCEEDED,
                    "DEADLINE_EXCEEDED",
                    cluster="half",
                )
            wrap = pb.WrapRequest(cluster="half", region="eu", plaintext=b"p")
            with in_time(0.9):
                fresh.Wrap(wrap, timeout=9)
    finally:
        flag.unlink()


# Wrapped keys


@pytest.mark.usefixtures("unchanged")
def test_wrapped_keys_that_are_none(world: World) -> None:
    """Empty, truncated, lengthened, re-encoded and foreign wrapped keys have reasons of theirs."""
    stub, wrapped = world.stub, world.wrapped
    foreign = stub.Wrap(
        pb.WrapRequest(cluster="other", region="eu", plaintext=b"p"), timeout=9
    ).wrapped_key
    for blob, reason in (
        (b"", "NOT_A_WRAPPED_KEY"),
        (b"\x01", "NOT_A_WRAPPED_KEY"),
        (wrapped[:90], "NOT_A_WRAPPED_KEY"),
        (wrapped + bytes(5000), "NOT_A_WRAPPED_KEY"),
        (wrapped.hex().encode(), "UNSUPPORTED_WRAPPED_KEY"),
        (b"\x02" + wrapped[1:], "UNSUPPORTED_WRAPPED_KEY"),
        (wrapped[:-1], "WRAPPED_KEY_CORRUPT"),
        (wrapped + b"\0", "WRAPPED_KEY_CORRUPT"),
        (foreign, "WRONG_CLUSTER"),
    ):
        for call, asked in (
            (
                stub.Unwrap,
                pb.UnwrapRequest(cluster="prod", wrapped_key=blob, context={"a": "b"}),
            ),
            (
                stub.Rewrap,
                pb.RewrapRequest(cluster="prod", wrapped_key=blob, context={"a": "b"}),
            ),
        ):
            check(refused(call, asked), INVALID, reason, field="wrapped_key")
    other = pb.UnwrapRequest(cluster="prod", wrapped_key=wrapped, context={"a": "c"})
    answer = refused(stub.Unwrap, other)
    assert (answer.code, answer.reason) == (INVALID, "CONTEXT_MISMATCH")


@pytest.mark.usefixtures("unchanged")
def test_every_byte_of_a_wrapped_key(world: World) -> None:
    """A changed byte is refused at every position, with a reason that fits the position."""
    expected = (
        dict.fromkeys(range(2), "UNSUPPORTED_WRAPPED_KEY")
        | dict.fromkeys(range(2, 18), "UNKNOWN_KEK")
        | dict.fromkeys(range(18, 42), "WRAPPED_KEY_CORRUPT")
        | dict.fromkeys(range(42, 90), "CONTEXT_MISMATCH")
        | dict.fromkeys(range(90, 122), "WRAPPED_KEY_CORRUPT")
    )
    wrapped = world.wrapped
    assert len(expected) == len(wrapped)
    for position, reason in expected.items():
        changed = bytearray(wrapped)
        changed[position] ^= 1 << position % 8
        asked = pb.UnwrapRequest(cluster="prod", wrapped_key=bytes(changed), context={"a": "b"})
        answer = refused(world.stub.Unwrap, asked)
        assert (answer.code, answer.reason, answer.domain) == (INVALID, reason, "keyfold"), position
        assert answer.metadata["cluster"] == "prod"


# Requests


@pytest.mark.usefixtures("unchanged")
def test_too_large_a_message(world: World) -> None:
    """A request over its bound is refused with a reason; over gRPC's own, with gRPC's code."""
    large = pb.WrapRequest(cluster="prod", region="eu", plaintext=bytes(300 * 1024))
    answer = refused(world.stub.Wrap, large)
    check(answer, INVALID, "MALFORMED_REQUEST", cluster=None)
    huge = pb.WrapRequest(cluster="prod", region="eu", plaintext=bytes(6 * 1024 * 1024))
    # A row of docs/transports.md: over its own bound, too, the other transport gives a reason.
    assert refused(world.stub.Wrap, huge).code is (
        Code.RESOURCE_EXHAUSTED if TRANSPORT == "grpc" else INVALID
    )
    world.stub.GetStatus(pb.GetStatusRequest(cluster="prod"), timeout=9)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"{}", bytes(range(64))],
    ids=["tag", "length", "utf-8", "json", "any"],
)
def test_garbage_instead_of_a_message(world: World, data: bytes) -> None:
    """Bytes that are not a request are MALFORMED_REQUEST in every method."""
    with raw(world.server.target) as call:
        for method in ("Wrap", "Unwrap", "BatchWrap", "Enable", "Revoke", "ListClusters"):
            with pytest.raises(grpc.RpcError) as caught:
                call(method, b"\xff" + data)
            answer = refusal(caught.value)
            check(answer, INVALID, "MALFORMED_REQUEST", cluster=None)
            assert "stubs" in answer.message
        with pytest.raises(grpc.RpcError) as caught:
            call("Destroy", b"")
        assert refusal(caught.value).code is Code.UNIMPLEMENTED


def test_deadlines(world: World) -> None:
    """An expired or too short deadline is DEADLINE_EXCEEDED, and an expired call starts nothing.

    A change that has begun goes on (protocol W1): its request_id tells the outcome.
    """
    stub = world.stub
    before = picture(stub)
    for timeout in (-1.0, 0.0):
        for method, asked in calls_on("prod", world.wrapped):
            try:
                answer = refused(getattr(stub, method), asked, timeout=timeout)
            except NotRefusedError:
                # A warm call is answered before the client notices that its time is up.
                assert method in {"Wrap", "Unwrap", "GenerateDataKey", "Rewrap"}
            else:
                assert answer.code is Code.DEADLINE_EXCEEDED
    assert picture(stub) == before
    with held(world.server.store):
        numbers = itertools.count(1)
        while True:
            name = f"late-{next(numbers)}"
            late = enable(spec("eu", "odd:late", "ODD"), cluster=name, request_id=name)
            answer = refused(stub.Enable, late, timeout=0.5)
            assert answer.code is Code.DEADLINE_EXCEEDED
            # The server answers 50 ms ahead. On a busy machine the client's own clock may be first.
            if answer.reason:
                break
        check(answer, Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", cluster=name)
        assert "request_id" in answer.message
    ends = time.monotonic() + 10
    while True:
        # The change is under way or done, and is never made twice.
        again = _tried(stub, late)
        if again is None:
            break
        assert again.reason == "REQUEST_IN_PROGRESS"
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert stub.Enable(late, timeout=5).replayed


@contextmanager
def held(store: Path) -> Iterator[None]:
    """Keeps every change of a SQLite store waiting."""
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.usefixtures("unchanged")
def test_enable_an_enabled_cluster(world: World) -> None:
    """The same specs change nothing; others are CLUSTER_EXISTS, which names what differs."""
    stub = world.stub
    same = enable(spec("us"), spec("eu"), cluster="prod")
    assert len(stub.Enable(same, timeout=9).status.regions) == 2
    policy = spec("us")
    policy.policy.cache_ttl.seconds = 7
    for other, differs in (
        (enable(spec("eu"), spec("us", "local:spare"), cluster="prod"), "us"),
        (enable(spec("eu"), cluster="prod"), "us"),
        (enable(spec("eu"), spec("us"), spec("ap", "local:eu"), cluster="prod"), "ap"),
        (enable(spec("eu"), policy, cluster="prod"), "us"),
        (enable(spec("eu"), spec("us"), cluster="prod", organization="acme"), "organization"),
    ):
        answer = refused(stub.Enable, other)
        check(answer, Code.ALREADY_EXISTS, "CLUSTER_EXISTS")
        assert differs in answer.message
        assert "Rotate" in answer.message
    add = pb.AddRegionsRequest(cluster="prod", region_specs=[spec("eu", "local:spare")])
    check(refused(stub.AddRegions, add), Code.ALREADY_EXISTS, "REGION_EXISTS", region="eu")
    add = pb.AddRegionsRequest(
        cluster="prod", organization="acme", region_specs=[spec("ap", "local:eu")]
    )
    answer = refused(stub.AddRegions, add)
    assert (answer.code, answer.reason) == (INVALID, "ORGANIZATION_MISMATCH")
    assert answer.fields == ("organization",)


def test_same_request_id_with_another_body(world: World) -> None:
    """A request_id is for one request: with another body it is refused, and nothing changes."""
    stub = world.stub
    stub.Enable(enable(spec("eu"), cluster="ids"), timeout=9)
    first = pb.RevokeRequest(cluster="ids", request_id="once", reason="a")
    assert not stub.Revoke(first, timeout=9).replayed
    assert stub.Revoke(first, timeout=9).replayed
    before = picture(stub)
    other = pb.RevokeRequest(cluster="ids", request_id="once", reason="b")
    answer = refused(stub.Revoke, other)
    check(answer, INVALID, "REQUEST_ID_REUSED", field="request_id", cluster="ids")
    assert picture(stub) == before
    # The same id of another RPC or cluster is another request.
    assert not stub.Restore(pb.RestoreRequest(cluster="ids", request_id="once"), timeout=9).replayed


# Key files


def test_bad_key_file(start_server: StartServer) -> None:
    """A key file that is gone, open to others, half-written or a pipe is "could not tell"."""
    server = start_server(KEYFOLD_CACHE_TTL="0s")
    server.enable("prod")
    whole = server.keys.read_bytes()

    def half() -> None:
        server.keys.write_bytes(whole[: len(whole) // 2])

    def opened() -> None:
        server.keys.chmod(0o644)

    def pipe() -> None:
        server.keys.unlink()
        os.mkfifo(server.keys, 0o600)

    def folder() -> None:
        server.keys.unlink()
        server.keys.mkdir(mode=0o700)

    faults = (half, opened, pipe, folder, lambda: server.keys.write_bytes(b""), server.keys.unlink)
    with stubs(server.target) as stub:
        wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"p")
        for fault in faults:
            before = picture(stub)
            fault()
            for call, asked, cluster in (
                (stub.Wrap, wrap, "prod"),
                (stub.Enable, enable(spec("eu")), "new"),
                (stub.Rotate, pb.RotateRequest(cluster="prod", region_specs=[spec("eu")]), "prod"),
            ):
                began = time.monotonic()
                answer = refused(call, asked)
                assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "UNREACHABLE")
                assert str(server.keys) in answer.message
                assert dict(answer.metadata) | {"source": "kms", "cluster": cluster} == dict(
                    answer.metadata
                )
                assert answer.metadata["region"] == "eu"
                assert time.monotonic() - began < 5
            assert picture(stub) == before
            if server.keys.is_dir():
                server.keys.rmdir()
            server.keys.unlink(missing_ok=True)
            server.keys.write_bytes(whole)
            server.keys.chmod(0o600)
            stub.Wrap(wrap, timeout=9)  # It works again by itself.


# Stores


def declined(server: Server) -> str:
    """Opens a store that must not be opened, as a server does, and returns the message."""
    url = server.settings["KEYFOLD_STORE"] or ""
    with pytest.raises(SetupError) as caught:
        open_store(url, f"{url.removeprefix('sqlite:///')}.service-key", clock=SystemClock())
    return caught.value.message


def ended(server: Server) -> str:
    """Starts a server that must not start, and returns its message."""
    with pytest.raises(NotReadyError) as caught:
        server.start()
    assert caught.value.code == 2
    assert "Traceback" not in str(caught.value)
    return str(caught.value).splitlines()[-1]


def contents(store: Path) -> object:
    """Returns a file's bytes, or a database's rows, whose bytes reading may change."""
    try:
        with closing(sqlite3.connect(store)) as database:
            return list(database.iterdump())
    except sqlite3.DatabaseError:
        return store.read_bytes()


def test_store_that_cannot_be_one(start_server: StartServer) -> None:
    """No database, another program's, a newer schema: refused at the start, and left as it was."""
    server = start_server(keys=())
    assert server.stop() == 0
    good = server.store.read_bytes()

    def edited(statement: str) -> None:
        server.store.write_bytes(good)
        with closing(sqlite3.connect(server.store)) as database:
            database.execute(statement)
            database.commit()

    def another() -> None:
        server.store.unlink()
        with closing(sqlite3.connect(server.store)) as database:
            database.execute("CREATE TABLE photos (name TEXT)")
            database.commit()

    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: server.store.write_bytes(b"Dear diary, " * 999), "is not a database"),
        (lambda: server.store.write_bytes(good[:5000]), "damaged|not a database"),
        (
            lambda: edited("UPDATE alembic_version SET version_num = '9999'"),
            "schema 9999, which this release does not know: .*start the release that made that",
        ),
        (another, "another program's"),
    ]
    for spoil, message in cases:
        for path in server.folder.glob("store.db-*"):
            path.unlink()
        spoil()
        before = contents(server.store)
        assert re.search(message, declined(server))
        assert contents(server.store) == before
    server.store.unlink()
    server.store.mkdir()
    assert "cannot be read and written" in declined(server)
    server.store.rmdir()
    server.settings["KEYFOLD_STORE"] = f"sqlite:///{server.folder}/nowhere/store.db"
    assert "nowhere" in ended(server)


def test_service_key(start_server: StartServer) -> None:
    """A service key that is missing, another one, open to others or too short stops the start."""
    server = start_server(keys=())
    assert server.stop() == 0
    key = server.folder / "store.db.service-key"
    assert key.stat().st_mode & 0o777 == 0o600
    good = key.read_bytes()
    before = server.store.read_bytes()

    key.unlink()
    assert "is missing, and it sealed the store" in ended(server)
    assert not key.exists()  # The server makes no new key for a store that exists.
    key.touch(0o600)
    key.write_bytes(os.urandom(32))
    assert "sealed the store, and the file holds the key" in ended(server)
    key.write_bytes(good[:31])
    assert "does not have 32 bytes" in declined(server)
    key.write_bytes(good)
    key.chmod(0o640)
    assert "chmod 600" in declined(server)
    assert server.store.read_bytes() == before
    key.chmod(0o600)
    server.start()
    assert server.stop() == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounts a file system of 1 MiB in memory."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_store_that_is_full_or_read_only(start_server: StartServer, tmp_path: Path) -> None:
    """A full or read-only store refuses changes as STORE_UNAVAILABLE; keys in memory serve on."""
    with small_disk(tmp_path / "disk") as disk:
        server = start_server(KEYFOLD_STORE=f"sqlite:///{disk}/store.db")
        server.enable("prod", ["eu"])
        with stubs(server.target) as stub:
            wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"p")
            stub.Wrap(wrap, timeout=9)
            before = picture(stub)
            filler = disk / "filler"
            fill(filler)
            # The free space of the log's last pages may hold a change or two.
            answers = [_tried(stub, enable(spec("eu"), cluster=f"c{n}")) for n in range(12)]
            full = answers[-1]
            assert full is not None
            check(full, Code.UNAVAILABLE, "STORE_UNAVAILABLE", cluster="c11")
            assert "disk is full" in full.message or "disk failed" in full.message
            stub.Wrap(wrap, timeout=9)
            filler.unlink()
            kept = [f"c{n}" for n, answer in enumerate(answers) if answer is None]
            shown = [cluster.cluster for cluster in picture(stub)]
            assert shown == sorted([*kept, *(cluster.cluster for cluster in before)])
            stub.Enable(enable(spec("eu"), cluster="c11"), timeout=9)
        server.kill()

        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "read-only" in ended(server).lower()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        server.start()
        with stubs(server.target) as stub:
            stub.Wrap(wrap, timeout=9)
            assert len(picture(stub)) >= len(before)


def fill(path: Path) -> None:
    """Writes until there is no space left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def _tried(stub: service.KeyManagementServiceStub, asked: pb.EnableRequest) -> Refusal | None:
    try:
        stub.Enable(asked, timeout=9)
    except grpc.RpcError as error:
        return refusal(error)
    return None


def test_store_that_disappears(start_server: StartServer) -> None:
    """A store taken away under a running server never answers as if it were empty."""
    server = start_server(keys=("eu",))
    server.enable("prod", ["eu"])
    for path in list(server.folder.glob("store.db*")):
        if not path.name.endswith((".lock", ".service-key")):
            shutil.move(path, path.with_name(f"away-{path.name}"))
    done: list[Refusal | None] = []
    with stubs(server.target) as stub:
        threads = [
            threading.Thread(
                target=lambda n=n: done.append(
                    _tried(stub, enable(spec("eu"), cluster=f"gone-{n}"))
                )
            )
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # Either the open file still takes it, or the call says that the store is not there.
    assert {answer.reason for answer in done if answer is not None} <= {"STORE_UNAVAILABLE"}
