"""A scene of regions that have replicas of their own: the last one of a region dies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from e2e.alert_scenes.stage import Stage, provokes
from e2e.hurried_server import HurriedServer

_SWEEP: Final = 10
"""Seconds from one sweep to the next: the shortest that the settings take."""


_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def checked(server: HurriedServer, cluster: str) -> datetime:
    """Returns when a replica last asked about a cluster's root key; asks no KMS."""
    with server.client() as client:
        [found] = [one for one in client.list_clusters() if one.cluster == cluster]
    return found.regions[0].last_check_time or _NEVER


@provokes("KeyfoldRegionUnserved")
def region_unserved(stage: Stage) -> None:
    """Region eu's one replica is killed: us's reports that, and sweeps none of eu's keys.

    Then a control replica starts, sweeps them, and the report ends.
    """
    settings = stage.store() | {
        "KEYFOLD_SWEEP_INTERVAL": f"{_SWEEP}s",
        "KEYFOLD_CACHE_TTL": "15m",
        "KEYFOLD_STORE_MAX_STALENESS": "15s",
    }
    us = stage.server(settings | {"KEYFOLD_SERVES": "us"}, name="us")
    shared = settings | {"KEYFOLD_LOCAL_KEYS": str(us.keys)}
    eu = stage.server(shared | {"KEYFOLD_SERVES": "eu"}, name="eu", keys=())
    us.enable("acme", ["us"])
    eu.enable("prod", ["eu"])
    stage.until(lambda: checked(us, "prod") > _NEVER, "the store does not learn of eu's key")
    eu.kill()
    stage.prometheus.forget(f"{stage.name}-eu")
    stage.fires("KeyfoldRegionUnserved")
    assert "no live replica serves these regions" in us.log()
    assert "eu (enabled for 1 clusters)" in us.log()
    last, swept = checked(us, "prod"), checked(us, "acme")
    stage.until(lambda: (checked(us, "acme") - swept).seconds >= _SWEEP, "us sweeps no more")
    assert checked(us, "prod") == last
    with stage.runbook("KeyfoldRegionUnserved", us) as book:
        assert "no live replica serves region eu; clusters that have it enabled: 1" in book.run()
        assert "no live replica serves this region" in book.run()
    control = stage.server(shared, name="control", keys=())
    stage.until(lambda: checked(control, "prod") > last, "the control replica does not sweep eu")
    stage.ends("KeyfoldRegionUnserved")
    assert "a control replica lives" in us.command("check")
    assert "no live replica" not in us.cli("status", "prod")
