"""The TOML file that says where events come from and where they go."""

from __future__ import annotations

from keyfold_relay.config.model import (
    BucketTarget,
    Config,
    FileTarget,
    Filter,
    Server,
    StdoutTarget,
    Target,
    WebhookTarget,
)
from keyfold_relay.config.reading import ConfigError, load
from keyfold_relay.config.secrets import Secret, SecretError, SecretPlace

__all__ = [
    "BucketTarget",
    "Config",
    "ConfigError",
    "FileTarget",
    "Filter",
    "Secret",
    "SecretError",
    "SecretPlace",
    "Server",
    "StdoutTarget",
    "Target",
    "WebhookTarget",
    "load",
]
