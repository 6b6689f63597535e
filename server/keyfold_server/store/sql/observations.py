"""The part of SqlStore for what replicas observe: health, last uses, the sweep (protocol S7).

Invariant: no method here locks a cluster, none decides whether a key may be used, and none but
`observe`, for a transition, writes an entry of the log. So none costs a change its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from keyfold_server.domain.usage import UsageRows
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import rows_of
from keyfold_server.store.tables import (
    listing,
    log,
    log_head,
    observations,
    region_health,
    root_users,
    samples,
    transitions,
    usage,
    uses,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from keyfold_server.domain.health import Observation
    from keyfold_server.domain.ports import KeyUser, Sample
    from keyfold_server.domain.transitions import Transition
    from keyfold_server.domain.usage import UsageKey, UsageQuery
    from keyfold_server.store.sql.transactions import Transactions, Unit

T = TypeVar("T")

_AT_ONCE: Final = 1_000
"""Most rows that one statement names or one transaction writes (protocol S12). So no statement has
more parameters than a database takes, and no other transaction waits long for its turn."""


_TURNS: Final = 24 * 60 * 60 * 1000
"""Milliseconds for which a claim of a turn stays: longer than any interval of the sweep, so that it
holds nothing any more. Nobody renews it, because no replica serves the region, or it is gone."""

_FLUSHES: Final = 24 * 60 * 60 * 1000
"""Milliseconds for which the number of a process's last flush stays, after its last one."""


class ObservationStore:
    """The part of a `domain.ports.Store` for what replicas observe."""

    def __init__(self, transactions: Transactions) -> None:
        """Takes the store's transactions."""
        self._transactions = transactions

    def census(self, own_since: int) -> dict[tuple[str, str], int]:
        """Counts regions by state and last observed health."""
        return self._transactions.read(lambda c: region_health.census(c, own_since))

    def cannot_wrap(self, own_since: int) -> int:
        """Counts enabled regions whose root key unwraps but did not wrap at the last try."""
        return self._transactions.read(lambda c: region_health.cannot_wrap(c, own_since))

    def unserved(self, serves: frozenset[str], most: int) -> dict[str, int]:
        """Counts enabled regions by name, other than those that some replicas serve."""
        return self._transactions.read(lambda c: listing.unserved(c, serves, most))

    def failing(self, own_since: int) -> dict[tuple[str, str], int]:
        """Returns since when a root key in service has failed, by health and region."""
        return self._transactions.read(lambda c: region_health.failing(c, own_since))

    def roots_in_use(
        self, prefix: str, serves: frozenset[str] | None = None
    ) -> list[tuple[str, str]]:
        """Returns the regions, and the root keys whose ids begin with `prefix` that each uses."""
        return self._transactions.read(lambda c: samples.roots(c, prefix, serves))

    def samples(
        self, prefix: str, serves: frozenset[str] | None = None, *, own: bool = False
    ) -> list[Sample]:
        """Chooses KEKs for the sweep, of the root keys whose ids begin with `prefix`, by region."""
        return self._transactions.read(lambda c: samples.read(c, prefix, serves, own=own))

    def users_of(self, key_uri: str, may: Callable[[KeyUser], bool]) -> list[KeyUser]:
        """Chooses an enabled region for each root key that has a uri."""
        return self._transactions.read(lambda c: root_users.under(c, key_uri, may))

    def claim(self, works: Mapping[str, int]) -> frozenset[str]:
        """Claims pieces of work that one replica must do, by the store's clock."""
        dialect = self._transactions.database.dialect

        def work(unit: Unit) -> frozenset[str]:
            return frozenset().union(
                *(
                    observations.claim(unit.connection, dict(part), unit.now, dialect)
                    for part in _parts(sorted(works.items()))
                )
            )

        return self._transactions.write_or_fail("observe", work) if works else frozenset()

    def prune_turns(self, now_ms: int) -> None:
        """Removes claims of turns that nobody renews. The store's clock limits the time."""

        def work(unit: Unit) -> None:
            observations.prune_turns(unit.connection, min(now_ms, unit.now) - _TURNS)

        self._transactions.write_or_fail("prune", work)

    def observe(
        self, observations: Sequence[Observation], found: Sequence[Transition] = ()
    ) -> None:
        """Writes observations of root keys and KEKs, each over the former one (protocol S7)."""
        by_subject = {each.seen.subject: each for each in found}
        for part in _parts(observations):
            mine = [by_subject[seen.subject] for seen in part if seen.subject in by_subject]
            self._observe(part, mine)

    def observations(self, subjects: Sequence[str]) -> dict[str, Observation]:
        """Reads the last observations, by subject."""
        reading = observations.reading(set(subjects))

        def work(unit: Unit) -> dict[str, Observation]:
            return observations.of(rows_of(unit.answers))

        return self._transactions.fetch(reading, work) if reading else {}

    def used(self, times: Mapping[bytes, int]) -> None:
        """Writes when KEKs were last used, by kek_id, in milliseconds; never an earlier time."""
        for part in _parts(sorted(times)):
            self._use({kek_id: times[kek_id] for kek_id in part})

    def count_usage(
        self, writer: str, flush: int, counts: Mapping[UsageKey, int], within_ms: int
    ) -> None:
        """Adds counts of uses, unless the store has this flush of the writer already."""
        dialect = self._transactions.database.dialect

        def work(unit: Unit) -> None:
            if usage.is_new(unit.answers[0].rows, flush):
                timely = usage.between(counts, unit.now - within_ms, unit.now)
                steps = usage.adding(writer, flush, timely, unit.now, dialect)
                if not usage.is_noted(dialect.trip(unit.connection, steps)):
                    # A try whose answer was lost has come to its end. The next one finds it.
                    raise LostRaceError

        self._transactions.write_or_fail("usage", work, [usage.flushed(writer)])

    def usage(self, query: UsageQuery) -> UsageRows:
        """Reads a page of counts of uses."""
        return self._transactions.read_in(
            lambda unit: UsageRows(usage.read(unit.connection, query), unit.now)
        )

    def prune_usage(self, now_ms: int, retention_ms: int) -> None:
        """Removes old counts of uses. The store's clock limits the time."""

        def work(unit: Unit) -> None:
            now = min(now_ms, unit.now)
            usage.prune(unit.connection, now - retention_ms, now - _FLUSHES)

        self._transactions.write_or_fail("prune", work)

    def _use(self, times: Mapping[bytes, int]) -> None:
        dialect = self._transactions.database.dialect

        def work(unit: Unit) -> None:
            dialect.trip(unit.connection, [uses.writing(times, unit.now, dialect)])

        self._transactions.write_or_fail("use", work)

    def _observe(self, seen: Sequence[Observation], found: Sequence[Transition]) -> None:
        dialect = self._transactions.database.dialect
        closing = log.closing(dialect, wake=False) if found else []

        def work(unit: Unit) -> None:
            if not found:
                return
            stamp = self._transactions.stamp(unit)
            drafts = transitions.missing(unit.connection, found, stamp)
            if drafts:
                head = log_head.of(unit.answers[-1].rows, stamp.seal)
                _, unit.ending = log.ended(head, drafts, stamp)

        first = [observations.writing(seen, dialect), *closing]
        self._transactions.write_or_fail("observe", work, first)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cuts a list into parts of a size that every database takes."""
    for first in range(0, len(items), _AT_ONCE):
        yield items[first : first + _AT_ONCE]
