# Generated from aio/operations.py by `make client`; never edited.

"""Operations: work on many regions that takes long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from keyfold.calls import operations as calls
from keyfold.calls.call import next_page
from keyfold.calls.operations import OperationPage
from keyfold.client.connection import Connection
from keyfold.models.operations import (
    Operation,
    OperationAction,
    OperationScope,
    OperationStarted,
)


class Operations(Connection):
    """The calls about operations. A short name means an operation that the caller started."""

    def start_operation(
        self,
        name: str,
        action: OperationAction,
        scope: OperationScope,
        *,
        dry_run: bool = False,
        max_concurrency: int = 0,
        reason: str = "",
        timeout: float | None = None,
    ) -> OperationStarted:
        """Starts an operation, which goes on when the call has ended.

        Each caller has names of its own. The same name with the same work returns the operation as
        it is; with other work it raises `OperationExistsError`. `dry_run` only counts what the
        operation would have before it. At most `max_concurrency` regions are under way at once, 1
        to 64; 0 means 16.

        Raises:
            OperationExistsError: The caller has an operation of this name with other work.
            InvalidOperationError: The name, the action or the scope cannot be right.
            TooManyOperationsError: Too many operations are under way.

        Example:
            >>> prod = keyfold.OperationScope.clusters(["prod"])
            >>> rotate = keyfold.OperationAction.rotate()
            >>> planned = client.start_operation("spring", rotate, prod, dry_run=True)
            >>> planned.census.regions
            2
            >>> _ = client.start_operation("spring", rotate, prod)
            >>> operation = client.wait_operation("spring")
            >>> (operation.done, operation.failed)
            (2, 0)
        """
        call = calls.start_operation(
            name,
            action,
            scope,
            dry_run=dry_run,
            max_concurrency=max_concurrency,
            reason=reason,
        )
        return self._ask(call, timeout)

    def get_operation(self, name: str, *, timeout: float | None = None) -> Operation:
        """Returns an operation, with the first of its failures.

        Raises:
            OperationNotFoundError: There is no such operation, or the caller may not see it.
        """
        return self._ask(calls.get_operation(name), timeout)

    def list_operations(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> Iterator[Operation]:
        """Yields the operations that the caller may see, and fetches one page after another.

        `page_size` is 1 to 1,000, or 0 for the server's choice; `timeout` is the deadline of each
        page.

        Raises:
            InvalidPageError: The page size is below zero.
        """
        page: OperationPage | None = calls.first_operations(page_size)
        while page is not None:
            response = self.send(page, timeout=timeout)
            for operation in page.result(response):
                yield operation
            page = next_page(page, response)

    def wait_operation(
        self, name: str, *, most: timedelta | None = None, timeout: float | None = None
    ) -> Operation:
        """Returns an operation once it has ended, or as it is when the time is up.

        It waits for `most`, or until shortly before the call's deadline.

        Raises:
            OperationNotFoundError: There is no such operation, or the caller may not see it.
        """
        return self._ask(calls.wait_operation(name, most), timeout)

    def cancel_operation(self, name: str, *, timeout: float | None = None) -> None:
        """Cancels an operation, which ends once the regions under way have ended.

        What it has done stays. Of one that has ended it raises `OperationEndedError`.

        Raises:
            OperationNotFoundError: There is no such operation, or the caller may not see it.
            OperationEndedError: It has ended.
        """
        self._ask(calls.cancel_operation(name), timeout)

    def delete_operation(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes an operation that has ended; its entries in the log stay.

        Raises:
            OperationNotFoundError: There is no such operation, or the caller may not see it.
            OperationRunningError: It has not ended.
        """
        self._ask(calls.delete_operation(name), timeout)
