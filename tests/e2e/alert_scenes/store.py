"""Scenes of the store: out of reach, old, and edited by somebody else."""

from __future__ import annotations

import re
import shutil
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing

from e2e.alert_scenes.callers import again
from e2e.alert_scenes.stage import EDITED, Stage, provokes
from e2e.hurried_server import HurriedServer
from keyfold.checks import FAILED
from proxy import Proxy, Way


def readiness(server: HurriedServer) -> str:
    """Returns what a server that does not serve says at /readyz."""
    try:
        urllib.request.urlopen(f"http://{server.metrics}/readyz", timeout=30).close()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    raise AssertionError("it serves")


@provokes("KeyfoldStoreAway", "KeyfoldRevocationPending", "KeyfoldSweepLate")
def store_away(stage: Stage) -> None:
    """The network cuts one of two replicas off from PostgreSQL, while somebody revokes."""
    settings = stage.store() | {
        "KEYFOLD_SWEEP_INTERVAL": "10s",
        # The revocation is pending for so long, however slow the machine is.
        "KEYFOLD_STORE_MAX_STALENESS": "20m",
    }
    proxy = stage.enter(Proxy(stage.database.port))
    around = str(settings["KEYFOLD_STORE"]).replace(f":{stage.database.port}/", f":{proxy.port}/")
    good = stage.server(settings, name="good")
    own = {"KEYFOLD_STORE": around, "KEYFOLD_LOCAL_KEYS": str(good.keys)}
    cut_off = stage.server(settings | own, name="cut-off", keys=())
    good.enable("prod")
    good.enable("acme")
    with cut_off.client() as client:
        client.wrap("prod", "eu", b"k")
    proxy.set(Way.DROP)

    def revoke() -> None:
        with good.client() as client:
            client.revoke("prod")

    with again(revoke, 0.5):
        stage.fires("KeyfoldRevocationPending", instance="store_away-good")
    with (
        stage.runbook("KeyfoldRevocationPending", good) as pending,
        stage.runbook("KeyfoldStoreAway", cut_off) as away,
        stage.runbook("KeyfoldSweepLate", good, {"prod": "acme"}) as late,
    ):
        number, *_ = re.findall(r"(?m)^(\d+) .* prod/eu,us ", pending.run())
        told = pending.run(here={"4711": number})
        assert f":{cut_off.pid}:" in told
        assert "has not confirmed yet" in told
        stage.fires("KeyfoldStoreAway", instance="store_away-cut-off")
        cut_off.command("check", code=FAILED)
        stage.fires("KeyfoldSweepLate", instance="store_away-cut-off")
        # It serves from memory (S3), and no task of it fails for want of the store.
        cut_off.command("health")
        assert "will be tried again" not in cut_off.log()
        assert "eu" in late.run()
        proxy.set(Way.PASS)
        stage.ends("KeyfoldStoreAway")
        away.run()
        assert "confirmed by 2 of 2 replicas" in pending.run()
    stage.ends("KeyfoldSweepLate")
    stage.ends("KeyfoldRevocationPending")


@provokes("KeyfoldStoreRolledBack", "KeyfoldNotServing")
def rolled_back(stage: Stage) -> None:
    """Somebody puts an old store back under a server that runs, which then refuses to serve."""
    settings = stage.store()
    name = str(settings["KEYFOLD_STORE"]).rpartition("/")[2]
    server = stage.server(settings)
    server.enable("prod")
    stage.database.save(name)
    server.cli("revoke", "prod", "--yes")
    stage.database.go_back(name)
    stage.fires("KeyfoldNotServing")
    stage.fires("KeyfoldStoreRolledBack")
    with stage.runbook("KeyfoldNotServing", server) as book:
        assert "NOT_SERVING" in book.run(code=1)
        assert "STORE_ROLLED_BACK" in readiness(server)
        assert "it runs, and does not serve" in book.run(code=FAILED)
    with stage.runbook("KeyfoldStoreRolledBack", server) as book:
        assert "Nothing was done." in book.run(code=1)
    with stage.runbook("After a failover that lost changes", server) as book:
        book.run(code=1)
        assert "reconciled" in book.run()
        stage.ends("KeyfoldNotServing")
        book.run()
    assert "REVOKED" in server.cli("status", "prod")
    stage.ends("KeyfoldStoreRolledBack")


@provokes("KeyfoldClusterDistrusted", "KeyfoldStoreTampered")
def edited(stage: Stage) -> None:
    """Somebody edits the rows of two clusters in PostgreSQL: one is sealed, one brought back."""
    settings = stage.store()
    name = str(settings["KEYFOLD_STORE"]).rpartition("/")[2]
    server = stage.server(settings | {"KEYFOLD_SWEEP_INTERVAL": "30s"})
    export = stage.folder / "keyfold.jsonl"
    for cluster in ("prod", "acme"):
        server.enable(cluster)
        with server.client() as client:
            client.wrap(cluster, "eu", b"k")
    server.command("export", "--out", str(export))
    stage.database.run("UPDATE regions SET cache_ttl = 900000", name)
    stage.fires("KeyfoldClusterDistrusted", reason="ROW_NOT_AUTHENTIC")
    stage.fires("KeyfoldStoreTampered")
    with stage.runbook("KeyfoldClusterDistrusted", server) as book:
        assert "does not carry the service key's seal" in book.run(code=FAILED)
    with stage.runbook(EDITED, server, {"/backup/keyfold.jsonl": str(export)}) as book:
        server.cli("revoke", "acme", "--yes")
        book.run(answer="y")
        assert "cache_ttl" in book.run(answer="y")
        book.run(here={"prod": "acme"})
        for cluster in ("prod", "acme"):
            assert "BANNED" not in server.cli("status", cluster)
        book.run()
    with server.client() as client:
        client.wrap("prod", "eu", b"k")
    stage.ends("KeyfoldStoreTampered")
    stage.ends("KeyfoldClusterDistrusted")


@provokes("KeyfoldLogBroken")
def log_broken(stage: Stage) -> None:
    """Somebody edits an entry of the log; the store is wiped and brought back from an export."""
    # Away from the store, as the page has it: the service key stays when the store goes.
    server = stage.server({"KEYFOLD_SERVICE_KEY": str(stage.folder / "service-key")})
    server.enable("prod")
    export = stage.folder / "keyfold.jsonl"
    server.command("export", "--out", str(export))
    with closing(sqlite3.connect(server.store, timeout=10)) as database:
        assert database.execute("UPDATE log SET caller = 'me' WHERE number = 1").rowcount == 1
        database.commit()
    stage.fires("KeyfoldLogBroken")
    with stage.runbook("KeyfoldLogBroken", server) as book:
        assert "entry 1" in book.run(code=1)
    server.stop()
    away = stage.folder / "away"
    away.mkdir()
    for path in server.folder.glob("store.db*"):
        shutil.move(path, away)
    server.command("import", str(export))
    server.restart()
    stage.scrape(server)
    stage.ends("KeyfoldLogBroken")
    assert "restored eu" in server.cli("restore", "prod")
