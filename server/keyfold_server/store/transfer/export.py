"""Export: a store, or one cluster's keyring, as lines of JSON under one seal (protocol A4).

Invariant: an export is one snapshot with every row verified, or no file appears at all. It holds
KEKs as their root keys wrapped them, and never a plaintext key or the service key.

An export of an SQLite file does not need the store's lock, so a server may run meanwhile. The lock
only keeps two processes from serving (protocol S9), and an export serves nothing. It opens the file
for reading, and SQLite shows its transaction the rows of one moment.
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

from keyfold_server.domain.cluster import no_cluster
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store import schema
from keyfold_server.store import service_key as service_keys
from keyfold_server.store.database import faults
from keyfold_server.store.database.dialect import ACCESS_MODE, AccessMode
from keyfold_server.store.migrations import migrate
from keyfold_server.store.seal import Seal, not_authentic
from keyfold_server.store.sqlite import connections as sqlite
from keyfold_server.store.tables import (
    clusters,
    history_checkpoints,
    identities,
    listing,
    log,
    log_chain,
    log_head,
    organizations,
    wrap_history,
)
from keyfold_server.store.tables.history_checkpoints import NOTHING_PRUNED
from keyfold_server.store.transfer.records import (
    ExportedEntry,
    Header,
    Identity,
    cluster_record,
    line,
    organization_record,
    pruned_record,
    superseded_record,
    trailer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.tables.clusters import StoredCluster

_PAGE: Final = 200
"""Clusters that are read at a time."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A store at one moment.

    Attributes:
        connection: A connection inside a transaction that reads.
        seal: Checks the rows, and seals the export.
    """

    connection: Connection
    seal: Seal


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The size of an export, and the id of the service key that sealed it."""

    clusters: int
    entries: int
    service_key_id: str


def key_path(url: str, given: Path | None) -> Path:
    """Returns the path of a store's service key: the given one, or the one beside an SQLite file.

    Raises:
        SetupError: No path is given, and the store is not in a file.
    """
    if given is not None:
        return given
    sqlite.path_of(url)  # refuses a url of another store
    return sqlite.service_key_of(url)


@contextmanager
def beside(url: str, service_key: Path | None) -> Iterator[Snapshot]:
    """Opens an SQLite store for reading, whether a server runs on it or not.

    Raises:
        SetupError: The store does not exist, or this key or this release cannot read it.
    """
    path = sqlite.path_of(url)
    if not path.exists():
        raise SetupError(
            f"the store {path} does not exist; set KEYFOLD_STORE to the same store as the server"
        )
    seal = Seal(service_keys.load(key_path(url, service_key), store=path))

    with sqlite.reading(path) as connection:
        if migrate.check(connection) in (migrate.SchemaAge.EMPTY, migrate.SchemaAge.OLDER):
            raise SetupError(
                f"the store {path} has an older schema: run `keyfold-server migrate` first, "
                "or export with the release that made it"
            )
        yield Snapshot(connection, seal)


@contextmanager
def opened(store: SqlStore) -> Iterator[Snapshot]:
    """Takes a snapshot of an open store."""
    database, seal = store.parts
    with faults.ending(), database.engine.connect() as bare:
        connection = bare.execution_options(**{ACCESS_MODE: AccessMode.EXPORT})
        with connection.begin():
            yield Snapshot(connection, seal)


def write(source: Snapshot, out: IO[bytes], *, cluster: str | None, now: int) -> ExportResult:
    """Writes an export.

    Args:
        source: The store's snapshot.
        out: The file to write to.
        cluster: Name of the only cluster to export, or None for all clusters.
        now: Milliseconds of Unix time.

    Raises:
        SetupError: Another service key sealed the store.
        ClusterNotFoundError: The cluster does not exist.
        RowNotAuthenticError: Somebody else changed a row. An export never leaves out a row.
        OSError: The file cannot be written.
    """
    digest = hashlib.sha256()
    counts = Counter[str]()
    for record in _records(source, cluster, now):
        raw = line(record)
        digest.update(raw)
        out.write(raw)
        counts[next(iter(record))] += 1
    out.write(trailer(source.seal, digest.digest()))
    return ExportResult(counts["cluster"], counts["entry"], source.seal.service_key_id)


def _records(source: Snapshot, wanted: str | None, now: int) -> Iterator[dict[str, Any]]:
    connection, seal = source.connection, source.seal
    meta = connection.execute(select(*schema.meta.c)).first()
    if meta is None:
        raise not_authentic("meta")
    seal.require_key(meta[2])
    seal.check("meta", tuple(meta))
    head = log_head.read(connection, seal)
    found = _stored(source, wanted)
    # Read before the first byte goes out: a wrong name must not leave even a header.
    first = list(islice(found, 1))
    yield Header(
        store_uid=meta[1].hex(),
        service_key_id=seal.service_key_id,
        exported_at=now,
        cluster=wanted,
        number=head.newest.number,
        entry_id=head.newest.entry_id.hex(),
        entry_mac=head.mac.hex(),
        pruned_number=head.pruned.number,
        pruned_id=head.pruned.entry_id.hex(),
        pruned_mac=head.pruned_mac.hex(),
    ).record()
    # The whole log is verified, even if only the entries of one cluster are written.
    for row in log_chain.verified(connection, head, seal):
        if wanted is None or row[log.CLUSTER] == wanted:
            yield {"entry": ExportedEntry.of(row).record()}
    for issued in _issued(source, None if wanted is None else first):
        yield {"identity": issued.record()}
    if wanted is None:
        for made in organizations.every(connection, seal):
            yield {"organization": organization_record(made.organization)}
    for stored in chain(first, found):
        yield {"cluster": cluster_record(stored)}
        own = stored.cluster
        checkpoint = history_checkpoints.read(connection, own.uid, own.name, seal)
        if checkpoint != NOTHING_PRUNED:
            yield {"pruned_wraps": pruned_record(checkpoint)}
        for old in wrap_history.read(connection, stored, seal, checkpoint):
            yield {"superseded_wrap": superseded_record(old)}


def _issued(source: Snapshot, needed_by: Sequence[StoredCluster] | None) -> Iterator[Identity]:
    """Reads identities: all of them, or those of some clusters.

    These are the external ids that their root keys use, and the seats that they took.
    """
    issued = [Identity.of(row) for row in identities.every(source.connection, source.seal)]
    if needed_by is None:
        yield from issued
        return
    used = {
        generation.current.root.external_id
        for stored in needed_by
        for region in stored.cluster.regions
        for generation in region.generations
    }
    for stored in needed_by:
        history = wrap_history.read(source.connection, stored, source.seal)
        used |= {old.root.external_id for old in history}
    uids = {stored.cluster.uid.hex() for stored in needed_by}
    yield from (each for each in issued if each.value in used or each.cluster_uid in uids)


def _stored(source: Snapshot, wanted: str | None) -> Iterator[StoredCluster]:
    if wanted is not None:
        stored = clusters.named(source.connection, source.seal, wanted)
        if stored is None:
            raise no_cluster(wanted)
        yield stored
        return
    after, count = "", 0
    while found := clusters.read(
        source.connection, source.seal, listing.page(ClusterFilter(), after, _PAGE)
    ):
        yield from map(clusters.authentic, found.values())
        after, count = list(found)[-1], count + len(found)
    all_of_them = select(func.count()).select_from(schema.clusters)
    if count != source.connection.execute(all_of_them).scalar_one():
        # Keyfold never wrote a name that the pages step over.
        raise not_authentic("clusters")
