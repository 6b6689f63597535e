"""The wire-level counterpart of Azure Key Vault and Entra, driven by Microsoft's own SDKs."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.rest import HttpRequest, HttpResponse
from azure.identity import (
    ClientAssertionCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
)
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, KeyWrapAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from counterparts.azure_errors import errors
from counterparts.azure_faults import Fault
from counterparts.azure_key_vault import AzureKeyVault

CLIENT: Final = "0b0c0d0e-0000-4000-8000-000000000001"
SECRET: Final = "right"
KEK: Final = bytes(range(65))
OAEP: Final = "RSA-OAEP-256"
TESTS: Final = Path(__file__).parents[1]


class Clock:
    """The time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class World:
    """A counterpart with one application that may do everything, and SDK clients for it."""

    azure: AzureKeyVault
    clock: Clock
    ca: str
    principal: str
    rsa: str
    closing: ExitStack

    def credential(self, secret: str = SECRET, **options: Any) -> ClientSecretCredential:
        """Makes a credential of the application, with nothing cached."""
        named = {"tenant_id": self.azure.tenant, "client_id": CLIENT, **options}
        credential = ClientSecretCredential(client_secret=secret, **named, **self.entra)
        self.closing.callback(credential.close)
        return credential

    @property
    def entra(self) -> dict[str, Any]:
        """The options that point azure-identity at the counterpart."""
        return {
            "authority": self.azure.authority,
            "disable_instance_discovery": True,
            "connection_verify": self.ca,
            "retry_total": 0,
        }

    @property
    def vault(self) -> dict[str, Any]:
        """The options that point azure-keyvault-keys at the counterpart."""
        return {
            "verify_challenge_resource": False,
            "connection_verify": self.ca,
            "retry_total": 0,
            "connection_timeout": 2,
            "read_timeout": 5,
        }

    def keys(self, url: str = "", credential: Any = None, **options: Any) -> KeyClient:
        """Makes a client of a vault, the first one unless named."""
        options = {**self.vault, **options}
        client = KeyClient(url or self.azure.vault_url, credential or self.credential(), **options)
        self.closing.callback(client.close)
        return client

    def crypto(self, key: Any, credential: Any = None) -> CryptographyClient:
        """Makes a client of one key."""
        client = CryptographyClient(key, credential or self.credential(), **self.vault)
        self.closing.callback(client.close)
        return client

    def aes(self, **attributes: Any) -> str:
        """Makes a fresh AES key on the HSM, with all permissions."""
        key = self.azure.create_key(f"aes-{uuid.uuid4().hex}", self.azure.hsm_url, **attributes)
        self.azure.allow(self.principal, key)
        return key

    def bare(
        self, url: str, method: str = "GET", headers: Mapping[str, str] | None = None, **sent: Any
    ) -> tuple[int, Mapping[str, str], Any]:
        """Sends a request without any SDK."""
        data = sent.get("data")
        request = urllib.request.Request(url, data, dict(headers or {}), method=method)
        context = ssl.create_default_context(cafile=self.ca) if "https" in url else None
        try:
            with urllib.request.urlopen(request, context=context) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), json.loads(error.read() or b"null")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Runs one counterpart for all tests; RSA keys take their time."""
    clock = Clock()
    with AzureKeyVault(clock=clock) as azure:
        ca = tmp_path_factory.mktemp("azure") / "ca.pem"
        ca.write_bytes(azure.ca_pem)
        principal = azure.register_application(azure.tenant, CLIENT, SECRET)
        rsa = azure.create_key("app")
        azure.allow(principal, rsa)
        yield World(azure, clock, str(ca), principal, rsa, ExitStack())


@pytest.fixture
def world(running: World) -> Iterator[World]:
    """Gives the counterpart without faults, its own time and no clients of another test."""
    with ExitStack() as closing:
        running.closing = closing
        running.clock.ahead = 0.0
        yield running
        running.azure.clear_faults()


def post(client: KeyClient, path: str, **body: Any) -> HttpResponse:
    """Sends an operation with the value, iv, tag and aad as base64url."""
    ready = {name: _text(v) if isinstance(v, bytes) else v for name, v in body.items()}
    return client.send_request(HttpRequest("POST", path, json=ready))


def value(answer: HttpResponse, member: str = "value") -> bytes:
    """Returns a base64url member of a good answer."""
    answer.raise_for_status()
    text = answer.json()[member]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def refusal(answer: HttpResponse) -> tuple[int, str, str | None]:
    """Returns status, code and inner code of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("innererror", {}).get("code")


def path(key: str) -> str:
    """Returns a key's path in its vault."""
    return key.split("/", 3)[3]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


# --- tokens and the challenge ------------------------------------------------------------------


def test_challenge(world: World) -> None:
    """A bare request gets 401 and a challenge that names tenant and resource."""
    for url, wanted in (
        (world.azure.vault_url, 'resource="https://vault.azure.net"'),
        (world.azure.hsm_url, 'scope="https://managedhsm.azure.net/.default"'),
    ):
        status, headers, body = world.bare(f"{url}/keys/app?api-version=7.6")
        assert status == 401
        challenge = f'Bearer authorization="{world.azure.authority}/{world.azure.tenant}", {wanted}'
        assert headers["WWW-Authenticate"] == challenge
        assert body["error"]["code"] == "Unauthorized"
        assert str(uuid.UUID(headers["x-ms-request-id"])) == headers["x-ms-request-id"]


def test_sdk_logs_in_with_a_secret(world: World) -> None:
    """The SDK follows the challenge to Entra and comes back with a token."""
    seen = len(world.azure.requests)
    key = world.keys(credential=world.credential()).get_key("app")
    assert key.key_type == "RSA"
    assert key.id == world.azure.versions(world.rsa)[-1]
    operations = [one.operation for one in world.azure.requests[seen:]]
    assert operations[-3:] == ["openid", "token", "get"]
    assert world.azure.requests[-1].principal == world.principal


def test_published_keys_verify_tokens(world: World) -> None:
    """Discovery leads to the JWKS that the directory's tokens verify with."""
    base = f"{world.azure.authority}/{world.azure.tenant}"
    _, _, openid = world.bare(f"{base}/v2.0/.well-known/openid-configuration")
    _, _, jwks = world.bare(openid["jwks_uri"])
    token = world.credential().get_token("https://vault.azure.net/.default").token
    key = jwt.PyJWKSet.from_dict(jwks)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, audience="https://vault.azure.net", issuer=f"{base}/")
    assert (claims["tid"], claims["appid"]) == (world.azure.tenant, CLIENT)


@pytest.mark.parametrize(
    ("change", "number", "status", "error"),
    [
        ({"client_secret": "wrong"}, 7000215, 401, "invalid_client"),
        ({"client_secret": "old"}, 7000222, 401, "invalid_client"),
        ({"client_id": "nobody"}, 700016, 400, "unauthorized_client"),
        ({"client_id": "off"}, 7000112, 400, "unauthorized_client"),
        ({"tenant": "nowhere"}, 90002, 400, "invalid_tenant"),
        ({"client_secret": None}, 7000218, 401, "invalid_client"),
        ({"scope": "https://other.example/.default"}, 500011, 400, "invalid_resource"),
        ({"scope": "https://vault.azure.net"}, 1002012, 400, "invalid_scope"),
        ({"grant_type": "password"}, 70003, 400, "unsupported_grant_type"),
    ],
)
def test_wrong_logins(
    world: World, change: Mapping[str, str | None], number: int, status: int, error: str
) -> None:
    """Each wrong login has Entra's own number, status and shape."""
    azure = world.azure
    azure.register_application(azure.tenant, CLIENT, "old")
    azure.expire_secret(CLIENT, "old")
    azure.register_application(azure.tenant, "off", SECRET)
    azure.disable_application("off")
    form = {
        "tenant": azure.tenant,
        "grant_type": "client_credentials",
        "client_id": CLIENT,
        "client_secret": SECRET,
        "scope": "https://vault.azure.net/.default",
        **change,
    }
    url = f"{azure.authority}/{form.pop('tenant')}/oauth2/v2.0/token"
    data = urllib.parse.urlencode({k: v for k, v in form.items() if v is not None}).encode()
    found, headers, body = world.bare(url, "POST", data=data)
    assert (found, body["error"], body["error_codes"]) == (status, error, [number])
    assert body["error_description"].startswith(f"AADSTS{number}: ")
    assert "$" not in body["error_description"]
    assert headers["x-ms-request-id"] in body["error_description"]


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"secret": "wrong"}, "AADSTS7000215"),
        ({"client_id": "nobody"}, "AADSTS700016"),
        # The SDK asks for the tenant's discovery first, and keeps AADSTS90002 to itself.
        ({"tenant_id": "nowhere"}, "nowhere"),
    ],
)
def test_sdk_names_wrong_logins(world: World, options: dict[str, str], number: str) -> None:
    """A wrong login reaches the SDK's caller as ClientAuthenticationError with the number."""
    credential = world.credential(**options)
    with pytest.raises(ClientAuthenticationError, match=number):
        credential.get_token("https://vault.azure.net/.default")


def test_tenant_of_a_credential_must_be_the_vaults(world: World) -> None:
    """A vault of another tenant takes no token of ours, until that tenant lets us in."""
    azure = world.azure
    vault = azure.add_vault("customer", hsm=True)
    key = azure.create_key("theirs", vault)
    options: dict[str, Any] = {"additionally_allowed_tenants": ["*"]}
    with pytest.raises(ClientAuthenticationError, match="AADSTS700016"):
        world.keys(vault, world.credential(**options)).get_key("theirs")
    azure.allow(azure.consent("customer", CLIENT), key, "read")
    assert world.keys(vault, world.credential(**options)).get_key("theirs").name == "theirs"
    with pytest.raises(ClientAuthenticationError):  # by the SDK itself
        world.keys(vault).get_key("theirs")
    azure.withdraw("customer", CLIENT)
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000229"):
        world.keys(vault, world.credential(**options)).get_key("theirs")


def test_tokens_are_checked(world: World) -> None:
    """Signature, audience, issuer and times of a token are checked on each call."""
    azure = world.azure
    url = f"{azure.vault_url}/keys/app?api-version=7.6"
    token = world.credential().get_token("https://vault.azure.net/.default").token
    other = world.credential().get_token("https://managedhsm.azure.net/.default").token
    azure.consent("elsewhere", CLIENT)
    foreign = world.credential(tenant_id="elsewhere")
    abroad = foreign.get_token("https://vault.azure.net/.default").token
    forged = jwt.encode(
        jwt.decode(token, options={"verify_signature": False}),
        ec.generate_private_key(ec.SECP256R1()),
        algorithm="ES256",
    )

    def tried(text: str) -> tuple[int, str]:
        status, headers, body = world.bare(url, headers={"Authorization": f"Bearer {text}"})
        assert (status == 200) != ("WWW-Authenticate" in headers)
        return status, body.get("error", {}).get("message", "").split(":")[0]

    assert tried(token) == (200, "")
    assert tried(other) == (401, "AKV10022")
    assert tried(abroad) == (401, "AKV10032")
    assert tried(forged) == (401, "AKV10046")
    assert tried("nonsense") == (401, "AKV10046")
    assert tried(token[:-8] + "AAAAAAAA") == (401, "AKV10046")
    world.clock.ahead = 3601
    assert tried(token)[1].startswith("[TokenExpired]")
    world.clock.ahead = -60
    assert tried(token)[1].startswith("Token not yet valid")


def test_expired_tokens(world: World) -> None:
    """An ended token is 401; the SDK sends it again, and only a new credential helps."""
    keys = world.keys()
    keys.get_key("app")
    world.azure.expire_tokens(world.principal)
    with pytest.raises(ClientAuthenticationError) as refused:
        keys.get_key("app")
    assert refused.value.status_code == 401
    assert world.keys().get_key("app").name == "app"


def test_revoked_tokens(world: World) -> None:
    """A revoked token gets a challenge with claims, with which the SDK logs in anew by itself."""
    keys = world.keys()
    keys.get_key("app")
    world.azure.revoke_tokens()
    assert keys.get_key("app").name == "app"


def test_federated_credentials(world: World) -> None:
    """An assertion opens only with the issuer, subject, audience, time and signature trusted."""
    azure = world.azure
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    azure.register_application(azure.tenant, "federated")
    azure.trust("federated", "https://issuer.example", "keyfold", key=pem.decode())
    right = {
        "iss": "https://issuer.example",
        "sub": "keyfold",
        "aud": "api://AzureADTokenExchange",
        "exp": int(time.time()) + 60,
    }

    def login(signer: ec.EllipticCurvePrivateKey, **change: Any) -> str:
        assertion = jwt.encode({**right, **change}, signer, algorithm="ES256")
        with ClientAssertionCredential(
            azure.tenant, "federated", lambda: assertion, **world.entra
        ) as credential:
            try:
                credential.get_token("https://vault.azure.net/.default")
            except ClientAuthenticationError as error:
                found = re.search(r"AADSTS(\d+)", error.message)
                return found[1] if found else error.message
            return "token"

    assert login(key) == "token"
    assert login(key, iss="https://issuer.example/") == "700211"
    assert login(key, sub="Keyfold") == "700213"
    assert login(key, aud="https://vault.azure.net") == "700212"
    assert login(key, exp=int(time.time()) - 1) == "700024"
    assert login(other) == "700027"


def test_managed_identity_into_a_customers_tenant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A managed identity's token is exchanged for one of an application in a customer's tenant."""
    azure = world.azure
    vault = azure.add_vault("buyer", hsm=True)
    key = azure.create_key("theirs", vault)
    azure.register_application(azure.tenant, "multi")
    azure.allow(azure.consent("buyer", "multi"), key, "read")
    identity = azure.assign_identity(azure.tenant, "pod")
    azure.trust("multi", azure.identity_issuer(azure.tenant), azure.object_id(identity))
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.identity_url)
    pod = ManagedIdentityCredential(client_id="pod", retry_total=0)
    assertion = ClientAssertionCredential(
        "buyer",
        "multi",
        lambda: pod.get_token("api://AzureADTokenExchange/.default").token,
        **world.entra,
    )
    with pod, assertion:
        assert world.keys(vault, assertion).get_key("theirs").name == "theirs"
    with (
        ManagedIdentityCredential(client_id="nobody", retry_total=0) as nobody,
        pytest.raises(CredentialUnavailableError, match="Identity not found"),
    ):
        nobody.get_token("https://vault.azure.net/.default")


def test_managed_identity_of_app_service(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """App Service's endpoint takes its header and nothing else; IMDS wants its own."""
    azure = world.azure
    azure.assign_identity(azure.tenant, "site")
    endpoint = f"{azure.identity_url}/msi/token"
    monkeypatch.setenv("IDENTITY_ENDPOINT", endpoint)
    monkeypatch.setenv("IDENTITY_HEADER", azure.identity_header)
    with ManagedIdentityCredential(client_id="site", retry_total=0) as credential:
        token = credential.get_token("https://vault.azure.net/.default").token
    assert jwt.decode(token, options={"verify_signature": False})["appid"] == "site"
    query = "?resource=https://vault.azure.net"
    assert world.bare(endpoint + query, headers={"X-IDENTITY-HEADER": "x"})[0] == 401
    imds = f"{azure.identity_url}/metadata/identity/oauth2/token{query}"
    assert world.bare(imds)[0] == 400
    assert world.bare(imds, headers={"Metadata": "true"})[0] == 200


# --- what keys do --------------------------------------------------------------------------------


def test_wrap_on_the_server(world: World) -> None:
    """A raw wrap without a version uses the newest, names it, and opens under it alone."""
    keys = world.keys()
    old = post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK)
    assert old.json()["kid"] == world.azure.versions(world.rsa)[-1]
    newest = world.azure.new_version(world.rsa)
    new = post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK)
    assert new.json()["kid"] == newest
    for wrapped in (old, new):
        opened = post(
            keys, f"{path(wrapped.json()['kid'])}/unwrapkey", alg=OAEP, value=value(wrapped)
        )
        assert value(opened) == KEK
    wrong = post(keys, f"{path(newest)}/unwrapkey", alg=OAEP, value=value(old))
    assert refusal(wrong) == (400, "BadParameter", None)
    assert wrong.json()["error"]["message"] == "Error occurred while decoding OAEP padding."
    listed = [one.id for one in keys.list_properties_of_key_versions("app", max_page_size=1)]
    assert listed == world.azure.versions(world.rsa)


def test_the_sdk_wraps_locally(world: World) -> None:
    """CryptographyClient wraps with the public key it fetched; unwrapping asks the server."""
    seen = len(world.azure.requests)
    crypto = world.crypto(world.azure.versions(world.rsa)[0])
    wrapped = crypto.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, KEK)
    assert crypto.unwrap_key(wrapped.algorithm, wrapped.encrypted_key).key == KEK
    sealed = crypto.encrypt(EncryptionAlgorithm.rsa_oaep, KEK)
    assert crypto.decrypt(sealed.algorithm, sealed.ciphertext).plaintext == KEK
    asked = [one.operation for one in world.azure.requests[seen:]]
    assert not {"wrapkey", "encrypt"} & set(asked)
    assert {"get", "unwrapkey", "decrypt"} < set(asked)


def test_without_read_the_sdk_wraps_on_the_server(world: World) -> None:
    """Without keys/read the SDK cannot fetch the key, and wraps on the server."""
    world.azure.deny(world.principal, world.rsa, "read")
    try:
        crypto = world.crypto(world.azure.versions(world.rsa)[0])
        wrapped = crypto.wrap_key(KeyWrapAlgorithm.rsa_oaep, KEK)
        assert crypto.unwrap_key(wrapped.algorithm, wrapped.encrypted_key).key == KEK
    finally:
        world.azure.allow(world.principal, world.rsa, "read")
    assert "wrapkey" in world.azure.operations(world.azure.vault_url)


def test_hsm_gcm(world: World) -> None:
    """A256GCM on an HSM binds what is given as AAD, and is no algorithm of wrapkey."""
    key = world.aes()
    crypto = world.crypto(world.azure.versions(key)[0])
    sealed = crypto.encrypt(EncryptionAlgorithm.a256_gcm, KEK, additional_authenticated_data=b"c")
    named: Any = {"iv": sealed.iv, "authentication_tag": sealed.tag}
    opened = crypto.decrypt(
        sealed.algorithm, sealed.ciphertext, additional_authenticated_data=b"c", **named
    )
    assert opened.plaintext == KEK
    for aad in (b"d", None):
        with pytest.raises(HttpResponseError) as refused:
            crypto.decrypt(
                sealed.algorithm, sealed.ciphertext, additional_authenticated_data=aad, **named
            )
        assert refused.value.status_code == 400
    keys = world.keys(world.azure.hsm_url)
    wrap = post(keys, f"{path(key)}/wrapkey", alg="A256GCM", value=KEK)
    assert refusal(wrap) == (400, "BadParameter", None)
    small = post(keys, f"{path(key)}/encrypt", alg="A128GCM", value=KEK)
    assert refusal(small) == (400, "BadParameter", None)
    short = post(keys, f"{path(key)}/decrypt", alg="A256GCM", value=KEK, iv=bytes(12), tag=bytes(4))
    assert refusal(short) == (400, "BadParameter", None)


def test_hsm_key_wrap(world: World) -> None:
    """A256KW wraps multiples of 8 bytes on an HSM, and tells when they are not authentic."""
    key = world.aes()
    keys = world.keys(world.azure.hsm_url)
    wrapped = value(post(keys, f"{path(key)}/wrapKey", alg="A256KW", value=KEK[:40]))
    assert value(post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=wrapped)) == KEK[:40]
    broken = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    for answer in (
        post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=broken),
        post(keys, f"{path(key)}/wrapkey", alg="A256KW", value=KEK),
        post(keys, f"{path(key)}/wrapkey", alg=OAEP, value=KEK),
        post(keys, f"{path(key)}/wrapkey", alg="A256KW", value="+/+/"),
        post(keys, f"{path(key)}/wrapkey", value=KEK),
    ):
        assert refusal(answer) == (400, "BadParameter", None)


def test_disabled_key(world: World) -> None:
    """A disabled version still wraps and encrypts, but neither unwraps nor decrypts."""
    keys = world.keys(world.azure.hsm_url)
    key = world.aes()
    world.azure.disable(key)
    assert keys.get_key(key.rsplit("/", 1)[1]).properties.enabled is False
    wrapped = value(post(keys, f"{path(key)}/wrapkey", alg="A256KW", value=KEK[:32]))
    sealed = post(keys, f"{path(key)}/encrypt", alg="A256GCM", value=KEK).json()
    unwrap = post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=wrapped)
    assert refusal(unwrap) == (403, "Forbidden", "KeyDisabled")
    message = "Operation unwrapKey is not allowed on a disabled key."
    assert unwrap.json()["error"]["message"] == message
    sealed = {name: sealed[name] for name in ("value", "iv", "tag")}
    decrypt = post(keys, f"{path(key)}/decrypt", alg="A256GCM", **sealed)
    assert refusal(decrypt) == (403, "Forbidden", "KeyDisabled")
    world.azure.enable(key)
    assert value(post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=wrapped)) == KEK[:32]
    assert value(post(keys, f"{path(key)}/decrypt", alg="A256GCM", **sealed)) == KEK


def test_key_outside_its_time(world: World) -> None:
    """A key outside nbf and exp neither wraps nor encrypts, but still unwraps and decrypts."""
    keys = world.keys(world.azure.hsm_url)
    now = int(time.time())
    key = world.aes(nbf=now - 100, exp=now + 100)
    wrapped = value(post(keys, f"{path(key)}/wrapkey", alg="A256KW", value=KEK[:32]))
    for times, inner in (
        ({"nbf": now - 200, "exp": now - 100}, "KeyExpired"),
        ({"nbf": now + 100, "exp": now + 200}, "KeyNotYetValid"),
    ):
        world.azure.update(key, **times)
        wrap = post(keys, f"{path(key)}/wrapkey", alg="A256KW", value=KEK[:32])
        assert refusal(wrap) == (403, "Forbidden", inner)
        encrypt = post(keys, f"{path(key)}/encrypt", alg="A256GCM", value=KEK)
        assert refusal(encrypt) == (403, "Forbidden", inner)
        assert value(post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=wrapped)) == KEK[:32]


def test_key_ops(world: World) -> None:
    """What a key's key_ops leave out is forbidden to everybody."""
    key = world.aes(key_ops=("encrypt",))
    keys = world.keys(world.azure.hsm_url)
    assert post(keys, f"{path(key)}/encrypt", alg="A256GCM", value=KEK).status_code == 200
    decrypt = post(keys, f"{path(key)}/decrypt", alg="A256GCM", value=KEK)
    assert refusal(decrypt) == (403, "Forbidden", "KeyOperationForbidden")
    message = "Operation decrypt is not permitted on this key."
    assert decrypt.json()["error"]["message"] == message


def test_deletion(world: World) -> None:
    """A deleted key is not found, keeps its name, and comes back as it was; a purged one not."""
    azure = world.azure
    key = world.aes()
    name = key.rsplit("/", 1)[1]
    keys = world.keys(azure.hsm_url)
    wrapped = value(post(keys, f"{path(key)}/wrapkey", alg="A256KW", value=KEK[:32]))
    poller = keys.begin_delete_key(name, _polling_interval=0)
    poller.wait()
    assert keys.get_deleted_key(name).recovery_id == f"{azure.hsm_url}/deletedkeys/{name}"
    with pytest.raises(ResourceNotFoundError):
        keys.get_key(name)
    unwrap = post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=wrapped)
    assert refusal(unwrap) == (404, "KeyNotFound", None)
    with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
        keys.create_oct_key(name, hardware_protected=True)
    keys.begin_recover_deleted_key(name, _polling_interval=0).wait()
    assert value(post(keys, f"{path(key)}/unwrapkey", alg="A256KW", value=wrapped)) == KEK[:32]
    azure.delete(key)
    keys.purge_deleted_key(name)
    with pytest.raises(ResourceNotFoundError):
        keys.get_deleted_key(name)
    assert keys.create_oct_key(name, hardware_protected=True).properties.version


def test_management_through_the_sdk(world: World) -> None:
    """Create, update, rotate and list work through the SDK as on the real service."""
    azure = world.azure
    hsm = azure.add_vault(hsm=True)
    azure.allow(world.principal, hsm)
    keys = world.keys(hsm)
    first = keys.create_oct_key("made", size=256, hardware_protected=True, tags={"a": "b"})
    assert (first.key_type, first.properties.tags) == ("oct-HSM", {"a": "b"})
    changed = keys.update_key_properties("made", enabled=False, key_operations=["wrapKey"])
    assert (changed.properties.enabled, changed.key_operations) == (False, ["wrapKey"])
    assert keys.rotate_key("made").id != first.id
    assert [one.name for one in keys.list_properties_of_keys()] == ["made"]
    assert list(keys.list_properties_of_key_versions("missing")) == []
    with pytest.raises(HttpResponseError, match="keys of type 'RSA' cannot be made here"):
        keys.create_rsa_key("soft")
    with pytest.raises(HttpResponseError, match=r"'no\.name' is not the name of a key"):
        keys.create_oct_key("no.name", hardware_protected=True)


# --- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["read", "wrap", "unwrap", "encrypt", "decrypt"])
def test_permissions_are_apart(world: World, action: str) -> None:
    """Each data action is given by itself, and what is not given is denied."""
    azure = world.azure
    key = azure.create_key(f"only-{action}", azure.hsm_url)
    azure.allow(world.principal, key, f"Microsoft.KeyVault/managedHsm/keys/{action}/action")
    keys = world.keys(azure.hsm_url)
    asked = {"wrap": "wrapkey", "unwrap": "unwrapkey"}
    for tried in ("read", "wrap", "unwrap", "encrypt", "decrypt"):
        if tried == "read":
            answer = keys.send_request(HttpRequest("GET", path(key)))
        else:
            alg = "A256KW" if "wrap" in tried else "A256GCM"
            answer = post(keys, f"{path(key)}/{asked.get(tried, tried)}", alg=alg, value=KEK[:32])
        if tried == action:
            assert answer.status_code in {200, 400}
        else:
            assert refusal(answer)[:2] == (403, "AccessDenied")
            assert f"keys/{tried}/action" in answer.json()["error"]["message"]


def test_denied_by_default(world: World) -> None:
    """Without a permission an existing key looks like one that does not exist."""
    keys = world.keys()
    azure = world.azure
    who = azure.register_application(azure.tenant, "stranger", SECRET)
    stranger = world.keys(credential=world.credential(client_id="stranger"))
    for name in ("app", "missing"):
        for one, action in (("wrapkey", "wrap/action"), ("unwrapkey", "unwrap/action")):
            answer = post(stranger, f"keys/{name}/{one}", alg=OAEP, value=KEK)
            assert refusal(answer) == (403, "Forbidden", "ForbiddenByRbac")
            message = answer.json()["error"]["message"]
            assert f"Action: 'Microsoft.KeyVault/vaults/keys/{action}'" in message
            assert f"appid=stranger;oid={azure.object_id(who)}" in message
    azure.allow(world.principal, f"{azure.vault_url}/keys/missing")
    assert refusal(post(keys, "keys/missing/wrapkey", alg=OAEP, value=KEK))[:2] == (
        404,
        "KeyNotFound",
    )
    with pytest.raises(ResourceNotFoundError, match="missing was not found in this key vault"):
        keys.get_key("missing")
    with pytest.raises(ValueError, match="no such permission"):
        azure.deny(who, world.rsa, "wrap")


@pytest.mark.parametrize(
    "reason", ["ForbiddenByFirewall", "ForbiddenByConnection", "ForbiddenByNsp"]
)
def test_closed_network(world: World, reason: Any) -> None:
    """A closed network refuses good tokens with its own inner code."""
    keys = world.keys()
    world.azure.close_network(world.azure.vault_url, reason)
    try:
        answer = post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK)
    finally:
        world.azure.open_network(world.azure.vault_url)
    assert refusal(answer) == (403, "Forbidden", reason)
    assert keys.get_key("app").name == "app"


def test_api_version_and_what_is_left_out(world: World) -> None:
    """A request without a known api-version is refused; an operation not modelled is 501."""
    keys = world.keys()
    token = world.credential().get_token("https://vault.azure.net/.default").token
    headers = {"Authorization": f"Bearer {token}"}
    for query in ("", "?api-version=1.0"):
        status, _, body = world.bare(f"{world.rsa}{query}", headers=headers)
        assert (status, body["error"]["code"]) == (400, "BadParameter")
    with pytest.raises(HttpResponseError) as refused:
        keys.get_key_rotation_policy("app")
    assert refused.value.status_code == 501


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        ("Throttled", 429, {"Retry-After": "7"}),
        ("Throttled", 429, {}),
        ("InternalServerError", 500, {}),
        ("ServiceUnavailable", 503, {}),
    ],
)
def test_service_errors(world: World, error: str, status: int, headers: dict[str, str]) -> None:
    """Throttling, with and without a hint, and 5xx come as often as a test demands."""
    keys = world.keys()
    world.azure.fault(at=world.azure.vault_url, operation="wrapkey", error=error, headers=headers)
    answer = post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK)
    assert refusal(answer) == (status, error, None)
    assert answer.headers.get("Retry-After") == headers.get("Retry-After")
    assert answer.headers["x-ms-request-id"]
    assert post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK).status_code == 200


def test_the_sdk_retries_throttling(world: World) -> None:
    """With retries on the SDK hides a throttled call."""
    keys = world.keys(retry_total=1)
    world.azure.fault(operation="get", error="Throttled", headers={"Retry-After": "0"})
    assert keys.get_key("app").name == "app"


@pytest.mark.parametrize(
    ("fault", "raised", "message"),
    [
        (Fault(hang=True), ServiceResponseError, "timed out"),
        (Fault(delay=30), ServiceResponseError, "timed out"),
        # Python's TLS shows a reset as an end.
        (Fault(reset=True), ServiceResponseError, "Connection aborted"),
        (Fault(body="<html>not yours</html>"), DecodeError, "JSON"),
        (Fault(drip=30), ServiceRequestError, "timed out"),
    ],
    ids=["hang", "delay", "reset", "garbage", "drip"],
)
def test_broken_answers(world: World, fault: Fault, raised: type[Exception], message: str) -> None:
    """The SDK raises its usual errors for hangs, resets, garbage and a drip."""
    keys = world.keys(read_timeout=0.2)
    keys.get_key("app")
    world.azure.fault(fault)
    with pytest.raises(raised, match=message):
        keys.get_key("app")
    assert keys.get_key("app").name == "app"


def test_drip_gets_through(world: World) -> None:
    """A dripped answer is whole for a client that waits."""
    keys = world.keys()
    world.azure.fault(operation="get", drip=0.0001)
    assert keys.get_key("app").name == "app"


def test_wrong_answers(world: World) -> None:
    """The counterpart can answer with another plaintext, a foreign key id, or too many bytes."""
    keys = world.keys()
    world.azure.fault(operation="wrapkey", members={"kid": "https://other/keys/k/1", "value": "AA"})
    answer = post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK)
    assert (answer.json()["kid"], value(answer)) == ("https://other/keys/k/1", b"\0")
    world.azure.fault(operation="wrapkey", size=1 << 20)
    answer = post(keys, "keys/app/wrapkey", alg=OAEP, value=KEK)
    assert len(answer.content) == 1 << 20
    assert answer.json()["kid"] == world.azure.versions(world.rsa)[-1]


def test_faults_at_entra(world: World) -> None:
    """A fault at Entra leaves the vaults as they are."""
    keys = world.keys()
    keys.get_key("app")
    world.azure.fault(at=world.azure.authority, operation="token", error="AADSTS7000222")
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000222"):
        world.keys().get_key("app")
    assert keys.get_key("app").name == "app"
    with pytest.raises(ValueError, match="there is no error"):
        world.azure.fault(error="Nonsense")


def test_an_untrusted_certificate(world: World) -> None:
    """A client that does not trust the counterpart's authority gets nowhere."""
    keys = world.keys(connection_verify=True)
    with pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"):
        keys.get_key("app")


def test_many_at_once(world: World) -> None:
    """Sixteen calls at once get each its own answer, while versions come and go."""
    key = world.aes()
    keys = world.keys(world.azure.hsm_url)

    def round_trip(number: int) -> bool:
        plain = bytes([number]) * 32
        wrapped = post(keys, f"{path(key)}/wrapkey", alg="A256KW", value=plain)
        world.azure.new_version(key)
        unwrap = f"{path(wrapped.json()['kid'])}/unwrapkey"
        return value(post(keys, unwrap, alg="A256KW", value=value(wrapped))) == plain

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(64)))


# --- the data file and the program ----------------------------------------------------------------


def test_every_error_has_a_source() -> None:
    """Each error answer names its source, and each one that the code names is there."""
    assert all(entry["source"] and entry["status"] >= 400 for entry in errors().values())
    folder = TESTS / "counterparts"
    text = "".join(p.read_text() for p in (*folder.glob("azure_*.py"), folder / "entra.py"))
    assert set(re.findall(r'AzureError\(\s*"(\w+)"', text)) <= set(errors())


def test_ends_with_clients_waiting(tmp_path: Path) -> None:
    """Stopping cuts a hanging client off instead of waiting for it."""
    with AzureKeyVault() as azure, ThreadPoolExecutor(1) as pool:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(azure.ca_pem)
        azure.fault(hang=True)
        context = ssl.create_default_context(cafile=str(ca))
        url = f"{azure.vault_url}/keys"
        waiting = pool.submit(urllib.request.urlopen, url, context=context)
        azure.await_request("challenge")
        azure.stop()
        assert isinstance(waiting.exception(10), OSError)


def test_alone(tmp_path: Path) -> None:
    """As a program it says how to reach it, takes control calls, and ends on SIGTERM."""
    command = [sys.executable, "-m", "counterparts.azure_key_vault", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            shown = ""
            while "all of this" not in shown:
                line = program.stdout.readline()
                assert line, shown
                shown += line
            known = json.loads((tmp_path / "azure.json").read_text())
            assert known["authority"] in shown
            credential = ClientSecretCredential(
                known["tenant"],
                known["client"],
                known["secret"],
                authority=known["authority"],
                disable_instance_discovery=True,
                connection_verify=known["ca"],
            )
            options: Any = {"verify_challenge_resource": False, "connection_verify": known["ca"]}
            with credential, KeyClient(known["hsm"], credential, **options) as keys:
                assert keys.get_key("app").properties.enabled
                url = f"{known['control']}/disable"
                body = json.dumps({"key": f"{known['hsm']}/keys/app"}).encode()
                with urllib.request.urlopen(url, body) as answer:
                    assert answer.status == 200
                assert not keys.get_key("app").properties.enabled
            program.send_signal(signal.SIGTERM)
            assert program.wait(10) == 0
        finally:
            program.kill()
