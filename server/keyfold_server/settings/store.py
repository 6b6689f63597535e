"""The settings of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from keyfold_server.domain.timing import Timing
from keyfold_server.settings.forms import Duration


class StoreSettings(BaseModel):
    """The settings of the store."""

    store: str = Field(
        default="sqlite:///keyfold.db",
        description="The store: sqlite:/// and the path of a file, which the server makes if it "
        "does not exist, or postgresql://USER@HOST/DATABASE. PostgreSQL's options follow a "
        "question mark. Keyfold connects to another machine over TLS and checks its name, unless "
        "sslmode says otherwise. The password must not be in the url.",
    )
    store_password_file: Path | None = Field(
        default=None,
        description="The file with PostgreSQL's password, read for each connection. Unset: the "
        "environment variable PGPASSWORD, if it is set.",
    )
    store_listen: str | None = Field(
        default=None,
        description="The url of PostgreSQL itself, if KEYFOLD_STORE is the url of a pooler. The "
        "server makes one connection there, to receive notifications of changes; PgBouncer in "
        "transaction mode does not pass them on. Unset: KEYFOLD_STORE.",
    )
    migrate: Literal["auto", "manual"] = Field(
        default="manual",
        description="What brings PostgreSQL to this release's schema: each server at its start "
        "(auto), or `keyfold-server migrate` (manual). A server always migrates a SQLite file at "
        "its start.",
    )
    service_key: Path | None = Field(
        default=None,
        description="The file with the service key, which seals the store's rows: 32 random bytes, "
        "mode 0600. Unset: the file beside the SQLite file with the ending .service-key, which the "
        "server makes together with a new store. PostgreSQL needs this setting, with the same key "
        "for every replica; the server never makes it.",
    )
    store_max_staleness: Duration = Field(
        default=Timing().store_max_staleness,
        ge=2,
        le=3600,
        description="The longest time that this replica uses keys without reaching the store, 2s "
        "to 1h. After that it refuses all calls that use keys.",
    )
    log_retention: Duration = Field(
        default=Timing().log_retention,
        ge=86_400,
        le=36_500 * 86_400,
        description="How long the store keeps each entry of its log, which is the audit trail, at "
        "least 24h. An entry that a live replica, or a cursor's reader, has not read stays longer.",
    )
    cursor_expiry: Duration = Field(
        default=Timing().cursor_expiry,
        ge=3600,
        le=3_650 * 86_400,
        description="How long a reader's cursor lives that nobody advances, 1h to 3650d. Until "
        "then the store keeps every entry of its log that the reader has not dealt with.",
    )
    usage_retention: Duration = Field(
        default=Timing().usage_retention,
        ge=3_600,
        le=36_500 * 86_400,
        description="How long the store keeps the counts of uses that ListUsage shows, at least "
        "1h. A count takes about 150 bytes, and there is one for each minute, cluster, region, "
        "caller, method and outcome that occurred.",
    )
    backup_retention: Duration = Field(
        default=Timing().backup_retention,
        ge=0,
        le=36_500 * 86_400,
        description="How long you keep backups of the store, exports and archived logs of the "
        "database included, and backups of data that holds wrapped keys; the longest of them "
        "counts; 0s (you keep none) to 36500d. A deletion is final this long after the store has "
        "erased the keys. Keyfold keeps the history of superseded wraps for as long, because it "
        "tells which old root keys backups still need.",
    )

    @field_validator("store", "store_listen")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is None:
            return None
        # Settings are printed and logged. The store checks the rest of the url.
        host, _, options = value.partition("://")[2].partition("?")
        if ":" in host.partition("/")[0].rpartition("@")[0] or "password=" in options:
            raise ValueError(
                "the url holds a password, and urls get into logs: put it into a file that "
                "KEYFOLD_STORE_PASSWORD_FILE names, or into the environment as PGPASSWORD"
            )
        return value
