"""The rows of a cluster, as the store seals them."""

from __future__ import annotations

from builders import NOW, a_cluster, a_region, a_rotation
from keyfold_server.domain.changes import revoked, with_regions
from keyfold_server.store.schema import generations, regions, wraps
from keyfold_server.store.seal import Seal
from keyfold_server.store.service_key import ServiceKey
from keyfold_server.store.tables import cluster_rows

SEAL = Seal(ServiceKey(bytes(range(32))))


def test_rows_that_do_not_change_are_not_sealed_again() -> None:
    """S13: a Revoke of a cluster with many generations seals the rows of its regions alone."""
    cluster = a_cluster("acme", [a_region("eu"), a_region("us")])
    for _ in range(3):
        moved = a_rotation(cluster.region("eu"), "local:two", fresh=True)
        cluster = with_regions(cluster, [moved], NOW)(cluster).cluster
    before = cluster_rows.encoded(cluster, SEAL)
    after = revoked("acme", ["us"], NOW + 1)(cluster).cluster
    rows = cluster_rows.encoded(after, SEAL, before)
    assert rows == cluster_rows.encoded(after, SEAL)
    kept = [row for table in (generations, wraps) for row in rows[table].items()]
    assert len(kept) == 10
    assert all(
        before[table][key] is row
        for table in (generations, wraps)
        for key, row in rows[table].items()
    )
    states = {key[1]: row is before[regions][key] for key, row in rows[regions].items()}
    assert states == {"eu": True, "us": False}


def test_rows_that_change_are_sealed_anew() -> None:
    """A2: a row with one other value gets the MAC of that value, never the one that it had."""
    cluster = a_cluster("acme", [a_region("eu")])
    before = cluster_rows.encoded(cluster, SEAL)
    moved = a_rotation(cluster.region("eu"), "local:two")
    after = with_regions(cluster, [moved], NOW)(cluster).cluster
    for table, rows in cluster_rows.encoded(after, SEAL, before).items():
        for row in rows.values():
            SEAL.check(table.name, row)
