"""The chart's pods, run as they are rendered: their commands, files, modes, users and probes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

import cluster_pods
from helm import BUILDS, EXAMPLES, read, rendered
from laptop import Service
from machine import Machine, lacking

pytestmark = pytest.mark.timeout(BUILDS)

EXAMPLE: Final = next(example for example in EXAMPLES if example.stem == "console")
HOST: Final = "keyfold.keyfold.svc"
TRUST: Final = "spiffe://example.org/ns/keyfold/sa/"

ISSUER: Final = "https://login.vendor.example"

POLICY: Final = f"""
[[grant]]
callers = ["{TRUST}operator"]
roles = ["admin"]
keys = [{{ type = "LOCAL", uri = "local:eu" }}]

[[grant]]
callers = ["{TRUST}keyfold-probe"]
roles = ["crypto", "operator"]
clusters = ["keyfold-probe*"]

[[grant]]
callers = ["{TRUST}keyfold-relay", "jwt:{ISSUER}#ann"]
roles = ["auditor"]
"""

VALUES: Final = (
    *("store.url=postgresql://keyfold@postgres/keyfold?sslmode=disable", "tokens.jwksUrl="),
    *("tokens.jwksConfigMap=jwks", "probe.enabled=true", "export.enabled=true"),
    *("export.claim=exports", 'relay.targets=[targets.out]\nkind = "stdout"\n'),
    *("console.behindProxy=false", "console.ingress.enabled=false"),
    *("extraEnv[0].name=KEYFOLD_LOCAL_KEYS", "extraEnv[0].value=/var/lib/keyfold/keys.json"),
)


class Cluster:
    """The pods of a release, and PostgreSQL beside them.

    Attributes:
        token: A visitor's token of the issuer.
    """

    def __init__(self, folder: Path) -> None:
        self._certificates = folder / "certificates"
        names = ("operator", "keyfold-relay", "keyfold-probe", "keyfold-console")
        callers = [f"{TRUST}{name}" for name in names]
        subprocess.run(
            [
                *(Path(sys.executable).with_name("keyfold-server"), "dev-certs"),
                *("--out", self._certificates, "--name", HOST, "--name", "127.0.0.1"),
                *(word for caller in callers for word in ("--client", caller)),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        password = secrets.token_hex(16).encode()
        given = {
            "keyfold-service-key": {"service-key": secrets.token_bytes(32)},
            "keyfold-store-password": {"password": password},
            "keyfold-tls": self._secret("server"),
            "keyfold-relay-tls": self._secret("client-2"),
            "keyfold-probe-tls": self._secret("client-3"),
            "keyfold-console-tls": self._secret("client-4"),
            "keyfold-console-web": self._secret("server"),
            "siem-webhook": {"secret": b"whsec_unused"},
            "jwks": {"jwks.json": self._issuer()},
        }
        policy = folder / "policy.toml"
        policy.write_text(POLICY)
        values = [word for one in VALUES for word in ("--set", one.replace(",", "\\,"))]
        manifests = read(rendered(EXAMPLE, *values, "--set-file", f"policy={policy}"))
        files = folder / "files"
        files.mkdir()
        model = cluster_pods.services(files, manifests, given, [HOST, "postgres"])
        database = folder / "database-password"
        database.write_bytes(password)
        database.chmod(0o444)
        model["secrets"]["database"] = {"file": str(database)}
        model["services"]["postgres"] = {
            "image": "postgres:18.1",
            "environment": {
                "POSTGRES_USER": "keyfold",
                "POSTGRES_DB": "keyfold",
                "POSTGRES_PASSWORD_FILE": "/run/database",
            },
            "secrets": [{"source": "database", "target": "/run/database"}],
            "volumes": [{"source": "postgres", "target": "/var/lib/postgresql"}],
            "healthcheck": {"test": ["CMD", "pg_isready", "--host=127.0.0.1"]},
        }
        layers = folder / "layers"
        layers.mkdir()
        self.machine = Machine(layers, network=True)
        self.pods = {name: Service(self.machine, folder, name, model) for name in model["services"]}

    def _issuer(self) -> bytes:
        key = ed25519.Ed25519PrivateKey.generate()
        now = int(time.time())
        self.token = jwt.encode(
            {"iss": ISSUER, "aud": "keyfold", "sub": "ann", "iat": now, "exp": now + 3600},
            key,
            "EdDSA",
            {"kid": "one"},
        )
        public = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return json.dumps({"keys": [public | {"kid": "one"}]}).encode()

    def _secret(self, name: str) -> dict[str, bytes]:
        files = {"tls.crt": f"{name}.pem", "tls.key": f"{name}.key", "ca.crt": "ca.pem"}
        return {key: (self._certificates / file).read_bytes() for key, file in files.items()}

    def job(self, name: str) -> str:
        """Runs a Job's pod to its end, which must be a good one; returns what it prints."""
        done = subprocess.run(
            self.pods[name].main(), capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def visit(self, *headers: str) -> str:
        """Returns a page of the console, for a visitor with these headers."""
        given = [word for header in headers for word in ("--header", header)]
        trust = ["--cacert", str(self._certificates / "ca.pem")]
        url = "https://127.0.0.1:8443/clusters"
        return self.machine.run("curl", "-sSL", *trust, *given, url)

    def operator(self, *words: str) -> str:
        """Runs `keyfold` with the operator's certificate, as somebody in the cluster."""
        files = {
            "--ca": self._certificates / "ca.pem",
            "--cert": self._certificates / "client.pem",
            "--key": self._certificates / "client.key",
        }
        options = [str(word) for pair in files.items() for word in pair]
        program = str(Path(sys.executable).with_name("keyfold"))
        target = ["--target", "127.0.0.1:7443", "--server-name", HOST]
        return self.machine.run(program, *words, *target, *options)

    def close(self) -> None:
        """Ends every pod, the database last."""
        for name in sorted(self.pods, key=lambda name: name == "postgres"):
            self.pods[name].stop()
        self.machine.close()


@pytest.fixture(name="cluster", scope="module")
def cluster_fixture() -> Iterator[Cluster]:
    """Pods that nobody has started yet."""
    if why := lacking() or ("" if shutil.which("ip") else "needs ip, to have a network"):
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(why)
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="keyfold-cluster-") as name:
        Path(name).chmod(0o755)
        cluster = Cluster(Path(name))
        try:
            yield cluster
        finally:
            cluster.close()


def test_a_release_comes_up_serves_and_ends(cluster: Cluster) -> None:
    """Migration, servers, relay and console, the probe and an export, as the manifests say."""
    server = cluster.pods["server"]
    cluster.pods["postgres"].start()
    assert "schema" in cluster.job("migrate")
    # The root keys of this test, which no cluster has.
    keys = ["keyfold-server", "dev-keys", "create", "eu", "--file", "/var/lib/keyfold/keys.json"]
    subprocess.run(server.command(keys), check=True, capture_output=True, timeout=60)
    for name in ("server", "relay", "console"):
        cluster.pods[name].start()

    cluster.operator("enable", "keyfold-probe", "--region", "eu=LOCAL,local:eu")
    assert "served    127.0.0.1:7443   PASSED" in cluster.job("probe")
    assert "exported 1 cluster" in cluster.job("export")
    assert "com.keyfold.rpc.cluster.revoke" in cluster.pods["relay"].log.read_text()

    # The visitor's token gives the rights; the console's own certificate gives none.
    assert "keyfold-probe" in cluster.visit(f"Authorization: Bearer {cluster.token}")
    assert "keyfold-probe" not in cluster.visit()

    for name in ("console", "relay", "server"):
        assert cluster.pods[name].stop() == 0, cluster.pods[name].log.read_text()[-2000:]
