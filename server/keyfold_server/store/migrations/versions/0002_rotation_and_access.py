"""Rotation by itself, generations out of use and when each was used, and external ids.

Adds alone: what the former release reads and writes stays as it is, and it serves on. Written so
that it can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# By its bytes everywhere; SQLite does so by itself.
_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds every column and table that is not there."""
    _column("regions", sa.Column("auto_rotate", sa.SmallInteger(), nullable=True))
    _column("generations", sa.Column("retired_at", sa.BigInteger(), nullable=True))
    _column("wraps", sa.Column("root_external_id", _TEXT, nullable=True))
    _column("observations", sa.Column("reason", _TEXT, nullable=True))
    _column("observations", sa.Column("missing_permission", _TEXT, nullable=True))
    op.create_table(
        "external_ids",
        sa.Column("owner", _TEXT, nullable=False, autoincrement=False),
        sa.Column("external_id", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_external_ids"),
        if_not_exists=True,
    )
    op.create_table(
        "generation_uses",
        sa.Column("kek_id", sa.LargeBinary(), nullable=False, autoincrement=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kek_id", name="pk_generation_uses"),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Refuses: a store goes back by its backup."""
    raise NotImplementedError


def _column(table: str, column: sa.Column[object]) -> None:
    # SQLite cannot be told to add a column only where there is none.
    known = {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}
    if column.name not in known:
        op.add_column(table, column)
