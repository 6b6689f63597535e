"""The commands of keyfold-relay."""

from __future__ import annotations

from keyfold_relay.commands.app import app

__all__ = ["app"]
