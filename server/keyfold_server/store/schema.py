"""The tables, the same for every database.

Rows that decide something carry a MAC in their last column (protocol A2). It covers all other
columns in the order of this file, so a column's place is part of the format. Rows that only
observe carry no MAC. Times are milliseconds of Unix time and durations are milliseconds, both
integers, so that no database rounds them and no MAC depends on how a number is printed.

A sealed table gets a new column only as `_later`: nullable, and after every column but the MAC.
NULL means what every row meant before the column existed. The MAC covers the values up to the last
such column that is not NULL, and leaves out the NULLs after it. So rows keep the MAC that they
have, and nobody can set or clear such a column by hand without breaking it. A release that does
not know the column refuses the rows that use it, and serves all others (protocol S6).

Until the first release, a change here also edits `migrations/versions/0001_first.py`, and a test
compares the two.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy import Text as AnyText
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

Cells: TypeAlias = tuple[Any, ...]
"""A row's values in the order of its table's columns."""

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Bytes(LargeBinary):
    """Bytes that go to the driver as they are.

    SQLAlchemy wraps each value for drivers that need it. Ours take bytes, and a change of a cluster
    writes some twenty such values.
    """

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        """Returns no conversion, whatever the driver."""


Text: Final = AnyText().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text that every database compares by its bytes, as SQLite does. So pages come in one order
everywhere, and a new version of a system's collations breaks no index."""

_Type = TypeEngine[Any] | type[TypeEngine[Any]]


def _key(name: str, type_: _Type) -> Column[Any]:
    # Keyfold assigns every number itself, so the database needs no sequences.
    return Column(name, type_, primary_key=True, autoincrement=False)


def _must(name: str, type_: _Type) -> Column[Any]:
    return Column(name, type_, nullable=False)


def _index_where(condition: str, *columns: str) -> Index:
    return Index(None, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


def _index_also(part: str, condition: str, *columns: str) -> Index:
    """Makes an index on columns that have one already, for the other part of the rows."""
    name = "_".join(("ix_log", *columns, part))
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


def _later(name: str, type_: _Type) -> Column[Any]:
    return Column(name, type_, nullable=True, info={"later": True})


meta: Final = Table(
    "meta",
    metadata,
    _key("id", SmallInteger),
    _must("store_uid", Bytes),
    _must("service_key_id", Text),
    _must("mac_encoding", SmallInteger),
    _must("created_at", BigInteger),
    _must("mac", Bytes),
)
"""One row: the store's id, and the id of the service key that sealed it."""

clusters: Final = Table(
    "clusters",
    metadata,
    _key("uid", Bytes),
    _must("name", Text),
    Column("organization", Text, nullable=True),
    _must("epoch", BigInteger),
    _must("version", BigInteger),
    _must("created_at", BigInteger),
    _must("updated_at", BigInteger),
    _must("children", Bytes),
    _must("history_head", Bytes),
    _must("history_count", BigInteger),
    _must("service_key_id", Text),
    _later("declared", Text),
    _later("first_use", BigInteger),
    _must("mac", Bytes),
    UniqueConstraint("name"),
    Index(None, "organization", "name"),
)
"""`children` is a digest over the MACs of the rows in `regions`, `generations` and `wraps`, so a
deleted row is missed. `history_head` and `history_count` are the MAC and the number of the last row
of the chain in `wrap_history`, which Keyfold reads only on demand. A cluster's own row changes only
with a decision about it, so it equals the newest entry of the log with a floor for the cluster
(protocol S10). `declared` has one region's name in each line. `first_use` is 0 until the cluster is
used, and then the version that it had first in use (protocol D6)."""

regions: Final = Table(
    "regions",
    metadata,
    _key("cluster_uid", Bytes),
    _key("name", Text),
    _must("state", Text),
    _must("state_since", BigInteger),
    _must("key_type", Text),
    _must("key_uri", Text),
    _must("key_principal", Text),
    _must("key_options", Text),
    Column("cache_ttl", BigInteger, nullable=True),
    Column("outage_grace", BigInteger, nullable=True),
    _must("root_uri", Text),
    _must("root_subject", Text),
    _must("kek_subject", Text),
    _must("cluster", Text),
    _later("auto_rotate", SmallInteger),
    _later("purge_time", BigInteger),
    _later("replica_of", Text),
    _later("geo", Text),
    _later("link", Text),
    _must("mac", Bytes),
    ForeignKeyConstraint(["cluster_uid"], ["clusters.uid"]),
    Index(None, "state", "cluster"),
    _index_where("purge_time IS NOT NULL", "purge_time"),
    Index(None, "root_uri", "cluster"),
    Index(None, "root_subject", "state", "name"),
    Index(None, "kek_subject"),
    _index_where("link IS NOT NULL", "link"),
)
"""`root_uri` and the subjects repeat the newest generation's wrap, only for filters. So does
`cluster`, the cluster's name, which never changes: with it, indexes have the clusters of a root key
or of a state in the order of a page, which begins where the page before ended. The index on
`root_subject` has all that the turns of the sweep, and the counts of regions, need of a region.
`auto_rotate` is 1 or NULL. `purge_time` is set where the state is DELETED, by the store's clock.
`link` is the organization and the name of the key link that the region uses, with a slash between
them, which no name has."""

generations: Final = Table(
    "generations",
    metadata,
    _key("kek_id", Bytes),
    _must("cluster_uid", Bytes),
    _must("region", Text),
    _must("number", BigInteger),
    _must("created_at", BigInteger),
    _later("retired_at", BigInteger),
    _must("mac", Bytes),
    UniqueConstraint("cluster_uid", "region", "number"),
    ForeignKeyConstraint(["cluster_uid", "region"], ["regions.cluster_uid", "regions.name"]),
)

wraps: Final = Table(
    "wraps",
    metadata,
    _key("kek_id", Bytes),
    _must("number", BigInteger),
    _must("cluster_uid", Bytes),
    _must("cluster", Text),
    _must("root_type", Text),
    _must("root_uri", Text),
    _must("root_principal", Text),
    _must("root_options", Text),
    _must("root_family", Text),
    _must("root_holder", Text),
    Column("root_tenant", Text, nullable=True),
    _must("root_id", Text),
    _must("key_version", Text),
    Column("organization", Text, nullable=True),
    _must("ciphertext", Bytes),
    _must("created_at", BigInteger),
    _later("root_external_id", Text),
    _must("mac", Bytes),
    ForeignKeyConstraint(["kek_id"], ["generations.kek_id"]),
    Index(None, "root_id"),
    Index(None, "root_family", "cluster"),
    Index(None, "root_holder", "cluster"),
    Index(None, "root_principal", "cluster"),
    _index_where("root_tenant IS NOT NULL", "root_tenant", "cluster"),
)
"""The wrap that opens each KEK today; `number` counts the wraps of the KEK. `cluster` is the
cluster's name, which never changes: an index has it, so that a page of a key's uses begins where
the page before ended, however many uses the key has."""

wrap_history: Final = Table(
    "wrap_history",
    metadata,
    _key("cluster_uid", Bytes),
    _key("number", BigInteger),
    _must("kek_id", Bytes),
    _must("wrap", BigInteger),
    _must("cluster", Text),
    _must("root_type", Text),
    _must("root_uri", Text),
    _must("root_principal", Text),
    _must("root_options", Text),
    _must("root_family", Text),
    _must("root_holder", Text),
    Column("root_tenant", Text, nullable=True),
    Column("root_external_id", Text, nullable=True),
    _must("key_version", Text),
    Column("organization", Text, nullable=True),
    _must("created_at", BigInteger),
    _must("superseded_at", BigInteger),
    _must("prev", Bytes),
    _must("mac", Bytes),
    ForeignKeyConstraint(["cluster_uid"], ["clusters.uid"]),
    Index(None, "root_family", "cluster"),
    Index(None, "root_holder", "cluster"),
    Index(None, "root_principal", "cluster"),
    _index_where("root_tenant IS NOT NULL", "root_tenant", "cluster"),
    Index(None, "superseded_at", "cluster_uid"),
)
"""The superseded wraps, without their ciphertexts. `wrap` was the wrap's number in `wraps`, and
`prev` is the MAC of the row before, so each MAC vouches for every earlier row. `superseded_at` is
by the store's clock, which decides when pruning removes the row."""

history_checkpoints: Final = Table(
    "history_checkpoints",
    metadata,
    _key("cluster_uid", Bytes),
    _must("number", BigInteger),
    _must("history_mac", Bytes),
    _must("mac", Bytes),
)
"""The last row of a cluster's `wrap_history` that pruning removed: its number and its MAC. A
cluster whose history is whole has no row here. No foreign key refers to the cluster, because the
check of it would lock the cluster's row, and pruning must not keep a change waiting."""

organizations: Final = Table(
    "organizations",
    metadata,
    _key("name", Text),
    _must("display_name", Text),
    _must("default_key", Text),
    _must("cluster_patterns", Text),
    _must("max_clusters", BigInteger),
    _must("max_key_links", BigInteger),
    _must("version", BigInteger),
    _must("revision", BigInteger),
    Column("created_at", BigInteger, nullable=True),
    _must("updated_at", BigInteger),
    _must("children", Bytes),
    _must("service_key_id", Text),
    _must("mac", Bytes),
)
"""The organizations that somebody made, or that have key links or holders. `children` is a digest
over the MACs of the rows in `key_links` and `holders`. An organization's own row changes only with
a decision about it, so it equals the newest entry of the log that has a version, and the
organization, and no cluster. After a deletion that entry has an empty `row_mac` (protocol S10)."""

key_links: Final = Table(
    "key_links",
    metadata,
    _key("organization", Text),
    _key("name", Text),
    _must("description", Text),
    _must("region", Text),
    _must("geo", Text),
    _must("key_type", Text),
    _must("key_uri", Text),
    _must("key_principal", Text),
    _must("key_options", Text),
    _must("proven", Text),
    _must("revision", BigInteger),
    _must("created_at", BigInteger),
    _must("updated_at", BigInteger),
    Column("move", Text, nullable=True),
    _must("mac", Bytes),
    ForeignKeyConstraint(["organization"], ["organizations.name"]),
)
"""The key links of organizations. `move` is the last move of a link to another key: the key that it
had before, the full name of the operation, and whether that has not ended."""

holders: Final = Table(
    "holders",
    metadata,
    _key("organization", Text),
    _key("key_type", Text),
    _key("holder", Text),
    _must("mac", Bytes),
    ForeignKeyConstraint(["organization"], ["organizations.name"]),
    Index(None, "key_type", "holder"),
)
"""The accounts, projects, vaults and origins in which an organization may name keys under a
principal that several customers share (protocol C9). `holder` is as in `wraps.root_holder`. Several
organizations have the same one only if an administrator allows it."""

requests: Final = Table(
    "requests",
    metadata,
    _key("caller", Text),
    _key("rpc", Text),
    _key("cluster", Text),
    _key("request_id", Text),
    _must("digest", Bytes),
    _must("version", BigInteger),
    _must("created_at", BigInteger),
    _must("mac", Bytes),
    Index(None, "created_at"),
    Index(None, "cluster"),
)

log_head: Final = Table(
    "log_head",
    metadata,
    _key("id", SmallInteger),
    _must("number", BigInteger),
    _must("entry_id", Bytes),
    _must("entry_mac", Bytes),
    _must("pruned_number", BigInteger),
    _must("pruned_id", Bytes),
    _must("pruned_mac", Bytes),
    _must("reconciliation", Bytes),
    _must("mac", Bytes),
)
"""One row: the newest entry of the log; as a checkpoint, the last entry that pruning removed
(protocol S11); and the id of the newest reconciliation, empty before the first one. A transaction
holds the row's lock until the commit, so numbers become visible in order (protocol S1)."""

log: Final = Table(
    "log",
    metadata,
    _key("number", BigInteger),
    _must("entry_id", Bytes),
    _must("prev", Bytes),
    _must("time", BigInteger),
    _must("kind", Text),
    Column("cluster", Text, nullable=True),
    Column("cluster_uid", Bytes, nullable=True),
    Column("organization", Text, nullable=True),
    Column("root", Text, nullable=True),
    Column("kek", Bytes, nullable=True),
    Column("key_type", Text, nullable=True),
    Column("key_uri", Text, nullable=True),
    Column("key_principal", Text, nullable=True),
    _must("replica", Text),
    _must("caller", Text),
    _must("proof", Text),
    _must("address", Text),
    _must("on_behalf_of", Text),
    _must("action", Text),
    _must("outcome", Text),
    _must("detail", Text),
    Column("message", Text, nullable=True),
    Column("request_id", Text, nullable=True),
    Column("trace_id", Text, nullable=True),
    Column("kms_request_id", Text, nullable=True),
    Column("version", BigInteger, nullable=True),
    Column("epoch", BigInteger, nullable=True),
    Column("row_mac", Bytes, nullable=True),
    Column("decision", Text, nullable=True),
    _must("mac", Bytes),
    Index(None, "time"),
    _index_where("version IS NOT NULL", "cluster", "number"),
    _index_where("kind = 'RECONCILIATION'", "kind", "number"),
    _index_also("banned", "kind = 'BAN'", "cluster"),
    _index_also("erased", "version IS NOT NULL AND row_mac IS NULL", "cluster"),
    _index_also("erasures", "kind = 'ERASURE'", "kind", "number"),
    _index_where("root IS NOT NULL AND kek IS NULL", "root", "number"),
    _index_also("again", "root IS NOT NULL AND kek IS NOT NULL", "root", "number"),
    _index_also("undecided", "cluster IS NOT NULL AND version IS NULL", "cluster", "number"),
    _index_where("organization IS NOT NULL", "organization", "number"),
    _index_also("own", "cluster IS NULL AND version IS NOT NULL", "organization", "number"),
    _index_where("caller <> ''", "caller", "number"),
    _index_where("kind = 'OPERATION'", "cluster_uid", "number"),
)
"""The log (protocol S0). `prev` is the MAC of the entry before, so each MAC vouches for every
earlier entry. An entry with a version is a floor: the cluster's own row had that version, that
epoch and the MAC `row_mac` from then on (protocol S10); without a cluster, the organization's own
row. If a cluster's `row_mac` is NULL, it is a tombstone: the row was gone from then on (protocol
D5). The uid of an operation's entry is the operation's. `time` is by the store's clock.

The indexes on a cluster are apart, as are those on a root key: what looks for the newest decision,
or for the condition that the log has told last, must not read through other entries. Together they
hold each entry once, so an entry costs no more than with one index. Only a ban and a tombstone are
in another one besides, so that whoever looks for names without a row finds them, and an erasure,
so that one whose traces are still in the database's files is found. The index on an organization's
own decisions is apart from that on all that concerns it, for the same reason as those on a
cluster."""

erasing: Final = Table(
    "erasing",
    metadata,
    _key("id", SmallInteger),
    _must("turned_at", BigInteger),
    Column("resumes_at", BigInteger, nullable=True),
    _must("cleared", BigInteger),
)
"""One row, an observation: when a replica last looked for what is to be erased; until when nothing
is erased, because the clock may have been set forward (protocol D3); and the number of the last
erasure of which the database's files have no traces any more. The clock is the store's."""

replicas: Final = Table(
    "replicas",
    metadata,
    _key("replica", Text),
    _must("number", BigInteger),
    _must("entry_id", Bytes),
    _must("max_staleness", BigInteger),
    _must("time", BigInteger),
    _must("seen_at", BigInteger),
    _later("serves", Text),
    _must("mac", Bytes),
)
"""`time` is by the replica's clock, for people; `seen_at` is by the store's clock, the only one
that Keyfold compares. `serves` has one region's name in each line; NULL: the replica serves all."""

cursors: Final = Table(
    "cursors",
    metadata,
    _key("owner", Text),
    _key("name", Text),
    _must("number", BigInteger),
    _must("entry_id", Bytes),
    _must("session", Bytes),
    _must("scope", Bytes),
    _must("created_at", BigInteger),
    _must("advanced_at", BigInteger),
    Column("expired_at", BigInteger, nullable=True),
    _must("mac", Bytes),
)
"""The named cursors of readers of the log. Pruning passes none of them but those that have expired
(protocol S11), so a row carries a MAC, although to advance one is an observation."""

lineage: Final = Table(
    "lineage",
    metadata,
    _key("id", SmallInteger),
    _must("history", Text),
    _must("since", BigInteger),
    _must("max_staleness", BigInteger),
    _must("mac", Bytes),
)
"""One row: the timeline of the database server that wrote last (`history`), when that server took
over from another (`since`, 0 if none did), and the longest staleness that a replica registered."""

identities: Final = Table(
    "identities",
    metadata,
    _key("kind", Text),
    _must("owner", Text),
    _key("value", Text),
    _must("created_at", BigInteger),
    _later("provider", Text),
    _later("region", Text),
    _later("principal", Text),
    _later("also", Text),
    _later("cluster", Text),
    _later("cluster_uid", Bytes),
    _later("taken_in", Text),
    _must("mac", Bytes),
    UniqueConstraint("principal"),
    Index(None, "owner", "kind"),
    Index(
        "uq_identities_owner",
        "owner",
        unique=True,
        sqlite_where=text("principal IS NULL"),
        postgresql_where=text("principal IS NULL"),
    ),
)
"""What Keyfold issued once for an owner, for good: external ids, one for each owner, and seats
(protocol C2). `provider` to `also` are a seat's, and the three columns behind them tell which
cluster-region took it. No two seats have one principal."""

operations: Final = Table(
    "operations",
    metadata,
    _key("owner", Text),
    _key("name", Text),
    _must("uid", Bytes),
    _must("work", Text),
    _must("starter", Text),
    _must("created_at", BigInteger),
    _must("updated_at", BigInteger),
    Column("cancelled_at", BigInteger, nullable=True),
    Column("ended_at", BigInteger, nullable=True),
    _must("outcome", Text),
    _must("message", Text),
    Column("census", Text, nullable=True),
    _must("place_cluster", Text),
    _must("place_region", Text),
    _must("done", BigInteger),
    _must("failed", BigInteger),
    _must("skipped", BigInteger),
    _must("listed", BigInteger),
    _must("holder", Text),
    _must("leased_until", BigInteger),
    _must("version", BigInteger),
    _must("mac", Bytes),
    _index_where("ended_at IS NULL", "created_at"),
    Index(None, "ended_at"),
)
"""The operations. Progress has a MAC, too: whoever could move it would have regions left out that
the operation then counts as done. `leased_until` is by the store's clock. Each write raises the
version by one, and an entry of the log tells the version that a decision left (protocol S10)."""

operation_failures: Final = Table(
    "operation_failures",
    metadata,
    _key("operation", Bytes),
    _key("number", BigInteger),
    _must("cluster", Text),
    _must("region", Text),
    _must("reason", Text),
    _must("message", Text),
    _must("time", BigInteger),
    _must("mac", Bytes),
)
"""The failures that an operation lists; `operation` is its uid."""

TURNS: Final = "subject >= 'sweep:' AND subject < 'sweep;'"
"""Which observations are claims of the sweep's turns. An index has them alone, by their time, so a
statement that looks for old ones says it in the same words."""

observations: Final = Table(
    "observations",
    metadata,
    _key("subject", Text),
    _must("health", Text),
    _must("since", BigInteger),
    _must("last_check", BigInteger),
    Column("last_success", BigInteger, nullable=True),
    _must("message", Text),
    _must("request_id", Text),
    Column("can_wrap", Boolean, nullable=True),
    Column("can_unwrap", Boolean, nullable=True),
    Column("reason", Text, nullable=True),
    Column("missing_permission", Text, nullable=True),
    Index(None, "health"),
    Index(None, "can_wrap"),
    _index_where(TURNS, "last_check"),
)

generation_uses: Final = Table(
    "generation_uses",
    metadata,
    _key("kek_id", Bytes),
    _must("used_at", BigInteger),
)
"""The time at which each KEK was last used: an observation that never goes back."""

usage: Final = Table(
    "usage",
    metadata,
    _key("time", BigInteger),
    _key("cluster", Text),
    _key("region", Text),
    _key("caller", Text),
    _key("method", Text),
    _key("outcome", Text),
    _must("count", BigInteger),
    Index(None, "cluster", "time"),
)
"""How often keys were used in the minute that began at `time`: an observation."""

usage_flushes: Final = Table(
    "usage_flushes",
    metadata,
    _key("writer", Text),
    _must("number", BigInteger),
    _must("written_at", BigInteger),
    Index(None, "written_at"),
)
"""The last flush of counts by each process, so that none is added twice."""

ALWAYS_SEALED: Final = {
    table.name: sum(not column.info.get("later") for column in table.columns) - 1
    for table in metadata.tables.values()
    if "mac" in table.columns
}
"""Number of values that the MAC covers in any case, by table: those before `_later` columns."""
