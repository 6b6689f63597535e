"""Import: brings an export into an empty store, whole or not at all (protocol A4).

The states in an export are as old as the export, so they lack later revocations. Nothing outside
the store can prove an export current yet. So every region arrives REVOKED in a raised epoch of its
cluster, and Restore takes the region back after its root key answers. A deleted region stays
deleted, for at least a week (`erasure.postponed`). The log goes on where it was, with an entry for
the import and one for each cluster. The export of one cluster does not have the whole log, so its
import begins a new one.

This module knows nothing of files: `archive` hands over the records of a file whose seal it has
verified.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, bindparam, insert, select, update

from keyfold_server.domain.changes import Decision, parts, revoked
from keyfold_server.domain.cluster import Cluster, SupersededWrap
from keyfold_server.domain.erasure import postponed
from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.domain.log import AuditEvent, EntryKind
from keyfold_server.domain.organization_changes import described
from keyfold_server.domain.organizations import Organization
from keyfold_server.store import schema
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.schema import Cells
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.tables import (
    cluster_rows,
    clusters,
    history_checkpoints,
    identities,
    log,
    log_head,
    organizations,
    rows,
    wrap_history,
)
from keyfold_server.store.tables.cluster_rows import CHILDREN
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.history_checkpoints import Checkpoint
from keyfold_server.store.tables.log import Draft, Stamp
from keyfold_server.store.tables.log_head import Head, Position
from keyfold_server.store.transfer.records import ExportedEntry, Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.transfer.archive import ExportFile
    from keyfold_server.store.transfer.records import Header

FAILPOINTS: Final = ("import:begun", "import:rows-written", "import:numbered")
"""The points at which a test may kill an import."""

ACTION: Final = "command:cluster:import"
"""Action of the entry of a cluster."""

ORGANIZATION: Final = "command:organization:import"
"""Action of the entry of an organization."""

_BUFFERED: Final = 2_000
"""Rows that an import keeps in memory before it writes them."""


@dataclass(slots=True)
class ImportResult:
    """The result of an import.

    Attributes:
        clusters: Number of clusters.
        entries: Number of entries of the log, without the import's own.
        enabled: Names of cluster and region, for each region that is ENABLED in the export.
    """

    clusters: int = 0
    entries: int = 0
    enabled: list[tuple[str, str]] = field(default_factory=list)


def bring_in(
    store: SqlStore,
    export: ExportFile,
    clock: Clock,
    *,
    reach: Callable[[str], None] = no_failpoint,
) -> ImportResult:
    """Imports an export into an empty store, in one transaction.

    Args:
        store: The store. Its service key may differ from the export's.
        export: An export whose seal is verified.
        clock: Source of time.
        reach: Called with the name of each failpoint.

    Raises:
        SetupError: The store is not empty, or somebody changed the export since its verification.
        StoreUnavailableError: The store could not be written.
    """
    database, seal = store.parts

    def work(connection: Connection) -> ImportResult:
        # The lock of the log's head comes first here, and not last as elsewhere. So nobody can make
        # a cluster between the check and the commit.
        log_head.read(connection, seal, lock=True)
        _check_empty(connection)
        reach("import:begun")
        stamp = Stamp("import", database.dialect.now(connection, clock), seal, database.dialect)
        writer = _Writer(connection, stamp, export.header)
        for record in export.records():
            if isinstance(record, StoredCluster):
                writer.cluster(record)
            elif isinstance(record, Checkpoint):
                writer.pruned(record)
            elif isinstance(record, SupersededWrap):
                writer.superseded(record)
            elif isinstance(record, ExportedEntry):
                writer.entry(record)
            elif isinstance(record, Identity):
                writer.issued(record)
            elif isinstance(record, Organization):
                writer.organization(record)
        writer.end()
        reach("import:rows-written")
        database.dialect.trip(connection, database.dialect.settling(wake=True))
        log_head.write(connection, writer.head, seal)
        reach("import:numbered")
        return writer.imported

    try:
        return database.migrate(work)
    except LostRaceError as error:
        raise StoreUnavailableError(
            "others made clusters in the store at the same time; nothing was imported"
        ) from error


def _check_empty(connection: Connection) -> None:
    for table in (
        schema.clusters,
        schema.organizations,
        schema.log,
        schema.requests,
        schema.identities,
    ):
        if connection.execute(select(*table.c).limit(1)).first() is not None:
            raise SetupError(
                "the store is not empty, and an import goes into an empty one: name a new store "
                "in KEYFOLD_STORE, or stop this store's servers and move it away"
            )


class _Writer:
    """Writes the log and the clusters, and keeps a bounded number of rows in memory.

    Attributes:
        head: The head of the log after what was written.
        imported: What was imported.
    """

    def __init__(self, connection: Connection, stamp: Stamp, header: Header) -> None:
        self._connection = connection
        self._stamp = stamp
        self._seal = stamp.seal
        self._header = header
        self._source: StoredCluster | None = None
        self._made: StoredCluster | None = None
        self._begun = False
        self._told = False
        self._tables: dict[Table, list[Cells]] = {
            table: []
            for table in (
                schema.log,
                schema.identities,
                schema.organizations,
                schema.key_links,
                schema.holders,
                schema.clusters,
                *CHILDREN,
                schema.wrap_history,
                schema.history_checkpoints,
            )
        }
        self.imported: Final = ImportResult()
        self.head = Head()
        if header.cluster is None:
            pruned = Position(header.pruned_number, bytes.fromhex(header.pruned_id))
            mac = bytes.fromhex(header.pruned_mac)
            self.head = Head(pruned, mac, pruned, mac)

    def entry(self, entry: ExportedEntry) -> None:
        """Appends an entry of the exported log, under the store's own seal."""
        if self._header.cluster is None:
            self._append(entry.row(self.head.mac, self._seal))
            self.imported.entries += 1

    def cluster(self, source: StoredCluster) -> None:
        """Begins a cluster, with every region revoked; its history follows."""
        self._finish()
        self._tell()
        # The export of one cluster has none of its organization's links.
        linked = self._header.cluster is None
        now_revoked = arriving(source.cluster, self._stamp.now, linked=linked)
        children = cluster_rows.encoded(now_revoked, self._seal)
        self._source, self._made = source, StoredCluster(now_revoked, children)
        self._begun = False
        for table in CHILDREN:
            self._tables[table] += children[table].values()
        self.imported.clusters += 1
        self.imported.enabled += [
            (now_revoked.name, region.name)
            for region in source.cluster.regions
            if region.in_service
        ]

    def issued(self, issued: Identity) -> None:
        """Adds an identity under the store's own seal."""
        self._tables[schema.identities].append(identities.sealed(issued.cells, self._seal))

    def pruned(self, checkpoint: Checkpoint) -> None:
        """Begins the cluster's history where pruning had left it."""
        if self._made is None or self._made.history_count:
            raise SetupError(
                "the export has a checkpoint that is not at the beginning of a history"
            )
        self._made = wrap_history.begun_at(self._made, checkpoint)
        cells = history_checkpoints.sealed(self._made.cluster.uid, checkpoint, self._seal)
        self._add(schema.history_checkpoints, cells)

    def organization(self, found: Organization) -> None:
        """Adds an organization with its links under the store's own seal, and tells of it."""
        self._tell()
        found = _still(found)
        made = organizations.sealed(found, self._seal)
        if made.own is None:
            raise SetupError(f"the export has nothing of organization {found.name}")
        self._tables[schema.organizations].append(made.own)
        self._tables[schema.key_links] += made.links.values()
        self._tables[schema.holders] += made.held.values()
        event = AuditEvent("local", ORGANIZATION, "done", _json(self._source_of()))
        told = described(Organization(found.name), found)
        self._add_entry(
            Draft(
                EntryKind.IMPORT,
                event,
                floor=made.floor,
                decision=told,
                organization=found.name,
            )
        )

    def superseded(self, old: SupersededWrap) -> None:
        """Appends a wrap to the cluster's history, under the store's own seal."""
        if self._made is None:
            raise SetupError("the export has a superseded wrap without a cluster")
        self._made, cells = wrap_history.appended(self._made, old, self._seal)
        self._add(schema.wrap_history, cells)

    def _add(self, table: Table, cells: Cells) -> None:
        self._tables[table].append(cells)
        if sum(map(len, self._tables.values())) >= _BUFFERED:
            self._flush()

    def end(self) -> None:
        """Ends the last cluster, and writes the rows that are left in memory."""
        self._finish()
        self._tell()
        self._flush()

    def _tell(self) -> None:
        """Ends the exported log with an entry for the import, once."""
        if self._told:
            return
        self._told = True
        header = self._header
        same_key = header.service_key_id == self._seal.service_key_id
        if header.cluster is None and (
            self.head.newest != Position(header.number, bytes.fromhex(header.entry_id))
            or (same_key and self.head.mac.hex() != header.entry_mac)
        ):
            raise SetupError("the entries in the export are not its log")
        event = AuditEvent("local", "command:store:import", "done", _json(self._source_of()))
        self._add_entry(Draft(EntryKind.IMPORT, event))

    def _source_of(self) -> dict[str, Any]:
        header = self._header
        return {
            "exported_at": header.exported_at,
            "number": header.number,
            "entry_id": header.entry_id,
            "service_key_id": header.service_key_id,
            "store_uid": header.store_uid,
        }

    def _add_entry(self, draft: Draft) -> None:
        self._append(log.sealed(self.head.newest.number + 1, self.head.mac, draft, self._stamp))

    def _append(self, row: Cells) -> None:
        self.head = replace(self.head, newest=log.position(row), mac=row[-1])
        if row[log.KIND] == EntryKind.RECONCILIATION.value:
            self.head = replace(self.head, reconciliation=row[log.ENTRY_ID])
        self._add(schema.log, row)

    def _finish(self) -> None:
        """Ends the current cluster, if there is one, with the import's own event."""
        if self._source is None or self._made is None:
            return
        source, made = self._source, clusters.sealed(self._made, self._seal)
        same_key = self._header.service_key_id == self._seal.service_key_id
        if made.history_count != source.history_count or (
            same_key and made.history_head != source.history_head
        ):
            raise SetupError(
                f"the export's superseded wraps of cluster {source.cluster.name} are not its "
                "history"
            )
        if self._begun:
            self._flush()
            rows.write(self._connection, _CORRECT, [dict(zip(_OWN_NAMES, made.own, strict=True))])
        else:
            self._tables[schema.clusters].append(made.own)
        self._source = self._made = None
        self._add_entry(imported(self._header, source, made))

    def _flush(self) -> None:
        """Writes the rows in memory.

        A cluster whose history goes on gets its own row now, which `_finish` corrects.
        """
        if self._made is not None and not self._begun:
            self._tables[schema.clusters].append(clusters.sealed(self._made, self._seal).own)
            self._begun = True
        for table, held in self._tables.items():
            if held:
                values = [rows.named(table, cells) for cells in held]
                rows.write(self._connection, insert(table), values)
                held.clear()


def arriving(cluster: Cluster, now: int, *, linked: bool) -> Cluster:
    """Returns a cluster of an export as it arrives: revoked, or still deleted (protocol A4).

    Args:
        cluster: The cluster as the export has it.
        now: Milliseconds of Unix time.
        linked: Whether its regions keep their key links. They must not where the store lacks those
            links.
    """
    found = postponed(revoked(cluster.name, (), now)(cluster).cluster, now)
    if linked:
        return found
    return replace(found, regions=tuple(replace(each, link="") for each in found.regions))


def imported(header: Header, source: StoredCluster, made: StoredCluster) -> Draft:
    """Returns the entry of an imported cluster, which has its floor from now on."""
    states = {region.name: region.state.value for region in source.cluster.regions}
    detail = {
        "decided": source.decided,
        "exported_at": header.exported_at,
        "regions": states,
        "service_key_id": header.service_key_id,
        "store_uid": header.store_uid,
    }
    return Draft(
        EntryKind.IMPORT,
        AuditEvent("local", ACTION, "done", _json(detail)),
        cluster=made.cluster.name,
        floor=made.floor,
        decision=Decision(made.cluster, added=parts(made.cluster.regions)).described(None),
        organization=made.cluster.organization,
    )


_OWN_NAMES: Final = tuple(
    f"own_{c.name}" if c is schema.clusters.c.uid else c.name for c in schema.clusters.c
)
_CORRECT: Final = update(schema.clusters).where(schema.clusters.c.uid == bindparam("own_uid"))


def _json(detail: dict[str, Any]) -> str:
    return json.dumps(detail, sort_keys=True, separators=(",", ":"))


def _still(found: Organization) -> Organization:
    """Returns an organization none of whose links is moving: no operation comes with an export."""
    links = tuple(
        link if link.move is None else replace(link, move=replace(link.move, open=False))
        for link in found.links
    )
    return replace(found, links=links)
