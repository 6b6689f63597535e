"""Operations: work on many regions that takes long."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from google.longrunning import operations_proto_pb2 as longrunning

from keyfold.arguments import checked
from keyfold.models.answer import Answer
from keyfold.models.specs import KeySpec, RegionPolicy
from keyfold.models.status import PendingReplica, enum_name, time_of
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import operations_pb2 as ops


class OperationState(StrEnum):
    """The state of an operation. `UNSPECIFIED` stands for a state newer than this client."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    DONE = "DONE"

    @classmethod
    def from_message(cls, number: int) -> OperationState:
        """Reads the protobuf message's number."""
        name = enum_name(ops.OperationState.DESCRIPTOR, number, "OPERATION_STATE_")
        return cls(name) if name in cls.__members__ else cls.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class OperationAction:
    """What an operation does to each of its regions; make one with a class method."""

    message: ops.OperationAction

    @classmethod
    @checked
    def rotate(
        cls, key_spec: KeySpec | None = None, *, new_generation: bool = False
    ) -> OperationAction:
        """Rotates: to the newest version of each region's key, or to another key."""
        spec = None if key_spec is None else key_spec.to_message()
        rotate = ops.RotateAction(key_spec=spec, new_generation=new_generation)
        return cls(ops.OperationAction(rotate=rotate))

    @classmethod
    def test(cls) -> OperationAction:
        """Tries each region's key step by step, as `test_key` does."""
        return cls(ops.OperationAction(test=ops.TestAction()))

    @classmethod
    def recheck(cls) -> OperationAction:
        """Proves each region's key now, as `recheck` does."""
        return cls(ops.OperationAction(recheck=ops.RecheckAction()))

    @classmethod
    @checked
    def set_policy(cls, policy: RegionPolicy) -> OperationAction:
        """Gives each region another policy, as a whole."""
        return cls(ops.OperationAction(policy=ops.PolicyAction(policy=policy.to_message())))

    @classmethod
    @checked
    def move_link(cls, key_spec: KeySpec) -> OperationAction:
        """Gives a key link, which is the scope, another key, and rotates what uses it.

        With the key that the link has, it goes on where an operation before it failed.
        """
        move = ops.MoveLinkAction(key_spec=key_spec.to_message())
        return cls(ops.OperationAction(move_link=move))


@dataclass(frozen=True, slots=True)
class OperationScope:
    """The regions on which an operation works; make one with a class method."""

    message: ops.OperationScope

    @classmethod
    @checked
    def organization(cls, organization: str) -> OperationScope:
        """Takes the regions of an organization's clusters."""
        return cls(ops.OperationScope(organization=organization))

    @classmethod
    @checked
    def key_link(cls, organization: str, key_link: str) -> OperationScope:
        """Takes the regions that use a key link."""
        link = ops.KeyLinkScope(organization=organization, key_link=key_link)
        return cls(ops.OperationScope(key_link=link))

    @classmethod
    @checked
    def root_key(cls, uri: str, version: str = "") -> OperationScope:
        """Takes the regions under a root key, or those that have a KEK under one version of it."""
        return cls(ops.OperationScope(root_key=ops.RootKeyScope(uri=uri, version=version)))

    @classmethod
    @checked
    def principal(cls, auth_principal: str) -> OperationScope:
        """Takes the regions whose key is called as a principal; empty: the server's own."""
        principal = ops.PrincipalScope(auth_principal=auth_principal)
        return cls(ops.OperationScope(principal=principal))

    @classmethod
    @checked
    def clusters(cls, clusters: Iterable[str]) -> OperationScope:
        """Takes the regions of some clusters, at most 1,000."""
        return cls(ops.OperationScope(clusters=ops.ClustersScope(clusters=clusters)))


@dataclass(frozen=True, slots=True)
class OperationCensus(Answer):
    """What an operation has before it.

    Attributes:
        regions: The number of its regions.
        keys: The number of root keys, with their versions, that these use now.
        expected_kms_calls: The number of calls to KMSs if all go well.
        expected_duration: The time of these calls at the rates that the server allows operations.
        pinned_regions: The number of regions that fail with KEY_VERSION_PINNED as they are now: the
            uri of the key names one version, while the region's policy has `auto_rotate`, or the
            operation gives no key to rotate to.
    """

    regions: int
    keys: int
    expected_kms_calls: int
    expected_duration: timedelta
    pinned_regions: int

    @classmethod
    def from_message(cls, message: ops.OperationCensus) -> OperationCensus:
        """Reads the protobuf message."""
        return cls(
            message.regions,
            message.keys,
            message.expected_kms_calls,
            message.expected_duration.ToTimedelta(),
            message.pinned_regions,
        )


@dataclass(frozen=True, slots=True)
class OperationFailure(Answer):
    """A region on which an operation failed, and that it stepped over.

    Attributes:
        cluster: The cluster's name.
        region: The region's name; empty if the whole cluster could not be read.
        reason: The stable reason.
        message: One line for people.
        time: The time at which the store learned of it.
    """

    cluster: str
    region: str
    reason: str
    message: str
    time: datetime | None

    @classmethod
    def from_message(cls, message: ops.OperationFailure) -> OperationFailure:
        """Reads the protobuf message."""
        return cls(
            message.cluster, message.region, message.reason, message.message, time_of(message.time)
        )


@dataclass(frozen=True, slots=True)
class DecisionConfirmations(Answer):
    """Which replicas have confirmed a decision about a cluster, such as its revocation.

    Attributes:
        action: What made the decision, such as `rpc:cluster:revoke`.
        cluster: The cluster's name.
        regions: The regions that it concerns and that the caller may see.
        confirmed: The replicas that have dropped the keys from memory.
        pending: The replicas that have not confirmed yet, and when each stops by itself.
    """

    action: str
    cluster: str
    regions: tuple[str, ...]
    confirmed: tuple[str, ...]
    pending: tuple[PendingReplica, ...]

    @classmethod
    def from_message(cls, message: ops.DecisionConfirmations) -> DecisionConfirmations:
        """Reads the protobuf message."""
        return cls(
            message.action,
            message.cluster,
            tuple(message.regions),
            tuple(message.confirmed),
            tuple(map(PendingReplica.from_message, message.pending)),
        )


@dataclass(frozen=True, slots=True)
class Operation(Answer):
    """An operation.

    Attributes:
        name: Its full name, which is the same for every caller.
        action: What it does: `rotate`, `test`, `recheck`, `policy` or `move_link`; empty if it only
            shows which replicas have confirmed a decision.
        state: Its state.
        total: The number of its regions; 0 until the server has counted them.
        done: The number of regions that it has carried out.
        failed: The number of regions that it has failed on.
        skipped: The number of regions that needed nothing, or were gone.
        census: What it had before it at its start; None until the server has counted that.
        failures: The first failures, at most 1,000. A list of operations leaves them out.
        caller: The caller that started it.
        reason: The reason that this caller gave.
        create_time: The time at which it was started.
        update_time: The time at which it last came further.
        end_time: The time at which it ended; None if it has not.
        error: Why it ended before its end, such as because somebody cancelled it; empty if not.
        confirmations: Which replicas have confirmed a decision, if `revoke` or `retire_generation`
            returned the operation's name; None for any other. `total` and `done` then count
            replicas.
        notice: What keeps it from going on, one line for people; empty if nothing is known to. A
            list of operations leaves it out.
    """

    name: str
    action: str
    state: OperationState
    total: int
    done: int
    failed: int
    skipped: int
    census: OperationCensus | None
    failures: tuple[OperationFailure, ...]
    caller: str
    reason: str
    create_time: datetime | None
    update_time: datetime | None
    end_time: datetime | None
    error: str = ""
    confirmations: DecisionConfirmations | None = None
    notice: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state is OperationState.DONE

    @property
    def processed(self) -> int:
        """The number of regions that it has carried out, failed on or skipped."""
        return self.done + self.failed + self.skipped

    @classmethod
    def from_message(cls, message: longrunning.Operation) -> Operation:
        """Reads the protobuf message."""
        told = ops.OperationMetadata()
        message.metadata.Unpack(told)
        return cls.from_metadata(message.name, told, message.error.message)

    @classmethod
    def from_metadata(cls, name: str, told: ops.OperationMetadata, error: str = "") -> Operation:
        """Reads the metadata of an operation."""
        confirmations = None
        if told.HasField("confirmations"):
            confirmations = DecisionConfirmations.from_message(told.confirmations)
        return cls(
            name=name,
            action=told.action.WhichOneof("action") or "",
            state=OperationState.from_message(told.state),
            total=told.total,
            done=told.done,
            failed=told.failed,
            skipped=told.skipped,
            census=OperationCensus.from_message(told.census) if told.HasField("census") else None,
            failures=tuple(map(OperationFailure.from_message, told.failures)),
            caller=told.caller,
            reason=told.reason,
            create_time=time_of(told.create_time),
            update_time=time_of(told.update_time),
            end_time=time_of(told.end_time),
            error=error,
            confirmations=confirmations,
            notice=told.notice,
        )


@dataclass(frozen=True, slots=True)
class OperationStarted(Answer):
    """The result of `start_operation`.

    Attributes:
        operation: The operation; None after a dry run.
        census: What the operation has before it; None if the server has not counted that yet.
        replayed: Whether the caller had started it before.
    """

    operation: Operation | None
    census: OperationCensus | None
    replayed: bool

    @classmethod
    def from_message(cls, message: api.StartOperationResponse) -> OperationStarted:
        """Reads the protobuf message."""
        return cls(
            Operation.from_metadata(message.name, message.metadata) if message.name else None,
            OperationCensus.from_message(message.census) if message.HasField("census") else None,
            message.replayed,
        )
