"""Logs and measures each call: who did what to which cluster, and how it ended.

A thread of its own writes the lines in batches, so logging costs a call about a microsecond, and a
reader that stalls delays no call. The lines hold names, counts and codes, never key material.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from prometheus_client import Histogram

from keyfold_server import telemetry

_EVERY: Final = 0.1
"""Seconds between two batches."""

_TOGETHER: Final = 128
"""Calls that are measured and formatted at once, in about half a millisecond. The calls of a whole
batch would hold the event loop for ten milliseconds (protocol W5)."""

_MOST_WAITING: Final = 64
"""Batches that may wait for a slow reader. Further ones are dropped and counted."""

_LONGEST: Final = 128
"""Characters of a name in a line. A longer string cannot be a name, so it is cut."""


class Facts:
    """What is known of one call. The handlers fill it in while they answer the call.

    `results` counts the items of a batch by region and outcome; None: the call is no batch.
    """

    __slots__ = (
        "address",
        "behalf",
        "caller",
        "cluster",
        "items",
        "not_found",
        "region",
        "results",
    )

    def __init__(self, address: str = "") -> None:
        """Begins with the caller's address, and nothing else known."""
        self.address = address
        self.caller = ""
        self.behalf = ""
        self.cluster = ""
        self.region = ""
        self.items = 1
        self.not_found = False
        self.results: Counter[tuple[str, str]] | None = None


class Ended(NamedTuple):
    """A call that was answered.

    Attributes:
        time: The end of the call, in seconds of Unix time.
        method: The RPC's name.
        facts: The caller and the subject of the call, as far as they are known.
        code: The gRPC code's name.
        reason: The error's reason; empty if the call succeeded.
        seconds: The time that the call took in the server.
        trace_id: The id of the caller's trace, or of our span; empty if there is neither.
    """

    time: float
    method: str
    facts: Facts
    code: str
    reason: str
    seconds: float
    trace_id: str

    def results(self) -> Mapping[tuple[str, str], int]:
        """Returns how many items ended how, by region and outcome: OK, a reason or a gRPC code."""
        if self.facts.results is None or self.code != telemetry.OK:
            return {(self.facts.region, self.reason or self.code): self.facts.items}
        return self.facts.results


class CallLog:
    """Collects calls, and measures and writes them ten times a second."""

    def __init__(
        self,
        descriptor: int | None = None,
        *,
        pretty: bool = False,
        clusters: Collection[str] = (),
    ) -> None:
        """Prepares a log; `start` begins to write.

        Args:
            descriptor: The open file descriptor to write lines to. None keeps the metric alone.
            pretty: Write lines for people instead of JSON.
            clusters: The clusters that have a metric of their own.

        Attributes:
            also: Called with all calls, some at a time; None: nobody else counts them.
        """
        self.also: Callable[[Sequence[Ended]], None] | None = None
        self._descriptor = descriptor
        self._clusters = frozenset(clusters)
        for cluster in self._clusters:
            # From the start, so that nobody takes a cluster without calls for a misspelt one.
            telemetry.CLUSTER_CALLS.labels(cluster, telemetry.OK)
        self._format = _pretty if pretty else _json
        self._calls: list[Ended] = []
        self._lines: list[str] = []
        self._timer = False
        self._batches: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread that writes."""
        if self._descriptor is not None:
            arguments = (self._descriptor,)
            self._thread = threading.Thread(
                target=self._write, args=arguments, name="call-log", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Writes the remaining lines, for at most a second or two."""
        self.hand_over()
        if self._thread is not None:
            try:
                self._batches.put(None, timeout=1.0)
            except queue.Full:
                return
            self._thread.join(1.0)

    def add(self, call: Ended) -> None:
        """Adds a call; returns at once.

        Formatting waits until there are some calls to format together. The processor's cache then
        holds the code, while between two calls the same work would cost several times more.
        """
        if not self._timer:
            self._timer = True
            asyncio.get_running_loop().call_later(_EVERY, self.hand_over)
        self._calls.append(call)
        if len(self._calls) >= _TOGETHER:
            self._measure()

    def _measure(self) -> None:
        """Measures the calls that were added, and formats their lines."""
        calls, self._calls = self._calls, []
        for call in calls:
            _histogram(call.method, call.code, call.reason).observe(
                call.seconds, telemetry.exemplar(call.trace_id)
            )
            if call.facts.cluster in self._clusters:
                for (_, outcome), items in call.results().items():
                    telemetry.CLUSTER_CALLS.labels(call.facts.cluster, outcome).inc(items)
        if self.also is not None:
            self.also(calls)
        if self._thread is not None:
            self._lines += map(self._format, calls)

    def hand_over(self) -> None:
        """Measures the calls that were added, and hands their lines to the thread that writes."""
        self._timer = False
        self._measure()
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._batches.put_nowait("".join(lines).encode())
        except queue.Full:
            telemetry.LOG_LINES_DROPPED.inc(len(lines))

    def _write(self, descriptor: int) -> None:
        while (batch := self._batches.get()) is not None:
            _write_all(descriptor, batch)


def _write_all(descriptor: int, batch: bytes) -> None:
    view = memoryview(batch)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        # Nobody reads the log any more; the service goes on.
        telemetry.LOG_LINES_DROPPED.inc(batch.count(b"\n"))


@lru_cache(maxsize=1_024)
def _histogram(method: str, code: str, reason: str) -> Histogram:
    return telemetry.CALLS.labels(method, code, reason)


@lru_cache(maxsize=8_192)
def _quoted(text: str) -> str:
    """Returns a name as JSON; a caller may have sent any characters."""
    return json.dumps(text[:_LONGEST])


@lru_cache(maxsize=8)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _stamp(seconds: float) -> str:
    second = int(seconds)
    return f"{_second(second)}.{int((seconds - second) * 1000):03d}Z"


def _json(call: Ended) -> str:
    facts = call.facts
    return (
        f'{{"time":"{_stamp(call.time)}","level":"info","logger":"{__name__}","event":"call",'
        f'"method":"{call.method}",'
        f'"caller":{_quoted(facts.caller)},"address":{_quoted(facts.address)},'
        f'{_behalf(facts)}"cluster":{_quoted(facts.cluster)},'
        f'"region":{_quoted(facts.region)},"items":{facts.items},"code":"{call.code}",'
        f'"reason":"{call.reason}","us":{int(call.seconds * 1e6)}{_trace(call)}}}\n'
    )


def _trace(call: Ended) -> str:
    return f',"trace_id":"{call.trace_id}"' if call.trace_id else ""


def _behalf(facts: Facts) -> str:
    return f'"on_behalf_of":{_quoted(facts.behalf)},' if facts.behalf else ""


def _pretty(call: Ended) -> str:
    facts = call.facts
    items = f" x{facts.items}" if facts.items != 1 else ""
    where = "/".join(_quoted(name)[1:-1] for name in (facts.cluster, facts.region) if name)
    trace = f" trace={call.trace_id}" if call.trace_id else ""
    return (
        f"{_stamp(call.time)} call    {call.method}{items} {where} {call.reason or call.code} "
        f"{call.seconds * 1e3:.2f} ms by {facts.caller or facts.address}{trace}\n"
    )
