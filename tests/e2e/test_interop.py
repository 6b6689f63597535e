"""Clients of other projects: grpc-go, grpc-js, grpc-java and ghz, plain and over TLS.

Each of the programs in tests/interop makes the same calls and prints a line for each check that
passes: a key is wrapped and unwrapped; an error comes with its details; a stream ends at the
client's deadline, and when the client cancels it; a batch of 3 MB goes there and back; and 200
calls at once are answered. grpcio and grpcurl are in the other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

import keyfold
from certificates import Authority
from e2e.conftest import StartServer
from e2e.server import ROOT
from keyfold.v1 import key_management_service_pb2 as pb

CHECKS: Final = [
    "a key and back",
    "an error with details",
    "a deadline",
    "a cancel",
    "a large message",
    "many calls at once",
]

POLICY: Final = b"""
[[grant]]
callers = ["spiffe://example.org/admin"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""


class Served(NamedTuple):
    """What a client is told.

    Attributes:
        target: The server's address.
        credentials: The folder of the client's credentials, or `-` where the server has no TLS.
        descriptors: The file with the contract.
    """

    target: str
    credentials: str
    descriptors: str


def made(name: str) -> Path:
    """Returns the folder of a client; skips the test if it cannot be made here, except in CI."""
    script = [str(ROOT / "scripts" / "interop.sh"), name]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(done.stdout.strip())


def _descriptors(path: Path) -> Path:
    """Writes the contract and that of health as a set, each file after those that it imports."""
    found: dict[str, Any] = {}

    def add(files: Iterable[Any]) -> None:
        for file in files:
            if file.name not in found:
                add(file.dependencies)
                found[file.name] = file

    add([pb.DESCRIPTOR, health_pb2.DESCRIPTOR])
    together = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(together.file.add())
    path.write_bytes(together.SerializeToString())
    return path


@pytest.fixture(scope="module", params=["plain", "tls"])
def served(
    request: pytest.FixtureRequest,
    start_module_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Served:
    """A server with cluster prod."""
    folder = tmp_path_factory.mktemp("interop")
    descriptors = str(_descriptors(folder / "contract.binpb"))
    if request.param == "plain":
        server = start_module_server()
        server.enable("prod")
        return Served(server.target, "-", descriptors)
    authority = Authority("test")
    own, admin = authority.issue("dns:localhost"), authority.issue("spiffe://example.org/admin")
    for name, text in {
        "ca.pem": authority.pem,
        "server.pem": own.pem,
        "server.key": own.key_pem,
        "client.pem": admin.pem,
        "client.key": admin.key_pem,
        "policy.toml": POLICY,
    }.items():
        (folder / name).write_bytes(text)
        (folder / name).chmod(0o600)
    server = start_module_server(
        KEYFOLD_TLS_CERT=str(folder / "server.pem"),
        KEYFOLD_TLS_KEY=str(folder / "server.key"),
        KEYFOLD_TLS_CLIENT_CA=str(folder / "ca.pem"),
        KEYFOLD_POLICY=str(folder / "policy.toml"),
    )
    target = server.target.replace("127.0.0.1", "localhost")
    with keyfold.Client(target, tls=keyfold.Tls(authority.pem, admin.pem, admin.key_pem)) as client:
        client.enable("prod", [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:eu"))])
    return Served(target, str(folder), descriptors)


def _run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, f"after {done.stdout!r}: {done.stderr[-3_000:]}"
    return done.stdout


@pytest.mark.parametrize("name", ["grpc-go", "grpc-js", "grpc-java"])
def test_another_client(name: str, served: Served) -> None:
    """What the module's docstring promises holds for this client."""
    folder = made(name)
    program = {
        "grpc-go": [str(folder / "interop")],
        "grpc-js": ["node", "client.js"],
        "grpc-java": ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{folder}/*", "Client.java"],
    }[name]
    assert _run([*program, *served], folder).splitlines() == CHECKS


def test_ghz(served: Served) -> None:
    """A load generator on grpc-go has each of its calls answered."""
    secure = [
        f"--{option}={served.credentials}/{file}"
        for option, file in (("cacert", "ca.pem"), ("cert", "client.pem"), ("key", "client.key"))
    ]
    asked = {"cluster": "prod", "region": "eu", "plaintext": "a2V5"}
    told = json.loads(
        _run(
            [
                str(made("ghz") / "ghz"),
                *(["--insecure"] if served.credentials == "-" else secure),
                f"--protoset={served.descriptors}",
                "--call=keyfold.v1.KeyManagementService/Wrap",
                f"--data={json.dumps(asked)}",
                *("--total=2000", "--concurrency=50", "--connections=2", "--format=json"),
                served.target,
            ],
            ROOT,
        )
    )
    assert (told["count"], told["statusCodeDistribution"]) == (2_000, {"OK": 2_000})
