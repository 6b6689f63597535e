"""Scenes of the probe, whose file a small HTTP server serves in node exporter's place."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from e2e.alert_scenes.callers import again
from e2e.alert_scenes.stage import Stage, provokes

_FILE: Final = "/var/lib/node_exporter/keyfold_probe.prom"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def guess_type(self, path: object) -> str:
        """Returns the type of every file that is served here."""
        return "text/plain; version=0.0.4"

    def log_message(self, *_: Any, **__: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serves a folder's files until the block ends; gives the port."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            # A thread that goes on without its socket never rests.
            server.shutdown()
            thread.join()


def exported(stage: Stage) -> Path:
    """Returns the file of the probe's metrics, which Prometheus scrapes."""
    folder = stage.folder / "node-exporter"
    folder.mkdir()
    address = f"127.0.0.1:{stage.enter(serving(folder))}"
    stage.prometheus.scrape(f"{stage.name}-exporter", address, "/keyfold_probe.prom")
    return folder / "keyfold_probe.prom"


@provokes("KeyfoldProbeFailing", "KeyfoldProbeMissing")
def probe(stage: Stage) -> None:
    """The probe cannot reach its server; later nobody runs it any more."""
    file = exported(stage)
    server = stage.server()
    server.enable("keyfold-probe")
    server.stop()
    server.cli("probe", "--metrics", str(file), code=6)
    stage.fires("KeyfoldProbeFailing")
    server.restart()
    stage.scrape(server)
    with stage.runbook("KeyfoldProbeFailing", server, {_FILE: str(file)}) as book:
        assert "PASSED" in book.run()
    stage.ends("KeyfoldProbeFailing")
    stage.fires("KeyfoldProbeMissing")

    def run() -> None:
        with stage.runbook("KeyfoldProbeFailing", server, {_FILE: str(file)}) as book:
            book.run()

    run()
    with again(run, 5):
        stage.ends("KeyfoldProbeMissing")


@provokes("KeyfoldProbeBroken")
def probe_broken(stage: Stage) -> None:
    """A copy of the deployment that nobody took down still opens what was revoked."""
    file = exported(stage)
    service_key = str(stage.folder / "service-key")
    server = stage.server({"KEYFOLD_SERVICE_KEY": service_key})
    server.enable("keyfold-probe")
    export = stage.folder / "export"
    server.command("export", "--out", str(export))
    own = {"KEYFOLD_SERVICE_KEY": service_key, "KEYFOLD_LOCAL_KEYS": str(server.keys)}
    copy = stage.prepared(own, name="copy", keys=())
    copy.command("import", str(export))
    copy.start()
    copy.cli("restore", "keyfold-probe")
    others = ("--server", copy.target, "--within", "2s")
    told = server.cli("probe", "--server", server.target, *others, "--metrics", str(file), code=10)
    assert f"error: {copy.target} failed" in told
    stage.fires("KeyfoldProbeBroken")
    copy.stop()
    here = {
        "keyfold-1:8765": server.target,
        "keyfold-2:8765": server.target.replace("127.0.0.1", "localhost"),
        _FILE: str(file),
    }
    with stage.runbook("KeyfoldProbeBroken", server, here) as book:
        assert "PASSED" in book.run()
    stage.ends("KeyfoldProbeBroken")
