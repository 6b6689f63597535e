"""The data plane's methods: from request bytes through the synchronous core to reply bytes.

Each function here is the whole warm path of its method (protocol R3): it decodes, calls the core
and encodes, without an await. If the core lacks keys, it raises `NeedsLoad`, which passes through
to `methods`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Final

from google.rpc.status_pb2 import Status

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.envelope import OVERHEAD
from keyfold_server.domain.errors import KeyfoldError, NotFoundError
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.messages.batch_results import (
    Around,
    around_opened,
    around_wrapped,
    max_cache_age,
    written,
)
from keyfold_server.rpc.messages.requests import decode
from keyfold_server.rpc.messages.status import to_status
from keyfold_server.service.data.batch_items import BatchResult
from keyfold_server.service.data.call import Call
from keyfold_server.service.data.data_plane import DataPlane, Destination
from keyfold_server.telemetry import OK

DataMethod = Callable[[bytes, Call, Facts], bytes]
"""Takes the request's bytes, the call and its facts; fills in the facts, and returns the reply's
bytes."""

DATA_METHODS: Final = (
    "Wrap",
    "Unwrap",
    "GenerateDataKey",
    "Rewrap",
    "BatchWrap",
    "BatchUnwrap",
    "BatchRewrap",
)
"""The names of the methods that use keys."""

ITEM_OVERHEAD: Final = 32
"""Bytes that a batch's reply has for each wrapped key besides it: tags, lengths, the generation,
and how long the caller may keep the plaintext."""


_GRANTED: Final = itemgetter(1)
"""Returns the KEK that made a result of a batch; None if it is an error."""


class DataMethods:
    """The data plane's methods on bytes."""

    def __init__(self, plane: DataPlane) -> None:
        """Takes the core."""
        self._plane = plane

    def table(self) -> dict[str, DataMethod]:
        """Returns the methods, by their names in the contract."""
        methods = (
            self._wrap,
            self._unwrap,
            self._generate,
            self._rewrap,
            self._batch_wrap,
            self._batch_unwrap,
            self._batch_rewrap,
        )
        return dict(zip(DATA_METHODS, methods, strict=True))

    def _wrap(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.WrapRequest, data)
        facts.cluster = asked.cluster
        facts.region = asked.region
        wrapped_key, generation, ttl = self._plane.wrap(
            asked.cluster, asked.region, asked.plaintext, asked.context, call
        )
        reply = pb.WrapResponse(wrapped_key=wrapped_key, generation=generation)
        return reply.SerializeToString() + max_cache_age(ttl)

    def _unwrap(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.UnwrapRequest, data)
        facts.cluster = asked.cluster
        opened = self._plane.unwrap(asked.cluster, asked.wrapped_key, asked.context, call)
        facts.region = opened.region
        reply = pb.UnwrapResponse(
            plaintext=opened.plaintext, region=opened.region, generation=opened.generation
        )
        return reply.SerializeToString() + max_cache_age(opened.max_cache_age)

    def _generate(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.GenerateDataKeyRequest, data)
        facts.cluster = asked.cluster
        facts.region = asked.region
        plaintext, wrapped_key, generation, ttl = self._plane.generate(
            asked.cluster, asked.region, asked.size, asked.context, call
        )
        reply = pb.GenerateDataKeyResponse(
            plaintext=b"" if asked.wrapped_only else plaintext,
            wrapped_key=wrapped_key,
            generation=generation,
        )
        return reply.SerializeToString() + max_cache_age(ttl)

    def _rewrap(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.RewrapRequest, data)
        facts.cluster = asked.cluster
        target = _target(asked.destination) if asked.HasField("destination") else None
        wrapped_key, generation, current = self._plane.rewrap(
            asked.cluster, asked.wrapped_key, asked.context, target, call
        )
        return pb.RewrapResponse(
            wrapped_key=wrapped_key, generation=generation, already_current=current
        ).SerializeToString()

    def _batch_wrap(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.BatchWrapRequest, data)
        facts.cluster = asked.cluster
        facts.region = asked.region
        region = asked.region
        items = [
            (item.region or region, item.plaintext, item.context or None) for item in asked.items
        ]
        made = self._plane.wrap_batch(asked.cluster, items, asked.context, call)

        def failed(error: KeyfoldError, place: int) -> bytes:
            region = items[place][0]
            _results(facts)[region, error.reason] += 1
            result = pb.BatchWrapResult(error=_status(error, asked.cluster, facts, region))
            return pb.BatchWrapResponse(results=[result]).SerializeToString()

        return _reply(made, facts, around_wrapped, failed)

    def _batch_unwrap(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.BatchUnwrapRequest, data)
        facts.cluster = asked.cluster
        items = [(item.wrapped_key, item.context or None) for item in asked.items]
        made = self._plane.unwrap_batch(asked.cluster, items, asked.context, call)

        def failed(error: KeyfoldError, _: int) -> bytes:
            _results(facts)[error.region or "", error.reason] += 1
            result = pb.BatchUnwrapResult(error=_status(error, asked.cluster, facts))
            return pb.BatchUnwrapResponse(results=[result]).SerializeToString()

        return _reply(made, facts, around_opened, failed)

    def _batch_rewrap(self, data: bytes, call: Call, facts: Facts) -> bytes:
        asked = decode(pb.BatchRewrapRequest, data)
        facts.cluster = asked.cluster
        shared = _target(asked.destination) if asked.HasField("destination") else None
        items = [
            (
                item.wrapped_key,
                item.context or asked.context,
                _target(item.destination) if item.HasField("destination") else shared,
            )
            for item in asked.items
        ]
        reply = pb.BatchRewrapResponse()
        add, results = reply.results.add, _results(facts)
        for result in self._plane.rewrap_batch(asked.cluster, items, call):
            if isinstance(result, KeyfoldError):
                add().error.CopyFrom(_status(result, asked.cluster, facts))
                results[result.region or "", result.reason] += 1
            else:
                answer = add().answer
                answer.wrapped_key, answer.generation, answer.already_current = result
                results["", OK] += 1
        return reply.SerializeToString()


def _reply(
    made: Sequence[BatchResult],
    facts: Facts,
    around: Callable[[str, int, float, int], Around],
    failed: Callable[[KeyfoldError, int], bytes],
) -> bytes:
    """Returns the reply to a batch, and counts its items.

    Args:
        made: The results.
        facts: The call's facts.
        around: Returns what stands around a key, from region, generation, TTL and size.
        failed: Returns the result of an item that failed, from its error and place; counts it.
    """
    reply: list[bytes] = []
    place = 0
    for granted, run in groupby(made, _GRANTED):
        results = [result for result, _ in run]
        if granted is None:
            errors = [one for one in results if isinstance(one, KeyfoldError)]
            reply += [failed(error, at) for at, error in enumerate(errors, place)]
        else:
            keys = [one for one in results if isinstance(one, bytes)]
            kek, _, ttl = granted
            reply.append(written(keys, partial(around, kek.region, kek.generation, ttl)))
            _results(facts)[kek.region, OK] += len(keys)
        place += len(results)
    return b"".join(reply)


def _results(facts: Facts) -> Counter[tuple[str, str]]:
    """Returns where the items of a batch are counted, which may come in several parts."""
    if facts.results is None:
        facts.results = Counter()
    return facts.results


def _status(error: KeyfoldError, cluster: str, facts: Facts, region: str = "") -> Status:
    """Returns the status of a batch's item; notes one that does not exist (protocol C8)."""
    facts.not_found |= isinstance(error, NotFoundError)
    return to_status(error.at(cluster=cluster or None, region=region or None))


def answer_size(data: bytes, facts: Facts) -> int:
    """Returns about how many bytes the answer to a BatchWrap would have."""
    asked = decode(pb.BatchWrapRequest, data)
    facts.cluster = asked.cluster
    facts.region = asked.region
    return sum(len(item.plaintext) + OVERHEAD + ITEM_OVERHEAD for item in asked.items)


def _target(message: pb.Destination) -> Destination:
    return Destination(message.cluster or None, message.region or None, message.context)
