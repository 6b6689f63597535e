"""What clients saw: every call with its start and end by one monotonic clock."""

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
"""Seconds for which a database may go on with a commit whose client was killed."""

now = time.monotonic


LATE: Final = 0.5
"""Seconds by which a busy machine may be late to notice what has happened."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Attributes:
        reason: Empty: it was carried out. Else why it was refused.
        unknown: The outcome is not known: it may have been carried out, or may still be.
        shown: The cluster as the answer shows it, where `told`.
        told: Whether the answer shows the cluster.
        replayed: It says that the request was carried out before (protocol R6).
        superseded: It says that something later has changed the cluster since (protocol R6).
        stops_within: Seconds until the last pending replica has stopped by itself; 0: none is
            pending (protocol R4).
        again: The refusal is a remembered one: it says when to ask again.
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
        """Whether it was carried out, for certain."""
        return not self.reason and not self.unknown


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a request.

    Attributes:
        start: When it began.
        end: When its answer was there, or nothing more was waited for.
        server: Which server process was called, as `server.start`.
        answer: How it ended.
    """

    start: float
    end: float
    server: str
    answer: Answer

    @property
    def place(self) -> str:
        """Which server was called, whichever of its processes."""
        return self.server.partition(".")[0]

    def cut(self, moment: float) -> Attempt:
        """Returns it as it was known at a moment."""
        return self if self.end < moment else replace(self, end=moment, answer=Answer(unknown=True))


@dataclass(slots=True)
class Change:
    """A request for a change, and every attempt at it, all with one request_id."""

    client: int
    cluster: str
    request: Request
    request_id: str
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Look:
    """A GetStatus that was answered; `answer.shown` is None where there is no cluster."""

    client: int
    cluster: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Blob:
    """A wrapped key that was answered at a time, which must open for ever."""

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
        method: Which.
        region: Of the call, or of the wrapped key that was sent.
        generation: What the answer says, 0 without one.
        wrong: What is wrong with the answer's content, seen at once; empty: nothing.
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
    """A fault that lasted.

    Attributes:
        what: `key:URI` (its versions are disabled), `keys` (the key file is away, from everybody
            or, as `keys:SERVER`, from one), `store` (it takes no writes; as `store:SERVER`, one
            server's way leads to a store that must take none) or `paused:SERVER`.
        asked: When it began to be brought about.
        begun: When it was surely so.
        ending: When it began to be ended.
        ended: When it was surely over.
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
        since: What was answered before this was replicated.
        until: Nothing that began later reached the old primary.
    """

    since: float
    until: float


class History:
    """Collects what clients and faults report; may be used from any thread.

    Attributes:
        changes: Requests for changes.
        looks: GetStatus calls that were answered.
        uses: Data-plane calls.
        spans: Faults that lasted.
        events: Everything else that was done to the system, for whoever reads a failure.
        blobs: Every wrapped key that was answered.
        found: What was found to be wrong while the run went on, as check, cluster and text.
        lost: What a failover may have taken back, or None.
        servers: How many server processes there are at once.
        staleness: `store_max_staleness`, seconds.
        ttl: The cache's TTL, seconds.
        grace: Its grace in an outage, seconds.
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
        self.births: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def event(self, what: str) -> None:
        """Notes something that was done."""
        self.events.append((now(), what))

    def span(self, what: str, asked: float) -> None:
        """Notes that a fault, which was asked for at a time, has begun."""
        with self._lock:
            self.spans.append(Span(what, asked, now()))

    @contextmanager
    def ending(self, what: str) -> Iterator[None]:
        """Ends the open span of a fault around what ends the fault."""
        ending = now()
        yield
        ended = now()
        with self._lock:
            for index, span in enumerate(self.spans):
                if span.what == what and span.ended == FOREVER:
                    self.spans[index] = Span(what, span.asked, span.begun, ending, ended)

    def spans_of(self, what: str) -> list[Span]:
        """Returns a fault's spans, by what their names begin with."""
        with self._lock:
            return [span for span in self.spans if span.what.startswith(what)]

    def behind(self, attempt: Attempt) -> bool:
        """Says whether an attempt may have read a store that takes no writes any more.

        Its own server alone still takes it for right, and not for longer than it may be without
        the store (S3). Until then what it reads is old, and no change is carried out.
        """
        own = f"store:{attempt.place}"
        return any(
            span.asked <= attempt.end and attempt.start <= span.begun + self.staleness + LATE
            for span in self.spans_of(own)
            if span.what == own
        )

    def over_by(self, attempt: Attempt) -> float:
        """Returns when what a call began has taken effect at the latest, or never will.

        It goes on when the caller has given up, but not when the process has ended that had it:
        by then the next one is started. A database may have a commit of it under way for longer.
        """
        births = self.births.get(attempt.place, [])
        following = bisect_right(births, attempt.end)
        return births[following] + UNDER_WAY if following < len(births) else FOREVER

    def before(self, moment: float) -> History:
        """Returns what had begun by a moment; what had not ended then has no known outcome."""
        made = History(
            servers=self.servers, staleness=self.staleness, ttl=self.ttl, grace=self.grace
        )
        made.spans, made.began, made.births = self.spans, self.began, self.births
        for change in self.changes:
            attempts = [a.cut(moment) for a in change.attempts if a.start < moment]
            made.changes.append(replace(change, attempts=attempts))
        made.looks = [look for look in self.looks if look.attempt.end < moment]
        made.uses = [use for use in self.uses if use.attempt.end < moment]
        made.blobs = [blob for blob in self.blobs if blob.at < moment]
        return made

    def dump(self, path: Path) -> None:
        """Writes everything, oldest first, a line of JSON each; times from the beginning."""
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
