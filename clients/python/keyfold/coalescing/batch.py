"""What travels together, how it becomes a batch, and what each call makes of the batch's end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import Message

from keyfold.calls.call import Call
from keyfold.coalescing.lane import CallerMetadata, Outcome, Passenger
from keyfold.errors import CancelledError, DeadlineError, KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.specs import Context
from keyfold.transport.failures import FAILURES, about
from keyfold.v1 import key_management_service_pb2 as api

_LARGEST: Final = 12 * 1024
"""Bytes of the largest call that may travel with others. A sensible one has less: a key of 4 KiB
and a context of 4 KiB. What the server takes of a single call, such as a name of 100 KiB to refuse
it with a reason, it need not take of a batch's item."""

_KEK: Final = slice(0, 18)
"""Where a wrapped key names the KEK that opens it: after version and suite."""

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
        key: Returns what, beside cluster and caller, the calls of one lane have in common.
        request: Makes the batch's request.
    """

    batch: str
    key: Callable[[Any], Hashable]
    request: Callable[[Sequence[Passenger]], Message]


def lane_key(call: Call[Any, Any], caller: CallerMetadata) -> Hashable | None:
    """Returns the lane of a call of one of `KINDS`; None if it has to travel alone."""
    request: Any = call.request
    if request.ByteSize() > _LARGEST:
        return None
    key = KINDS[call.method].key(request)
    return call.method, request.cluster, key, *caller


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
    if outcome is Ending.ALONE:
        return Ending.ALONE
    if outcome is LATE:
        raise too_late(call)
    if outcome is CLOSED:
        raise about(CancelledError("Channel closed!", code="CANCELLED"), call)
    if isinstance(outcome, FAILURES):
        error, cause = failure(outcome, call), outcome
    elif outcome.HasField("answer"):
        return call.result(outcome.answer)
    else:
        error = about(error_of(outcome.error), call)
    if isinstance(error, DeadlineError) and one.deadline - until > one.slack:
        return Ending.ALONE
    raise error from cause


def too_late(call: Call[Any, Any]) -> KeyfoldError:
    """Returns the error of a call whose deadline has passed, in gRPC's words."""
    return about(DeadlineError("Deadline Exceeded", code="DEADLINE_EXCEEDED"), call)


def _wraps(batch: Sequence[Passenger]) -> Message:
    first: Any = batch[0].call.request
    made = api.BatchWrapRequest(cluster=first.cluster, region=first.region)
    return _with_items(made, batch, "plaintext")


def _unwraps(batch: Sequence[Passenger]) -> Message:
    first: Any = batch[0].call.request
    return _with_items(api.BatchUnwrapRequest(cluster=first.cluster), batch, "wrapped_key")


def _with_items(made: Any, batch: Sequence[Passenger], key: str) -> Message:
    """Adds the calls to the request of a batch: the field that has the key, and the contexts."""
    shared = _shared(batch)
    if shared is not None:
        made.context.update(shared)
    for one in batch:
        item = made.items.add()
        setattr(item, key, getattr(one.call.request, key))
        if shared is None:
            item.context.update(one.context)
    return made  # type: ignore[no-any-return]


def _rewraps(batch: Sequence[Passenger]) -> Message:
    first: Any = batch[0].call.request
    made = api.BatchRewrapRequest(cluster=first.cluster)
    for one in batch:
        request: Any = one.call.request
        item = made.items.add()
        item.wrapped_key = request.wrapped_key
        item.context.update(one.context)
        if request.HasField("destination"):
            item.destination.CopyFrom(request.destination)
    return made


def _shared(batch: Sequence[Passenger]) -> Context | None:
    """Returns the context of all calls of a batch; None if they have different ones.

    The batch then has it once, which saves both sides half of the work. An item whose own context
    is empty takes that of its batch, so an empty one is shared by all or by none.
    """
    context = batch[0].context
    return context if all(one.context == context for one in batch) else None


def _of_rewrap(request: api.RewrapRequest) -> Hashable:
    if not request.HasField("destination"):
        return request.wrapped_key[_KEK]
    to = request.destination
    return request.wrapped_key[_KEK], to.cluster, to.region


def _itself(response: Response) -> Response:
    return response


KINDS: Final[Mapping[str, Kind]] = {
    "Wrap": Kind("BatchWrap", lambda request: request.region, _wraps),
    "Unwrap": Kind("BatchUnwrap", lambda request: request.wrapped_key[_KEK], _unwraps),
    "Rewrap": Kind("BatchRewrap", _of_rewrap, _rewraps),
}
"""The methods whose calls may travel together. GenerateDataKey has no batch."""
