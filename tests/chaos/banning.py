"""A ban: Revoke of a cluster whose row somebody edited (protocol A6).

Every server has the cluster's KEK in memory. Then somebody edits the row, and an operator revokes
the cluster at one server. That bans the cluster's name. Once no server is pending, none may use the
key, even after somebody has put the row back as it was.
"""

from __future__ import annotations

import random
import time
from typing import Final

import grpc

from chaos.calls import TIMEOUT
from chaos.fleet import Fleet
from chaos.history import History
from chaos.messages import spec_of
from e2e.wire import refusal, stubs
from keyfold.v1 import key_management_service_pb2 as pb

BANNED: Final = "spoilt-"
"""The beginning of the names of clusters that are banned."""

_REGION: Final = "eu"
_USES: Final = 3


def ban(fleet: Fleet, history: History, draw: random.Random) -> None:
    """Edits a cluster's row, has the cluster banned, puts the row back, and uses the cluster."""
    name = f"{BANNED}{draw.getrandbits(64):016x}"
    server = draw.choice(fleet.servers)
    spec = spec_of(_REGION, "local:a")
    try:
        with stubs(server.target) as stub:
            stub.Enable(pb.EnableRequest(cluster=name, region_specs=[spec]), timeout=TIMEOUT)
    except grpc.RpcError:
        return  # A server that dies at a mark is part of the run.
    for each in fleet.servers:
        _used(each.target, name)
    _raise_epoch(fleet, name, 1)
    stops = _revoked(server.target, name, history)
    if stops is None:
        return
    time.sleep(stops)
    _raise_epoch(fleet, name, -1)
    for each in fleet.servers * _USES:
        if _used(each.target, name):
            text = f"{each.name} used it after its ban"
            history.found.append(("banned", name, text))


def _raise_epoch(fleet: Fleet, name: str, by: int) -> None:
    fleet.execute(f"UPDATE clusters SET epoch = epoch + {by} WHERE name = '{name}'")


def _revoked(target: str, name: str, history: History) -> float | None:
    """Revokes the cluster.

    Returns:
        The seconds until the last pending server has stopped, or None if the server is away.
    """
    try:
        with stubs(target) as stub:
            reply = stub.Revoke(pb.RevokeRequest(cluster=name), timeout=TIMEOUT)
    except grpc.RpcError as error:
        if refusal(error).reason == "ROW_NOT_AUTHENTIC":
            history.found.append(("banned", name, "a Revoke refused to ban it"))
        return None
    if not reply.banned:
        history.found.append(("banned", name, "a Revoke believed an edited row"))
    return max((p.stops_within.ToMicroseconds() / 1e6 for p in reply.pending), default=0.0)


def _used(target: str, name: str) -> bool:
    """Uses the cluster on one server, and returns whether that succeeded."""
    asked = pb.WrapRequest(cluster=name, region=_REGION, plaintext=b"k" * 32)
    try:
        with stubs(target) as stub:
            stub.Wrap(asked, timeout=TIMEOUT)
    except grpc.RpcError:
        return False
    return True
