"""The way in: the events of a store, read from named cursors that the server keeps."""

from __future__ import annotations

from keyfold_relay.source.source import (
    UNKNOWN_PLACE,
    CursorExpiredError,
    CursorTakenError,
    Feed,
    Message,
    NotNowError,
    Source,
    Usage,
    UsageSource,
)

__all__ = [
    "UNKNOWN_PLACE",
    "CursorExpiredError",
    "CursorTakenError",
    "Feed",
    "Message",
    "NotNowError",
    "Source",
    "Usage",
    "UsageSource",
]
