"""What a store is told and asked of what was seen: a part of SqlStore (protocol S7).

Invariant: nothing of it takes a number or locks a cluster, so it never costs a change its turn,
and nothing of it decides whether a key may be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyfold_server.store.tables import listing, observations, samples, uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keyfold_server.domain.health import Observation
    from keyfold_server.domain.ports import Sample
    from keyfold_server.store.sql.transactions import Transactions

_USES: Final = 1_000
"""Last uses that are written in one transaction, so that no other waits long for its turn."""


class ObservationStore:
    """The part of a `domain.ports.Store` that is about what was seen."""

    def __init__(self, transactions: Transactions) -> None:
        """Takes the store's transactions."""
        self._transactions = transactions

    def census(self) -> dict[tuple[str, str], int]:
        """Counts regions by state and last health."""
        return self._transactions.read(listing.census)

    def cannot_wrap(self) -> int:
        """Counts enabled regions whose root key unwraps and, when last tried, did not wrap."""
        return self._transactions.read(listing.cannot_wrap)

    def samples(self, prefix: str) -> list[Sample]:
        """Chooses KEKs for the sweep, of the root keys whose ids begin so, by root key."""
        return self._transactions.read(lambda c: samples.read(c, prefix))

    def claim(self, name: str, after_ms: int) -> bool:
        """Takes a piece of work that one replica is to do, by the store's clock."""
        now = self._transactions.now
        return self._transactions.write_or_fail(
            "observe", lambda c: observations.claim(c, name, after_ms, now(c))
        )

    def observe(self, observations: Sequence[Observation]) -> None:
        """Writes what was seen of root keys; plain upserts, no number (protocol S7)."""
        if observations:
            self._observe(observations)

    def observations(self, subjects: Sequence[str]) -> dict[str, Observation]:
        """Reads what was last seen, by subject."""
        return self._transactions.read(lambda c: observations.read(c, subjects))

    def used(self, times: Mapping[bytes, int]) -> None:
        """Writes when KEKs were last used, by kek_id, in milliseconds; never an earlier time."""
        found = sorted(times.items())
        for first in range(0, len(found), _USES):
            self._use(dict(found[first : first + _USES]))

    def last_uses(self, kek_ids: Sequence[bytes]) -> dict[bytes, int]:
        """Reads when KEKs were last used, by kek_id; those that never were are left out."""
        return self._transactions.read(lambda c: uses.read(c, kek_ids))

    def _use(self, times: Mapping[bytes, int]) -> None:
        now, dialect = self._transactions.now, self._transactions.database.dialect
        self._transactions.write_or_fail("use", lambda c: uses.write(c, times, now(c), dialect))

    def _observe(self, seen: Sequence[Observation]) -> None:
        dialect = self._transactions.database.dialect
        self._transactions.write_or_fail("observe", lambda c: observations.write(c, seen, dialect))
