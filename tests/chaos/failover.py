"""Failovers: to a standby that has everything, and to one that lags (protocol S1, S2).

Each begins with servers that have just started and die at no mark. A server that starts without
a store, or has not seen the changes that will be lost, would show nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import grpc

from chaos.board import TWINS, TWINS_URI
from chaos.fleet import STALENESS, Fleet
from chaos.history import History, Lost, now
from chaos.messages import spec_of
from chaos.servers import ChaosServer
from e2e.wire import refusal, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.rpc.probe import health

PAST: Final = 1.5
"""Seconds beyond `store_max_staleness` for which a server that must refuse is checked."""

NOTICED: Final = 10.0
"""Seconds within which a server that reaches its store again notices that it was rolled back."""

_WARM: Final = 1.0
_WAIT: Final = 10.0
_MARGIN: Final = 30
"""Margin of entries that may be written between two reads of the log's head."""

_NEWEST: Final = "SELECT number FROM log_head"


def fail_over_synchronous(fleet: Fleet, history: History, draw: random.Random) -> None:
    """Fails over without loss; one server stays with the old primary for a while (S2).

    The old primary was killed and may be back, or it lives on without a standby that confirms its
    commits.
    """
    assert fleet.pair is not None
    fleet.restart()
    time.sleep(_WARM)
    pinned = draw.choice(fleet.servers)
    killed = draw.random() < 0.5
    what = f"store:{pinned.folder.name}"
    asked = now()
    if killed:
        fleet.pair.stop_primary()
    fleet.fail_over()
    history.span(what, asked)
    history.event(f"failed over, the old primary {'killed' if killed else 'left to itself'}")
    for server in fleet.servers:
        if server is not pinned:
            fleet.network(server).lead(fleet.pair.standby.port)
    if killed and draw.random() < 0.7:
        fleet.pair.primary.start()
        history.event("the old primary is back")
    time.sleep(STALENESS + PAST)
    with history.ending(what):
        fleet.network(pinned).lead(fleet.pair.standby.port)
    fleet.pair.stop_primary()


def fail_over_lagging(fleet: Fleet, history: History, draw: random.Random) -> None:
    """Fails over to a standby that lacks what every server has seen (S1).

    In some runs other servers have already continued with it, so that its numbers are no lower.
    """
    assert fleet.pair is not None
    fleet.restart()
    time.sleep(_WARM)
    since = now()
    fleet.pair.part()
    history.event("the standby is cut off")
    time.sleep(_WARM)
    _until_seen(fleet)
    ((newest,),) = fleet.pair.primary.run(_NEWEST, fleet.name)
    fleet.pair.stop_primary()
    history.lost = Lost(since, now())
    fleet.fail_over()
    history.event("failed over to what the standby has")
    if draw.random() < 0.5:
        _overtake(fleet, int(newest) + _MARGIN)
        history.event("others have gone on with it")
    for server in fleet.servers:
        fleet.network(server).lead(fleet.pair.standby.port)
    history.event("every server reaches it")
    time.sleep(STALENESS)
    for server in fleet.servers:
        wrong = _unnoticed(server)
        if wrong:
            history.found.append(("rolled-back", server.name, wrong))


def _until_seen(fleet: Fleet) -> None:
    """Waits until every server has applied changes that the standby does not have."""
    assert fleet.pair is not None
    ((there,),) = fleet.pair.standby.run(_NEWEST, fleet.name)
    ends = now() + _WAIT
    while True:
        rows = fleet.pair.primary.run("SELECT replica, number FROM replicas", fleet.name)
        seen = {str(replica).split(":")[1]: number for replica, number in rows}
        if all(seen.get(str(server.pid), -1) > there for server in fleet.servers):
            return
        assert now() < ends, f"no change was made after {there}: {seen}"
        time.sleep(0.05)


def _overtake(fleet: Fleet, number: int) -> None:
    """Lets a client that knows nothing of the loss continue, up to a change of this number."""
    server = fleet.extra()
    with stubs(server.target) as stub:
        count = 0
        while fleet.execute(_NEWEST)[0][0] < number:  # type: ignore[operator]
            specs = [spec_of("eu", TWINS_URI)]
            for _ in range(10):
                count += 1
                asked = pb.EnableRequest(cluster=f"other-{count}", region_specs=specs)
                stub.Enable(asked, timeout=_WAIT)
    server.kill()


def _unnoticed(server: ChaosServer) -> str:
    """Says what a server fails to refuse, or its wrong words; empty if it refuses rightly."""
    cluster = next(iter(TWINS))
    wrap = pb.WrapRequest(cluster=cluster, region="eu", plaintext=b"k")
    revoke = pb.RevokeRequest(cluster=cluster, regions=["us"])
    ends = now() + NOTICED
    with stubs(server.target) as stub:
        while True:
            said = [_said(stub.Wrap, wrap)]
            healthy = health(server.target, _WAIT)
            if said == ["STORE_ROLLED_BACK"]:
                # Only now: a change in a store that it takes for the right one would count.
                said.append(_said(stub.Revoke, revoke))
                if said[1] == said[0] and healthy == "NOT_SERVING":
                    return ""
            if now() > ends:
                return f"it says {said} and {healthy}"
            time.sleep(0.1)


def _said(call: Callable[..., object], asked: object) -> str:
    try:
        call(asked, timeout=_WAIT)
    except grpc.RpcError as error:
        return refusal(error).reason
    return "nothing"
