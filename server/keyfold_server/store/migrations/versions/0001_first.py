"""The first schema. Nothing is released yet, so every change of the schema edits this file.

From the first release on, a change of the schema is a migration of its own, and no released file
changes. The migration can run again after it failed half-way, because some databases keep the
tables that a failed transaction made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from sqlalchemy.schema import SchemaItem

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Text compares by its bytes in every database; SQLite does so by default.
_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Makes every table that does not exist yet."""
    _store()
    _clusters()
    _keyrings()
    _organizations()
    _operations()
    _records()
    _observations()


def downgrade() -> None:
    """Refuses to go back; restore a backup instead."""
    raise NotImplementedError


def _table(name: str, *items: SchemaItem) -> None:
    op.create_table(name, *items, if_not_exists=True)


def _index(table: str, *columns: str, where: str | None = None, part: str = "") -> None:
    name = "_".join(("ix", table, *columns, *([part] if part else [])))
    condition = None if where is None else sa.text(where)
    op.create_index(
        name,
        table,
        list(columns),
        if_not_exists=True,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _store() -> None:
    """Makes the tables of the store itself: its own row, the log, and the replicas."""
    _table(
        "meta",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("store_uid", sa.LargeBinary(), nullable=False),
        sa.Column("service_key_id", _TEXT, nullable=False),
        sa.Column("mac_encoding", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_meta"),
    )
    _table(
        "log_head",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.LargeBinary(), nullable=False),
        sa.Column("entry_mac", sa.LargeBinary(), nullable=False),
        sa.Column("pruned_number", sa.BigInteger(), nullable=False),
        sa.Column("pruned_id", sa.LargeBinary(), nullable=False),
        sa.Column("pruned_mac", sa.LargeBinary(), nullable=False),
        sa.Column("reconciliation", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_head"),
    )
    _table(
        "log",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("entry_id", sa.LargeBinary(), nullable=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("cluster", _TEXT, nullable=True),
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=True),
        sa.Column("organization", _TEXT, nullable=True),
        sa.Column("root", _TEXT, nullable=True),
        sa.Column("kek", sa.LargeBinary(), nullable=True),
        sa.Column("key_type", _TEXT, nullable=True),
        sa.Column("key_uri", _TEXT, nullable=True),
        sa.Column("key_principal", _TEXT, nullable=True),
        sa.Column("replica", _TEXT, nullable=False),
        sa.Column("caller", _TEXT, nullable=False),
        sa.Column("proof", _TEXT, nullable=False),
        sa.Column("address", _TEXT, nullable=False),
        sa.Column("on_behalf_of", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.Column("message", _TEXT, nullable=True),
        sa.Column("request_id", _TEXT, nullable=True),
        sa.Column("trace_id", _TEXT, nullable=True),
        sa.Column("kms_request_id", _TEXT, nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("row_mac", sa.LargeBinary(), nullable=True),
        sa.Column("decision", _TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_log"),
    )
    _index("log", "time")
    _index("log", "cluster", "number", where="version IS NOT NULL")
    _index("log", "kind", "number", where="kind = 'RECONCILIATION'")
    _index("log", "cluster", where="kind = 'BAN'", part="banned")
    _index("log", "cluster", where="version IS NOT NULL AND row_mac IS NULL", part="erased")
    _index("log", "kind", "number", where="kind = 'ERASURE'", part="erasures")
    _index("log", "root", "number", where="root IS NOT NULL AND kek IS NULL")
    _index("log", "root", "number", where="root IS NOT NULL AND kek IS NOT NULL", part="again")
    undecided = "cluster IS NOT NULL AND version IS NULL"
    _index("log", "cluster", "number", where=undecided, part="undecided")
    _index("log", "organization", "number", where="organization IS NOT NULL")
    _index(
        "log",
        "organization",
        "number",
        where="cluster IS NULL AND version IS NOT NULL",
        part="own",
    )
    _index("log", "caller", "number", where="caller <> ''")
    _index("log", "cluster_uid", "number", where="kind = 'OPERATION'")
    _table(
        "erasing",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("turned_at", sa.BigInteger(), nullable=False),
        sa.Column("resumes_at", sa.BigInteger(), nullable=True),
        sa.Column("cleared", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_erasing"),
    )
    _table(
        "replicas",
        sa.Column("replica", _TEXT, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.LargeBinary(), nullable=False),
        sa.Column("max_staleness", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("serves", _TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("replica", name="pk_replicas"),
    )
    _table(
        "cursors",
        sa.Column("owner", _TEXT, nullable=False, autoincrement=False),
        sa.Column("name", _TEXT, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.LargeBinary(), nullable=False),
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("scope", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("advanced_at", sa.BigInteger(), nullable=False),
        sa.Column("expired_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_cursors"),
    )
    _table(
        "lineage",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("history", _TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("max_staleness", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lineage"),
    )


def _clusters() -> None:
    """Makes the tables of clusters and their regions."""
    _table(
        "clusters",
        sa.Column("uid", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("organization", _TEXT, nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("children", sa.LargeBinary(), nullable=False),
        sa.Column("history_head", sa.LargeBinary(), nullable=False),
        sa.Column("history_count", sa.BigInteger(), nullable=False),
        sa.Column("service_key_id", _TEXT, nullable=False),
        sa.Column("declared", _TEXT, nullable=True),
        sa.Column("first_use", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_clusters"),
        sa.UniqueConstraint("name", name="uq_clusters_name"),
    )
    _index("clusters", "organization", "name")
    _table(
        "regions",
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("name", _TEXT, nullable=False, autoincrement=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("state_since", sa.BigInteger(), nullable=False),
        sa.Column("key_type", _TEXT, nullable=False),
        sa.Column("key_uri", _TEXT, nullable=False),
        sa.Column("key_principal", _TEXT, nullable=False),
        sa.Column("key_options", _TEXT, nullable=False),
        sa.Column("cache_ttl", sa.BigInteger(), nullable=True),
        sa.Column("outage_grace", sa.BigInteger(), nullable=True),
        sa.Column("root_uri", _TEXT, nullable=False),
        sa.Column("root_subject", _TEXT, nullable=False),
        sa.Column("kek_subject", _TEXT, nullable=False),
        sa.Column("cluster", _TEXT, nullable=False),
        sa.Column("auto_rotate", sa.SmallInteger(), nullable=True),
        sa.Column("purge_time", sa.BigInteger(), nullable=True),
        sa.Column("replica_of", _TEXT, nullable=True),
        sa.Column("geo", _TEXT, nullable=True),
        sa.Column("link", _TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("cluster_uid", "name", name="pk_regions"),
        sa.ForeignKeyConstraint(
            ["cluster_uid"],
            ["clusters.uid"],
            name="fk_regions_cluster_uid_clusters",
        ),
    )
    _index("regions", "kek_subject")
    _index("regions", "link", where="link IS NOT NULL")
    _index("regions", "root_subject", "state", "name")
    _index("regions", "root_uri", "cluster")
    _index("regions", "state", "cluster")
    _index("regions", "purge_time", where="purge_time IS NOT NULL")


def _keyrings() -> None:
    """Makes the tables of KEKs, their wraps and the history of these."""
    _table(
        "generations",
        sa.Column("kek_id", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False),
        sa.Column("region", _TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kek_id", name="pk_generations"),
        sa.UniqueConstraint(
            "cluster_uid", "region", "number", name="uq_generations_cluster_uid_region_number"
        ),
        sa.ForeignKeyConstraint(
            ["cluster_uid", "region"],
            ["regions.cluster_uid", "regions.name"],
            name="fk_generations_cluster_uid_region_regions",
        ),
    )
    _table(
        "wraps",
        sa.Column("kek_id", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False),
        sa.Column("cluster", _TEXT, nullable=False),
        sa.Column("root_type", _TEXT, nullable=False),
        sa.Column("root_uri", _TEXT, nullable=False),
        sa.Column("root_principal", _TEXT, nullable=False),
        sa.Column("root_options", _TEXT, nullable=False),
        sa.Column("root_family", _TEXT, nullable=False),
        sa.Column("root_holder", _TEXT, nullable=False),
        sa.Column("root_tenant", _TEXT, nullable=True),
        sa.Column("root_id", _TEXT, nullable=False),
        sa.Column("key_version", _TEXT, nullable=False),
        sa.Column("organization", _TEXT, nullable=True),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("root_external_id", _TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kek_id", name="pk_wraps"),
        sa.ForeignKeyConstraint(
            ["kek_id"],
            ["generations.kek_id"],
            name="fk_wraps_kek_id_generations",
        ),
    )
    _index("wraps", "root_id")
    _used_keys("wraps")
    _table(
        "wrap_history",
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("kek_id", sa.LargeBinary(), nullable=False),
        sa.Column("wrap", sa.BigInteger(), nullable=False),
        sa.Column("cluster", _TEXT, nullable=False),
        sa.Column("root_type", _TEXT, nullable=False),
        sa.Column("root_uri", _TEXT, nullable=False),
        sa.Column("root_principal", _TEXT, nullable=False),
        sa.Column("root_options", _TEXT, nullable=False),
        sa.Column("root_family", _TEXT, nullable=False),
        sa.Column("root_holder", _TEXT, nullable=False),
        sa.Column("root_tenant", _TEXT, nullable=True),
        sa.Column("root_external_id", _TEXT, nullable=True),
        sa.Column("key_version", _TEXT, nullable=False),
        sa.Column("organization", _TEXT, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("superseded_at", sa.BigInteger(), nullable=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("cluster_uid", "number", name="pk_wrap_history"),
        sa.ForeignKeyConstraint(
            ["cluster_uid"],
            ["clusters.uid"],
            name="fk_wrap_history_cluster_uid_clusters",
        ),
    )
    _used_keys("wrap_history")
    _index("wrap_history", "superseded_at", "cluster_uid")
    _table(
        "history_checkpoints",
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("history_mac", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("cluster_uid", name="pk_history_checkpoints"),
    )


def _used_keys(table: str) -> None:
    """Makes the indexes that find who uses a root key."""
    _index(table, "root_family", "cluster")
    _index(table, "root_holder", "cluster")
    _index(table, "root_principal", "cluster")
    _index(table, "root_tenant", "cluster", where="root_tenant IS NOT NULL")


def _organizations() -> None:
    """Makes the tables of organizations and their key links."""
    _table(
        "organizations",
        sa.Column("name", _TEXT, nullable=False, autoincrement=False),
        sa.Column("display_name", _TEXT, nullable=False),
        sa.Column("default_key", _TEXT, nullable=False),
        sa.Column("cluster_patterns", _TEXT, nullable=False),
        sa.Column("max_clusters", sa.BigInteger(), nullable=False),
        sa.Column("max_key_links", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("children", sa.LargeBinary(), nullable=False),
        sa.Column("service_key_id", _TEXT, nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_organizations"),
    )
    _table(
        "key_links",
        sa.Column("organization", _TEXT, nullable=False, autoincrement=False),
        sa.Column("name", _TEXT, nullable=False, autoincrement=False),
        sa.Column("description", _TEXT, nullable=False),
        sa.Column("region", _TEXT, nullable=False),
        sa.Column("geo", _TEXT, nullable=False),
        sa.Column("key_type", _TEXT, nullable=False),
        sa.Column("key_uri", _TEXT, nullable=False),
        sa.Column("key_principal", _TEXT, nullable=False),
        sa.Column("key_options", _TEXT, nullable=False),
        sa.Column("proven", _TEXT, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("move", _TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "name", name="pk_key_links"),
        sa.ForeignKeyConstraint(
            ["organization"],
            ["organizations.name"],
            name="fk_key_links_organization_organizations",
        ),
    )
    _table(
        "holders",
        sa.Column("organization", _TEXT, nullable=False, autoincrement=False),
        sa.Column("key_type", _TEXT, nullable=False, autoincrement=False),
        sa.Column("holder", _TEXT, nullable=False, autoincrement=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "key_type", "holder", name="pk_holders"),
        sa.ForeignKeyConstraint(
            ["organization"],
            ["organizations.name"],
            name="fk_holders_organization_organizations",
        ),
    )
    _index("holders", "key_type", "holder")


def _operations() -> None:
    """Makes the tables of operations and their failures."""
    _table(
        "operations",
        sa.Column("owner", _TEXT, nullable=False, autoincrement=False),
        sa.Column("name", _TEXT, nullable=False, autoincrement=False),
        sa.Column("uid", sa.LargeBinary(), nullable=False),
        sa.Column("work", _TEXT, nullable=False),
        sa.Column("starter", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("message", _TEXT, nullable=False),
        sa.Column("census", _TEXT, nullable=True),
        sa.Column("place_cluster", _TEXT, nullable=False),
        sa.Column("place_region", _TEXT, nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("listed", sa.BigInteger(), nullable=False),
        sa.Column("holder", _TEXT, nullable=False),
        sa.Column("leased_until", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_operations"),
    )
    _index("operations", "created_at", where="ended_at IS NULL")
    _index("operations", "ended_at")
    _table(
        "operation_failures",
        sa.Column("operation", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("cluster", _TEXT, nullable=False),
        sa.Column("region", _TEXT, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("message", _TEXT, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("operation", "number", name="pk_operation_failures"),
    )


def _records() -> None:
    """Makes the tables of requests and identities."""
    _table(
        "requests",
        sa.Column("caller", _TEXT, nullable=False, autoincrement=False),
        sa.Column("rpc", _TEXT, nullable=False, autoincrement=False),
        sa.Column("cluster", _TEXT, nullable=False, autoincrement=False),
        sa.Column("request_id", _TEXT, nullable=False, autoincrement=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "rpc", "cluster", "request_id", name="pk_requests"),
    )
    _index("requests", "created_at")
    _index("requests", "cluster")
    _table(
        "identities",
        sa.Column("kind", _TEXT, nullable=False, autoincrement=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("value", _TEXT, nullable=False, autoincrement=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("provider", _TEXT, nullable=True),
        sa.Column("region", _TEXT, nullable=True),
        sa.Column("principal", _TEXT, nullable=True),
        sa.Column("also", _TEXT, nullable=True),
        sa.Column("cluster", _TEXT, nullable=True),
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=True),
        sa.Column("taken_in", _TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "value", name="pk_identities"),
        sa.UniqueConstraint("principal", name="uq_identities_principal"),
    )
    _index("identities", "owner", "kind")
    op.create_index(
        "uq_identities_owner",
        "identities",
        ["owner"],
        unique=True,
        if_not_exists=True,
        sqlite_where=sa.text("principal IS NULL"),
        postgresql_where=sa.text("principal IS NULL"),
    )


def _observations() -> None:
    """Makes the tables of what replicas observe, which carry no MAC."""
    _table(
        "observations",
        sa.Column("subject", _TEXT, nullable=False, autoincrement=False),
        sa.Column("health", _TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("last_check", sa.BigInteger(), nullable=False),
        sa.Column("last_success", sa.BigInteger(), nullable=True),
        sa.Column("message", _TEXT, nullable=False),
        sa.Column("request_id", _TEXT, nullable=False),
        sa.Column("can_wrap", sa.Boolean(), nullable=True),
        sa.Column("can_unwrap", sa.Boolean(), nullable=True),
        sa.Column("reason", _TEXT, nullable=True),
        sa.Column("missing_permission", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("subject", name="pk_observations"),
    )
    _index("observations", "health")
    _index("observations", "can_wrap")
    _index("observations", "last_check", where="subject >= 'sweep:' AND subject < 'sweep;'")
    _table(
        "generation_uses",
        sa.Column("kek_id", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kek_id", name="pk_generation_uses"),
    )
    _table(
        "usage",
        sa.Column("time", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("cluster", _TEXT, nullable=False, autoincrement=False),
        sa.Column("region", _TEXT, nullable=False, autoincrement=False),
        sa.Column("caller", _TEXT, nullable=False, autoincrement=False),
        sa.Column("method", _TEXT, nullable=False, autoincrement=False),
        sa.Column("outcome", _TEXT, nullable=False, autoincrement=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "time", "cluster", "region", "caller", "method", "outcome", name="pk_usage"
        ),
    )
    _index("usage", "cluster", "time")
    _table(
        "usage_flushes",
        sa.Column("writer", _TEXT, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("writer", name="pk_usage_flushes"),
    )
    _index("usage_flushes", "written_at")
