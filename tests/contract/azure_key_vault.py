"""AZURE_KEY_VAULT's rows of the provider suite: a vault's RSA keys, a Managed HSM's AES keys.

Their counterpart is `counterparts.azure_key_vault` behind a layer of faults, one origin that stands
for Azure's hosts: vault, Entra and the managed identity's endpoint. The adapter is set up by its
settings and the environment alone, as in a server: with a managed identity, which the application
in the customer's tenant trusts.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import secrets as random
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from certificates import authority, loopback_tls
from contract.counterparts import DRIP, Ability, Counterpart, Deviation, Row
from counterparts.azure_errors import render
from counterparts.azure_key_vault import HSM_RESOURCE, TENANT, VAULT_RESOURCE, AzureKeyVault
from counterparts.faults import FaultLayer
from counterparts.messages import Answer, Reply, Request
from fakes import FakeClock
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider

IDENTITY: Final = "0d4c5f5e-5d2e-4c1e-8f51-1f7c61a3a001"
"""The client id of Keyfold's managed identity."""

VENDOR: Final = "8f0a2f6c-0f5b-4a63-a5c5-3a5d9d3c7e10"
"""The tenant of that identity."""

_VARIABLES: Final = (
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
)

_OF_ONE_HOP: Final = frozenset({"connection", "content-length", "date", "server"})


class AzureCounterpart(Counterpart):
    """A customer's vault or Managed HSM, and an application that trusts Keyfold's identity."""

    def __init__(self, folder: Path, *, hsm: bool = False) -> None:
        self.azure = _shared()
        self.vault = self.azure.hsm_url if hsm else self.azure.vault_url
        self._broken = False
        self.answer = self._route(folder)
        self.layer = self.logins = FaultLayer(self.answer, loopback_tls("trusted"))
        self.client = str(uuid.uuid4())
        self.principal = self.azure.register_application(TENANT, self.client)
        self.azure.trust(
            self.client,
            self.azure.identity_issuer(VENDOR),
            self.azure.object_id(f"{VENDOR}/{IDENTITY}"),
        )
        self._names = (f"key-{random.token_hex(4)}-{number}" for number in itertools.count(1))
        self._actions = (
            {"wrap": "encrypt", "unwrap": "decrypt", "describe": "read"}
            if hsm
            else {"wrap": "wrap", "unwrap": "unwrap", "describe": "read"}
        )
        self.env = pytest.MonkeyPatch()
        for name in _VARIABLES:
            self.env.delenv(name, raising=False)
        self.env.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", self.layer.url)
        self.env.setenv("AZURE_CLIENT_ID", IDENTITY)
        self.env.setenv("NO_PROXY", "127.0.0.1")
        ca = folder / "azure-ca.pem"
        ca.write_bytes(authority("trusted").pem)
        self.clock = FakeClock()
        self.provider = AzureKeyVaultProvider(
            authority=self.layer.url,
            instance_discovery=False,
            ca=str(ca),
            allowed_endpoints=[self.layer.url],
            audiences={self.layer.url: HSM_RESOURCE if hsm else VAULT_RESOURCE},
            clock=self.clock.monotonic,
        )

    def _route(self, folder: Path) -> Answer:
        """Returns a function that sends each request on to the vault, Entra or the identity."""
        trusted = folder / "counterpart-ca.pem"
        trusted.write_bytes(self.azure.ca_pem)
        self._hosts = urllib3.PoolManager(ca_certs=str(trusted), maxsize=64, retries=False)

        def answer(request: Request) -> Reply:
            if self._broken and request.path.startswith("/metadata/"):
                return _error("IdentityNotFound")
            where = self.azure.authority
            if request.path.startswith("/metadata/"):
                where = self.azure.identity_url
            elif request.path.startswith(("/keys", "/deletedkeys")):
                where = self.vault
            got = self._hosts.request(
                request.method,
                where + request.path,
                body=request.body,
                headers={k: v for k, v in request.headers.items() if k not in _OF_ONE_HOP},
            )
            return Reply(got.status, _kept(got.headers), got.data)

        return answer

    # Keys.

    def create_key(self, **how: Any) -> RootKey:
        name = next(self._names)
        self.azure.create_key(name, self.vault, **how)
        key = self.key(name)
        self.azure.allow(self.principal, self.there(key), *self._actions.values())
        return key

    def key(self, name: str) -> RootKey:
        """Returns a root key by its name, whether it exists or not."""
        return RootKey("AZURE_KEY_VAULT", f"{self.layer.url}/keys/{name}", self.principal)

    def there(self, key: RootKey) -> str:
        """Returns a key's url at the counterpart itself."""
        return key.uri.replace(self.layer.url, self.vault)

    def missing_key(self) -> RootKey:
        key = self.key("missing")
        self.azure.allow(self.principal, self.there(key), *self._actions.values())
        return key

    def unusable_key(self, why: Ability) -> RootKey:
        assert why is Ability.WRONG_PURPOSE
        return self.create_key(key_ops=("sign", "verify"))

    def exists(self, key: RootKey) -> bool:
        return bool(self.azure.versions(self.there(key)))

    def new_version(self, key: RootKey) -> None:
        self.azure.new_version(self.there(key))

    def disable(self, key: RootKey, version: str | None = None) -> None:
        self.azure.disable(self.there(key) + (f"/{version}" if version else ""))

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self.azure.enable(self.there(key) + (f"/{version}" if version else ""))

    def delete(self, key: RootKey, version: str | None = None) -> None:
        self.azure.delete(self.there(key))
        self.azure.purge(self.there(key))

    def schedule_deletion(self, key: RootKey) -> None:
        self.azure.delete(self.there(key))

    def cancel_deletion(self, key: RootKey) -> None:
        self.azure.recover(self.there(key))

    def deny(self, key: RootKey, permission: str) -> None:
        self.azure.deny(self.principal, self.there(key), self._actions[permission])

    def restore(self, key: RootKey, permission: str) -> None:
        self.azure.allow(self.principal, self.there(key), self._actions[permission])

    # Credentials and trust.

    @contextmanager
    def withdrawn_trust(self, key: RootKey) -> Iterator[None]:
        self.azure.withdraw(TENANT, self.client)
        self.azure.expire_tokens(key.principal)
        try:
            yield
        finally:
            self.azure.consent(TENANT, self.client)

    @contextmanager
    def broken_credentials(self) -> Iterator[None]:
        self._broken = True
        self.azure.expire_tokens()
        try:
            yield
        finally:
            self._broken = False

    def expire_sessions(self) -> None:
        self.azure.expire_tokens()

    def is_login(self, request: Request) -> bool:
        return request.path.endswith("/oauth2/v2.0/token")

    # Faults.

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        headers = {} if hint is None else {"Retry-After": f"{hint:.0f}"}
        return self.layer.answering(_error("Throttled", headers))

    def outage(self, which: str) -> AbstractContextManager[None]:
        garbage = Reply(200, {"Content-Type": "text/html"}, b"<html>")
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            Ability.REFUSED: self.layer.refusing,
            Ability.RESET: self.layer.resetting,
            Ability.TLS_FAILURE: lambda: self.layer.distrusted(loopback_tls("stranger")),
            Ability.SERVER_ERROR: lambda: self.layer.answering(_error("InternalServerError")),
            Ability.GARBAGE: lambda: self.layer.answering(garbage),
            Ability.TOO_LARGE: lambda: self.layer.answering(replace(garbage, body=b"{" * 2**21)),
            "firewall": lambda: self.layer.answering(_error("ForbiddenByFirewall")),
            "private link": lambda: self.layer.answering(_error("ForbiddenByConnection")),
            "perimeter": lambda: self.layer.answering(_error("ForbiddenByNsp")),
        }
        return ways[which]()

    def hanging(self, which: str) -> AbstractContextManager[None]:
        if which == Ability.DRIPPING:
            return self.layer.dripping(DRIP)
        if which == Ability.HANG_AT_CONNECT:
            return self.layer.hanging_at_connect()
        return self.layer.hanging_at_read()

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        def changed(request: Request) -> Reply:
            reply = self.answer(request)
            if not request.path.partition("?")[0].endswith(("/unwrapkey", "/decrypt")):
                return reply
            wrong = base64.urlsafe_b64encode(random.token_bytes(65)).rstrip(b"=").decode()
            return replace(
                reply, body=json.dumps({**json.loads(reply.body), "value": wrong}).encode()
            )

        return self.layer.instead(changed)

    def secrets(self) -> list[bytes]:
        sent = [one.request.headers.get("authorization", "") for one in self.azure.requests]
        return [text.removeprefix("Bearer ").encode() for text in {*sent} if text]

    def close(self) -> None:
        self.layer.close()
        self._hosts.clear()
        self.env.undo()


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() not in _OF_ONE_HOP}


def _error(name: str, headers: dict[str, str] | None = None) -> Reply:
    status, body = render(name, {})
    return Reply(status, headers or {}, json.dumps(body).encode())


@functools.cache
def _shared() -> AzureKeyVault:
    """Returns the counterpart that all tests of the process share; it stops after them."""
    azure = AzureKeyVault()
    azure.assign_identity(VENDOR, IDENTITY)

    def stop_after_all() -> None:
        threading.main_thread().join()
        azure.stop()

    threading.Thread(target=stop_after_all, daemon=True).start()
    return azure


_V: Final = "https://v-1.vault.azure.net"
_H: Final = "https://h-1.managedhsm.azure.net"
_VERSION: Final = "0123456789abcdef0123456789abcdef"
_PRINCIPAL: Final = f"{TENANT}/{IDENTITY}"


def _spec(uri: str, principal: str = "", options: tuple[tuple[str, str], ...] = ()) -> RootKey:
    return RootKey("AZURE_KEY_VAULT", uri, principal, options)


_REFUSED: Final = (
    *(
        (_spec(uri), "key_spec.uri")
        for uri in (
            _V,
            f"{_V}/keys",
            f"{_V}/keys/",
            f"{_V}/secrets/k",
            f"{_V}/keys/k/1",
            f"{_V}/keys/k/{_VERSION.upper()}",
            f"{_V}/keys/k/{_VERSION}/wrapkey",
            f"{_V}/keys/k//",
            f"{_V}//keys/k",
            f"{_V}/keys/../secrets/k",
            f"{_V}/keys/k%2f{_VERSION}",
            f"{_V}/keys/k?api-version=1",
            f"{_V}/keys/k#f",
            f"{_V}/keys/k_1",
            f"{_V}/keys/k\n",
            f"{_V}/keys/" + 128 * "k",
            f"{_V}:8443/keys/k",
            f"{_V}./keys/k",
            "http://v-1.vault.azure.net/keys/k",
            "https://evil.com/keys/k",
            "https://evil.com/keys/..",
            "https://evil.com/.vault.azure.net/keys/k",
            "https://evil.com\\.vault.azure.net/keys/k",
            "https://evil.com%2f.vault.azure.net/keys/k",
            "https://evil.com?.vault.azure.net/keys/k",
            "https://evil.com#.vault.azure.net/keys/k",
            "https://evil.com@v-1.vault.azure.net/keys/k",
            "https://v-1.vault.azure.net@evil.com/keys/k",
            "https://v-1.vault.azure.net.evil.com/keys/k",
            "https://v-1.vault.azure.net:443@evil.com/keys/k",
            "https://evilvault.azure.net/keys/k",
            "https://a.b.vault.azure.net/keys/k",
            "https://.vault.azure.net/keys/k",
            "https://vault.azure.net/keys/k",
            "https://-v.vault.azure.net/keys/k",
            "https://v\u0430ult.vault.azure.net/keys/k",
            "https://v-1.vault.azure\u3002net/keys/k",
            "https://v-1.vault.azure.net\u2215evil.com/keys/k",
            f"https://{25 * 'v'}.vault.azure.net/keys/k",
            "https://169.254.169.254/keys/k",
            "v-1.vault.azure.net/keys/k",
            "arn:aws:kms:eu-west-1:111122223333:key/k",
        )
    ),
    *(
        (_spec(f"{_V}/keys/k", principal), "key_spec.auth_principal")
        for principal in (
            "keyfold",
            TENANT,
            f"{TENANT}/",
            f"common/{IDENTITY}",
            f"contoso.com/{IDENTITY}",
            f"{TENANT}/{IDENTITY}/x",
            f"../{TENANT}/{IDENTITY}",
            f"{TENANT}/{IDENTITY}\n",
        )
    ),
    (_spec(f"{_V}/keys/k", "", (("algorithm", "RSA1_5"),)), "key_spec.options"),
    (_spec(f"{_V}/keys/k", _PRINCIPAL, (("region", "x"),)), "key_spec.options"),
)
_ALIASES: Final = (
    (f"{_V}/keys/k/", f"{_V}/keys/k"),
    ("https://V-1.Vault.Azure.NET:443/keys/K", f"{_V}/keys/K"),
    (f"HTTPS://v-1.vault.azure.net/keys/k/{_VERSION}/", f"{_V}/keys/k/{_VERSION}"),
    ("https://H-1.managedHSM.azure.net/keys/k", f"{_H}/keys/k"),
)
_OUTAGES: Final = ("firewall", "private link", "perimeter")
_ABSENT: Final = {
    Ability.DESTROY_VERSION: "Azure deletes a key, not one of its versions",
    Ability.MATERIAL_MISSING: "a key of Azure always has its material",
    Ability.WRONG_CHECKSUM: "Azure sends no checksums; TLS and the digest replace them",
}
_DEVIATIONS: Final = {
    Deviation.WRAP_NEEDS_UNWRAP: "a disabled key still wraps, so the provider opens the result",
    Deviation.CANCELLED_DELETION_ENABLES: "a recovered key is as it was before",
}

ROW: Final = Row(
    name="AZURE_KEY_VAULT",
    make=AzureCounterpart,
    # RSA-OAEP takes no additional data.
    binds=frozenset(),
    refused=_REFUSED,
    aliases=_ALIASES,
    further_outages=_OUTAGES,
    absent=_ABSENT,
    deviations=_DEVIATIONS,
)

HSM_ROW: Final = Row(
    name="AZURE_KEY_VAULT managed HSM",
    make=functools.partial(AzureCounterpart, hsm=True),
    binds=frozenset({"cluster", "region", "kek_id", "organization"}),
    refused=_REFUSED[:1],
    further_outages=_OUTAGES,
    absent=_ABSENT,
    deviations=_DEVIATIONS,
)

ROWS: Final = (ROW, HSM_ROW)
