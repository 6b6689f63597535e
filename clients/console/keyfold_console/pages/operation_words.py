"""An operation in words: what it does, where, how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from google.longrunning import operations_proto_pb2 as longrunning

from keyfold.models.operations import Operation, OperationState
from keyfold.v1 import operations_pb2 as ops
from keyfold_console import words

_SHOWN: Final = 3
"""Clusters of a scope that a line names."""

_RUNNING: Final = {
    OperationState.PENDING: words.Said("Waiting", "quiet", "No server works on it yet."),
    OperationState.RUNNING: words.Said("Running", "good", "A server works on it."),
    OperationState.CANCELLING: words.Said("Cancelling", "warn", "The regions under way end first."),
}

_CONFIRMED: Final = words.Said("Confirmed", "good", "Every server has confirmed.")

_UNCONFIRMED: Final = words.Said("Waiting", "warn", "Not every server has confirmed yet.")

_NEWER: Final = words.Said("Newer than this console", "quiet", "Upgrade the console to read it.")


@dataclass(frozen=True, slots=True)
class Shown:
    """An operation as a page shows it.

    Attributes:
        operation: The operation.
        told: Its metadata, with what the client's model leaves out.
    """

    operation: Operation
    told: ops.OperationMetadata

    @classmethod
    def of(cls, message: longrunning.Operation) -> Shown:
        """Reads the protobuf message."""
        told = ops.OperationMetadata()
        message.metadata.Unpack(told)
        return cls(Operation.from_message(message), told)

    @property
    def path(self) -> str:
        """The path of its page: its full name is one."""
        return f"/{self.operation.name}"

    @property
    def name(self) -> str:
        """The name that its caller gave it."""
        return self.told.operation or self.operation.name.rsplit("/", 1)[-1]

    @property
    def what(self) -> str:
        """What it does."""
        if self.operation.confirmations is not None:
            return f"Confirmations of {self.operation.confirmations.action.rsplit(':', 1)[-1]}"
        return what(self.told.action)

    @property
    def where(self) -> str:
        """Where it does it."""
        if self.operation.confirmations is not None:
            return f"cluster {self.operation.confirmations.cluster}"
        return where(self.told.scope)

    @property
    def condition(self) -> words.Said:
        """How it goes, or how it ended."""
        operation = self.operation
        if operation.confirmations is not None:
            return _CONFIRMED if operation.ended else _UNCONFIRMED
        if operation.state is not OperationState.DONE:
            return _RUNNING.get(operation.state, _NEWER)
        if operation.error:
            return words.Said("Stopped", "bad", operation.error)
        if operation.failed:
            return words.Said("Done, with failures", "bad", "It stepped over what failed.")
        return words.Said("Done", "good", "It has ended, and all went well.")

    @property
    def left(self) -> str:
        """How long the rest takes at the pace so far; empty: nobody knows."""
        operation = self.operation
        if operation.state is not OperationState.RUNNING or operation.create_time is None:
            return ""
        if not (operation.processed and operation.total):
            return ""
        spent = datetime.now(UTC) - operation.create_time
        rest = max(0, operation.total - operation.processed)
        return words.duration(spent * (rest / operation.processed))


def what(action: ops.OperationAction) -> str:
    """Returns what an operation does, in words."""
    match action.WhichOneof("action"):
        case "rotate":
            spec = action.rotate.key_spec
            to = f" to {spec.type} {spec.uri}" if action.rotate.HasField("key_spec") else ""
            new = ", with a new generation" if action.rotate.new_generation else ""
            return f"Rotate{to}{new}"
        case "test":
            return "Test"
        case "recheck":
            return "Recheck"
        case "policy":
            return "Set the policy"
        case "move_link":
            return f"Move the link to {action.move_link.key_spec.uri}"
    return "Something newer than this console"


def where(scope: ops.OperationScope) -> str:
    """Returns on which regions an operation works, in words."""
    match scope.WhichOneof("scope"):
        case "organization":
            return f"organization {scope.organization}"
        case "key_link":
            return f"link {scope.key_link.key_link} of {scope.key_link.organization}"
        case "root_key":
            version = f", version {scope.root_key.version}" if scope.root_key.version else ""
            return f"key {scope.root_key.uri}{version}"
        case "principal":
            return f"principal {scope.principal.auth_principal or 'ambient'}"
        case "clusters":
            names = scope.clusters.clusters
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            word = "cluster" if len(names) == 1 else "clusters"
            return f"{word} {', '.join(names[:_SHOWN])}{more}"
    return "something newer than this console"
