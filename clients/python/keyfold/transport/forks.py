"""Forks of this process: a channel does not survive one, and hangs in the child."""

from __future__ import annotations

import os

_forks = 0


def forks() -> int:
    """Returns how often this process and its parents were forked since they began."""
    return _forks


def _forked() -> None:
    global _forks  # noqa: PLW0603  one number for the process
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
