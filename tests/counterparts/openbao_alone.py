"""OpenBao as a program of its own, over TLS, with keys and a role that are ready for a demo.

It runs until SIGTERM or SIGINT. It prints lines NAME=VALUE. The file in SETTINGS is the server's
section for it, and VAULT_TOKEN may do everything there.
"""

from __future__ import annotations

import argparse
import json
import signal
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Final

from counterparts.faults import FaultLayer
from counterparts.openbao import OpenBao
from counterparts.pki import Authority


def server_tls(authority: Authority) -> ssl.SSLContext:
    """Returns the server's side of TLS for 127.0.0.1 and localhost."""
    certificate, key = authority.issue(["127.0.0.1", "localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(key + certificate)
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


_ROLE: Final = "keyfold"
_KEYS: Final = ("app", "app-next")


def _prepare(server: OpenBao, url: str, out: Path) -> dict[str, str]:
    """Makes keys and a role for a demo; returns the values to print, by name."""
    server.mount("transit")
    rules = {"auth/token/lookup-self": ["read"]}
    for name in _KEYS:
        server.create_key("transit", name)
        rules |= {f"transit/{each}/{name}": ["update"] for each in ("encrypt", "decrypt")}
        rules[f"transit/keys/{name}"] = ["read"]
    server.write_policy(_ROLE, rules)
    server.enable_auth("approle", "approle")
    role_id, secret_id = server.create_app_role(
        "approle", _ROLE, token_policies=[_ROLE], token_ttl="1h"
    )
    for name, text in {"secret-id": secret_id, "token": server.root}.items():
        path = out / name
        path.touch(0o600)
        path.write_text(text + "\n")
    section = {
        "auth": "approle",
        "role": _ROLE,
        "role_id": role_id,
        "credential": str(out / "secret-id"),
        "ca": str(out / "ca.pem"),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in section.items()]
    (out / "vault.toml").write_text("\n".join([f'[vault."{url}"]', *lines, ""]))
    return {
        "VAULT_ADDR": url,
        "VAULT_TOKEN": server.root,
        "VAULT_CACERT": section["ca"],
        "KEY_URI": f"{url}/v1/transit/keys/{_KEYS[0]}",
        "KEY_URI_NEXT": f"{url}/v1/transit/keys/{_KEYS[1]}",
        "PRINCIPAL": f"auth/approle/role/{_ROLE}",
        "SETTINGS": str(out / "vault.toml"),
    }


def main() -> None:
    """Runs the server until SIGTERM or SIGINT, and says how to use it."""
    parser = argparse.ArgumentParser(prog="python -m counterparts.openbao")
    parser.add_argument("--port", type=int, default=0, help="port of TLS; 0 for a free one")
    parser.add_argument("--out", type=Path, required=True, help="folder for its files")
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    authority = Authority("openbao counterpart")
    (out / "ca.pem").write_bytes(authority.ca_pem)
    server = OpenBao()
    try:
        with FaultLayer(server.answer, server_tls(authority), port=given.port) as layer:
            told = _prepare(server, layer.url, out)
            print("\n".join(f"{name}={value}" for name, value in told.items()), flush=True)  # noqa: T201
            ended.wait()
    finally:
        server.stop()
