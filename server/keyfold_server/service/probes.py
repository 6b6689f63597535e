"""Probes: trying a key step by step, as TestKey does, and storing nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.errors import KeyfoldError, KmsError
from keyfold_server.domain.keyspec import KeySpec, check_name
from keyfold_server.domain.ports import Clock, KeyDescription, Unwrapped, Wrapped
from keyfold_server.domain.rights import Rights
from keyfold_server.service.kms import Kms


class Step(Enum):
    """The steps, in their order."""

    AUTHENTICATE = "authenticate"
    DESCRIBE = "describe"
    WRAP = "wrap"
    UNWRAP = "unwrap"


class Outcome(Enum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Tried:
    """One step.

    Attributes:
        step: Which.
        outcome: How it ended.
        message: One line for people.
        error: What went wrong, or None.
        latency: Seconds that it took.
        request_id: The provider's id of the call, empty where it gave none.
    """

    step: Step
    outcome: Outcome
    message: str = ""
    error: KeyfoldError | None = None
    latency: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """All steps of one trial.

    Attributes:
        steps: In their order.
        key_version: The version that wrapped, empty where none did.
    """

    steps: tuple[Tried, ...]
    key_version: str

    @property
    def accessible(self) -> bool:
        """Whether the key can be used: it wraps and unwraps. Describing it is not needed."""
        good = {tried.step for tried in self.steps if tried.outcome is Outcome.PASSED}
        return {Step.WRAP, Step.UNWRAP} <= good


@dataclass(frozen=True, slots=True)
class Trying:
    """The request of TestKey.

    Attributes:
        key_spec: The key to try.
        cluster: For which cluster the trial is bound, empty for none.
        region: For which region; a PLATFORM key needs one.
        organization: For which organization, or None.
    """

    key_spec: KeySpec
    cluster: str
    region: str
    organization: str | None


class Probes:
    """Tries keys."""

    def __init__(self, kms: Kms, clock: Clock, random: Callable[[int], bytes] = os.urandom) -> None:
        """Takes the key services, time, and the source of trial payloads."""
        self._kms = kms
        self._clock = clock
        self._random = random

    async def test(self, rights: Rights, wanted: Trying) -> Trial:
        """Tries a key; what does not work is an answer.

        Args:
            rights: What the caller may do.
            wanted: The key, and for whom it is tried.

        Raises:
            ClusterNotFoundError: The caller may not see the cluster.
            ForbiddenError: The caller may not try this key there.
            InvalidInputError: The key spec cannot be right as it stands.
        """
        for name, field in (
            (wanted.cluster, "cluster"),
            (wanted.region, "region"),
            (wanted.organization or "", "organization"),
        ):
            if name:
                check_name(name, field)
        regions = (wanted.region,) if wanted.region else ()
        if wanted.cluster:
            rights.check_named("TestKey", wanted.cluster, regions)
            rights.check_cluster("TestKey", wanted.cluster, wanted.organization, regions)
        root = await self._kms.granted(
            rights, wanted.key_spec, wanted.cluster or None, wanted.organization, wanted.region
        )
        binding = Binding(wanted.cluster, wanted.region, self._random(16), wanted.organization)
        payload = bytes(binding.payload(self._random(KEY_SIZE)))
        no_context = "" if wanted.cluster else "context: not tried"
        steps: list[Tried] = []

        authenticated = await self._step(
            steps, Step.AUTHENTICATE, lambda: self._kms.authenticate(root)
        )
        if authenticated is False:
            steps[-1] = Tried(Step.AUTHENTICATE, Outcome.SKIPPED, "this provider has no such step")
        described = await self._step(steps, Step.DESCRIBE, lambda: self._kms.describe(root))
        if isinstance(described, KeyDescription):
            steps[-1] = _with_message(steps[-1], described.detail)
        elif steps[-1].error is None:
            steps[-1] = Tried(Step.DESCRIBE, Outcome.SKIPPED, "this provider has no such step")
        wrapped = await self._step(
            steps, Step.WRAP, lambda: self._kms.wrap(root, payload, binding), no_context
        )
        if not isinstance(wrapped, Wrapped):
            steps.append(Tried(Step.UNWRAP, Outcome.SKIPPED, "nothing was wrapped"))
            return Trial(tuple(steps), "")
        unwrapped = await self._step(
            steps,
            Step.UNWRAP,
            lambda: self._kms.unwrap(root, wrapped.key_version, wrapped.ciphertext, binding),
        )
        if isinstance(unwrapped, Unwrapped) and unwrapped.plaintext != payload:
            steps[-1] = Tried(
                Step.UNWRAP, Outcome.FAILED, "the key does not unwrap to what it wrapped"
            )
        return Trial(tuple(steps), wrapped.key_version)

    async def _step(
        self,
        steps: list[Tried],
        step: Step,
        work: Callable[[], Awaitable[object]],
        message: str = "",
    ) -> object:
        """Carries out a step and notes how it ended; returns its answer, or None."""
        began = self._clock.monotonic()
        try:
            answer = await work()
        except KmsError as error:
            steps.append(
                Tried(
                    step,
                    Outcome.FAILED,
                    error.message,
                    error,
                    self._clock.monotonic() - began,
                    error.provider_request_id or "",
                )
            )
            return None
        latency = self._clock.monotonic() - began
        request_id = getattr(answer, "request_id", "")
        steps.append(Tried(step, Outcome.PASSED, message, None, latency, request_id))
        return answer


def _with_message(tried: Tried, message: str) -> Tried:
    return Tried(tried.step, tried.outcome, message, None, tried.latency, tried.request_id)
