"""Trials: trying a key step by step, as TestKey does, and storing nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keyfold_server.domain.binding import KEY_SIZE, Binding, wipe
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    KekMismatchError,
    KeyfoldError,
    KeyInvalidError,
    KmsError,
)
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped
from keyfold_server.domain.residency import ResidencyReport
from keyfold_server.domain.rights import Rights
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.resolution import Resolution
from keyfold_server.service.life.scope import Scope, Scopes

_RPC: Final = "TestKey"


class Step(Enum):
    """The steps, in their order."""

    AUTHENTICATE = "authenticate"
    DESCRIBE = "describe"
    WRAP = "wrap"
    UNWRAP = "unwrap"
    CONTEXT = "context"


_VERBS: Final = {
    Step.AUTHENTICATE: "it was not let in",
    Step.DESCRIBE: "the key cannot be described",
    Step.WRAP: "the key does not wrap",
    Step.UNWRAP: "the key does not unwrap what it wrapped",
    Step.CONTEXT: "it is not shown that the key tells clusters apart",
}


_BESIDES: Final = {
    Step.AUTHENTICATE: "show its credential to be good without it",
    Step.DESCRIBE: "describe it",
}
"""What a key can be used without."""


class Outcome(Enum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class StepResult:
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
class TestKeyResult:
    """All steps of one trial.

    Attributes:
        steps: In their order.
        key_version: The version that wrapped, empty where none did.
        place: Where the key is, and what is to be said of that.
    """

    steps: tuple[StepResult, ...]
    key_version: str
    place: ResidencyReport

    @property
    def accessible(self) -> bool:
        """Whether the key can be used: it wraps and unwraps, for nobody else.

        Describing it is not needed, nor a step that its provider does not have.
        """
        ended = {tried.step: tried.outcome for tried in self.steps}
        return (
            ended[Step.WRAP] is ended[Step.UNWRAP] is Outcome.PASSED
            and ended[Step.CONTEXT] is not Outcome.FAILED
        )

    @property
    def summary(self) -> str:
        """What came out, and what to do about it, in one sentence for a person."""
        failed = [tried for tried in self.steps if tried.outcome is Outcome.FAILED]
        if not self.accessible:
            # What does not decide, such as describing, is not why.
            first = next((t for t in failed if t.step is not Step.DESCRIBE), failed[0])
            return f"Keyfold cannot use this key, since {_why(first)}: {_advised(first)}"
        if self.place.refused:
            return f"Keyfold can use this key, but not for this region: {self.place.refused}"
        if failed:
            besides = " and ".join(_BESIDES[tried.step] for tried in failed)
            why = "; ".join(tried.message for tried in failed)
            return f"Keyfold can use this key, but not {besides}; {why}"
        return "Keyfold can use this key: it wraps, and unwraps what it wrapped"


@dataclass(frozen=True, slots=True)
class TestKeyRequest:
    """The request of TestKey.

    Attributes:
        key_spec: The key to try.
        scope: For whom the trial is authorized and bound; without a cluster it binds nothing. A
            PLATFORM key needs a region.
    """

    key_spec: KeySpec
    scope: Scope


class Trials:
    """Tries keys."""

    def __init__(
        self,
        kms: KmsClient,
        scopes: Scopes,
        resolution: Resolution,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Takes the key services, what decides and resolves, time, and trial payloads' source."""
        self._kms = kms
        self._scopes = scopes
        self._resolution = resolution
        self._clock = clock
        self._random = random

    async def test(self, rights: Rights, wanted: TestKeyRequest) -> TestKeyResult:
        """Tries a key; what does not work is an answer.

        Args:
            rights: What the caller may do.
            wanted: The key, and for whom it is tried.

        Raises:
            ClusterNotFoundError: The caller may not see the cluster.
            ForbiddenError: The caller may not try this key there.
            InvalidInputError: The key spec cannot be right as it stands.
            ExternalIdNotIssuedError: An AWS role of nobody to whom an external id was issued.
        """
        # A scope that is there has an organization of its own, to which its keys are bound.
        scope = await self._scopes.allowed(_RPC, rights, wanted.scope)
        root = await self._resolution.granted(
            rights, wanted.key_spec, scope.cluster or None, scope.organization, scope.region
        )
        trial = _Trial(self._clock)
        await trial.step(Step.AUTHENTICATE, lambda: self._kms.authenticate(root))
        described = await trial.step(Step.DESCRIBE, lambda: self._kms.describe(root))
        if isinstance(described, KeyDescription):
            trial.told(described.detail)
        await self._use(trial, root, scope)
        place = await self._resolution.place(root, scope.region)
        return TestKeyResult(tuple(trial.steps), trial.key_version, place)

    async def _use(self, trial: _Trial, root: RootKey, scope: Scope) -> None:
        """Wraps, and unwraps: with what is bound to it, and with what is not."""
        binding = Binding(scope.cluster, scope.region, self._random(16), scope.organization)
        payload = bytes(binding.payload(self._random(KEY_SIZE)))
        wrapped = await trial.step(Step.WRAP, lambda: self._kms.wrap(root, payload, binding))
        if not isinstance(wrapped, Wrapped):
            trial.skipped(Step.UNWRAP, "nothing was wrapped")
            trial.skipped(Step.CONTEXT, "nothing was wrapped")
            return
        trial.key_version = wrapped.key_version

        def unwrap(bound: Binding) -> Awaitable[Unwrapped]:
            return self._kms.unwrap(root, wrapped.key_version, wrapped.ciphertext, bound)

        unwrapped = await trial.step(Step.UNWRAP, lambda: unwrap(binding))
        if isinstance(unwrapped, Unwrapped) and unwrapped.plaintext != payload:
            trial.failed("the key does not unwrap to what it wrapped")
        if not isinstance(unwrapped, Unwrapped):
            trial.skipped(Step.CONTEXT, "nothing was unwrapped")
        elif not scope.cluster:
            trial.skipped(Step.CONTEXT, "not tried: no cluster is named to which it could be bound")
        else:
            await self._elsewhere(trial, replace(binding, cluster=_ANOTHER), unwrap)

    async def _elsewhere(
        self, trial: _Trial, other: Binding, unwrap: Callable[[Binding], Awaitable[Unwrapped]]
    ) -> None:
        """Shows that what was wrapped for a cluster opens for no other."""

        async def refused() -> str:
            try:
                opened = await unwrap(other)
            except (KekMismatchError, AccessDeniedError):
                return "the key service itself refuses it for another cluster"
            try:
                wipe(other.open_payload(opened.plaintext))
            except KekMismatchError:
                return "Keyfold's own digest refuses it for another cluster"
            raise KeyInvalidError("what the key wrapped for one cluster opens for another")

        answer = await trial.step(Step.CONTEXT, refused)
        if isinstance(answer, str):
            trial.told(answer)


_ANOTHER: Final = ".another"
"""What no cluster can be called; what a trial wraps holds no key."""


class _Trial:
    """The steps of one trial, as they are tried."""

    def __init__(self, clock: Clock) -> None:
        self.steps: list[StepResult] = []
        self.key_version = ""
        self._clock = clock

    async def step(self, step: Step, work: Callable[[], Awaitable[object]]) -> object:
        """Carries out a step and notes how it ended; returns its answer, or None."""
        began = self._clock.monotonic()
        try:
            answer = await work()
        except KmsError as error:
            took = self._clock.monotonic() - began
            told = error.provider_request_id or ""
            self.steps.append(StepResult(step, Outcome.FAILED, error.message, error, took, told))
            return None
        if answer is None or answer is False:
            self.skipped(step, "this provider has no such step")
            return None
        took = self._clock.monotonic() - began
        request_id = getattr(answer, "request_id", "")
        self.steps.append(StepResult(step, Outcome.PASSED, "", None, took, request_id))
        return answer

    def skipped(self, step: Step, why: str) -> None:
        """Notes a step that was not tried."""
        self.steps.append(StepResult(step, Outcome.SKIPPED, why))

    def told(self, message: str) -> None:
        """Adds to the last step what it found."""
        self.steps[-1] = replace(self.steps[-1], message=message)

    def failed(self, message: str) -> None:
        """Says of the last step that its answer was wrong."""
        self.steps[-1] = replace(self.steps[-1], outcome=Outcome.FAILED, message=message)


def _why(failed: StepResult) -> str:
    """Returns what a step that failed shows; an outage shows nothing about a credential or key."""
    if isinstance(failed.error, CredentialsFailedError):
        return "its credential was not accepted"
    if isinstance(failed.error, CouldNotTellError):
        return "its key service gave no answer that counts"
    return _VERBS[failed.step]


def _advised(failed: StepResult) -> str:
    """Returns a step's message with what to do: its own advice, or else the reason's remedy."""
    if failed.error is None or ";" in failed.message:
        return failed.message
    remedy = failed.error.remedy
    return f"{failed.message}; {remedy[:1].lower()}{remedy[1:].removesuffix('.')}"
