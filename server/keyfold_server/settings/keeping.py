"""Where decisions are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from keyfold_server.settings.forms import Duration


class Keeping(BaseModel):
    """The settings of the store."""

    store: str = Field(
        default="sqlite:///keyfold.db",
        description="The store: sqlite:/// and the path of a file, which is made when absent, or "
        "postgresql://USER@HOST/DATABASE. PostgreSQL's options follow a question mark; a host "
        "that is not this machine is spoken to over TLS and must prove its name unless sslmode "
        "says otherwise. The password stands elsewhere.",
    )
    store_password_file: Path | None = Field(
        default=None,
        description="File of PostgreSQL's password, read for each connection. Unset: the "
        "environment's PGPASSWORD, if that is set.",
    )
    store_listen: str | None = Field(
        default=None,
        description="PostgreSQL's url for the one connection that hears of changes at once, where "
        "KEYFOLD_STORE leads through a pooler: PgBouncer in transaction mode passes no "
        "notifications on. Unset: KEYFOLD_STORE.",
    )
    migrate: Literal["auto", "manual"] = Field(
        default="manual",
        description="Whether each server brings PostgreSQL to this release's schema at its start "
        "(auto), or `keyfold-server migrate` does (manual). A SQLite file is always brought to "
        "it.",
    )
    service_key: Path | None = Field(
        default=None,
        description="File of 32 random bytes, mode 0600, that seals the store's rows. Unset: "
        "beside the SQLite file, with the ending .service-key; made together with a new store. "
        "PostgreSQL: must be given, the same for every replica, and is never made.",
    )
    store_max_staleness: Duration = Field(
        default=120.0,
        ge=2,
        le=3600,
        description="How long this replica may go without the store before it refuses to use "
        "keys, 2s to 1h.",
    )

    @field_validator("store", "store_listen")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is None:
            return None
        # A setting is printed and logged. Whether the url is one, the store says.
        host, _, options = value.partition("://")[2].partition("?")
        if ":" in host.partition("/")[0].rpartition("@")[0] or "password=" in options:
            raise ValueError(
                "the url holds a password, and urls get into logs: put it into a file that "
                "KEYFOLD_STORE_PASSWORD_FILE names, or into the environment as PGPASSWORD"
            )
        return value
