"""Trials: TestKey tries a root key step by step and stores nothing.

A step that fails is part of the answer, not an error of the call: the answer shows an operator
which of the customer's settings is wrong.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.binding import KEY_SIZE, Binding, wipe
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KekMismatchError,
    KeyInvalidError,
    KmsError,
)
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.seats import asks_for_seat
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.audit import DONE, Audit, Ending, Inquiry
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.holders import Holders
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.scope import Scope, Scopes
from keyfold_server.service.root_keys.seats import Seats
from keyfold_server.service.root_keys.trial_results import Outcome, Step, StepResult, TestKeyResult

_RPC: Final = "TestKey"

_OPENED_AT_ONCE: Final = (
    "the KMS wrapped; Keyfold opens at once what this KMS wraps, and the next step has the time of "
    "both"
)


@dataclass(frozen=True, slots=True)
class TestKeyRequest:
    """The request of TestKey.

    Attributes:
        key_spec: The key to try.
        scope: The cluster, region and organization that authorize the trial and to which it is
            bound. Without a cluster the trial is bound to nothing. A PLATFORM key needs a region.
        geo: The geo in whose regions the key is to be tried (`geo_trials`); empty: in the scope's.
    """

    key_spec: KeySpec
    scope: Scope
    geo: str = ""


class Trials:
    """Tries keys."""

    def __init__(
        self,
        kms: KmsClient,
        scopes: Scopes,
        residency: Residency,
        identities: tuple[ExternalIds, Seats],
        holders: Holders,
        audit: Audit,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the trials to the KMS.

        Args:
            kms: Calls the providers.
            scopes: Authorizes the scope, and the key in it.
            residency: Knows where keys are.
            identities: The external ids and the seats of owners. A trial takes no seat.
            holders: Knows whose the accounts of keys are.
            audit: Records the trials.
            clock: Measures the steps.
            random: The source of trial payloads.
        """
        self._kms = kms
        self._scopes = scopes
        self._residency = residency
        self._external_ids, self._seats = identities
        self._holders = holders
        self._audit = audit
        self._clock = clock
        self._random = random

    async def test(self, caller: Caller, request: TestKeyRequest) -> TestKeyResult:
        """Tries a key. A step that fails is part of the result and raises nothing.

        Args:
            caller: The caller.
            request: The key, and the scope for which it is tried.

        Raises:
            ClusterNotFoundError: The caller may not see the cluster.
            ForbiddenError: The caller may not try this key there.
            InvalidInputError: The key spec cannot be right, whatever the KMS would say.
            KeyHeldByAnotherError: The key is in what another organization holds.
            ExternalIdNotIssuedError: The key needs an external id that Keyfold has not issued.
            SeatNotReservedError: The key spec asks for a seat, and none is reserved for the owner.
        """
        [result] = await self.test_each(caller, [request])
        return result

    async def test_each(
        self, caller: Caller, requests: Sequence[TestKeyRequest]
    ) -> list[TestKeyResult]:
        """Tries several keys as `test` does, once the caller is allowed to try all of them."""
        authorized = [
            await self._scopes.authorized(_RPC, caller.rights, each.scope, each.key_spec)
            for each in requests
        ]
        return await asyncio.gather(
            *(
                self._audit.recorded(
                    Inquiry(caller, _RPC, each.key_spec, scope),
                    self._tried(each.key_spec.type, root, scope),
                    _ending,
                )
                for each, (scope, root) in zip(requests, authorized, strict=True)
            )
        )

    async def _tried(self, type_: str, root: RootKey, scope: Scope) -> TestKeyResult:
        await self._holders.claim(scope.organization, [(type_, root)])
        cluster, organization, region = scope.cluster or None, scope.organization, scope.region
        if not asks_for_seat(root.principal):
            root = await self._external_ids.added_to(root, cluster, organization, region)
            return await self._tried_as(root, scope)
        results = []
        for key in await self._seats.keys(root, cluster, organization, region, scope.current):
            results.append(await self._tried_as(key.root, scope))
            if results[-1].accessible:
                return results[-1]
        return results[0]

    async def _tried_as(self, root: RootKey, scope: Scope) -> TestKeyResult:
        trial = _Trial(self._clock)
        await trial.step(Step.AUTHENTICATE, lambda: self._kms.authenticate(root))
        described = await trial.step(Step.DESCRIBE, lambda: self._kms.describe(root))
        if isinstance(described, KeyDescription):
            trial.add_message(described.detail)
        await self._use(trial, root, scope)
        place = await self._residency.report(root, scope.region)
        return TestKeyResult(tuple(trial.steps), trial.key_version, place)

    async def _use(self, trial: _Trial, root: RootKey, scope: Scope) -> None:
        """Wraps a payload, then unwraps it with its own binding and with another cluster's."""
        binding = Binding(scope.cluster, scope.region, self._random(16), scope.organization)
        payload = bytes(binding.payload(self._random(KEY_SIZE)))
        wrapped = await trial.step(Step.WRAP, lambda: self._kms.wrap(root, payload, binding))
        if not isinstance(wrapped, Wrapped):
            if trial.steps[-1].step is Step.WRAP:
                trial.skip(Step.UNWRAP, "nothing was wrapped")
            trial.skip(Step.CONTEXT, "nothing was unwrapped")
            return
        trial.key_version = wrapped.key_version

        def unwrap(bound: Binding, wanted: tuple[type[KmsError], ...] = ()) -> Awaitable[Unwrapped]:
            stored = wrapped.key_version, wrapped.ciphertext
            return self._kms.unwrap(root, *stored, bound, wanted=wanted)

        unwrapped = await trial.step(Step.UNWRAP, lambda: unwrap(binding))
        if isinstance(unwrapped, Unwrapped) and unwrapped.plaintext != payload:
            trial.fail("the key does not unwrap to what it wrapped")
        if not isinstance(unwrapped, Unwrapped):
            trial.skip(Step.CONTEXT, "nothing was unwrapped")
        elif not scope.cluster:
            trial.skip(
                Step.CONTEXT,
                "not tried: the request names no cluster to which the payload could be bound",
            )
        else:
            other = replace(binding, cluster=_ANOTHER)
            await self._for_another(trial, other, lambda: unwrap(other, _REFUSALS))

    async def _for_another(
        self, trial: _Trial, other: Binding, unwrap: Callable[[], Awaitable[Unwrapped]]
    ) -> None:
        """Shows that the payload, which was wrapped for one cluster, opens for no other."""

        async def refused() -> str:
            try:
                opened = await unwrap()
            except _REFUSALS:
                return "the KMS itself refuses it for another cluster"
            try:
                wipe(other.open_payload(opened.plaintext))
            except KekMismatchError:
                return "Keyfold's own digest refuses it for another cluster"
            raise KeyInvalidError("what the key wrapped for one cluster opens for another")

        answer = await trial.step(Step.CONTEXT, refused)
        if isinstance(answer, str):
            trial.add_message(answer)


_REFUSALS: Final = (KekMismatchError, AccessDeniedError)
"""How a KMS refuses to open for another cluster."""


def _ending(result: TestKeyResult) -> Ending:
    """Returns what the log says of a trial: the step that makes the key useless, if one does."""
    failure = result.failure
    if failure is None:
        return DONE
    reason = "KEY_INVALID" if failure.error is None else failure.error.reason
    return Ending(reason, failure.message, failure.request_id)


_ANOTHER: Final = ".another"
"""A name that no cluster can have. What a trial wraps holds no key, so binding it is safe."""


class _Trial:
    """The steps of one trial while it runs."""

    def __init__(self, clock: Clock) -> None:
        self.steps: list[StepResult] = []
        self.key_version = ""
        self._clock = clock

    async def step(self, step: Step, work: Callable[[], Awaitable[object]]) -> object:
        """Carries out a step and records how it ended.

        A wrap that failed because the KMS did not open what it had wrapped is recorded as two
        steps, so that nobody mends the permission to wrap.

        Returns:
            What `work` returned; None if it failed, or if the provider has no such step.
        """
        began = self._clock.monotonic()
        try:
            answer = await work()
        except KmsError as error:
            took = self._clock.monotonic() - began
            request_id = error.provider_request_id or ""
            if step is Step.WRAP and error.while_unwrapping:
                self.steps.append(StepResult(step, Outcome.PASSED, _OPENED_AT_ONCE))
                step = Step.UNWRAP
            self.steps.append(
                StepResult(step, Outcome.FAILED, error.message, error, took, request_id)
            )
            return None
        if answer is None or answer is False:
            self.skip(step, "this provider has no such step")
            return None
        took = self._clock.monotonic() - began
        request_id = getattr(answer, "request_id", "")
        self.steps.append(StepResult(step, Outcome.PASSED, "", None, took, request_id))
        return answer

    def skip(self, step: Step, why: str) -> None:
        """Records that a step was not tried."""
        self.steps.append(StepResult(step, Outcome.SKIPPED, why))

    def add_message(self, message: str) -> None:
        """Adds to the last step what it found."""
        self.steps[-1] = replace(self.steps[-1], message=message)

    def fail(self, message: str) -> None:
        """Marks the last step as failed, because its answer was wrong."""
        self.steps[-1] = replace(self.steps[-1], outcome=Outcome.FAILED, message=message)
