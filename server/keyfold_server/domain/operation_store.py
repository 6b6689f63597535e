"""The part of the store's port for operations."""

from __future__ import annotations

from typing import Protocol

from keyfold_server.domain.operations import (
    Failure,
    Operation,
    OperationChange,
    OperationKey,
)


class OperationsStore(Protocol):
    """Where operations live. A row without a valid MAC raises RowNotAuthenticError."""

    def operation(self, key: OperationKey) -> Operation | None:
        """Reads an operation, or returns None."""
        ...

    def operations(self, after: OperationKey, limit: int) -> list[Operation]:
        """Reads up to `limit` operations whose full names follow `after`, in their order."""
        ...

    def open_operations(self, limit: int) -> list[Operation]:
        """Reads up to `limit` operations that have not ended, the oldest first."""
        ...

    def free_operations(self, limit: int) -> list[Operation]:
        """Reads up to `limit` operations that have not ended, and returns those without a lease."""
        ...

    def operation_failures(self, uid: bytes) -> list[Failure]:
        """Reads what an operation lists of its failures, in the order of its items."""
        ...

    def change_operation(self, change: OperationChange) -> Operation | None:
        """Carries out a change of an operation in one transaction.

        Returns:
            The operation after the change, or None if the change deleted it.

        Raises:
            ConcurrentChangeError: Another change came first every time.
            KeyfoldError: What the change itself raises.
        """
        ...
