"""The history: every call that clients made, with its start and end by one monotonic clock."""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from behaviour import Request, State

FOREVER: Final = float("inf")

UNDER_WAY: Final = 1.0
"""Seconds for which a database may continue a commit whose client was killed."""

now = time.monotonic


LATE: Final = 0.5
"""Seconds by which a busy machine may be late to notice an event."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a call.

    Attributes:
        reason: Reason of the refusal; empty if the call was carried out.
        unknown: Whether the outcome is unknown: it may have been, or may still be, carried out.
        shown: The cluster as the answer shows it, if `told`.
        told: Whether the answer shows the cluster.
        replayed: Whether it says that the request was carried out before (protocol R6).
        superseded: Whether it says that something later has changed the cluster (protocol R6).
        stops_within: Seconds until the last pending replica has stopped by itself; 0 if no
            replica is pending (protocol R4).
        again: Whether the refusal is a remembered one, which says when to ask again.
    """

    reason: str = ""
    unknown: bool = False
    shown: State = None
    told: bool = False
    replayed: bool = False
    superseded: bool = False
    stops_within: float = 0.0
    again: bool = False

    @property
    def done(self) -> bool:
        """Whether the call was certainly carried out."""
        return not self.reason and not self.unknown


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a request.

    Attributes:
        start: Time when it began.
        end: Time when its answer had come, or the caller gave up.
        server: The server process, as `ChaosServer.name`.
        answer: Its outcome.
    """

    start: float
    end: float
    server: str
    answer: Answer

    @property
    def place(self) -> str:
        """The server that was called, whichever of its processes it was."""
        return self.server.partition(".")[0]

    def cut(self, moment: float) -> Attempt:
        """Returns the attempt as it was known at a moment."""
        return self if self.end < moment else replace(self, end=moment, answer=Answer(unknown=True))


@dataclass(slots=True)
class Change:
    """A request for a change, and every attempt at it with the same request_id."""

    client: int
    cluster: str
    request: Request
    request_id: str
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Look:
    """An answered GetStatus; `answer.shown` is None if the cluster does not exist."""

    client: int
    cluster: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Blob:
    """A wrapped key from an answer, which must open for ever."""

    cluster: str
    region: str
    generation: int
    plaintext: bytes
    wrapped: bytes
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Use:
    """A Wrap, Unwrap or Rewrap.

    Attributes:
        method: The method's name.
        region: Region of the call, or of the wrapped key that the call sent.
        generation: Generation that the answer names, or 0 without an answer.
        wrong: Fault in the answer's content, seen at once; empty if there is no fault.
    """

    client: int
    cluster: str
    region: str
    method: str
    attempt: Attempt
    generation: int = 0
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A fault over a span of time.

    Attributes:
        what: `key:URI` (its versions are disabled), `out:URI` (its KMS does not answer), `keys`
            (the key file is away, from everybody or, as `keys:SERVER`, from one), `store` (it
            takes no writes; as `store:SERVER`, one server's path leads to a store that must take no
            writes) or `paused:SERVER`.
        asked: Time when the test began to cause it.
        begun: Time by which it had surely begun.
        ending: Time when the test began to end it.
        ended: Time by which it was surely over.
    """

    what: str
    asked: float
    begun: float
    ending: float = FOREVER
    ended: float = FOREVER


@dataclass(frozen=True, slots=True)
class Lost:
    """A failover to a standby that lagged.

    Attributes:
        since: Every answer from before this time was replicated.
        until: No call that began after this time reached the old primary.
    """

    since: float
    until: float


class History:
    """Collects what clients and faults report, from any thread.

    Attributes:
        changes: Requests for changes.
        looks: Answered GetStatus calls.
        uses: Data-plane calls.
        spans: Faults that lasted.
        events: Everything else that the run did to the system, for the reader of a failure.
        blobs: Every wrapped key that a server returned.
        found: Faults found while the run went on, as check, cluster and text.
        lost: The failover that may have lost changes, or None.
        servers: Number of server processes at once.
        staleness: `store_max_staleness` in seconds.
        ttl: The cache's TTL in seconds.
        grace: The cache's grace in an outage, in seconds.
        births: Start times of each server's processes.
        serves: The regions that each server serves; a server that is not here serves all.
    """

    def __init__(self, *, servers: int, staleness: float, ttl: float, grace: float) -> None:
        """Begins an empty history of a system with these settings."""
        self.servers = servers
        self.staleness = staleness
        self.ttl = ttl
        self.grace = grace
        self.began = now()
        self.changes: list[Change] = []
        self.looks: list[Look] = []
        self.uses: list[Use] = []
        self.spans: list[Span] = []
        self.events: list[tuple[float, str]] = []
        self.blobs: list[Blob] = []
        self.found: list[tuple[str, str, str]] = []
        self.lost: Lost | None = None
        self._late: list[tuple[float, float]] = []
        self.births: dict[str, list[float]] = {}
        self.serves: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def event(self, what: str) -> None:
        """Notes an event."""
        self.events.append((now(), what))

    def machine_late(self, at: float, late: float) -> None:
        """Notes that the machine woke a thread late, by how many seconds, and when."""
        self._late.append((at, late))

    def late_around(self, time: float, within: float) -> float:
        """Returns the seconds by which the machine was late, at most a span away from a time."""
        return sum(late for at, late in self._late if time - within <= at <= time + within)

    def span(self, what: str, asked: float) -> None:
        """Notes that a fault has begun, and when the test began to cause it."""
        with self._lock:
            self.spans.append(Span(what, asked, now()))

    @contextmanager
    def ending(self, what: str) -> Iterator[None]:
        """Closes a fault's open span; the body ends the fault itself."""
        ending = now()
        yield
        ended = now()
        with self._lock:
            for index, span in enumerate(self.spans):
                if span.what == what and span.ended == FOREVER:
                    self.spans[index] = Span(what, span.asked, span.begun, ending, ended)

    def spans_of(self, what: str) -> list[Span]:
        """Returns the spans of the faults whose names begin so."""
        with self._lock:
            return [span for span in self.spans if span.what.startswith(what)]

    def behind(self, attempt: Attempt) -> bool:
        """Returns whether an attempt may have read a store that takes no writes any more.

        Only the server that was called still takes it for the right store, and no longer than it
        may go without its store (S3). Until then it reads old data and carries out no change.
        """
        own = f"store:{attempt.place}"
        return any(
            span.asked <= attempt.end and attempt.start <= span.begun + self.staleness + LATE
            for span in self.spans_of(own)
            if span.what == own
        )

    def over_by(self, attempt: Attempt) -> float:
        """Returns the time by which a call has taken effect, or never will.

        The server continues after its caller has given up, but not once its process has ended, and
        the next process starts only after that. A database may continue its commit for longer.
        """
        births = self.births.get(attempt.place, [])
        following = bisect_right(births, attempt.end)
        return births[following] + UNDER_WAY if following < len(births) else FOREVER

    def served(self, use: Use) -> bool:
        """Returns whether the server that was called serves the use's region."""
        place = use.attempt.place
        return place not in self.serves or use.region in self.serves[place]

    def before(self, moment: float) -> History:
        """Returns what had begun by a moment; an attempt still running has no known outcome."""
        made = History(
            servers=self.servers, staleness=self.staleness, ttl=self.ttl, grace=self.grace
        )
        made.spans, made.began, made.births = self.spans, self.began, self.births
        made.serves = self.serves
        for change in self.changes:
            attempts = [a.cut(moment) for a in change.attempts if a.start < moment]
            made.changes.append(replace(change, attempts=attempts))
        made.looks = [look for look in self.looks if look.attempt.end < moment]
        made.uses = [use for use in self.uses if use.attempt.end < moment]
        made.blobs = [blob for blob in self.blobs if blob.at < moment]
        return made

    def dump(self, path: Path) -> None:
        """Writes everything, oldest first, one line of JSON each, with times since the start."""
        lines: list[tuple[float, str, object]] = []
        for change in list(self.changes):
            for attempt in change.attempts:
                what: dict[str, object] = {
                    "client": change.client,
                    "cluster": change.cluster,
                    "request": asdict(change.request),
                    "request_id": change.request_id,
                    **self._told(attempt),
                }
                lines.append((attempt.start, "change", what))
        for look in list(self.looks):
            what = {"client": look.client, "cluster": look.cluster, **self._told(look.attempt)}
            lines.append((look.attempt.start, "look", what))
        for use in list(self.uses):
            what = {
                "client": use.client,
                "cluster": use.cluster,
                "region": use.region,
                "method": use.method,
                "generation": use.generation,
                "wrong": use.wrong,
                **self._told(use.attempt),
            }
            lines.append((use.attempt.start, "use", what))
        lines += [(span.asked, "fault", asdict(span)) for span in self.spans]
        lines += [(at, "event", what) for at, what in self.events]
        with path.open("w") as file:
            for at, kind, told in sorted(lines, key=lambda line: line[0]):
                file.write(json.dumps([round(at - self.began, 4), kind, told]) + "\n")

    def _told(self, attempt: Attempt) -> dict[str, object]:
        return {
            "end": round(attempt.end - self.began, 4),
            "server": attempt.server,
            "answer": asdict(attempt.answer),
        }
