"""What travels together, how it becomes a batch, and what each call makes of the batch's end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import Message

from keyfold.calls.call import Call
from keyfold.calls.key_calls import KeyCall, RewrapCall, WrapCall
from keyfold.coalescing.lane import Outcome, Passenger
from keyfold.errors import CancelledError, DeadlineError, KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.specs import Context
from keyfold.transport.caller import CallerMetadata
from keyfold.transport.failures import FAILURES, about
from keyfold.v1 import key_management_service_pb2 as api

_LARGEST: Final = 12 * 1024
"""Bytes of the largest call that may travel with others. A sensible one has less: a key of 4 KiB
and a context of 4 KiB. What the server takes of a single call, such as a name of 100 KiB to refuse
it with a reason, it need not take of a batch's item."""

_SHARED: Final = {
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
}
"""Codes with which a batch fails as each of its calls would have failed alone, repeated by gRPC as
often. With any other, such as INVALID_ARGUMENT or INTERNAL, one of the calls may be at fault, or a
proxy may not let batches pass."""

Result = TypeVar("Result")
Response = TypeVar("Response", bound=Message)


class Ending(Enum):
    """An outcome that is no server's.

    Attributes:
        ALONE: The call's batch says nothing about it, and it goes alone.
        CLOSED: The client was closed.
        LATE: The call's deadline has passed.
    """

    ALONE = "alone"
    CLOSED = "closed"
    LATE = "late"


ALONE: Final = Ending.ALONE
CLOSED: Final = Ending.CLOSED
LATE: Final = Ending.LATE

Failure: TypeAlias = Callable[[BaseException, Call[Any, Any]], BaseException]
"""Returns the error of a call for what was raised, one of `FAILURES`."""


class Kind(NamedTuple):
    """How the calls of one method travel together.

    Attributes:
        batch: The method of the batch.
        request: Makes the batch's request.
    """

    batch: str
    request: Callable[[Sequence[Passenger]], Message]


def lane_key(call: KeyCall[Any, Any], caller: CallerMetadata) -> Hashable | None:
    """Returns the lane of a call; None if it has to travel alone."""
    return None if call.size > _LARGEST else (call.lane, caller)


def batch_call(batch: Sequence[Passenger]) -> Call[Any, Any]:
    """Returns the call of a batch."""
    kind = KINDS[batch[0].call.method]
    return Call(kind.batch, kind.request(batch), _itself)


def outcomes(batch: Sequence[Passenger], response: Any) -> Sequence[Outcome]:
    """Returns what becomes of each call of a batch that was answered.

    Only its place says which call a result belongs to. So if their number is wrong, none counts.
    """
    results: Sequence[Outcome] = response.results
    return results if len(results) == len(batch) else [ALONE] * len(batch)


def outcome_of(error: BaseException) -> Outcome:
    """Returns what becomes of each call of a batch that failed."""
    cause = error.__cause__
    shared = isinstance(error, KeyfoldError) and error.code in _SHARED
    return cause if shared and isinstance(cause, FAILURES) else ALONE


def settle(
    one: Passenger, call: Call[Response, Result], until: float, failure: Failure
) -> Result | Literal[Ending.ALONE]:
    """Returns the result of a call whose batch has ended, or `ALONE` if it has to go again, alone.

    Args:
        one: The passenger, with its outcome.
        call: Its call.
        until: The deadline of its batch.
        failure: Returns the error of a call for what was raised.

    Raises:
        KeyfoldError: The call failed.
    """
    outcome: Any = one.outcome
    error: BaseException
    cause: BaseException | None = None
    if isinstance(outcome, Message):
        result: Any = outcome
        if result.HasField("answer"):
            return call.result(result.answer)
        error = about(error_of(result.error), call)
    elif outcome is ALONE:
        return Ending.ALONE
    elif outcome is LATE:
        raise too_late(call)
    elif outcome is CLOSED:
        raise about(CancelledError("Channel closed!", code="CANCELLED"), call)
    else:
        error, cause = failure(outcome, call), outcome
    if isinstance(error, DeadlineError) and one.deadline - until > one.slack:
        return Ending.ALONE
    raise error from cause


def too_late(call: Call[Any, Any]) -> KeyfoldError:
    """Returns the error of a call whose deadline has passed, in gRPC's words."""
    return about(DeadlineError("Deadline Exceeded", code="DEADLINE_EXCEEDED"), call)


def _wraps(batch: Sequence[Passenger]) -> Message:
    first: WrapCall = batch[0].call
    made = api.BatchWrapRequest(cluster=first.cluster, region=first.region)
    return _with_items(made, batch, "plaintext")


def _unwraps(batch: Sequence[Passenger]) -> Message:
    made = api.BatchUnwrapRequest(cluster=batch[0].call.cluster)
    return _with_items(made, batch, "wrapped_key")


def _with_items(made: Any, batch: Sequence[Passenger], field: str) -> Message:
    """Adds the calls to the request of a batch: the field that has the key, and the contexts."""
    shared = _shared(batch)
    if shared is not None:
        made.context.update(shared)
    for one in batch:
        item = made.items.add(**{field: one.call.key})
        if shared is None:
            item.context.update(one.call.context)
    return made  # type: ignore[no-any-return]


def _rewraps(batch: Sequence[Passenger]) -> Message:
    made = api.BatchRewrapRequest(cluster=batch[0].call.cluster)
    for one in batch:
        call: RewrapCall = one.call
        item = made.items.add(wrapped_key=call.key, context=call.context)
        if call.destination is not None:
            item.destination.CopyFrom(call.destination)
    return made


def _shared(batch: Sequence[Passenger]) -> Context | None:
    """Returns the context of all calls of a batch; None if they have different ones.

    The batch then has it once, which saves both sides half of the work. An item whose own context
    is empty takes that of its batch, so an empty one is shared by all or by none.
    """
    contexts = [one.call.context for one in batch]
    return contexts[0] if contexts.count(contexts[0]) == len(batch) else None


def _itself(response: Response) -> Response:
    return response


KINDS: Final[Mapping[str, Kind]] = {
    "Wrap": Kind("BatchWrap", _wraps),
    "Unwrap": Kind("BatchUnwrap", _unwraps),
    "Rewrap": Kind("BatchRewrap", _rewraps),
}
"""The methods whose calls may travel together. GenerateDataKey has no batch."""
