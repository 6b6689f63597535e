"""The result of trying a root key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from keyfold.models.answer import Answer
from keyfold.models.specs import KeySpec
from keyfold.models.status import enum_name
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class KeyTestStep(Answer):
    """One step of `test_key`.

    Attributes:
        step: `AUTHENTICATE`, `DESCRIBE`, `WRAP`, `UNWRAP` or `CONTEXT`. The last one checks that
            a key wrapped for one cluster cannot be unwrapped for another.
        outcome: `PASSED`, `FAILED` or `SKIPPED`.
        reason: A stable word such as `ACCESS_DENIED`; empty if the step passed.
        message: One line for people.
        missing_permission: The permission that Keyfold lacks, if the provider names it.
        latency: The time that the step took.
        request_id: The provider's own id of the call, if it gave one.
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
        """Reads the protobuf message; an enum value newer than this client shows as its number."""
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
class ReplicaTest(Answer):
    """The test of a key's replica in one region of a geo.

    Attributes:
        region: The region's name.
        key_spec: The replica, or the key itself in its own region.
        accessible: Whether Keyfold can use the replica.
        reason: The reason of the first step that failed; empty if Keyfold can use it.
        summary: The outcome and what to do about it, in one sentence for people.
        steps: All steps, in their order.
    """

    region: str
    key_spec: KeySpec
    accessible: bool
    reason: str
    summary: str
    steps: tuple[KeyTestStep, ...]

    @classmethod
    def from_message(cls, message: api.TestKeyReplica) -> ReplicaTest:
        """Reads the protobuf message."""
        return cls(
            message.region,
            KeySpec.from_message(message.key_spec),
            message.accessible,
            message.reason,
            message.summary,
            tuple(map(KeyTestStep.from_message, message.steps)),
        )


@dataclass(frozen=True, slots=True)
class KeyTest(Answer):
    """The result of `test_key`.

    Attributes:
        accessible: Whether Keyfold can use the key: it wraps and unwraps. For a geo, whether it
            can in each of its regions.
        steps: All steps, in their order. For a geo, those of the key itself.
        key_version: The key version that wrapped, in the provider's own form.
        summary: The outcome of all steps, in one sentence for people.
        key_region: The provider's own name of the key's region; empty if the uri does not tell.
        notices: Facts that an operator should know and that no step reports, one line each.
        replicas: For a geo, the tests in each of its regions, sorted by name.
    """

    accessible: bool
    steps: tuple[KeyTestStep, ...]
    key_version: str
    summary: str
    key_region: str
    notices: tuple[str, ...]
    replicas: tuple[ReplicaTest, ...] = ()

    @classmethod
    def from_message(cls, message: api.TestKeyResponse) -> KeyTest:
        """Reads the protobuf message."""
        steps = tuple(map(KeyTestStep.from_message, message.steps))
        return cls(
            message.accessible,
            steps,
            message.key_version,
            message.summary,
            message.key_region,
            tuple(message.notices),
            tuple(map(ReplicaTest.from_message, message.replicas)),
        )
