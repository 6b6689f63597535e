"""The handlers' contract: what a handler needs of a call, and what it takes for one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import callers
import keyfold
from given_call import GivenCall
from in_process import InProcess, running
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.bounds import Bounds
from keyfold_server.rpc.call import Answer, Failed, Table
from keyfold_server.rpc.call_log import CallLog
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import Receiver
from keyfold_server.rpc.methods import SERVICE, Methods
from keyfold_server.service.clock import SystemClock
from keyfold_server.telemetry import NO_SPANS

WRAP = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")


def table(server: InProcess) -> Table:
    """Returns the handlers of a server's service."""
    replica = server.replica
    clock = SystemClock()
    who = Callers(callers.POLICIES, callers.LOCAL, clock)
    receiver = Receiver(replica.bounds, clock)
    return Methods(replica, who, receiver, NO_SPANS, CallLog(), Door(10)).table()


async def answer(methods: Table, call: GivenCall, method: str = "Wrap") -> Answer:
    """Answers a call."""
    return await methods[f"/{SERVICE}/{method}"].handle(call)


def _enable(target: str) -> None:
    spec = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:eu"))
    with keyfold.Client(target) as client:
        client.enable("prod", [spec])
        client.wrap("prod", "eu", b"k")


async def test_a_request_that_came_whole_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: a warm call whose request came with it is answered in one step, without task or room."""
    async with running(tmp_path, local_keys=("eu",)) as server:
        await asyncio.to_thread(_enable, server.target)
        methods = table(server)
        call = GivenCall(WRAP.SerializeToString())

        def none(*_: object) -> None:
            raise AssertionError("a whole request needs no task and no room")

        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "current_task", none)
            patched.setattr("keyfold_server.rpc.incoming.request_room.RequestRoom.take", none)
            with pytest.raises(StopIteration) as ended:
                methods[f"/{SERVICE}/Wrap"].handle(call).__await__().__next__()
        assert isinstance(ended.value.value, bytes)
        assert call.reads == 0


async def test_a_request_that_came_later_is_the_same_request(tmp_path: Path) -> None:
    """A transport that cannot tell whether a request came whole gets the same answer."""
    async with running(tmp_path, local_keys=("eu",)) as server:
        await asyncio.to_thread(_enable, server.target)
        call = GivenCall(WRAP.SerializeToString(), whole=False)
        reply = await answer(table(server), call)
        assert isinstance(reply, bytes)
        assert pb.WrapResponse.FromString(reply).wrapped_key
        assert call.reads == 1


async def test_handlers_return_failures_and_raise_none(tmp_path: Path) -> None:
    """A handler returns its failure, with code, reason and details, for the transport to send."""
    async with running(tmp_path, bounds=Bounds(rate_per_caller=1e6)) as server:
        methods = table(server)
        for request, reason in (
            (WRAP.SerializeToString(), "CLUSTER_NOT_FOUND"),
            (b"\xff", "MALFORMED_REQUEST"),
            (None, "MALFORMED_REQUEST"),
        ):
            for whole in (True, False):
                reply = await answer(methods, GivenCall(request, whole=whole))
                assert isinstance(reply, Failed)
                assert reply.reason == reason
                assert reply.code.value[0] == reply.status.code
                assert reply.status.details
