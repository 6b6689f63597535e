"""The methods about operations: StartOperation, and those of `google.longrunning.Operations`."""

from __future__ import annotations

from google.longrunning import operations_proto_pb2 as longrunning
from google.protobuf.empty_pb2 import Empty

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import InvalidOperationError
from keyfold_server.domain.operations import Operation
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc.handlers.unary import OnMessages, UnaryMethod
from keyfold_server.rpc.messages import operations, requests
from keyfold_server.service.replica import Replica


class OperationMethods:
    """The methods about operations on bytes."""

    def __init__(self, replica: Replica) -> None:
        """Takes the service."""
        self._replica = replica

    def starting(self) -> dict[str, UnaryMethod]:
        """Returns the methods of Keyfold's own contract, by their names."""
        return {"StartOperation": OnMessages(pb.StartOperationRequest, self._start).on_bytes()}

    def table(self) -> dict[str, UnaryMethod]:
        """Returns the methods of `google.longrunning.Operations`, by their names."""
        methods = {
            "ListOperations": OnMessages(longrunning.ListOperationsRequest, self._list),
            "GetOperation": OnMessages(longrunning.GetOperationRequest, self._get),
            "DeleteOperation": OnMessages(longrunning.DeleteOperationRequest, self._delete),
            "CancelOperation": OnMessages(longrunning.CancelOperationRequest, self._cancel),
            "WaitOperation": OnMessages(longrunning.WaitOperationRequest, self._wait),
        }
        return {name: method.on_bytes() for name, method in methods.items()}

    async def _start(
        self, asked: pb.StartOperationRequest, caller: Caller, deadline: float
    ) -> pb.StartOperationResponse:
        work = operations.work(asked)
        result = await self._replica.operations.start(
            caller, asked.operation, work, deadline, dry_run=asked.dry_run
        )
        return operations.started(result)

    async def _list(
        self, asked: longrunning.ListOperationsRequest, caller: Caller, _deadline: float
    ) -> longrunning.ListOperationsResponse:
        if asked.filter:
            raise InvalidOperationError("operations have no filter; leave it out", field="filter")
        page = await self._replica.operations.page(caller, asked.page_size, asked.page_token)
        return longrunning.ListOperationsResponse(
            operations=[operations.operation(each) for each in page.operations],
            next_page_token=page.next_token,
        )

    async def _get(
        self, asked: longrunning.GetOperationRequest, caller: Caller, _deadline: float
    ) -> longrunning.Operation:
        followed = await self._replica.decisions.get(caller, asked.name)
        if followed is not None:
            return operations.followed(followed, self._replica.clock.wall())
        shown = await self._replica.operations.get(caller, asked.name)
        return await self._told(shown)

    async def _wait(
        self, asked: longrunning.WaitOperationRequest, caller: Caller, deadline: float
    ) -> longrunning.Operation:
        timeout = requests.seconds(asked.timeout)
        followed = await self._replica.decisions.wait(caller, asked.name, timeout, deadline)
        if followed is not None:
            return operations.followed(followed, self._replica.clock.wall())
        shown = await self._replica.operations.wait(caller, asked.name, timeout, deadline)
        return await self._told(shown)

    async def _told(self, shown: Operation) -> longrunning.Operation:
        known = self._replica.operations
        return operations.operation(shown, await known.failures(shown), await known.notice(shown))

    async def _cancel(
        self, asked: longrunning.CancelOperationRequest, caller: Caller, _deadline: float
    ) -> Empty:
        await self._replica.decisions.refuse(caller, asked.name, "CancelOperation")
        await self._replica.operations.cancel(caller, asked.name)
        return Empty()

    async def _delete(
        self, asked: longrunning.DeleteOperationRequest, caller: Caller, _deadline: float
    ) -> Empty:
        await self._replica.decisions.refuse(caller, asked.name, "DeleteOperation")
        await self._replica.operations.delete(caller, asked.name)
        return Empty()
