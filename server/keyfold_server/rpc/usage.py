"""Counts uses of keys for ListUsage, from what the call log has of each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from keyfold_server import telemetry
from keyfold_server.rpc.call_log import Ended
from keyfold_server.service.observed.usage import UsageRecorder


def counting(
    recorder: UsageRecorder, methods: Collection[str]
) -> Callable[[Sequence[Ended]], None]:
    """Returns the function that counts those of some calls that use keys.

    Args:
        recorder: Takes the counts.
        methods: The names of the methods that use keys.
    """

    def count(calls: Sequence[Ended]) -> None:
        # Calls that end together mostly differ in nothing that counts, so add them up first.
        uses: Counter[tuple[int, str, str, str, str, str]] = Counter()
        for call in calls:
            facts, method = call.facts, call.method
            if method not in methods or not facts.caller:
                continue
            for (region, outcome), items in call.results().items():
                use = int(call.time), method, facts.cluster, region, facts.caller, outcome
                uses[use] += items
        # Those that succeeded come first: they tell of a cluster that a change has just dropped
        # from memory, so that calls which failed there are counted, too.
        for use in sorted(uses, key=lambda use: use[-1] != telemetry.OK):
            recorder.add(*use, uses[use])

    return count
