"""The steps of operations: carries out one item by the service that any caller uses.

A step is a call of the operation's caller, with the rights that the policy gives it then. A step
that changes a cluster has a request_id that follows from the operation and the item, so that it is
carried out once, however often replicas begin it (protocol R6).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final, TypeVar

from keyfold_server.domain.cluster import Region
from keyfold_server.domain.errors import (
    ConflictError,
    CouldNotTellError,
    DeadlineError,
    KeyfoldError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionSpec
from keyfold_server.domain.operations import ActionKind, Failure, Operation
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.domain.seats import meets
from keyfold_server.service.kms.gates import YIELDS
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.policies import Policies, PolicyRequest
from keyfold_server.service.life.rechecks import RecheckRequest, Rechecks
from keyfold_server.service.life.requests import MutationCall, MutationRequest
from keyfold_server.service.life.rotation import RotateRequest, Rotation
from keyfold_server.service.operations.items import Item
from keyfold_server.service.organizations.link_moves import LinkMoves
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest, Trials

log = logging.getLogger(__name__)

_RequestT = TypeVar("_RequestT", bound=MutationRequest)

_PATIENCE: Final = 300.0
"""Seconds to wait for one try of a step, which may wait long for callers' calls."""

_TRIES: Final = 4
"""Tries of a step before it counts as failed: of one whose KMS gave no answer, or that lost races
against other changes."""

_BUSY_TRIES: Final = 30
"""Tries of a step that Keyfold's own limits turned away."""

_PAUSE: Final = 0.25
"""Seconds after the first failed try; twice as many after each further one."""

_LONGEST_PAUSE: Final = 10.0
"""Most seconds between two tries."""

_KNOWN: Final = 64
"""Moves of key links whose keys are kept in memory: more than one replica runs at once."""

RightsOf = Callable[[Identity], Rights]
"""Returns the rights of a caller under the policy that is in force now."""


class Verdict(Enum):
    """How a step ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """A step that ended; `failure` says why, if it failed."""

    verdict: Verdict
    failure: Failure | None = None


_DONE: Final = Ended(Verdict.DONE)
_SKIPPED: Final = Ended(Verdict.SKIPPED)


def request_id(operation: Operation, item: Item) -> str:
    """Returns the request_id of a step."""
    of = b"/".join((operation.uid, item.place.cluster.encode(), item.place.region.encode()))
    return f"operation:{sha256(of).hexdigest()[:32]}"


class Steps:
    """Carries out items.

    Attributes:
        moves: Knows the keys that a move of a key link gives, and ends the move.
    """

    def __init__(
        self,
        mutations: Mutations,
        rotation: Rotation,
        policies: Policies,
        trials: Trials,
        rechecks: Rechecks,
        moves: LinkMoves,
        rights_of: RightsOf,
        clock: Clock,
    ) -> None:
        """Joins the steps to the service that any caller uses.

        Args:
            mutations: Knows which steps were carried out.
            rotation: Carries out Rotate.
            policies: Changes policies.
            trials: Carries out TestKey.
            rechecks: Carries out Recheck.
            moves: Moves key links.
            rights_of: Returns the rights of an operation's caller now.
            clock: Monotonic time.
        """
        self._mutations = mutations
        self._rotation = rotation
        self._policies = policies
        self._trials = trials
        self._rechecks = rechecks
        self.moves: Final = moves
        self._keys: dict[bytes, Mapping[str, KeySpec]] = {}
        self._rights_of = rights_of
        self._clock = clock

    def caller(self, operation: Operation) -> Caller:
        """Returns the caller of an operation, with the rights that it has now."""
        starter = operation.starter
        return Caller(self._rights_of(starter.identity), starter.address, starter.on_behalf_of)

    async def take(self, operation: Operation, item: Item) -> Ended:
        """Carries out an item, and tries again what may go better the next time.

        It raises nothing but what ends the task. While the store cannot be used it goes on trying,
        because the failure could not be recorded either.
        """
        YIELDS.set(True)
        tries = busy = 0
        while True:
            try:
                return await self._once(operation, item)
            except UnavailableError:
                pass
            except (OverloadedError, RateLimitedError, DeadlineError) as error:
                busy += 1
                if busy >= _BUSY_TRIES:
                    return _failed(item, error)
            except (CouldNotTellError, ConflictError) as error:
                tries += 1
                if tries >= _TRIES:
                    return _failed(item, error)
            except NotFoundError:
                # It went away since it was found, which needs nothing more.
                return _SKIPPED
            except KeyfoldError as error:
                return _failed(item, error)
            except Exception:
                log.exception("a step of operation %s failed unexpectedly", operation.key.name)
                text = "the server failed unexpectedly; see its log"
                return Ended(Verdict.FAILED, Failure(*item.place, "INTERNAL", text))
            await asyncio.sleep(min(_LONGEST_PAUSE, _PAUSE * 2.0 ** min(tries + busy, 10)))

    async def _once(self, operation: Operation, item: Item) -> Ended:
        region = item.region
        if region is None:
            return _SKIPPED if item.error is None else _failed(item, item.error)
        caller = self.caller(operation)
        match operation.work.kind:
            case ActionKind.ROTATE:
                return await self._rotate(operation, item, region, caller)
            case ActionKind.POLICY:
                return await self._change_policy(operation, item, region, caller)
            case ActionKind.TEST:
                return await self._test(item, region, caller)
            case ActionKind.RECHECK:
                return await self._recheck(item, caller)
            case ActionKind.MOVE_LINK:
                return await self._move(operation, item, region, caller)

    async def _rotate(
        self, operation: Operation, item: Item, region: Region, caller: Caller
    ) -> Ended:
        work = operation.work
        request = RotateRequest(
            item.place.cluster,
            (RegionSpec(region.name, work.key_spec),),
            new_generation=work.new_generation,
            validate_only=False,
            only_named_regions=True,
        )
        call = self._call(caller, operation, item, request)
        if meets(work.key_spec, region.key_spec) and not (work.new_generation or region.link):
            return await self._there(call)
        await self._rotation.rotate(call)
        return _DONE

    async def _move(
        self, operation: Operation, item: Item, region: Region, caller: Caller
    ) -> Ended:
        """Rotates a region to the key that its link has now.

        That is the operation's key: until it ends, nothing else changes the link. A region that
        has left the link meanwhile is none of the operation's business any more. Replicas of the
        region's key follow it, as in Rotate.
        """
        link = operation.work.key_link
        request = RotateRequest(
            item.place.cluster,
            (RegionSpec(region.name, key_link=link),),
            new_generation=False,
            validate_only=False,
        )
        call = self._call(caller, operation, item, request)
        if meets((await self._keys_of(operation)).get(region.name), region.key_spec):
            return await self._there(call)
        await self._rotation.rotate(call, users_of=link)
        return _DONE

    async def _keys_of(self, operation: Operation) -> Mapping[str, KeySpec]:
        """Returns the keys that an operation gives to the users of its link, by region."""
        keys = self._keys.get(operation.uid)
        if keys is None:
            keys = await self.moves.keys(operation.work)
            while len(self._keys) >= _KNOWN:
                del self._keys[next(iter(self._keys))]
            self._keys[operation.uid] = keys
        return keys

    async def _change_policy(
        self, operation: Operation, item: Item, region: Region, caller: Caller
    ) -> Ended:
        policy = operation.work.policy
        request = PolicyRequest(item.place.cluster, (RegionSpec(region.name, policy=policy),))
        call = self._call(caller, operation, item, request)
        if policy == region.policy:
            return await self._there(call)
        await self._policies.change(call)
        return _DONE

    async def _test(self, item: Item, region: Region, caller: Caller) -> Ended:
        scope = Scope(item.place.cluster, region.name, None)
        tried = await self._trials.test(caller, TestKeyRequest(region.key_spec, scope))
        failure = tried.failure
        if failure is None:
            return _DONE
        if failure.error is not None:
            raise failure.error
        return Ended(Verdict.FAILED, Failure(*item.place, "KEY_INVALID", tried.summary))

    async def _recheck(self, item: Item, caller: Caller) -> Ended:
        request = RecheckRequest(item.place.cluster, (item.place.region,), "")
        deadline = self._clock.monotonic() + _PATIENCE
        checked = await self._rechecks.recheck(caller, request, deadline)
        for each in checked.found:
            error = each.error or each.wrap_error
            if error is not None:
                raise error
        return _DONE

    def _call(
        self, caller: Caller, operation: Operation, item: Item, request: _RequestT
    ) -> MutationCall[_RequestT]:
        deadline = self._clock.monotonic() + _PATIENCE
        rpc = operation.work.kind.rpc
        return MutationCall(caller, rpc, request_id(operation, item), request, deadline)

    async def _there(self, call: MutationCall[MutationRequest]) -> Ended:
        """Returns how a step ended whose region is as it shall be.

        The step itself may have made it so, before a crash. Then it counts as done.
        """
        call.caller.rights.check_named(call.rpc, call.cluster, call.request.named)
        return _DONE if await self._mutations.carried_out(call) else _SKIPPED


def _failed(item: Item, error: KeyfoldError) -> Ended:
    return Ended(Verdict.FAILED, Failure(*item.place, error.reason, error.message))
