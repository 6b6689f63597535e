"""Unserved regions: those that are enabled for clusters, and that no live replica serves.

Nobody can use their keys, and nobody checks them. One replica of all looks for them, together with
the census of the regions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from keyfold_server import telemetry
from keyfold_server.service.fleet.serving import served_by
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

SHOWN: Final = 100
"""Most regions that are reported, those with the most clusters: callers may make names up."""

_TOLD: Final = 10
"""Most regions that a line of the log names."""


class UnservedRegions:
    """Reports the regions that no live replica serves."""

    def __init__(self, storage: Storage) -> None:
        """Takes the store, which knows the replicas and the regions."""
        self._storage = storage
        self._known: dict[str, int] = {}

    async def look(self) -> None:
        """Looks for such regions, and reports where that begins and ends.

        Raises:
            KeyfoldError: The store does not answer.
        """
        store = self._storage.store
        served = served_by(await self._storage.run(store.replicas))
        found: dict[str, int] = {}
        # A control replica serves whatever there is, so that the regions need not be read.
        if served.names is not None:
            found = await self._storage.run(store.unserved, served.names, SHOWN)
        begun = sorted((name, found[name]) for name in found.keys() - self._known)
        ended = sorted(self._known.keys() - found)
        if begun:
            log.warning(
                "no live replica serves these regions, so nobody can use their keys and nobody "
                "checks them: %s; start a replica whose KEYFOLD_SERVES names them, or a control "
                "replica",
                _listed([f"{name} (enabled for {count} clusters)" for name, count in begun]),
            )
        if ended:
            log.warning(
                "these regions are reported no more, because a live replica serves them or no "
                "cluster has them enabled: %s",
                _listed(ended),
            )
        self._known = found
        self._show()

    def forget(self) -> None:
        """Reports nothing, because another replica looks, or the store does not answer."""
        self._known = {}
        self._show()

    def _show(self) -> None:
        telemetry.REGIONS_UNSERVED.clear()
        for name, count in self._known.items():
            telemetry.REGIONS_UNSERVED.labels(name).set(count)


def _listed(texts: Sequence[str]) -> str:
    further = len(texts) - _TOLD
    return ", ".join([*texts[:_TOLD], *([f"and {further} more"] if further > 0 else [])])
