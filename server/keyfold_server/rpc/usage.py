"""Counts uses of keys for ListUsage, from what the call log has of each call."""

from __future__ import annotations

from collections.abc import Callable, Collection

from keyfold_server import telemetry
from keyfold_server.rpc.call_log import Ended
from keyfold_server.service.observed.usage import UsageRecorder


def counting(recorder: UsageRecorder, methods: Collection[str]) -> Callable[[Ended], None]:
    """Returns the function that counts a call, if it is one of some methods.

    Args:
        recorder: Takes the counts.
        methods: The names of the methods that use keys.
    """

    def count(call: Ended) -> None:
        facts = call.facts
        if call.method not in methods or not facts.caller:
            return
        if facts.results is None or call.code != telemetry.OK:
            results = {(facts.region, call.reason or call.code): facts.items}
        else:
            results = facts.results
        for (region, outcome), items in results.items():
            recorder.add(
                call.time, call.method, facts.cluster, region, facts.caller, outcome, items
            )

    return count
