"""VAULT_TRANSIT's row of the provider suite, and its counterpart: OpenBao, reached over TLS.

Keyfold's policy lets it create keys, so that the suite can show that wrapping creates no key.
"""

from __future__ import annotations

import functools
import itertools
import json
import secrets as random
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from contract.counterparts import DRIP, Ability, Counterpart, Deviation, Row
from counterparts import openbao
from counterparts.faults import FaultLayer
from counterparts.messages import Answer, Reply, Request
from counterparts.openbao_alone import server_tls
from counterparts.pki import Authority
from fakes import FakeClock
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.vault.origins import Origin
from keyfold_server.providers.vault.provider import VaultTransitProvider

_OPERATIONS: Final = {"wrap": "encrypt", "unwrap": "decrypt", "describe": "keys"}
_ROLE: Final = "keyfold"

ELSEWHERE: Final = "https://vault.example.com"
"""An origin with a section, which no test calls."""


class VaultCounterpart(Counterpart):
    """A customer's transit engine, and an AppRole that is Keyfold's."""

    def __init__(self, folder: Path) -> None:
        self.server = openbao.shared()
        self._tokens: set[str] = set()
        self.layer = self.logins = FaultLayer(self._answer, _tls("trusted"))
        name = random.token_hex(6)
        self.mount, self.login = f"transit-{name}", f"approle-{name}"
        self.server.mount(self.mount)
        self.server.enable_auth(self.login, "approle")
        self._denied: set[str] = set()
        self._write_policy()
        role_id, self._secret_id = self.server.create_app_role(
            self.login, _ROLE, token_policies=[self.mount], token_ttl="1h"
        )
        self._credential, ca = folder / "secret-id", folder / "ca.pem"
        self._credential.write_text(self._secret_id + "\n")
        ca.write_bytes(_authority("trusted").ca_pem)
        section = Origin(
            "approle",
            mount=self.login,
            role=_ROLE,
            role_id=role_id,
            credential=self._credential,
            ca=ca,
        )
        self.clock = FakeClock()
        self.provider = VaultTransitProvider(
            origins={self.layer.url: section, ELSEWHERE: section},
            environment={},
            clock=self.clock.monotonic,
        )
        self._names = (f"key-{number}" for number in itertools.count(1))

    def _answer(self, request: Request) -> Reply:
        self._tokens.add(request.headers.get("x-vault-token", ""))
        return self.server.answer(request)

    def _write_policy(self) -> None:
        rules = {
            f"{self.mount}/encrypt/*": ["create", "update"],
            f"{self.mount}/decrypt/*": ["update"],
            f"{self.mount}/keys/*": ["read"],
            **{path: ["deny"] for path in self._denied},
        }
        self.server.write_policy(self.mount, rules)

    # Keys.

    def create_key(self, **how: Any) -> RootKey:
        name = next(self._names)
        self.server.create_key(self.mount, name, **how)
        return self._key(name)

    def missing_key(self) -> RootKey:
        return self._key("missing")

    def _key(self, name: str) -> RootKey:
        uri = f"{self.layer.url}/v1/{self.mount}/keys/{name}"
        return RootKey("VAULT_TRANSIT", uri, f"auth/{self.login}/role/{_ROLE}")

    def unusable_key(self, why: Ability) -> RootKey:
        assert why is Ability.WRONG_PURPOSE
        return self.create_key(type="ed25519")

    def exists(self, key: RootKey) -> bool:
        return self.server.status("GET", _path(key), token=self.server.root) == 200

    def new_version(self, key: RootKey) -> None:
        self.server.call("POST", f"{_path(key)}/rotate")

    def disable(self, key: RootKey, version: str | None = None) -> None:
        assert version is None
        self.server.call("DELETE", f"{_path(key)}/soft-delete")

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self.server.call("POST", f"{_path(key)}/soft-delete-restore")

    def delete(self, key: RootKey, version: str | None = None) -> None:
        if version is None:
            # A soft-deleted key cannot be configured.
            self.server.call("POST", f"{_path(key)}/soft-delete-restore")
            self.server.call("POST", f"{_path(key)}/config", deletion_allowed=True)
            self.server.call("DELETE", _path(key))
            return
        self.hold_back(key, version)
        oldest = int(version) + 1
        self.server.call("POST", f"{_path(key)}/trim", min_available_version=oldest)

    def hold_back(self, key: RootKey, version: str) -> None:
        """Stops a version, and all before it, from opening."""
        oldest = int(version) + 1
        self.server.call(
            "POST",
            f"{_path(key)}/config",
            min_decryption_version=oldest,
            min_encryption_version=oldest,
        )

    def deny(self, key: RootKey, permission: str) -> None:
        self._denied.add(self._policy_path(key, permission))
        self._write_policy()

    def restore(self, key: RootKey, permission: str) -> None:
        self._denied.discard(self._policy_path(key, permission))
        self._write_policy()

    def _policy_path(self, key: RootKey, permission: str) -> str:
        return f"{self.mount}/{_OPERATIONS[permission]}/{key.uri.rpartition('/')[2]}"

    # Credentials and trust.

    @contextmanager
    def withdrawn_trust(self, key: RootKey) -> Iterator[None]:
        self.server.write_policy(self.mount, {f"{self.mount}/*": ["deny"]})
        self.expire_sessions()
        try:
            yield
        finally:
            self._write_policy()

    @contextmanager
    def broken_credentials(self) -> Iterator[None]:
        at = f"auth/{self.login}/role/{_ROLE}"
        self.server.call("POST", f"{at}/secret-id/destroy", secret_id=self._secret_id)
        self.expire_sessions()
        try:
            yield
        finally:
            self.server.call("POST", f"{at}/custom-secret-id", secret_id=self._secret_id)

    def expire_sessions(self) -> None:
        self.server.end_sessions(self.login)

    def is_login(self, request: Request) -> bool:
        return request.path.endswith("/login")

    # Faults.

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        headers = {} if hint is None else {"Retry-After": f"{hint:.0f}"}
        return self.layer.answering(
            _error(429, 'request path "x": rate limit quota exceeded', headers)
        )

    def outage(self, which: str) -> AbstractContextManager[None]:
        garbage = Reply(200, {"Content-Type": "application/json"}, b'["no", "answer"]')
        away = {"Location": f"{self.layer.url}/v1/sys/health"}
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            Ability.REFUSED: self.layer.refusing,
            Ability.RESET: self.layer.resetting,
            Ability.TLS_FAILURE: lambda: self.layer.distrusted(_tls("stranger")),
            Ability.SERVER_ERROR: lambda: self.layer.answering(_error(500, "internal error")),
            Ability.GARBAGE: lambda: self.layer.answering(garbage),
            Ability.TOO_LARGE: lambda: self.layer.answering(replace(garbage, body=b"{" * 2**21)),
            "sealed": self._sealed,
            "redirect of a standby": lambda: self.layer.answering(Reply(307, away)),
            "performance standby": lambda: self.layer.answering(_error(473)),
            "disaster recovery": lambda: self.layer.answering(_error(472)),
            "state not there yet": lambda: self.layer.answering(
                _error(412, "required index state")
            ),
            "bad gateway": lambda: self.layer.answering(Reply(502, {}, b"<html>")),
            "a page of a proxy": lambda: self.layer.answering(Reply(404, {}, b"<html>")),
        }
        return ways[which]()

    @contextmanager
    def _sealed(self) -> Iterator[None]:
        self.server.seal()
        try:
            yield
        finally:
            self.server.unseal()

    def hanging(self, which: str) -> AbstractContextManager[None]:
        if which == Ability.DRIPPING:
            return self.layer.dripping(DRIP)
        if which == Ability.HANG_AT_CONNECT:
            return self.layer.hanging_at_connect()
        return self.layer.hanging_at_read()

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        concerned = "/v1/" + _path(key).replace("/keys/", "/decrypt/")
        return self.layer.instead(_changed(self._answer, concerned))

    def secrets(self) -> list[bytes]:
        known = {self._secret_id, self.server.root} | self._tokens
        return [each.encode() for each in known if each]

    def close(self) -> None:
        self.layer.close()
        self.server.disable_auth(self.login)
        self.server.unmount(self.mount)


def _changed(answer: Answer, concerned: str) -> Answer:
    """Returns a function that opens the ciphertexts of one key to other bytes."""

    def changed(request: Request) -> Reply:
        reply = answer(request)
        if request.path != concerned or reply.status != 200:
            return reply
        body = json.loads(reply.body)
        body["data"]["plaintext"] = b64encode(random.token_bytes(65)).decode()
        return replace(reply, body=json.dumps(body).encode())

    return changed


def _error(status: int, text: str = "", headers: dict[str, str] | None = None) -> Reply:
    body = json.dumps({"errors": [text] if text else []}).encode()
    return Reply(status, {"Content-Type": "application/json", **(headers or {})}, body)


def _path(key: RootKey) -> str:
    return key.uri.partition("/v1/")[2]


@functools.cache
def _authority(name: str) -> Authority:
    return Authority(name)


@functools.cache
def _tls(name: str) -> ssl.SSLContext:
    return server_tls(_authority(name))


def _spec(uri: str, principal: str = "", **options: str) -> RootKey:
    return RootKey("VAULT_TRANSIT", uri, principal, tuple(sorted(options.items())))


_GOOD: Final = f"{ELSEWHERE}/v1/transit/keys/app"

ROW: Final = Row(
    name="VAULT_TRANSIT",
    make=VaultCounterpart,
    binds=frozenset({"cluster", "region", "kek_id", "organization"}),
    refused=(
        *(
            (_spec(uri), "key_spec.uri")
            for uri in (
                "transit/keys/app",
                f"{ELSEWHERE}/v1/transit/app",
                f"{ELSEWHERE}/v1/keys/app",
                f"{ELSEWHERE}/transit/keys/app",
                f"{ELSEWHERE}/v1/transit/encrypt/app",
                f"{ELSEWHERE}/v1/transit/keys/",
                f"{ELSEWHERE}/v1//transit/keys/app",
                f"{ELSEWHERE}/v1/../transit/keys/app",
                f"{ELSEWHERE}/v1/transit/keys/..",
                f"{ELSEWHERE}/v1/transit%2f/keys/app",
                f"{_GOOD}?version=1",
                f"{_GOOD}#1",
                f"{_GOOD}\n",
                f"{_GOOD}/",
                f"{_GOOD}-",
                _GOOD.replace("https", "http"),
                _GOOD.replace("https://", "https://user@"),
                _GOOD.replace("https://", "https://user:word@"),
                _GOOD.replace("https://vault", "https://other"),
                _GOOD.replace(".com/", ".com:8200/"),
                _GOOD.replace(".com/", ".com:0/"),
                _GOOD.replace(".com/", ".com@evil.example/"),
                _GOOD.replace("https://vault.example.com", "https://"),
            )
        ),
        (_spec(_GOOD, "keyfold"), "key_spec.auth_principal"),
        (_spec(_GOOD, "auth/approle/role/other"), "key_spec.auth_principal"),
        (_spec(_GOOD, namespace="team"), "key_spec.options"),
        (_spec(_GOOD, version="1"), "key_spec.options"),
    ),
    aliases=(
        (_GOOD.replace("https://vault", "HTTPS://Vault"), _GOOD),
        (_GOOD.replace(".com/", ".com:443/"), _GOOD),
        (_GOOD, _GOOD),
    ),
    further_outages=(
        "sealed",
        "redirect of a standby",
        "performance standby",
        "disaster recovery",
        "state not there yet",
        "bad gateway",
        "a page of a proxy",
    ),
    absent={
        Ability.REQUEST_IDS: "its errors carry no id, only its successful answers do",
        Ability.VERSION_STATES: "it stops versions from the oldest on, and never the newest",
        Ability.SCHEDULE_DELETION: "a key is soft-deleted, which disables it, or gone at once",
        Ability.MATERIAL_MISSING: "an imported key has its material until it is deleted",
        Ability.WRONG_CHECKSUM: "it sends no checksums; TLS and the digest replace them",
    },
    deviations={
        Deviation.WRAP_NEEDS_UNWRAP: "only opening a ciphertext shows that it arrived whole",
    },
)
