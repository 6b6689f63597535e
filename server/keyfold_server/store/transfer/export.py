"""Export: a store, or one cluster's keyring, as lines of JSON under one seal (protocol A4).

Invariant: one snapshot, every row of it verified, or no file at all. It holds KEKs as their root
keys wrapped them, and never a plaintext key or the service key.

Reading a SQLite file needs no lock, so a server may go on beside it: the lock is there so that
two processes do not both serve from memory (protocol S9), and an export serves nothing. The
file is opened for reading alone, and SQLite's log gives a transaction the rows of one moment
whatever is committed meanwhile.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, func, select

from keyfold_server.domain.changes import AuditEvent
from keyfold_server.domain.cluster import existing
from keyfold_server.domain.errors import RowNotAuthenticError, SetupError
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store import service_key as service_keys
from keyfold_server.store.database import faults
from keyfold_server.store.database.dialect import ACCESS_MODE, AccessMode
from keyfold_server.store.migrations import migrate
from keyfold_server.store.schema import audit_events, clusters, meta
from keyfold_server.store.seal import Seal, not_authentic
from keyfold_server.store.sqlite import connections as sqlite
from keyfold_server.store.tables import audit, changes, external_ids, listing
from keyfold_server.store.tables import clusters as rows
from keyfold_server.store.transfer.records import (
    EVENT_FIELDS,
    Header,
    IssuedId,
    cluster_record,
    event_record,
    line,
    trailer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.tables.clusters import StoredCluster

_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Source:
    """A store in one snapshot.

    Attributes:
        connection: Inside a transaction that reads.
        seal: Checks the rows, and seals the export.
    """

    connection: Connection
    seal: Seal


@dataclass(frozen=True, slots=True)
class ExportResult:
    """How much an export holds, and which service key sealed it."""

    clusters: int
    events: int
    service_key_id: str


def key_path(url: str, given: Path | None) -> Path:
    """Returns where a store's service key is: where the settings say, or beside a SQLite file.

    Raises:
        SetupError: The settings do not say, and the store has no file to be beside of.
    """
    if given is not None:
        return given
    path = sqlite.path_of(url)
    return path.with_name(f"{path.name}.service-key")


@contextmanager
def beside(url: str, service_key: Path | None) -> Iterator[Source]:
    """Reads a SQLite store in its file, whether a server runs on it or not.

    Raises:
        SetupError: There is no store there, or it cannot be read with this key and release.
        RowNotAuthenticError: The store's own row was changed by somebody else.
    """
    path = sqlite.path_of(url)
    if not path.exists():
        raise SetupError(f"there is no store {path}; is KEYFOLD_STORE the server's?")
    seal = Seal(service_keys.load(key_path(url, service_key), store=path, new=False))

    with sqlite.reading(path) as connection:
        if migrate.check(connection) in (migrate.SchemaAge.EMPTY, migrate.SchemaAge.OLDER):
            raise SetupError(
                f"the store {path} has an older schema: run `keyfold-server migrate` first, "
                "or export with the release that made it"
            )
        yield Source(connection, seal)


@contextmanager
def opened(store: SqlStore) -> Iterator[Source]:
    """Reads a store that was opened."""
    database, seal = store.parts
    with faults.ending(), database.engine.connect() as bare:
        connection = bare.execution_options(**{ACCESS_MODE: AccessMode.EXPORT})
        with connection.begin():
            yield Source(connection, seal)


def write(source: Source, out: IO[bytes], *, cluster: str | None, now: int) -> ExportResult:
    """Writes an export.

    Args:
        source: The store.
        out: Where to.
        cluster: The one cluster that is wanted; None: all of them.
        now: Milliseconds of Unix time.

    Raises:
        ClusterNotFoundError: There is no such cluster.
        RowNotAuthenticError: A row was changed by somebody else: nothing is left out silently.
        OSError: It could not be written.
    """
    seen = hashlib.sha256()
    counts = Counter[str]()
    for record in _records(source, cluster, now):
        raw = line(record)
        seen.update(raw)
        out.write(raw)
        counts[next(iter(record))] += 1
    out.write(trailer(source.seal, seen.digest()))
    return ExportResult(counts["cluster"], counts["event"], source.seal.service_key_id)


def _records(source: Source, wanted: str | None, now: int) -> Iterator[dict[str, Any]]:
    connection, seal = source.connection, source.seal
    own = connection.execute(select(*meta.c)).first()
    if own is None:
        raise not_authentic("meta")
    seal.require_key(own[2])
    seal.check("meta", tuple(own))
    newest = changes.newest(connection, seal)
    found = _stored(source, wanted)
    # Before the first byte goes out: a name that does not exist leaves not even a header.
    first = list(islice(found, 1))
    yield Header(
        store_uid=own[1].hex(),
        service_key_id=seal.service_key_id,
        exported_at=now,
        cluster=wanted,
        change=newest.number,
        change_id=newest.change_id.hex(),
    ).record()
    for issued in _issued(source, None if wanted is None else first):
        yield {"external_id": issued.record()}
    for stored in chain(first, found):
        audit.verify(connection, stored, seal)
        yield {"cluster": cluster_record(stored)}
        for recorded in _events(connection, stored):
            yield {"event": event_record(recorded)}


def _issued(source: Source, needed_by: Sequence[StoredCluster] | None) -> Iterator[IssuedId]:
    """Reads external ids: all of them, or those that some clusters' root keys are called with."""
    issued = [IssuedId(*row[:-1]) for row in external_ids.every(source.connection, source.seal)]
    if needed_by is None:
        yield from issued
        return
    used = {
        wrap.root.external_id
        for stored in needed_by
        for region in stored.cluster.regions
        for generation in region.generations
        for wrap in generation.wraps
    }
    yield from (each for each in issued if each.external_id in used)


def _stored(source: Source, wanted: str | None) -> Iterator[StoredCluster]:
    if wanted is not None:
        found = rows.read(source.connection, source.seal, clusters.c.name == wanted)
        if wanted not in found:
            existing(None, wanted)
        yield _believed(found[wanted])
        return
    after, count = "", 0
    while found := rows.read(
        source.connection, source.seal, listing.page(ClusterFilter(), after, _PAGE)
    ):
        yield from map(_believed, found.values())
        after, count = list(found)[-1], count + len(found)
    if count != source.connection.execute(select(func.count()).select_from(clusters)).scalar_one():
        # A name that pages step over is none that Keyfold wrote.
        raise not_authentic("clusters")


def _believed(stored: StoredCluster | RowNotAuthenticError) -> StoredCluster:
    if isinstance(stored, RowNotAuthenticError):
        raise stored
    return stored


def _events(connection: Connection, stored: StoredCluster) -> Iterator[AuditEvent]:
    """Reads a chain that was verified in the same snapshot."""
    columns = audit_events.c
    events = select(*(columns[name] for name in EVENT_FIELDS))
    events = events.where(columns.cluster_uid == stored.cluster.uid).order_by(columns.number)
    for row in connection.execute(events.execution_options(yield_per=1_000)):
        yield AuditEvent(*row)
