"""The first schema.

Written so that it can be run again: not every database takes back what it made of a schema
when the transaction fails.
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

# By its bytes everywhere; SQLite does so by itself.
_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Makes every table that is not there."""
    _own()
    _clusters()
    _keyrings()
    _records()


def downgrade() -> None:
    """Refuses: a store goes back by its backup."""
    raise NotImplementedError


def _table(name: str, *items: SchemaItem) -> None:
    op.create_table(name, *items, if_not_exists=True)


def _index(table: str, *columns: str) -> None:
    name = "_".join(("ix", table, *columns))
    op.create_index(name, table, list(columns), if_not_exists=True)


def _own() -> None:
    """The store's own row, and how replicas learn of changes."""
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
        "counter",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("change_id", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_counter"),
    )
    _table(
        "changes",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("change_id", sa.LargeBinary(), nullable=False),
        sa.Column("cluster", _TEXT, nullable=True),
        sa.Column("root", _TEXT, nullable=True),
        sa.Column("kek", sa.LargeBinary(), nullable=True),
        sa.Column("replica", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_changes"),
    )
    _index("changes", "created_at")
    _table(
        "replicas",
        sa.Column("replica", _TEXT, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("change_id", sa.LargeBinary(), nullable=False),
        sa.Column("max_staleness", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("replica", name="pk_replicas"),
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
    _table(
        "reconciliations",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("decision_id", sa.LargeBinary(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("change_id", sa.LargeBinary(), nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_reconciliations"),
    )


def _clusters() -> None:
    """Clusters and their regions."""
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
        sa.Column("audit_head", sa.LargeBinary(), nullable=False),
        sa.Column("audit_count", sa.BigInteger(), nullable=False),
        sa.Column("service_key_id", _TEXT, nullable=False),
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
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("cluster_uid", "name", name="pk_regions"),
        sa.ForeignKeyConstraint(
            ["cluster_uid"],
            ["clusters.uid"],
            name="fk_regions_cluster_uid_clusters",
        ),
    )
    _index("regions", "kek_subject")
    _index("regions", "root_subject")
    _index("regions", "root_uri")
    _index("regions", "state", "cluster_uid")


def _keyrings() -> None:
    """KEKs and their wraps."""
    _table(
        "generations",
        sa.Column("kek_id", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False),
        sa.Column("region", _TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
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
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False),
        sa.Column("root_type", _TEXT, nullable=False),
        sa.Column("root_uri", _TEXT, nullable=False),
        sa.Column("root_principal", _TEXT, nullable=False),
        sa.Column("root_options", _TEXT, nullable=False),
        sa.Column("root_id", _TEXT, nullable=False),
        sa.Column("key_version", _TEXT, nullable=False),
        sa.Column("organization", _TEXT, nullable=True),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("superseded_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kek_id", "number", name="pk_wraps"),
        sa.ForeignKeyConstraint(
            ["kek_id"],
            ["generations.kek_id"],
            name="fk_wraps_kek_id_generations",
        ),
    )
    _index("wraps", "root_id")
    _index("wraps", "root_uri")


def _records() -> None:
    """What was done and what was seen."""
    _table(
        "audit_events",
        sa.Column("cluster_uid", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("caller", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.Column("proof", _TEXT, nullable=False),
        sa.Column("address", _TEXT, nullable=False),
        sa.Column("on_behalf_of", _TEXT, nullable=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("cluster_uid", "number", name="pk_audit_events"),
        sa.ForeignKeyConstraint(
            ["cluster_uid"],
            ["clusters.uid"],
            name="fk_audit_events_cluster_uid_clusters",
        ),
    )
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
        sa.PrimaryKeyConstraint("subject", name="pk_observations"),
    )
    _index("observations", "health")
