"""The health of a region's keys over time, from the log's events and the clusters' status.

An event of the KMS is about a root key, so it concerns each region that has this key now. What the
log does not tell, such as an outage of less than five minutes, is there while the status shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from keyfold.models.events import Event, EventKind
from keyfold.models.status import ClusterStatus, Health
from keyfold_console import words
from keyfold_console.words import Said

_OF_KEYS: Final = (EventKind.REFUSAL, EventKind.HEALTH)

_HOUR: Final = timedelta(hours=1)

_RANK: Final = {"quiet": 0, "good": 1, "warn": 2, "bad": 3}


@dataclass(frozen=True, slots=True)
class Spell:
    """A time for which a region of a cluster was not well.

    Attributes:
        region: The region's name.
        cluster: The cluster's name.
        said: What was wrong.
        begins: Since when.
        ends: Until when; of what is wrong now, the time of the look.
    """

    region: str
    cluster: str
    said: Said
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Cell:
    """A region in one column of the timeline.

    Attributes:
        kind: The worst that was: `good`, `warn`, `bad`.
        count: How many clusters were not well.
        text: The same in words.
    """

    kind: str
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A region on the timeline.

    Attributes:
        region: The region's name.
        total: How many clusters have it.
        amiss: How many of them are not well now.
        cells: Its columns, the oldest first.
    """

    region: str
    total: int
    amiss: int
    cells: tuple[Cell, ...]


def rows(
    clusters: Sequence[ClusterStatus],
    events: Sequence[Event],
    begins: datetime,
    now: datetime,
    columns: int = 24,
) -> tuple[Row, ...]:
    """Returns the regions by name, each with its columns.

    Args:
        clusters: The clusters as they are.
        events: The events since `begins`, in any order.
        begins: Where the first column begins.
        now: The time of the look.
        columns: How many columns of an hour there are.
    """
    found = sorted(spells(clusters, events, begins, now), key=lambda one: one.region)
    by_region = {name: tuple(some) for name, some in groupby(found, key=lambda one: one.region)}
    totals: dict[str, list[words.Said]] = {}
    for cluster in clusters:
        for region in cluster.regions:
            totals.setdefault(region.region, []).append(words.condition(region))
    return tuple(
        Row(
            name,
            len(said),
            sum(one.kind in ("bad", "warn") for one in said),
            tuple(
                _cell(by_region.get(name, ()), begins + number * _HOUR) for number in range(columns)
            ),
        )
        for name, said in sorted(totals.items())
    )


def spells(
    clusters: Iterable[ClusterStatus], events: Sequence[Event], begins: datetime, now: datetime
) -> Iterator[Spell]:
    """Yields the times for which regions were not well, in no order."""
    in_order = sorted(events, key=lambda one: one.number)
    of_keys: dict[str, list[Event]] = {}
    for event in in_order:
        if event.kind in _OF_KEYS and event.key is not None:
            of_keys.setdefault(event.key.uri, []).append(event)
    of_people: dict[str, list[Event]] = {}
    for event in in_order:
        if event.cluster and event.kind is EventKind.DECISION:
            of_people.setdefault(event.cluster, []).append(event)
    for cluster in clusters:
        decided = of_people.get(cluster.cluster, [])
        for region in cluster.regions:
            told = list(_of_key(of_keys.get(region.key_spec.uri, []), begins, now))
            told += _of_decisions(decided, region.region, begins, now)
            said = words.condition(region)
            since = region.health_time if said is words.health(region.health) else region.state_time
            amiss = said.kind in ("bad", "warn")
            if amiss and not any(until == now for _, _, until in told):
                told.append((said, max(begins, since or begins), now))
            for what, start, until in told:
                # What ended before this cluster was there was not its own.
                if cluster.create_time is None or until > cluster.create_time:
                    yield Spell(region.region, cluster.cluster, what, start, until)


def _of_key(
    events: Sequence[Event], begins: datetime, now: datetime
) -> Iterator[tuple[Said, datetime, datetime]]:
    """Yields what was wrong with a key, since when and until when."""
    wrong: tuple[Said, datetime] | None = None
    for number, event in enumerate(events):
        if number == 0 and event.outcome == "HEALTHY":
            wrong = (_NOT_WELL, begins)  # since before the first of these events
        if wrong is not None:
            yield (*wrong, event.time)
        wrong = None if event.outcome == "HEALTHY" else (_said(event.outcome), event.time)
    if wrong is not None:
        yield (*wrong, now)


def _of_decisions(
    events: Sequence[Event], region: str, begins: datetime, now: datetime
) -> Iterator[tuple[Said, datetime, datetime]]:
    """Yields for how long a region was revoked."""
    revoked = words.REVOKED
    since: datetime | None = None
    for event in events:
        if region in event.revoked and since is None:
            since = event.time
        elif event.action == "rpc:cluster:restore" and region in (event.regions or (region,)):
            yield (revoked, since or begins, event.time)
            since = None
    if since is not None:
        yield (revoked, since, now)


_NOT_WELL: Final = Said("Not well", "warn", "The key did not work; the log's day begins later.")


def _said(outcome: str) -> Said:
    if outcome == "CANNOT_WRAP":
        return words.CANNOT_WRAP
    if outcome == "COULD_NOT_TELL":
        return words.health(Health.UNREACHABLE)
    return words.health(Health.__members__.get(outcome, Health.UNSPECIFIED))


def _cell(found: Sequence[Spell], begins: datetime) -> Cell:
    ends = begins + _HOUR
    during = [one for one in found if one.begins < ends and one.ends > begins]
    when = f"{begins:%H:%M} to {ends:%H:%M} UTC"
    if not during:
        return Cell("good", 0, f"{when}: well")
    worst = max(during, key=lambda one: _RANK[one.said.kind]).said
    names = sorted({one.cluster for one in during})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004
    return Cell(worst.kind, len(names), f"{when}: {worst.word} ({', '.join(names[:3])}{more})")
