"""The result of TestKey: how each step ended, and what that means for a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    KeyfoldError,
)
from keyfold_server.domain.residency import ResidencyReport


class Step(Enum):
    """The steps of a trial, in their order."""

    AUTHENTICATE = "authenticate"
    DESCRIBE = "describe"
    WRAP = "wrap"
    UNWRAP = "unwrap"
    CONTEXT = "context"


_REASONS: Final = {
    Step.AUTHENTICATE: "the KMS did not accept its credential",
    Step.DESCRIBE: "the key cannot be described",
    Step.WRAP: "the key does not wrap",
    Step.UNWRAP: "the key does not unwrap what it wrapped",
    Step.CONTEXT: "the trial did not show that the key tells clusters apart",
}

_DISPENSABLE: Final = {
    Step.AUTHENTICATE: "show its credential to be good without it",
    Step.DESCRIBE: "describe it",
}
"""Steps that a key can be used without, and what Keyfold then cannot do."""


class Outcome(Enum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step of a trial, and how it ended.

    Attributes:
        message: One line for people; may be empty.
        error: The KMS error that made the step fail, or None.
        latency: Seconds that the step took.
        request_id: The provider's id of the call; empty where it gave none.
    """

    step: Step
    outcome: Outcome
    message: str = ""
    error: KeyfoldError | None = None
    latency: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class TestKeyResult:
    """All steps of one trial, in their order.

    Attributes:
        key_version: The version of the key that wrapped; empty where wrapping failed.
        place: The key's place, with notices for the operator.
    """

    steps: tuple[StepResult, ...]
    key_version: str
    place: ResidencyReport

    @property
    def accessible(self) -> bool:
        """Whether Keyfold can use the key: it wraps and unwraps, and for no other cluster.

        Keyfold does not need to describe the key, nor a step that the provider does not have.
        """
        ended = {result.step: result.outcome for result in self.steps}
        return (
            ended[Step.WRAP] is ended[Step.UNWRAP] is Outcome.PASSED
            and ended[Step.CONTEXT] is not Outcome.FAILED
        )

    @property
    def failure(self) -> StepResult | None:
        """The failed step that says most about a key that Keyfold cannot use; None if it can."""
        if self.accessible:
            return None
        failed = [result for result in self.steps if result.outcome is Outcome.FAILED]
        return next((result for result in failed if result.error is not None), failed[0])

    @property
    def summary(self) -> str:
        """The outcome and what to do about it, in one sentence for a person."""
        failed = [result for result in self.steps if result.outcome is Outcome.FAILED]
        if not self.accessible:
            # Keyfold can do without describing, so that is not the reason.
            first = next((t for t in failed if t.step is not Step.DESCRIBE), failed[0])
            return f"Keyfold cannot use this key, since {_why(first)}: {_advised(first)}"
        if self.place.refused:
            return f"Keyfold can use this key, but not for this region: {self.place.refused}"
        if failed:
            without = " and ".join(_DISPENSABLE[result.step] for result in failed)
            why = "; ".join(result.message for result in failed)
            return f"Keyfold can use this key, but not {without}; {why}"
        return "Keyfold can use this key: it wraps, and unwraps what it wrapped"


def _why(failed: StepResult) -> str:
    """Returns what a failed step shows; an outage shows nothing about a credential or a key."""
    if isinstance(failed.error, CredentialsFailedError):
        return "the KMS did not accept its credential"
    if failed.step is Step.AUTHENTICATE and isinstance(failed.error, AccessDeniedError):
        # Keyfold's credential is good, and the customer has not let it act as the principal.
        return "the KMS does not let Keyfold act as the key's principal"
    if isinstance(failed.error, CouldNotTellError):
        return "its KMS gave no answer that counts"
    return _REASONS[failed.step]


def _advised(failed: StepResult) -> str:
    """Returns a failed step's message with advice: its own, or else the remedy of its reason."""
    if failed.error is None or ";" in failed.message:
        return failed.message
    remedy = failed.error.remedy
    return f"{failed.message}; {remedy[:1].lower()}{remedy[1:].removesuffix('.')}"
