"""Import: brings an export into an empty store, whole or not at all (protocol A4).

The states in an export are as old as the export, so they lack later revocations. Nothing outside
the store can prove an export current yet. So every region arrives REVOKED in a raised epoch of its
cluster, and Restore takes the region back after its root key answers. Each cluster's audit chain
goes on where it was, with an event for the import.

This module knows nothing of files: `archive` hands over the records of a file whose seal it has
verified.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, bindparam, insert, select, update

from keyfold_server.domain.changes import AuditEvent, revoked
from keyfold_server.domain.cluster import SupersededWrap
from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store import schema
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.schema import Cells
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.tables import (
    audit,
    changes,
    clusters,
    counter,
    external_ids,
    rows,
    wrap_history,
)
from keyfold_server.store.tables.changes import Subject
from keyfold_server.store.tables.clusters import CHILDREN, StoredCluster
from keyfold_server.store.transfer.records import IssuedId

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.transfer.archive import ExportFile
    from keyfold_server.store.transfer.records import Header

FAILPOINTS: Final = ("import:begun", "import:rows-written", "import:numbered")
"""The points at which a test may kill an import."""

ACTION: Final = "command:cluster:import"
"""Action of the audit event."""

_BUFFERED: Final = 2_000
"""Rows that an import keeps in memory before it writes them."""


@dataclass(slots=True)
class ImportResult:
    """The result of an import.

    Attributes:
        clusters: Number of clusters.
        events: Number of audit events, without the import's own.
        enabled: Names of cluster and region, for each region that is ENABLED in the export.
    """

    clusters: int = 0
    events: int = 0
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
        # The counter's lock comes first here, and not last as elsewhere. So nobody can make a
        # cluster between the check and the commit.
        counter.read(connection, seal, lock=True)
        _check_empty(connection)
        reach("import:begun")
        now = database.dialect.now(connection, clock)
        writer = _Writer(connection, seal, export.header, now)
        for record in export.records():
            if isinstance(record, StoredCluster):
                writer.cluster(record)
            elif isinstance(record, SupersededWrap):
                writer.superseded(record)
            elif isinstance(record, AuditEvent):
                writer.event(record)
            elif isinstance(record, IssuedId):
                writer.issued(record)
        writer.end()
        reach("import:rows-written")
        changes.record(connection, writer.subjects, "import", now, seal, database.dialect)
        reach("import:numbered")
        return writer.imported

    try:
        return database.migrate(work)
    except LostRaceError as error:
        raise StoreUnavailableError(
            "others made clusters in the store at the same time; nothing was imported"
        ) from error


def _check_empty(connection: Connection) -> None:
    for table in (schema.clusters, schema.audit_events, schema.requests, schema.external_ids):
        if connection.execute(select(*table.c).limit(1)).first() is not None:
            raise SetupError(
                "the store is not empty, and an import goes into an empty one: name a new store "
                "in KEYFOLD_STORE, or stop this store's servers and move it away"
            )


class _Writer:
    """Writes clusters and their chains, and keeps a bounded number of rows in memory."""

    def __init__(self, connection: Connection, seal: Seal, header: Header, now: int) -> None:
        self._connection = connection
        self._seal = seal
        self._header = header
        self._now = now
        self._source: StoredCluster | None = None
        self._made: StoredCluster | None = None
        self._begun = False
        self._tables: dict[Table, list[Cells]] = {
            table: []
            for table in (
                schema.external_ids,
                schema.clusters,
                *CHILDREN,
                schema.wrap_history,
                schema.audit_events,
            )
        }
        self.subjects: Final[list[Subject]] = []
        self.imported: Final = ImportResult()

    def cluster(self, source: StoredCluster) -> None:
        """Begins a cluster, with every region revoked; its history and its events follow."""
        self._finish()
        now_revoked = revoked(source.cluster.name, (), self._now)(source.cluster).cluster
        children = clusters.encoded(now_revoked, self._seal)
        self._source, self._made = source, StoredCluster(now_revoked, b"", 0, children)
        self._begun = False
        for table in CHILDREN:
            self._tables[table] += children[table].values()
        self.subjects.append(Subject.of(now_revoked))
        self.imported.clusters += 1
        self.imported.enabled += [
            (now_revoked.name, region.name)
            for region in source.cluster.regions
            if region.in_service
        ]

    def issued(self, issued: IssuedId) -> None:
        """Adds an external id under the store's own seal."""
        self._tables[schema.external_ids].append(
            external_ids.sealed(issued.owner, issued.external_id, issued.created_at, self._seal)
        )

    def event(self, event: AuditEvent) -> None:
        """Appends an event to the cluster's chain, under the store's own seal."""
        if self._made is None:
            raise SetupError("the export has an audit event without a cluster")
        cells = audit.appended(self._made, event, self._seal)
        self._made = replace(self._made, head=cells[-1], events=cells[1])
        self._add(schema.audit_events, cells)

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
        self._flush()

    def _finish(self) -> None:
        """Ends the current cluster, if there is one, with the import's own event."""
        if self._source is None or self._made is None:
            return
        source = self._source
        same_key = self._header.service_key_id == self._seal.service_key_id
        if self._made.events != source.events or (same_key and self._made.head != source.head):
            raise SetupError(
                f"the export's audit events of cluster {source.cluster.name} are not its chain"
            )
        if self._made.history_count != source.history_count or (
            same_key and self._made.history_head != source.history_head
        ):
            raise SetupError(
                f"the export's superseded wraps of cluster {source.cluster.name} are not its "
                "history"
            )
        self.imported.events += source.events
        self.event(_own_event(source, self._header, self._now))
        own = clusters.own_row(self._made, self._seal)
        if self._begun:
            self._flush()
            rows.write(self._connection, _CORRECT, [dict(zip(_OWN_NAMES, own, strict=True))])
        else:
            self._tables[schema.clusters].append(own)
        self._source = self._made = None

    def _flush(self) -> None:
        """Writes the rows in memory.

        A cluster whose history or chain goes on gets its own row now, which `_finish` corrects.
        """
        if self._made is not None and not self._begun:
            self._tables[schema.clusters].append(clusters.own_row(self._made, self._seal))
            self._begun = True
        for table, held in self._tables.items():
            if held:
                values = [rows.named(table, cells) for cells in held]
                rows.write(self._connection, insert(table), values)
                held.clear()


_OWN_NAMES: Final = tuple(
    f"own_{c.name}" if c is schema.clusters.c.uid else c.name for c in schema.clusters.c
)
_CORRECT: Final = update(schema.clusters).where(schema.clusters.c.uid == bindparam("own_uid"))


def _own_event(source: StoredCluster, header: Header, now: int) -> AuditEvent:
    detail: dict[str, Any] = {
        "exported_at": header.exported_at,
        "head": source.head.hex(),
        "regions": {region.name: region.state.value for region in source.cluster.regions},
        "service_key_id": header.service_key_id,
    }
    text = json.dumps(detail, sort_keys=True, separators=(",", ":"))
    return AuditEvent(now, "local", ACTION, "done", text)
