"""`hidden`: how far the time of an answer tells a hidden cluster from one that does not exist."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Final

import grpc

from bench import calls, servers
from bench.cases import REGION, ROOT_KEY
from bench.goals import Figure, Plan
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold.v1 import resources_pb2 as res

_HIDDEN: Final = "rival"
"""The cluster of another organization."""

_ABSENT: Final = "nobdy"
"""A name as long that no cluster has."""

_REGIONS: Final = 4
"""Regions of the hidden cluster. A read of more rows takes longer."""

_ROUNDS: Final = 1_000
_ROUNDS_QUICK: Final = 50

_ADMIN: Final = """
[[grant]]
callers = ["local"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""

_OUTSIDE: Final = """
[[grant]]
callers = ["local"]
roles = ["admin"]
clusters = ["mine-*"]
organizations = ["mine"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""
"""Neither name fits the pattern: the policy alone decides."""

_INSIDE: Final = """
[[grant]]
callers = ["local"]
roles = ["admin"]
organizations = ["mine"]
"""
"""Any name fits, and only the store knows that the cluster is of another organization."""

Ask = Callable[[stubs.KeyManagementServiceStub, str], object]

_CALLS: Final[dict[str, Ask]] = {
    "Wrap": lambda stub, name: stub.Wrap(
        pb.WrapRequest(cluster=name, region=REGION, plaintext=calls.KEY), timeout=calls.WITHIN
    ),
    "GetStatus": lambda stub, name: stub.GetStatus(
        pb.GetStatusRequest(cluster=name), timeout=calls.WITHIN
    ),
    "Rotate": lambda stub, name: stub.Rotate(
        pb.RotateRequest(cluster=name, region_specs=[res.RegionSpec(region=REGION)]),
        timeout=calls.WITHIN,
    ),
}


def measure(plan: Plan) -> list[Figure]:
    """Measures `hidden`."""
    rounds = _ROUNDS_QUICK if plan.quick else _ROUNDS
    policy = plan.folder / "policy.toml"
    policy.write_text(_ADMIN)
    figures = []
    with (
        servers.one(plan.folder, policy=str(policy)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = stubs.KeyManagementServiceStub(channel)
        _enable(stub)
        for where, text in (("outside", _OUTSIDE), ("inside", _INSIDE)):
            _grant(policy, text, stub)
            for method, ask in _CALLS.items():
                figures += _compared(f"{method}, {where} the patterns", ask, stub, rounds)
    return figures


def _enable(stub: stubs.KeyManagementServiceStub) -> None:
    spec = calls.key_spec(f"local:{ROOT_KEY}")
    regions = [REGION, *(f"region-{number}" for number in range(1, _REGIONS))]
    stub.Enable(
        pb.EnableRequest(
            cluster=_HIDDEN,
            organization="rival",
            region_specs=[res.RegionSpec(region=region, key_spec=spec) for region in regions],
        ),
        timeout=calls.WITHIN,
    )


def _grant(policy: Path, text: str, stub: stubs.KeyManagementServiceStub) -> None:
    """Puts a policy in force, under which the cluster is hidden."""
    new = policy.with_suffix(".new")
    new.write_text(text)
    new.replace(policy)
    deadline = time.monotonic() + calls.WITHIN
    while not _seconds(_CALLS["GetStatus"], stub, _HIDDEN):
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not take the policy")
        time.sleep(0.1)
    # The file's second policy hides the cluster like its first, so wait for one more look.
    time.sleep(2.5)


def _compared(
    what: str, ask: Ask, stub: stubs.KeyManagementServiceStub, rounds: int
) -> list[Figure]:
    """Times both names in pairs, in random order, because a machine's speed drifts."""
    differences = []
    hidden: list[float] = []
    for _ in range(rounds):
        pair = {}
        for name in random.sample((_HIDDEN, _ABSENT), 2):
            pair[name] = _seconds(ask, stub, name) * 1e6
        hidden.append(pair[_HIDDEN])
        differences.append(pair[_HIDDEN] - pair[_ABSENT])
    # Outliers would hide the difference, so the attacker leaves out a tenth at each end.
    cut = len(differences) // 10
    kept = sorted(differences)[cut:-cut]
    return [
        Figure("hidden", f"{what}: hidden, p50", median(hidden), "us", rounds),
        Figure("hidden", f"{what}: hidden less absent, mean", fmean(kept), "us", rounds),
        Figure(
            "hidden", f"{what}: its standard error", stdev(kept) / len(kept) ** 0.5, "us", rounds
        ),
    ]


def _seconds(ask: Ask, stub: stubs.KeyManagementServiceStub, name: str) -> float:
    """Returns how long a NOT_FOUND takes; 0 if the call gets another answer."""
    began = time.perf_counter()
    try:
        ask(stub, name)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return time.perf_counter() - began
    return 0.0
