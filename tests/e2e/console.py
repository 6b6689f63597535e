"""A real server with a vendor and two customers, and a real console in front of it.

The identity provider is the test: it has the key that signs tokens, and the server knows that key.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

import keyfold
from e2e.server import BIN, WAIT, Server, clean_environment

ISSUER: Final = "https://login.example"
AUDIENCE: Final = "keyfold"

POLICY: Final = """
[[grant]]
callers = ["jwt:https://login.example#operator"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]

[[grant]]
callers = ["jwt:https://login.example#reader"]
roles = ["auditor"]

[[grant]]
callers = ["jwt:https://login.example#*"]
roles = ["operator", "auditor", "crypto"]
organization_claim = "org"
keys = [{ type = "LOCAL", uri = "local:acme-*" }]
"""
"""An operator of everything, a reader of everything, and administrators of customers."""


class NotServingError(Exception):
    """A console ended before it served; the message is what it wrote."""


@dataclass
class Console:
    """A keyfold-console.

    Attributes:
        target: The server that it shows.
        folder: An empty folder for what it writes.
        arguments: Options for it.
        url: Its address, once it serves.
    """

    target: str
    folder: Path
    arguments: tuple[str, ...] = ()
    url: str = ""
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it serves.

        Raises:
            NotServingError: It ended.
        """
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(BIN / "keyfold-console", "run"),
                    *("--listen", "127.0.0.1:0"),
                    *("--target", self.target),
                    *self.arguments,
                ],
                env=clean_environment() | {"GRPC_ENABLE_FORK_SUPPORT": "false"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while not (serving := [one for one in self.lines() if "addresses" in one]):
            if self._process.poll() is not None:
                raise NotServingError(self.log())
            time.sleep(0.02)
        self.url = serving[0]["addresses"][0]

    def log(self) -> str:
        """Returns all that it has written."""
        return (self.folder / "log").read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Returns the complete lines of its log."""
        whole = [line for line in self.log().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole if line.startswith("{")]

    def stop(self) -> None:
        """Ends it in order; it must end by itself."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise


@dataclass
class IdentityProvider:
    """Issues tokens, and writes what the server needs to know them.

    Attributes:
        settings: The server's settings.
    """

    folder: Path
    policy: str = POLICY
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public: dict[str, object] = json.loads(
            jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key())
        )
        keys = {"keys": [public | {"kid": "k1", "use": "sig", "alg": "ES256"}]}
        policy, jwks = self.folder / "policy.toml", self.folder / "jwks.json"
        policy.write_text(self.policy)
        jwks.write_text(json.dumps(keys))
        for file in (policy, jwks):
            file.chmod(0o600)
        self.settings = {
            "KEYFOLD_POLICY": str(policy),
            "KEYFOLD_JWT_ISSUER": ISSUER,
            "KEYFOLD_JWT_AUDIENCE": AUDIENCE,
            "KEYFOLD_JWT_JWKS": str(jwks),
        }

    def token(
        self, subject: str, claims: Mapping[str, object] | None = None, *, lasts: int = 3_600
    ) -> str:
        """Returns a token that lasts some seconds, below zero for one that has ended."""
        now = int(time.time())
        body: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject}
        body |= {"iat": now, "exp": now + lasts}
        return jwt.encode(body | dict(claims or {}), self._key, "ES256", headers={"kid": "k1"})


@dataclass
class House:
    """What a test of the console has.

    Attributes:
        server: The server.
        console: The console in front of it.
        provider: The identity provider.
    """

    server: Server
    console: Console
    provider: IdentityProvider

    def client(self, subject: str = "operator", **claims: object) -> keyfold.Client:
        """Returns a client with somebody's token, to be used in a `with`."""
        token = self.provider.token(subject, claims)
        return keyfold.Client(self.server.target, token=lambda: token, timeout=30)


@contextmanager
def console(target: str, folder: Path, *arguments: str) -> Iterator[Console]:
    """Serves a console, and ends it."""
    made = Console(target, folder, arguments)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def local(name: str) -> keyfold.KeySpec:
    """Returns the spec of a dev key."""
    return keyfold.KeySpec("LOCAL", f"local:{name}")


KEYS: Final = ("acme-eu", "acme-us", "acme-next", "globex-eu")
"""The dev keys of the customers."""


def furnish(client: keyfold.Client, clusters: Iterable[str] = ("acme-prod", "acme-stage")) -> None:
    """Makes the customers acme and globex, and what belongs to them."""
    client.create_organization(
        keyfold.Organization("acme", display_name="Acme Corp", cluster_patterns=("acme-*",))
    )
    client.create_organization(
        keyfold.Organization("globex", display_name="Globex", cluster_patterns=("globex-*",))
    )
    client.create_key_link(keyfold.KeyLink("acme", "acme-main", local("acme-eu"), region="eu"))
    for cluster in clusters:
        specs = [
            keyfold.RegionSpec("eu", key_link="acme-main"),
            keyfold.RegionSpec("us", local("acme-us")),
        ]
        client.enable(cluster, specs, organization="acme")
    globex = [keyfold.RegionSpec("eu", local("globex-eu"))]
    client.enable("globex-prod", globex, organization="globex")
