"""Times at which KEKs were last used: plain upserts without a MAC or a number (protocol S7).

They decide nothing; they show people whether a generation can be retired.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from keyfold_server.store.database.trip import Step, looking_for, one_of
from keyfold_server.store.schema import generation_uses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import Insert, Select

    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.schema import Cells


def writing(times: Mapping[bytes, int], now: int, dialect: Dialect) -> Step:
    """Returns the step that writes the times of last use, by kek_id, each over an earlier time.

    No time may be later than the store's: a time from a replica's fast clock would otherwise hide
    every true time until then.
    """
    rows = [
        {"kek_id": kek_id, "used_at": min(used_at, now)}
        # All replicas write in one order, so that two cannot wait for each other's rows.
        for kek_id, used_at in sorted(times.items())
    ]
    return Step(_upsert(dialect), rows)


@cache
def _upsert(dialect: Dialect) -> Insert:
    return dialect.upsert(generation_uses, if_later="used_at")


def reading(kek_ids: Collection[bytes]) -> list[Step]:
    """Returns the steps that read when KEKs were last used; `of` takes the rows."""
    return looking_for(_reading, kek_ids)


@cache
def _reading(count: int) -> Select[Any]:
    return select(*generation_uses.c).where(one_of(generation_uses.c.kek_id, count))


def of(found: Iterable[Cells]) -> dict[bytes, int]:
    """Returns the times of last use by kek_id, without the KEKs that were never used."""
    return {row[0]: row[1] for row in found}
