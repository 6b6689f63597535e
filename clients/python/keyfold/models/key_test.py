"""What a trial of a root key told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from keyfold.models.status import enum_name
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class KeyTestStep:
    """One step of `test_key`.

    Attributes:
        step: `AUTHENTICATE`, `DESCRIBE`, `WRAP`, `UNWRAP`, or `CONTEXT`: what was wrapped for
            one cluster does not open for another.
        outcome: `PASSED`, `FAILED` or `SKIPPED`.
        reason: A stable word, empty where the step passed.
        message: One line for people.
        missing_permission: The permission that is missing, where the provider names it.
        latency: How long it took.
        request_id: The provider's own id of the call, where it gave one.
    """

    step: str
    outcome: str
    reason: str
    message: str
    missing_permission: str
    latency: timedelta
    request_id: str

    @classmethod
    def from_message(cls, message: api.TestKeyStep) -> KeyTestStep:
        """Reads the contract's form; what is newer than this client shows as its number."""
        return cls(
            enum_name(api.TestStep.DESCRIPTOR, message.step, "TEST_STEP_"),
            enum_name(api.TestOutcome.DESCRIPTOR, message.outcome, "TEST_OUTCOME_"),
            message.reason,
            message.message,
            message.missing_permission,
            message.latency.ToTimedelta(),
            message.request_id,
        )


@dataclass(frozen=True, slots=True)
class KeyTest:
    """Answer of `test_key`.

    Attributes:
        accessible: The key can be used: it wraps and unwraps.
        steps: All steps, in their order.
        key_version: The version that wrapped, as the provider writes it.
        summary: What the steps come to, in one sentence for people.
        key_region: The provider's own name of the region in which the key is, where its uri
            tells; empty otherwise.
        notices: What an operator should know and no step says, one line each.
    """

    accessible: bool
    steps: tuple[KeyTestStep, ...]
    key_version: str
    summary: str
    key_region: str
    notices: tuple[str, ...]

    @classmethod
    def from_message(cls, message: api.TestKeyResponse) -> KeyTest:
        """Reads the contract's form."""
        steps = tuple(map(KeyTestStep.from_message, message.steps))
        return cls(
            message.accessible,
            steps,
            message.key_version,
            message.summary,
            message.key_region,
            tuple(message.notices),
        )
