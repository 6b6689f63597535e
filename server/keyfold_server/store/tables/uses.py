"""When KEKs were last used: plain upserts, no MAC and no number (protocol S7).

They decide nothing: they tell people whether a generation can be retired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from keyfold_server.store.schema import generation_uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keyfold_server.store.database.dialect import Dialect


def write(connection: Connection, times: Mapping[bytes, int], now: int, dialect: Dialect) -> None:
    """Writes times, by kek_id, over earlier ones.

    None is later than the store's own time: what a replica's clock that is ahead once said would
    stand above all that is true.
    """
    rows = [
        {"kek_id": kek_id, "used_at": min(used_at, now)}
        # In one order everywhere, so that two replicas cannot wait for each other's rows.
        for kek_id, used_at in sorted(times.items())
    ]
    if rows:
        connection.execute(dialect.upsert(generation_uses, if_later="used_at"), rows)


def read(connection: Connection, kek_ids: Sequence[bytes]) -> dict[bytes, int]:
    """Reads when KEKs were last used; those that never were are left out."""
    if not kek_ids:
        return {}
    here = generation_uses.c.kek_id.in_(set(kek_ids))
    found = connection.execute(select(*generation_uses.c).where(here)).all()
    return {bytes(row[0]): row[1] for row in found}
