"""The release after this one, for tests: this code with one migration more.

Nothing is released, so no real migration leads from one schema to the next. What a rolling upgrade
promises (protocol S6) is tested on a migration that exists here alone. It is written as a real one
must be: it only adds, it can run again after it failed half-way, and new columns are nullable.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from keyfold_server.store.migrations import migrate

OWN: Final = "0001"
"""This release's schema."""

NEXT: Final = "0002"
"""The schema of the release after this one."""

UNKNOWN: Final = "0003"
"""A schema on which this release does not serve."""

ADDED: Final = ("regions", "generations", "wraps", "observations")
"""Tables to which the next schema adds a column, `novelty`."""

_MIGRATION: Final = f'''
"""Adds a table and columns that this release does not know."""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEXT}", "{OWN}", None, None


def upgrade():
    op.create_table(
        "novelties", sa.Column("id", sa.Integer(), primary_key=True), if_not_exists=True
    )
    for table in {ADDED}:
        # SQLite cannot add a column only if it is missing.
        known = {{each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}}
        if "novelty" not in known:
            op.add_column(table, sa.Column("novelty", sa.Text(), nullable=True))
'''


class NextRelease:
    """Acts as the release after this one, and as this one again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._own = migrate._SCRIPTS
        self._scripts = folder / "next-release"
        shutil.copytree(self._own, self._scripts, ignore=shutil.ignore_patterns("__pycache__"))
        (self._scripts / "versions" / f"{NEXT}_next.py").write_text(_MIGRATION, encoding="utf-8")

    def use(self, *, newer: bool) -> None:
        """Goes on as the next release, or as this one."""
        self._patch.setattr(migrate, "_SCRIPTS", self._scripts if newer else self._own)
