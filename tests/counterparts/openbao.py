"""OpenBao: the Vault of the tests, the real server, which a test session starts once.

    python -m counterparts.openbao --out DIR [--port PORT]     until SIGTERM or SIGINT

It keeps everything in memory and listens on a loopback port and on the next one. Clients reach it
over TLS through `counterparts.faults`. It ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import http.client
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from contract.counterparts import NotInstalledError
from counterparts.messages import Reply, Request

_SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "openbao.sh"
_INSTALL: Final = 600.0
_READY: Final = 30.0
_STOP: Final = 10.0
_NOT_INSTALLED: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_UNSEAL_KEY: Final = re.compile(r"Unseal Key: (\S+)")


_OF_ONE_HOP: Final = frozenset({"connection", "content-length", "date", "host"})


class _Beside(http.client.HTTPConnection):
    """A connection over a unix socket, which reaches into a network namespace."""

    def __init__(self, path: Path) -> None:
        super().__init__("openbao", timeout=_READY)
        self._path = path

    def connect(self) -> None:
        """Connects to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class OpenBaoError(Exception):
    """The server answered a call with an error."""


class OpenBao:
    """One server with a folder of its own, on loopback unless it is told another address.

    It has its operator's commands, too.

    Attributes:
        url: Its URL, in plain http.
        tls_url: Its URL over TLS; empty without TLS.
        root: The token that may do everything.
    """

    def __init__(
        self,
        tls: tuple[Path, Path] | None = None,
        address: str = "",
        inside: Callable[[list[str]], list[str]] = list,
    ) -> None:
        """Installs OpenBao if it is missing, starts it and waits until it answers.

        Args:
            tls: The files of a certificate and its key, with which it serves on a further port.
            address: HOST:PORT to listen on in a network namespace; empty for a port of loopback.
            inside: Turns a command into the one that runs it in that namespace.

        Raises:
            NotInstalledError: It is not available on this machine.
        """
        program = _program()
        listens = address or f"127.0.0.1:{_free_ports()}"
        self.url = f"http://{listens}"
        self.root = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="keyfold-openbao-"))
        self._log = self._folder / "log"
        self.tls_url, configured = "", []
        if tls is not None:
            also = _free_ports()
            self.tls_url = f"https://127.0.0.1:{also}"
            (self._folder / "tls.json").write_text(json.dumps(_listener(also, *tls)))
            configured = [f"-config={self._folder / 'tls.json'}"]
        self._beside: Path | None = None
        if address:
            self._beside = self._folder / "socket"
            listener = {"listener": {"unix": {"address": str(self._beside)}}}
            (self._folder / "beside.json").write_text(json.dumps(listener))
            configured = [f"-config={self._folder / 'beside.json'}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                inside(
                    [
                        *(program, "server", "-dev", "-dev-no-store-token", "-log-level=warn"),
                        f"-dev-listen-address={listens}",
                        *configured,
                    ]
                ),
                cwd=self._folder,
                # It is in the environment, because every user of the machine sees command lines.
                env={"HOME": str(self._folder), "BAO_DEV_ROOT_TOKEN_ID": self.root},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # This is safe after a fork: it calls one function of the C library.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        atexit.register(self.stop)
        self._await("it answers", self._answers)
        # The server answers before it has printed everything.
        self._await("its unseal key", lambda: bool(self._said_unseal_key()))
        self._unseal_key = self._said_unseal_key()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _said_unseal_key(self) -> str:
        found = _UNSEAL_KEY.search(self._log.read_text(errors="replace"))
        return found[1] if found else ""

    def _answers(self) -> bool:
        try:
            return self.status("GET", "sys/health") == 200
        except OSError:
            return False

    def _await(self, what: str, there: Callable[[], bool]) -> None:
        ends = time.monotonic() + _READY
        while not there():
            if time.monotonic() > ends or self._process.poll() is not None:
                said = self._log.read_text(errors="replace")[-2000:]
                self.stop()
                raise AssertionError(f"waiting until {what}: {said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP)
        shutil.rmtree(self._folder, ignore_errors=True)

    # Calls.

    def call(self, method: str, path: str, /, *, token: str | None = None, **body: Any) -> Any:
        """Makes a call and returns the contents of its answer.

        Args:
            method: The HTTP method.
            path: The path behind /v1/, with namespaces before it if there are any.
            token: The caller's token; None for the root's.
            **body: The members of the JSON body.

        Raises:
            OpenBaoError: The server answered with an error.
        """
        status, found = self._send(method, path, self.root if token is None else token, body)
        if status not in (200, 204):
            raise OpenBaoError(f"{method} {path}: {status} {found}")
        return found

    def status(self, method: str, path: str, /, *, token: str = "", **body: Any) -> int:
        """Makes a call and returns the status of its answer."""
        return self._send(method, path, token, body)[0]

    def _send(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        headers = {"X-Vault-Token": token} if token else {}
        with contextlib.closing(self._line()) as line:
            line.request(method, f"/v1/{path}", json.dumps(body) if body else None, headers)
            answer = line.getresponse()
            found = answer.read()
            return answer.status, json.loads(found) if found else {}

    def answer(self, request: Request) -> Reply:
        """Answers a client's request, on a connection of its own, which is then closed."""
        kept = {name: v for name, v in request.headers.items() if name not in _OF_ONE_HOP}
        with contextlib.closing(self._line()) as line:
            line.request(request.method, request.path, request.body, kept)
            got = line.getresponse()
            body = got.read()
            headers = {k: v for k, v in got.getheaders() if k.lower() not in _OF_ONE_HOP}
            return Reply(got.status, headers, body)

    def _line(self) -> http.client.HTTPConnection:
        if self._beside is not None:
            return _Beside(self._beside)
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_READY)

    def run(self, text: str, folder: Path) -> str:
        """Runs a shell text in a folder, as the operator, with the server's own command.

        Returns:
            The text's output.

        Raises:
            OpenBaoError: The text ended with an error.
        """
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            # The text must find no other program.
            env={
                "PATH": str(Path(_program()).parent),
                "HOME": str(folder),
                "BAO_TOKEN": self.root,
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=_READY,
        )
        if done.returncode:
            raise OpenBaoError(done.stderr)
        return done.stdout

    # The operator. A name in `where` is a mount with the namespaces before it.

    def mount(self, where: str, engine: str = "transit") -> None:
        """Mounts a secrets engine."""
        self.call("POST", _system(where, "mounts"), type=engine)

    def unmount(self, where: str) -> None:
        """Removes a secrets engine with everything in it."""
        self.call("DELETE", _system(where, "mounts"))

    def create_namespace(self, name: str) -> None:
        """Makes a namespace below the root."""
        self.call("POST", f"sys/namespaces/{name}")

    def create_key(self, where: str, name: str, **how: Any) -> None:
        """Makes a transit key."""
        self.call("POST", f"{where}/keys/{name}", **{"type": "aes256-gcm96", **how})

    def write_policy(self, name: str, rules: dict[str, list[str]], namespace: str = "") -> None:
        """Writes a policy of capabilities by path."""
        text = "\n".join(
            f'path "{path}" {{ capabilities = {json.dumps(may)} }}' for path, may in rules.items()
        )
        self.call("PUT", f"{namespace}sys/policies/acl/{name}", policy=text)

    def enable_auth(self, where: str, method: str) -> None:
        """Mounts an auth method."""
        self.call("POST", _system(where, "auth"), type=method)

    def disable_auth(self, where: str) -> None:
        """Removes an auth method and ends its tokens."""
        self.call("DELETE", _system(where, "auth"))

    def create_app_role(self, where: str, role: str, **how: Any) -> tuple[str, str]:
        """Makes an AppRole; returns its role id and a secret id."""
        at = f"{_auth(where)}/role/{role}"
        self.call("POST", at, **how)
        role_id = self.call("GET", f"{at}/role-id")["data"]["role_id"]
        return str(role_id), str(self.call("POST", f"{at}/secret-id")["data"]["secret_id"])

    def trust_issuer(self, where: str, public_key: str) -> None:
        """Lets a JWT auth method accept the tokens that a key signed."""
        self.call("POST", f"{_auth(where)}/config", jwt_validation_pubkeys=[public_key])

    def create_jwt_role(self, where: str, role: str, audience: str, **how: Any) -> None:
        """Makes a role of a JWT auth method, for tokens with one audience."""
        self.call(
            "POST",
            f"{_auth(where)}/role/{role}",
            role_type="jwt",
            user_claim="sub",
            bound_audiences=[audience],
            **how,
        )

    def trust_cluster(self, where: str, url: str, ca: str) -> None:
        """Lets a Kubernetes auth method ask an API server to review tokens."""
        self.call(
            "POST",
            f"{_auth(where)}/config",
            kubernetes_host=url,
            kubernetes_ca_cert=ca,
            disable_local_ca_jwt=True,
            token_reviewer_jwt="reviewer",
        )

    def create_kubernetes_role(self, where: str, role: str, audience: str, **how: Any) -> None:
        """Makes a role of a Kubernetes auth method, for every service account."""
        self.call(
            "POST",
            f"{_auth(where)}/role/{role}",
            bound_service_account_names=["*"],
            bound_service_account_namespaces=["*"],
            audience=audience,
            **how,
        )

    def end_sessions(self, where: str) -> None:
        """Revokes every token that came from an auth method."""
        namespace, _, mount = where.rpartition("/")
        before = f"{namespace}/" if namespace else ""
        self.call("PUT", f"{before}sys/leases/revoke-prefix/auth/{mount}/login", sync=True)

    def seal(self) -> None:
        """Seals the server."""
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseals the server and waits until it answers."""
        self.call("PUT", "sys/unseal", key=self._unseal_key)
        self._await("it answers", self._answers)


def _system(where: str, kind: str) -> str:
    namespace, _, mount = where.rpartition("/")
    return f"{namespace}/sys/{kind}/{mount}".lstrip("/")


def _auth(where: str) -> str:
    namespace, _, mount = where.rpartition("/")
    return f"{namespace}/auth/{mount}".lstrip("/")


@functools.cache
def shared() -> OpenBao:
    """Returns the server that all tests share; each test has mounts and roles of its own."""
    try:
        return OpenBao()
    except AssertionError:
        # Another program took a port that was free a moment ago.
        return OpenBao()


@functools.cache
def _program() -> str:
    done = subprocess.run([_SCRIPT], capture_output=True, text=True, check=False, timeout=_INSTALL)
    if done.returncode == _NOT_INSTALLED:
        raise NotInstalledError(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _free_ports() -> int:
    """Returns a free port of loopback whose next port is free, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _listener(port: int, certificate: Path, key: Path) -> dict[str, Any]:
    """Returns the configuration of a port with TLS."""
    where = {"address": f"127.0.0.1:{port}"}
    return {
        "listener": {"tcp": where | {"tls_cert_file": str(certificate), "tls_key_file": str(key)}}
    }


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    from counterparts.openbao_alone import main

    main()
