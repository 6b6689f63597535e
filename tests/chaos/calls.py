"""Calls: makes each call and writes its outcome into the history."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import grpc

from chaos.history import Answer, Attempt, Blob, Change, History, Look, Use, now
from chaos.messages import answer_of, message, opened, refusal_of, shown
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service

TIMEOUT: Final = 6.0

_NOBODY: Final = frozenset({"UNAVAILABLE", "STORE_STALE", "STORE_UNAVAILABLE", "STORE_ROLLED_BACK"})


class Way(NamedTuple):
    """A way to a server.

    Attributes:
        stub: The stub that calls the server.
        server: The server process, as `ChaosServer.name`.
    """

    stub: service.KeyManagementServiceStub
    server: str


class Caller:
    """Calls servers for one client."""

    def __init__(self, number: int, history: History) -> None:
        """Takes the client's number and the history that it writes to."""
        self._number = number
        self._history = history

    def change(self, way: Way, change: Change, timeout: float = TIMEOUT) -> Attempt:
        """Attempts a change and adds the attempt to it."""
        call = getattr(way.stub, change.request.method)
        asked = message(change)
        attempt, _ = _attempt(way, lambda: call(asked, timeout=timeout), answer_of)
        change.attempts.append(attempt)
        return attempt

    def look(self, way: Way, cluster: str) -> None:
        """Reads a cluster's status."""
        asked = pb.GetStatusRequest(cluster=cluster)
        attempt, _ = _attempt(
            way,
            lambda: way.stub.GetStatus(asked, timeout=TIMEOUT),
            lambda reply: Answer(shown=shown(reply.status), told=True),
        )
        self._history.looks.append(Look(self._number, cluster, attempt))

    def wrap(self, way: Way, cluster: str, region: str, plaintext: bytes) -> Blob | None:
        """Wraps a key; returns the wrapped key, or None if the server refused."""
        asked = pb.WrapRequest(cluster=cluster, region=region, plaintext=plaintext)
        attempt, reply = _attempt(way, lambda: way.stub.Wrap(asked, timeout=TIMEOUT), _done)
        if reply is None:
            self._used("Wrap", cluster, region, attempt)
            return None
        self._used("Wrap", cluster, region, attempt, reply.generation)
        return self._kept(cluster, region, plaintext, reply, attempt)

    def unwrap(self, way: Way, blob: Blob) -> None:
        """Unwraps a key."""
        asked = pb.UnwrapRequest(cluster=blob.cluster, wrapped_key=blob.wrapped)
        attempt, reply = _attempt(way, lambda: way.stub.Unwrap(asked, timeout=TIMEOUT), _done)
        if reply is None:
            self._used("Unwrap", blob.cluster, blob.region, attempt)
            return
        wrong = opened(blob, reply)
        self._used("Unwrap", blob.cluster, blob.region, attempt, reply.generation, wrong)

    def rewrap(self, way: Way, blob: Blob) -> Blob | None:
        """Rewraps a key; returns the new wrapped key, or None if it was not moved."""
        asked = pb.RewrapRequest(cluster=blob.cluster, wrapped_key=blob.wrapped)
        attempt, reply = _attempt(way, lambda: way.stub.Rewrap(asked, timeout=TIMEOUT), _done)
        if reply is None:
            self._used("Rewrap", blob.cluster, blob.region, attempt)
            return None
        wrong = ""
        if reply.already_current != (reply.wrapped_key == blob.wrapped):
            wrong = "already_current does not say whether it is the same wrapped key"
        elif reply.generation < blob.generation:
            wrong = f"moved back from generation {blob.generation} to {reply.generation}"
        self._used("Rewrap", blob.cluster, blob.region, attempt, reply.generation, wrong)
        if reply.already_current:
            return None
        return self._kept(blob.cluster, blob.region, blob.plaintext, reply, attempt)

    def _kept(
        self, cluster: str, region: str, plaintext: bytes, reply: Any, attempt: Attempt
    ) -> Blob:
        generation, wrapped = reply.generation, reply.wrapped_key
        blob = Blob(cluster, region, generation, plaintext, wrapped, attempt.end)
        self._history.blobs.append(blob)
        return blob

    def _used(
        self,
        method: str,
        cluster: str,
        region: str,
        attempt: Attempt,
        generation: int = 0,
        wrong: str = "",
    ) -> None:
        use = Use(self._number, cluster, region, method, attempt, generation, wrong)
        self._history.uses.append(use)


def _done(_reply: Any) -> Answer:
    return Answer()


def _attempt(
    way: Way, call: Callable[[], Any], answered: Callable[[Any], Answer]
) -> tuple[Attempt, Any]:
    """Makes a call; returns the attempt, and the reply or None."""
    start = now()
    reply = None
    try:
        reply = call()
        answer = answered(reply)
    except grpc.RpcError as error:
        answer = refusal_of(error)
    attempt = Attempt(start, now(), way.server, answer)
    if answer.reason in _NOBODY:
        # Waits a moment: the server may be down.
        time.sleep(0.02)
    return attempt, reply
