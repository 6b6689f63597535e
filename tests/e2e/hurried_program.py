"""The process that hurried servers are forked from: servers whose rounds of upkeep come sooner.

A server counts regions every 30 seconds, erases every minute, and verifies its log and prunes every
hour. A test of the alerts on these shortens the pauses between these rounds, and nothing else.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

import nursery_program
from keyfold_server.service.upkeep import erasure, gauges, log_verification, pruning
from keyfold_server.service.watch import cursors

_SOONER: Final[tuple[tuple[ModuleType, str, int], ...]] = (
    (gauges, "_INTERVAL", 20),
    (gauges, "_HOLDS", 20),
    (cursors, "EVERY", 20),
    (cursors, "_HOLDS", 20),
    (erasure, "EVERY", 20),
    (erasure, "_HOLDS", 20),
    (log_verification, "_LOOKS", 20),
    (log_verification, "_HOLDS", 1200),
    (pruning, "INTERVAL", 1200),
)
"""A pause of a module, and how many times shorter it is."""


def _serve() -> None:
    from keyfold_server import __main__ as program

    program.main()


def main() -> None:
    """Carries out orders."""
    nursery_program.import_server()
    for module, name, times in _SOONER:
        pause = getattr(module, name)
        setattr(module, name, type(pause)(pause / times))
    nursery_program.run({"keyfold-server": _serve})


if __name__ == "__main__":
    main()
