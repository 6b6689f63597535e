"""Servers whose rounds of upkeep come sooner (`hurried_program`), with the odd provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keyfold
from e2e.odd_provider import installed
from e2e.server import Server, clean_environment
from nursery import Forked, Nursery

_PROGRAM: Final = Path(__file__).with_name("hurried_program.py")


def nursery_of(folder: Path) -> Nursery:
    """Starts the process that the servers are forked from; `folder` gets the odd provider."""
    return Nursery(_PROGRAM, clean_environment() | installed(folder))


@dataclass
class HurriedServer(Server):
    """A server that is forked from a nursery of its kind."""

    nursery: Nursery | None = None

    def client(self, timeout: float = 60.0) -> keyfold.Client:
        """Returns a client that waits for longer, since many of them serve side by side."""
        return super().client(timeout)

    def _process(self, environment: Mapping[str, str], out: Path, err: Path) -> Forked:
        assert self.nursery is not None
        return self.nursery.start(
            "keyfold-server", folder=self.folder, environment=environment, out=out, err=err
        )
