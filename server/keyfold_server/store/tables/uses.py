"""Times at which KEKs were last used: plain upserts without a MAC or a number (protocol S7).

They decide nothing; they show people whether a generation can be retired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from keyfold_server.store.schema import generation_uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keyfold_server.store.database.dialect import Dialect


def write(connection: Connection, times: Mapping[bytes, int], now: int, dialect: Dialect) -> None:
    """Writes the times of last use, by kek_id, each over an earlier time.

    No time may be later than the store's: a time from a replica's fast clock would otherwise hide
    every true time until then.
    """
    rows = [
        {"kek_id": kek_id, "used_at": min(used_at, now)}
        # All replicas write in one order, so that two cannot wait for each other's rows.
        for kek_id, used_at in sorted(times.items())
    ]
    if rows:
        connection.execute(dialect.upsert(generation_uses, if_later="used_at"), rows)


def read(connection: Connection, kek_ids: Sequence[bytes]) -> dict[bytes, int]:
    """Reads the times of last use, by kek_id; leaves out KEKs that were never used."""
    if not kek_ids:
        return {}
    here = generation_uses.c.kek_id.in_(set(kek_ids))
    found = connection.execute(select(*generation_uses.c).where(here)).all()
    return {bytes(row[0]): row[1] for row in found}
