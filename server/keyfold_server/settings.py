"""What an operator sets: from the environment, and from a TOML file for what is a table.

The environment wins over the file. Every setting has a default that a single machine can start
with, but for those that only its operator can know.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.keyspec import MAX_CACHE_TTL, MAX_OUTAGE_GRACE

PREFIX: Final = "KEYFOLD_"
"""How the settings' environment variables begin."""

_CLIENTS_OWN: Final = {"TARGET", "CA", "CERT", "KEY"}
"""Variables of the same prefix that the client reads."""

_OTHER: Final = {"CONFIG", "CACHE"}
"""The settings file's own variable, and the folder of this project's development tools."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_PORT: Final = 65_535
_METRICS_PORT: Final = 9464

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


def seconds(value: object) -> object:
    """Returns the seconds of a duration such as `0s`, `500ms`, `60s`, `15m` or `24h`."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("write a duration with its unit, such as 0s, 500ms, 60s, 15m or 24h")
    return float(match[1]) * _UNITS[match[2]]


def duration(value: float) -> str:
    """Returns a duration as it is written in settings."""
    for unit in ("h", "m", "s"):
        if value >= _UNITS[unit] and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:.0f}{unit}"
    # Digits enough that reading it gives the same number again, and no exponent.
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


Duration = Annotated[float, BeforeValidator(seconds), PlainSerializer(duration)]


class Settings(BaseSettings):
    """A server's settings; each is `KEYFOLD_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    listen: str = Field(
        default="127.0.0.1:7443",
        description="Where to listen: HOST:PORT, port 0 for a free one, or unix: and a path. "
        "Without TLS only loopback addresses and unix sockets.",
    )
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
    local_keys: Path | None = Field(
        default=None,
        description="The key file of the LOCAL provider, made by `keyfold-server dev-keys`. "
        "Unset: there is no LOCAL provider.",
    )
    platform_key: str | dict[str, str] | None = Field(
        default=None,
        description="The vendor's own key for clusters that bring none: one uri for all regions, "
        "or in the file a table of uris by region.",
    )
    cache_ttl: Duration = Field(
        default=60.0,
        ge=0,
        le=MAX_CACHE_TTL,
        description="How long one successful unwrap lets a key be used, 0s to 15m. At 0s every "
        "call asks the customer's KMS. A region's policy may say otherwise.",
    )
    outage_grace: Duration = Field(
        default=900.0,
        ge=0,
        le=MAX_OUTAGE_GRACE,
        description="How much longer keys serve while the KMS cannot be asked, 0s to 24h. A "
        "region's policy may say otherwise.",
    )
    store_max_staleness: Duration = Field(
        default=120.0,
        ge=2,
        le=3600,
        description="How long this replica may go without the store before it refuses to use "
        "keys, 2s to 1h.",
    )
    cache_clusters: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="How many clusters are kept in memory, least recently used going first.",
    )
    max_concurrent_calls: int = Field(
        default=4_000,
        ge=1,
        le=100_000,
        description="Calls under way beyond which further ones are turned away.",
    )
    metrics: str | None = Field(
        default=None,
        description="Where Prometheus reads /metrics: HOST:PORT, or off. Unset: 127.0.0.1:9464, or "
        "a free port of 127.0.0.1 where KEYFOLD_LISTEN takes a free one or a unix socket.",
    )
    drain_grace: Duration = Field(
        default=30.0,
        ge=0,
        le=600,
        description="How long calls under way may take to finish after SIGTERM, 0s to 10m.",
    )

    @field_validator("listen")
    @classmethod
    def _only_local(cls, value: str) -> str:
        if value.startswith("unix:"):
            if not value.removeprefix("unix:").startswith("/"):
                raise ValueError("give a unix socket as unix: and an absolute path")
            return value
        host, colon, port = value.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > _MAX_PORT:
            raise ValueError("write HOST:PORT, such as 127.0.0.1:7443, or unix:/path")
        if host != "localhost" and not _is_loopback(host.strip("[]")):
            raise ValueError(
                "without TLS the server listens on loopback or a unix socket only, since calls "
                "carry keys in the clear; use 127.0.0.1, [::1], localhost or unix:/path"
            )
        return value

    @field_validator("store")
    @classmethod
    def _without_password(cls, value: str) -> str:
        # A setting is printed and logged. Whether the url is one, the store says.
        host, _, options = value.partition("://")[2].partition("?")
        if ":" in host.partition("/")[0].rpartition("@")[0] or "password=" in options:
            raise ValueError(
                "the url holds a password, and urls get into logs: put it into a file that "
                f"{PREFIX}STORE_PASSWORD_FILE names, or into the environment as PGPASSWORD"
            )
        return value

    @field_validator("metrics")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and value != "off":
            host, _, port = value.rpartition(":")
            if not host or not port.isdecimal() or int(port) > _MAX_PORT:
                raise ValueError("write HOST:PORT, such as 127.0.0.1:9464, or off")
        return value

    def metrics_address(self) -> tuple[str, int] | None:
        """Returns the host and port of /metrics, or None where it is off."""
        if self.metrics == "off":
            return None
        if self.metrics is not None:
            host, _, port = self.metrics.rpartition(":")
            return host.strip("[]"), int(port)
        free = self.listen.startswith("unix:") or self.listen.endswith(":0")
        return "127.0.0.1", 0 if free else _METRICS_PORT

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  no .env files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  nor folders of secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads the environment, then the TOML file that `KEYFOLD_CONFIG` names."""
        file = os.environ.get(f"{PREFIX}CONFIG")
        toml = TomlConfigSettingsSource(settings_cls, Path(file) if file else None)
        return (init_settings, env_settings, toml)

    def shown(self) -> dict[str, Any]:
        """Returns the settings as they are written in a TOML file; none of them is secret."""
        return self.model_dump(mode="json", exclude_none=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load() -> Settings:
    """Reads the settings.

    Raises:
        SetupError: One is wrong; the message names each with what to do.
    """
    file = os.environ.get(f"{PREFIX}CONFIG")
    if file and not Path(file).is_file():
        raise SetupError(f"KEYFOLD_CONFIG names {file}, which is not a file")
    try:
        return Settings()
    except ValidationError as error:
        raise SetupError("\n".join(_faults(error))) from None
    except ValueError as error:
        raise SetupError(f"{file}: not a TOML file that can be read: {error}") from None


def unknown_variables() -> list[str]:
    """Returns environment variables that look like settings and are none: misspelt ones."""
    known = {name.upper() for name in Settings.model_fields} | _CLIENTS_OWN | _OTHER
    return sorted(
        name for name in os.environ if name.startswith(PREFIX) and name[len(PREFIX) :] not in known
    )


def _faults(error: ValidationError) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        where = str(fault["loc"][0]) if fault["loc"] else ""
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            text = "there is no such setting"
        lines.append(f"{PREFIX}{where.upper()}: {text}")
    return list(dict.fromkeys(lines))
