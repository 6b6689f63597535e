"""Scenes of the way from callers to a server: its address, TLS, the policy, limits and the loop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import keyfold
from certificates import Authority
from e2e.alert_scenes.stage import Stage, provokes
from keyfold.checks import FAILED

POLICY: Final = """\
[[grant]]
callers = ["local"]
roles = ["crypto", "operator", "auditor"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""


@contextmanager
def again(work: Callable[[], None], pause: float) -> Iterator[None]:
    """Does a piece of work again and again in a thread, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(pause):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@provokes("KeyfoldAbsent")
def absent(stage: Stage) -> None:
    """A server serves no metrics; no other server may be there meanwhile."""
    server = stage.server({"KEYFOLD_METRICS": "off"})
    stage.fires("KeyfoldAbsent")
    with stage.runbook("KeyfoldAbsent", server) as book:
        # It serves calls: what is off are its metrics.
        assert "SERVING" in book.run()
    assert "metrics on" not in server.log()
    server.restart(KEYFOLD_METRICS="127.0.0.1:0")
    stage.scrape(server)
    stage.ends("KeyfoldAbsent")


@provokes("KeyfoldServerGone")
def gone(stage: Stage) -> None:
    """A server's process ends while Prometheus still looks for it."""
    server = stage.server()
    name = f"{stage.name}-one"
    stage.until(lambda: stage.prometheus.has("keyfold_serving", name), "it was never read")
    server.kill()
    stage.fires("KeyfoldServerGone")
    with stage.runbook("KeyfoldServerGone", server) as book:
        # Nothing keeps it from starting.
        book.run()
    server.restart()
    stage.scrape(server)
    stage.ends("KeyfoldServerGone")


@provokes("KeyfoldPolicyBroken", "KeyfoldTurnsCallsAway")
def limits(stage: Stage) -> None:
    """Somebody breaks the policy file, and a caller calls more often than it may."""
    file = stage.folder / "policy.toml"
    file.write_text(POLICY)
    server = stage.server({"KEYFOLD_POLICY": str(file), "KEYFOLD_RATE_PER_CALLER": "5"})
    server.enable("prod")
    file.write_text(POLICY.replace("roles", "rolls"))

    def call() -> None:
        with server.client() as client, contextlib.suppress(keyfold.KeyfoldError):
            for _ in range(20):
                client.wrap("prod", "eu", b"k")

    with again(call, 0.2):
        stage.fires("KeyfoldPolicyBroken")
        with stage.runbook("KeyfoldPolicyBroken", server) as book:
            assert "rolls: there is no such field" in book.run(code=FAILED)
        file.write_text(POLICY)
        stage.ends("KeyfoldPolicyBroken")
        stage.fires("KeyfoldTurnsCallsAway", reason="RATE_LIMITED")
        assert '"reason":"RATE_LIMITED"' in server.log().replace(": ", ":")
        server.restart(KEYFOLD_RATE_PER_CALLER="10000")
        stage.scrape(server)
        stage.ends("KeyfoldTurnsCallsAway")


@provokes("KeyfoldCertificateExpires", "KeyfoldHandshakesFailing")
def tls(stage: Stage) -> None:
    """Nobody renews a certificate, and a client connects without TLS."""
    authority = Authority()
    files = {name: stage.folder / f"{name}.pem" for name in ("cert", "key", "ca")}
    policy = stage.folder / "policy.toml"
    policy.write_text(POLICY)

    def put(begins: timedelta, ends: timedelta) -> None:
        issued = authority.issue("dns:localhost", "ip:127.0.0.1", begins=begins, ends=ends)
        for name, content in (("cert", issued.pem), ("key", issued.key_pem), ("ca", authority.pem)):
            files[name].touch(0o600)
            files[name].write_bytes(content)

    put(timedelta(hours=-9), timedelta(hours=1))
    server = stage.server(
        {
            "KEYFOLD_TLS_CERT": str(files["cert"]),
            "KEYFOLD_TLS_KEY": str(files["key"]),
            "KEYFOLD_TLS_CLIENT_CA": str(files["ca"]),
            "KEYFOLD_POLICY": str(policy),
        }
    )
    host, _, port = server.target.rpartition(":")

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5) as end:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")
            end.recv(1)

    with again(connect, 0.1):
        stage.fires("KeyfoldHandshakesFailing")
    stage.fires("KeyfoldCertificateExpires", certificate="server")
    put(timedelta(minutes=-1), timedelta(days=90))
    stage.ends("KeyfoldCertificateExpires")
    stage.ends("KeyfoldHandshakesFailing")


@provokes("KeyfoldLoopLate")
def busy(stage: Stage) -> None:
    """The machine gives a server no processor for a fifth of a second, again and again."""
    server = stage.server()

    def starve() -> None:
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGCONT)

    with again(starve, 0.1):
        stage.fires("KeyfoldLoopLate")
    assert "held up for" in server.log()
    with contextlib.suppress(PermissionError):
        # As good as a processor of its own, on a machine that is busy with other tests.
        os.setpriority(os.PRIO_PROCESS, server.pid, -20)
    stage.ends("KeyfoldLoopLate")
