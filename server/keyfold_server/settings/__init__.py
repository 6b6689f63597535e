"""What an operator can set, in the environment or in a TOML file. Tables can only be in the file.

The environment wins over the file. Every setting that has a default works on a single machine as it
is; the others are what only the operator can know.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from keyfold_server.domain.errors import InvalidNameError, SetupError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.settings.access import AccessSettings
from keyfold_server.settings.bounds import BoundsSettings
from keyfold_server.settings.forms import (
    MAX_PORT,
    Duration,
    as_octal,
    duration,
    listed,
    seconds,
    toml,
    toml_value,
)
from keyfold_server.settings.keys import KeySettings
from keyfold_server.settings.regions import RegionSettings
from keyfold_server.settings.seats import SeatSettings
from keyfold_server.settings.served import ServedSettings
from keyfold_server.settings.service_links import is_service_link
from keyfold_server.settings.store import StoreSettings

__all__ = [
    "PREFIX",
    "Duration",
    "Settings",
    "as_octal",
    "duration",
    "load",
    "seconds",
    "toml",
    "toml_value",
    "unknown_variables",
]

PREFIX: Final = "KEYFOLD_"
"""The prefix of the settings' environment variables."""

_CLIENTS_OWN: Final = {"TARGET", "CA", "CERT", "KEY", "TOKEN_FILE"}
"""Variables with the same prefix that the client reads."""

_OTHER: Final = {"CONFIG", "CACHE"}
"""The variable that names the settings file, and one that names the folder of this project's
development tools."""

_METRICS_PORT: Final = 9464

_MOST_CLUSTERS: Final = 100
"""Most clusters that the metrics may show by name, so that they do not fill Prometheus."""


class Settings(
    BoundsSettings,
    SeatSettings,
    ServedSettings,
    RegionSettings,
    KeySettings,
    StoreSettings,
    AccessSettings,
    BaseSettings,
):
    """A server's settings. Each is an environment variable: `KEYFOLD_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    metrics: str | None = Field(
        default=None,
        description="The address of /livez, /readyz and /metrics, over plain HTTP: HOST:PORT, or "
        "off. Unset: "
        "127.0.0.1:9464, or a free port of 127.0.0.1 if KEYFOLD_LISTEN is a unix socket or asks "
        "for a free port.",
    )
    metrics_clusters: Annotated[list[str], NoDecode, BeforeValidator(listed)] = Field(
        default_factory=list,
        description="The clusters whose calls /metrics counts by name, such as those with a "
        "promise of their own, separated by commas; at most 100. Whoever reads /metrics then reads "
        "these names. Empty: no name of a cluster is there.",
    )
    drain_grace: Duration = Field(
        default=30.0,
        ge=0,
        le=600,
        description="The longest time that calls under way may take to finish after SIGTERM, 0s to "
        "10m.",
    )

    @field_validator("metrics")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and value != "off":
            host, _, port = value.rpartition(":")
            if not host or not port.isdecimal() or int(port) > MAX_PORT:
                raise ValueError("write HOST:PORT, such as 127.0.0.1:9464, or off")
        return value

    @field_validator("metrics_clusters")
    @classmethod
    def _shown(cls, value: list[str]) -> list[str]:
        for name in value:
            try:
                check_name(name, "cluster")
            except InvalidNameError as error:
                raise ValueError(error.message) from None
        if len(value) > _MOST_CLUSTERS:
            raise ValueError(f"names {len(value)} clusters, and may name at most {_MOST_CLUSTERS}")
        return value

    def metrics_address(self) -> tuple[str, int] | None:
        """Returns the host and port of the metrics address, or None if it is off."""
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
        """Returns the settings as they stand in a TOML file; none of them is secret."""
        return self.model_dump(mode="json", exclude_none=True)


def load() -> Settings:
    """Reads the settings.

    Raises:
        SetupError: A setting is wrong. The message names each wrong setting and says what to do.
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
    """Returns environment variables that look like settings but are not: misspelt ones."""
    known = {name.upper() for name in Settings.model_fields} | _CLIENTS_OWN | _OTHER
    return sorted(
        name
        for name, value in os.environ.items()
        if name.startswith(PREFIX)
        and name[len(PREFIX) :] not in known
        and not is_service_link(name, value)
    )


_BOUNDS: Final = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
}
"""pydantic's names for a number out of bounds: our words for each, and its name for the bound."""


def _bound(name: str, fault: ErrorDetails) -> str:
    """Returns the text of a broken bound; a duration has its unit, as the setting must have."""
    words, key = _BOUNDS[fault["type"]]
    bound = fault["ctx"][key]
    form = any(
        getattr(one, "func", None) is duration for one in Settings.model_fields[name].metadata
    )
    return f"must be {words} {duration(bound) if form else f'{bound:.12g}'}"


def _faults(error: ValidationError) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False):
        text = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:
            # The fault is in several settings together, and the text names them.
            lines.append(text)
            continue
        where = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            text = "there is no such setting"
        elif fault["type"] in _BOUNDS:
            text = _bound(where, fault)
        lines.append(f"{PREFIX}{where.upper()}: {text}")
    return list(dict.fromkeys(lines))
