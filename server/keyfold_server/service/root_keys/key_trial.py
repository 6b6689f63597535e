"""One trial of a root key: its steps, from the credential to what another cluster may not open."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from keyfold_server.domain.binding import KEY_SIZE, Binding, wipe
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KekMismatchError,
    KeyInvalidError,
    KmsError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.trial_results import Outcome, Step, StepResult

_OPENED_AT_ONCE: Final = (
    "the KMS wrapped; Keyfold opens at once what this KMS wraps, and the next step has the time of "
    "both"
)


class KeyTrial:
    """Tries root keys. It asks for no rights and records nothing; `trials` does both."""

    def __init__(
        self, kms: KmsClient, clock: Clock, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Takes what calls the KMS, what measures the steps, and the source of trial payloads."""
        self._kms = kms
        self._clock = clock
        self._random = random

    async def run(self, root: RootKey, binding: Binding) -> tuple[tuple[StepResult, ...], str]:
        """Tries a key.

        Args:
            root: The key.
            binding: What the trial is bound to. Without a cluster the last step is skipped.

        Returns:
            The steps, and the version of the key that wrapped.
        """
        trial, region = _Trial(self._clock), binding.region
        await trial.step(Step.AUTHENTICATE, lambda: self._kms.authenticate(root, region))
        described = await trial.step(Step.DESCRIBE, lambda: self._kms.describe(root, region))
        if isinstance(described, KeyDescription):
            trial.add_message(described.detail)
        await self._use(trial, root, binding)
        return tuple(trial.steps), trial.key_version

    async def _use(self, trial: _Trial, root: RootKey, binding: Binding) -> None:
        """Wraps a payload, then unwraps it with its own binding and with another cluster's."""
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
        elif not binding.cluster:
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
