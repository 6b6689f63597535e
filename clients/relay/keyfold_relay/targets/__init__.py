"""The ways out: where a batch of events goes."""

from __future__ import annotations

from keyfold_relay.config import (
    BucketTarget,
    FileTarget,
    StdoutTarget,
    WebhookTarget,
)
from keyfold_relay.config import (
    Target as TargetConfig,
)
from keyfold_relay.targets.target import Limits, NotTakenError, Shared, Target

__all__ = ["Limits", "NotTakenError", "Shared", "Target", "make"]


def make(config: TargetConfig) -> Target:
    """Makes a target of the file; opens nothing yet.

    Raises:
        ConfigError: A file that it names cannot be read, or a package is missing.
    """
    match config:
        case WebhookTarget():
            from keyfold_relay.targets.webhook import Webhook

            return Webhook(config)
        case FileTarget():
            from keyfold_relay.targets.lines import LinesFile

            return LinesFile(config.path)
        case StdoutTarget():
            from keyfold_relay.targets.lines import LinesStdout

            return LinesStdout()
        case BucketTarget():
            from keyfold_relay.targets.bucket import Bucket

            return Bucket(config)
