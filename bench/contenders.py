"""The servers that `cpu` compares: Keyfold on both transports, an echo on each, and OpenBao.

Each serves plain and over TLS. Keyfold runs as in production: with a policy, callers' tokens,
metrics, and a line of log for each call, which a pipe reads. OpenBao has no audit device, so it
writes nothing for a call.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from bench import cases, servers
from bench.load import Target, frame
from bench.processes import Server, cpu_seconds, running
from contract.counterparts import NotInstalledError
from counterparts.openbao import OpenBao
from counterparts.pki import Authority

TRANSPORTS: Final = ("grpc", "asgi")

_CALLER: Final = "app"
_ISSUER: Final = "https://issuer.example"
_AUDIENCE: Final = "keyfold"
_KEY_ID: Final = "k1"
_TOKEN_LASTS: Final = 86_400

_POLICY: Final = f"""
[[grant]]
callers = ["jwt:{_ISSUER}#{_CALLER}"]
roles = ["admin", "crypto"]
keys = [{{ type = "LOCAL", uri = "local:*" }}]
"""

_BAO_KEY: Final = "bench"


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of every server's certificate, and the authority that clients trust."""

    certificate: Path
    key: Path
    ca: bytes


class Contender:
    """A server under load.

    Attributes:
        name: Its name in tables.
        pid: The process whose CPU counts.
    """

    def __init__(self, name: str, pid: int) -> None:
        """Takes a process that serves."""
        self.name = name
        self.pid = pid

    def cpu(self) -> float:
        """Returns the CPU seconds of all threads of the process."""
        return cpu_seconds(self.pid)


class Service(Contender):
    """Keyfold, or an echo of its contract, on one transport.

    Attributes:
        address: `HOST:PORT`.
        token: The token that its callers bring; empty if they bring none.
    """

    def __init__(self, name: str, server: Server, tls: Tls | None, headers: dict[str, str]) -> None:
        """Takes a server that is ready, and the headers that its callers send."""
        super().__init__(name, server.pid)
        self.address = server.address
        self.token = headers.get("authorization", "").removeprefix("Bearer ")
        self._tls = tls
        self._headers = headers

    def target(self, method: str, request: bytes) -> Target:
        """Returns the call of a method as h2load makes it."""
        scheme = "http" if self._tls is None else "https"
        return Target(
            f"{scheme}://{self.address}/{cases.SERVICE}/{method}",
            frame(request),
            {"content-type": "application/grpc", "te": "trailers", **self._headers},
        )

    def ask(self, method: str, request: bytes) -> bytes:
        """Makes one call through a gRPC client, which raises an error unless the status is OK."""
        with self._channel() as channel:
            call: Callable[..., bytes] = channel.unary_unary(f"/{cases.SERVICE}/{method}")
            return call(request, timeout=cases.CALL_WITHIN, metadata=tuple(self._headers.items()))

    def _channel(self) -> grpc.Channel:
        if self._tls is None:
            return grpc.insecure_channel(self.address)
        trust = grpc.ssl_channel_credentials(root_certificates=self._tls.ca)
        return grpc.secure_channel(self.address, trust)


class Bao(Contender):
    """OpenBao with a transit key; the root's token calls it.

    h2load calls it over HTTP/1.1 where it is plain, because OpenBao has HTTP/2 over TLS alone.
    There a connection has one call under way, however many streams h2load is told to have.
    """

    def __init__(self, server: OpenBao, url: str) -> None:
        """Takes a server, and the URL of one of its addresses."""
        super().__init__("openbao", server.pid)
        self._server = server
        self._url = url

    def calls(self, method: str, keys: Sequence[bytes]) -> tuple[Target, int]:
        """Returns the call that does what Wrap, Unwrap or BatchWrap does to some keys.

        Returns:
            The call, and the size of its answer.
        """
        texts = [base64.b64encode(key).decode() for key in keys]
        if method == "BatchWrap":
            return self._call("encrypt", batch_input=[{"plaintext": text} for text in texts])
        if method == "Wrap":
            return self._call("encrypt", plaintext=texts[0])
        made = self._server.call("POST", f"transit/encrypt/{_BAO_KEY}", plaintext=texts[0])
        return self._call("decrypt", ciphertext=made["data"]["ciphertext"])

    def _call(self, what: str, **body: Any) -> tuple[Target, int]:
        path = f"transit/{what}/{_BAO_KEY}"
        answer = self._server.call("POST", path, **body)
        headers = {"content-type": "application/json", "x-vault-token": self._server.root}
        target = Target(
            f"{self._url}/v1/{path}",
            json.dumps(body).encode(),
            headers,
            http1=self._url.startswith("http:"),
        )
        # Compact, with a newline at the end.
        return target, len(json.dumps(answer, separators=(",", ":"))) + 1


@dataclass(frozen=True, slots=True)
class Field:
    """The contenders that serve in one way, plain or over TLS.

    Attributes:
        keyfold: Keyfold by transport.
        echo: The echo by transport.
        openbao: OpenBao, or None where it is not installed.
    """

    keyfold: dict[str, Service]
    echo: dict[str, Service]
    openbao: Bao | None


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, Field]]:
    """Runs all contenders; returns them by `plain` and `tls`."""
    authority = Authority("benchmark")
    certificate, key = authority.issue(["127.0.0.1", "localhost"])
    tls = Tls(
        _written(folder / "tls.pem", certificate),
        _written(folder / "tls.key", key),
        authority.ca_pem,
    )
    with ExitStack() as stack:
        bao = stack.enter_context(_openbao(tls))
        fields = {}
        for way, used in (("plain", None), ("tls", tls)):
            ours, echo = {}, {}
            for transport in TRANSPORTS:
                own = folder / f"{transport}-{way}"
                own.mkdir()
                ours[transport] = stack.enter_context(keyfold(own, transport, used))
                echo[transport] = stack.enter_context(_echo(transport, used))
            fields[way] = Field(ours, echo, bao.get(way))
        yield fields


@contextmanager
def keyfold(folder: Path, transport: str, tls: Tls | None = None) -> Iterator[Service]:
    """Runs Keyfold as in production, with a cluster in memory."""
    signing = ec.generate_private_key(ec.SECP256R1())
    settings = {
        "transport": transport,
        "policy": str(_written(folder / "policy.toml", _POLICY.encode())),
        "jwt_issuer": _ISSUER,
        "jwt_audience": _AUDIENCE,
        "jwt_jwks": str(_written(folder / "jwks.json", _key_set(signing))),
        **_tls_settings(tls),
    }
    headers = {"authorization": f"Bearer {_token(signing)}"}
    with servers.one(folder, None, **settings) as server:
        service = Service(f"keyfold on {transport}", server, tls, headers)
        service.ask("Enable", cases.enabling().SerializeToString())
        yield service


def _tls_settings(tls: Tls | None) -> dict[str, str]:
    if tls is None:
        return {}
    return {"tls_cert": str(tls.certificate), "tls_key": str(tls.key)}


@contextmanager
def _echo(transport: str, tls: Tls | None) -> Iterator[Service]:
    command = [sys.executable, str(Path(__file__).with_name("echo.py")), transport]
    if tls is not None:
        command += [str(tls.certificate), str(tls.key)]
    with running(f"echo on {transport}", command, os.environ) as server:
        yield Service(f"empty echo on {transport}", server, tls, {})


@contextmanager
def _openbao(tls: Tls) -> Iterator[dict[str, Bao]]:
    """Runs OpenBao; returns it by the way it serves, or nothing where it is not installed."""
    try:
        server = OpenBao(tls=(tls.certificate, tls.key))
    except NotInstalledError as missing:
        print(f"without OpenBao: {missing}", file=sys.stderr)
        yield {}
        return
    try:
        server.mount("transit")
        server.create_key("transit", _BAO_KEY)
        yield {"plain": Bao(server, server.url), "tls": Bao(server, server.tls_url)}
    finally:
        server.stop()


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def _key_set(key: ec.EllipticCurvePrivateKey) -> bytes:
    public: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return json.dumps({"keys": [public | {"kid": _KEY_ID, "use": "sig", "alg": "ES256"}]}).encode()


def _token(key: ec.EllipticCurvePrivateKey) -> str:
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": _CALLER, "iat": now}
    claims |= {"exp": now + _TOKEN_LASTS}
    return jwt.encode(claims, key, "ES256", headers={"kid": _KEY_ID})
