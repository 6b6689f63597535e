"""Pruning of the history of superseded wraps, once no backup needs it any more (protocol C6).

A cluster's history loses its oldest rows only, without a gap, and a checkpoint takes their place.
No row is removed without a look: whoever changed one could otherwise wait until it is gone. A
history that is not authentic stays as it is, and does not keep the others from being pruned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, exists, select, tuple_

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.log import AuditEvent, EntryKind
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import Step, require_taken
from keyfold_server.store.schema import clusters, history_checkpoints, wrap_history
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import history_checkpoints as checkpoints
from keyfold_server.store.tables import log, log_head, rows
from keyfold_server.store.tables.history_checkpoints import NOTHING_PRUNED, Checkpoint
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from keyfold_server.store.database.trip import Ending
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.tables.log import Stamp

_CLUSTERS: Final = 50
"""Most clusters whose histories one transaction prunes."""

_ROWS: Final = 100
"""Most rows of one history that one transaction removes, so that no other waits long."""

_NUMBER: Final = list(wrap_history.columns).index(wrap_history.c.number)
_SUPERSEDED_AT: Final = list(wrap_history.columns).index(wrap_history.c.superseded_at)

_earlier: Final = wrap_history.alias("earlier")

_FIRST: Final = (
    select(wrap_history.c.superseded_at, wrap_history.c.cluster_uid, clusters.c.name)
    .outerjoin(clusters, clusters.c.uid == wrap_history.c.cluster_uid)
    .where(
        wrap_history.c.superseded_at < bindparam("before"),
        tuple_(wrap_history.c.superseded_at, wrap_history.c.cluster_uid)
        > tuple_(bindparam("since"), bindparam("uid")),
        ~exists().where(
            _earlier.c.cluster_uid == wrap_history.c.cluster_uid,
            _earlier.c.number < wrap_history.c.number,
        ),
    )
    .order_by(wrap_history.c.superseded_at, wrap_history.c.cluster_uid)
    .limit(bindparam("count"))
)
"""Reads which histories begin with a row that may go, the oldest first."""

_OLD: Final = (
    select(*wrap_history.c, *history_checkpoints.c)
    .outerjoin(history_checkpoints, history_checkpoints.c.cluster_uid == wrap_history.c.cluster_uid)
    .where(
        wrap_history.c.cluster_uid == bindparam("uid"),
        wrap_history.c.superseded_at < bindparam("before"),
    )
    .order_by(wrap_history.c.number)
    .limit(bindparam("count"))
)
"""Reads the oldest rows of a history, each with the checkpoint before them. One statement reads
both: another replica that prunes between two would make the history look as if it had a gap."""

_WIDTH: Final = len(wrap_history.columns)

_REMOVE: Final = delete(wrap_history).where(
    wrap_history.c.cluster_uid == bindparam("uid"), wrap_history.c.number <= bindparam("last")
)


@dataclass(frozen=True, slots=True)
class Place:
    """How far pruning has come: everything before this place is done."""

    superseded_at: int = -1
    uid: bytes = b""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one transaction did.

    Attributes:
        done: The place from which the next transaction goes on; None: nothing is left.
        broken: The names of the clusters whose history is not authentic.
        ending: The rows that the transaction writes last, if it removed any.
    """

    done: Place | None
    broken: tuple[str, ...] = ()
    ending: Ending | None = None


def prune(
    connection: Connection, before: int, done: Place, stamp: Stamp, reach: Callable[[str], None]
) -> Pruned:
    """Removes the oldest wraps of some histories, and leaves a checkpoint in each.

    It locks no cluster and writes no cluster's row, so it costs no change its turn.

    Args:
        connection: A connection inside a transaction that writes.
        before: Milliseconds of Unix time. Wraps that were superseded later stay, and those after
            them in the same history.
        done: The place from which to go on.
        stamp: For the entry of the log.
        reach: Called with the name of each failpoint.

    Raises:
        RowNotAuthenticError: The database did not take what pruning wrote.
        LostRaceError: Another replica has pruned meanwhile.
    """
    trip = stamp.dialect.trip
    asked = {"before": before, "since": done.superseded_at, "uid": done.uid, "count": _CLUSTERS}
    found = trip(connection, [Step(_FIRST, [asked])])[0].rows
    if not found:
        return Pruned(None)
    uids = [uid for _, uid, _ in found]
    old = [Step(_OLD, [{"uid": uid, "before": before, "count": _ROWS}]) for uid in uids]
    answers = trip(connection, old)
    broken: list[str] = []
    going: dict[bytes, list[Cells]] = {}
    place: Place | None = None
    last = done
    for (since, uid, name), answer in zip(found, answers, strict=True):
        try:
            # Another replica may have pruned all of it since, or erased the cluster.
            if answer.rows:
                going[uid] = _first_of(answer.rows, name, stamp)
        except RowNotAuthenticError:
            broken.append(name)
        else:
            if place is None and len(answer.rows) == _ROWS:
                place = last  # Of this history more may go, so the next transaction looks again.
        last = Place(since, uid)
    if place is None and len(found) == _CLUSTERS:
        place = last
    ending = _remove(connection, going, stamp, reach) if going else None
    return Pruned(place, tuple(broken), ending)


def _first_of(old: Sequence[Cells], name: str, stamp: Stamp) -> list[Cells]:
    """Returns the rows that may go: those without a gap after the checkpoint.

    Raises:
        RowNotAuthenticError: The history does not begin where the checkpoint says.
    """
    seal, checkpoint = stamp.seal, NOTHING_PRUNED
    known = old[0][_WIDTH:]
    if known[0] is not None:
        checkpoint = checkpoints.of(known, name, seal)
    # A wrap that was superseded later, by a clock that was ahead, ends what may go.
    numbered = enumerate((row[:_WIDTH] for row in old), checkpoint.number + 1)
    chosen = [row for _, row in takewhile(lambda each: each[0] == each[1][_NUMBER], numbered)]
    mac = checkpoint.mac
    for row in chosen:
        seal.check(wrap_history.name, row, name)
        if row[-2] != mac:
            raise not_authentic(wrap_history.name, name)
        mac = row[-1]
    if not chosen:
        raise not_authentic(wrap_history.name, name)
    return chosen


def _remove(
    connection: Connection,
    going: dict[bytes, list[Cells]],
    stamp: Stamp,
    reach: Callable[[str], None],
) -> Ending:
    # In the order of their keys, so that two replicas that prune at once do not wait crosswise.
    chosen = sorted(going.items())
    fresh = [
        checkpoints.sealed(uid, Checkpoint(gone[-1][_NUMBER], gone[-1][-1]), stamp.seal)
        for uid, gone in chosen
    ]
    removing = [Step(_REMOVE, [{"uid": uid, "last": gone[-1][_NUMBER]}]) for uid, gone in chosen]
    named = [rows.named(history_checkpoints, row) for row in fresh]
    keeping = Step(stamp.dialect.upsert(history_checkpoints, if_later="number"), named)
    answers = stamp.dialect.trip(connection, removing)
    if [answer.count for answer in answers] != [len(gone) for _, gone in chosen]:
        _explain(connection, dict(chosen), stamp)
    reach("history:removed")
    kept, *_, locked = stamp.dialect.trip(
        connection, [keeping, *log.closing(stamp.dialect, wake=False)]
    )
    require_taken(keeping, kept)
    reach("history:kept")
    count = sum(len(gone) for gone in going.values())
    through = max(row[_SUPERSEDED_AT] for gone in going.values() for row in gone)
    detail = json.dumps({"count": count, "through": through}, separators=(",", ":"))
    event = AuditEvent("", "store:history:prune", "done", detail)
    head = log_head.of(locked.rows, stamp.seal)
    _, ending = log.ended(head, [Draft(EntryKind.PRUNING, event)], stamp)
    reach("history:numbered")
    return ending


def _explain(connection: Connection, going: dict[bytes, list[Cells]], stamp: Stamp) -> None:
    """Says why the database did not remove as many rows as it had just shown.

    Raises:
        LostRaceError: Another replica has pruned them, or erased the cluster.
        RowNotAuthenticError: They are still there.
    """
    for uid, gone in going.items():
        [left] = stamp.dialect.trip(
            connection, [Step(_OLD, [{"uid": uid, "before": 1 << 62, "count": 1}])]
        )
        if left.rows and left.rows[0][_NUMBER] <= gone[-1][_NUMBER]:
            raise RowNotAuthenticError(
                "the database did not remove the oldest rows of wrap_history, and reported "
                "success: look for triggers, rules and row-security policies on wrap_history, and "
                "find out who made them"
            )
    raise LostRaceError
