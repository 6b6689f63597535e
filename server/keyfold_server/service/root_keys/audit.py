"""Audit events of the calls that ask about a key and change no cluster (protocol C8).

A call that tries somebody's key, or shows how to let Keyfold use it, must not go unseen. Its event
stands in the trail of the cluster that it names. If it names none, or one that does not exist or is
hidden from the caller, the event stands in the log and in no cluster's trail. Its detail says what
the call named.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.log import Attempt, AuditEvent, KeyName
from keyfold_server.domain.rights import Caller
from keyfold_server.service.limits import Limits
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended.

    Attributes:
        outcome: `done`, or the reason of the refusal.
        message: A line for people; empty if the call went well.
        kms_request_id: The KMS's own id of the answer that decided it, or empty.
    """

    outcome: str = "done"
    message: str = ""
    kms_request_id: str = ""

    @classmethod
    def of(cls, error: KeyfoldError) -> Ending:
        """Returns how a call ended that an error ended."""
        return cls(error.reason, error.message, error.provider_request_id or "")


DONE: Final = Ending()


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A call about a key, by a caller that may make it.

    Attributes:
        caller: The caller.
        rpc: The method's name.
        key_spec: The key.
        scope: The authorized scope.
    """

    caller: Caller
    rpc: str
    key_spec: KeySpec
    scope: Scope

    def detail(self) -> str:
        """Returns the parsed request as JSON with sorted keys; it holds no key material."""
        scope = self.scope
        request = {
            "cluster": scope.cluster,
            "key_spec": asdict(self.key_spec),
            "organization": scope.organization,
            "region": scope.region,
        }
        return json.dumps(request, sort_keys=True, separators=(",", ":"))

    def event(self, action: str, ending: Ending) -> AuditEvent:
        """Returns what an entry of the log says of the call."""
        caller = self.caller
        return AuditEvent(
            caller.name,
            action,
            ending.outcome,
            self.detail(),
            proof=caller.rights.identity.proof,
            address=caller.address,
            on_behalf_of=caller.on_behalf_of,
            organization=self.scope.organization or "",
            key=KeyName(self.key_spec.type, self.key_spec.uri, self.key_spec.principal),
            message=ending.message,
            trace_id=caller.trace_id,
            kms_request_id=ending.kms_request_id,
        )


class Audit:
    """Records calls about keys."""

    def __init__(self, storage: Storage, tasks: Tasks, limits: Limits) -> None:
        """Takes the store, the service's tasks, and the places that calls take."""
        self._storage = storage
        self._tasks = tasks
        self._limits = limits

    async def recorded(
        self,
        inquiry: Inquiry,
        work: Coroutine[Any, Any, _R],
        ending: Callable[[_R], Ending] = lambda _: DONE,
    ) -> _R:
        """Carries out a call about a key, and records it however it ends.

        The call belongs to the service (protocol W1): a caller that stops waiting cancels nothing,
        so nobody tries a key without an event.

        Args:
            inquiry: The call.
            work: Carries it out.
            ending: Returns what the event says of a result.

        Raises:
            KeyfoldError: What `work` raised, or why the store did not take the event.
        """
        task = self._tasks.start(self._carried_out(inquiry, work, ending))
        try:
            return await asyncio.shield(task)
        finally:
            if not task.done():
                self._limits.keep_places(inquiry.caller.name, task, urgent=False)

    async def record(self, inquiry: Inquiry, action: str, ending: Ending) -> None:
        """Records what a call did or was refused.

        Args:
            inquiry: The call.
            action: `source:subject:action`, such as `rpc:key:testkey`.
            ending: How it ended.

        Raises:
            KeyfoldError: The store did not take the event.
        """
        scope = inquiry.scope
        cluster = scope.cluster if scope.exists else None
        attempt = Attempt(cluster, inquiry.event(action, ending))
        [result] = await self._storage.run(self._storage.store.attempted, [attempt])
        if isinstance(result, Exception):
            raise result

    async def _carried_out(
        self, inquiry: Inquiry, work: Coroutine[Any, Any, _R], ending: Callable[[_R], Ending]
    ) -> _R:
        action = f"rpc:key:{inquiry.rpc.lower()}"
        try:
            result = await work
        except KeyfoldError as error:
            try:
                await self.record(inquiry, action, Ending.of(error))
            except KeyfoldError as fault:
                log.warning("the store did not record an attempt: %s", fault.reason)
            raise
        await self.record(inquiry, action, ending(result))
        return result
