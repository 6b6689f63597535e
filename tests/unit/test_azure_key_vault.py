"""The Azure adapter beyond what all providers promise: logins, hostile hosts, kinds of keys."""

from __future__ import annotations

import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certificates import Authority
from clouds.recorded import Recorded, every
from counterparts.azure_key_vault import HSM_RESOURCE, VAULT_RESOURCE, AzureKeyVault
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    KekMismatchError,
    KeyInvalidError,
    KeyNotFoundError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.azure.ciphertext import Sealed
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider

CLIENT: Final = "0b0c0d0e-0000-4000-8000-000000000001"
IDENTITY: Final = "0b0c0d0e-0000-4000-8000-000000000002"
CUSTOMER: Final = "11111111-2222-4333-8444-555555555555"
SECRET: Final = "right"
OWN_AUDIENCE: Final = "https://hostile.example"
BINDING: Final = Binding("c", "r", bytes(16))
PAYLOAD: Final = bytes(BINDING.payload(bytes(32)))


@dataclass
class World:
    """The counterpart, and the settings of an adapter for it."""

    azure: AzureKeyVault
    env: pytest.MonkeyPatch
    ca: Path
    places: dict[str, str] = field(default_factory=dict)

    def setenv(self, **variables: str) -> None:
        """Sets these AZURE_* variables, and removes all others."""
        for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "FEDERATED_TOKEN_FILE"):
            self.env.delenv(f"AZURE_{name}", raising=False)
        for name, value in variables.items():
            self.env.setenv(f"AZURE_{name}", value)

    def provider(self, **settings: Any) -> AzureKeyVaultProvider:
        """Makes an adapter that may call the counterpart's vaults."""
        return AzureKeyVaultProvider(
            **{
                "authority": self.azure.authority,
                "instance_discovery": False,
                "ca": str(self.ca),
                "allowed_endpoints": self.places,
                "audiences": self.places,
                **settings,
            }
        )

    def key(self, principal: str = "", vault: str = "", **how: Any) -> RootKey:
        """Makes a key that a principal, or else the application itself, may use."""
        url = self.azure.create_key(f"k-{uuid.uuid4().hex[:8]}", vault, **how)
        self.azure.allow(principal or f"{self.azure.tenant}/{CLIENT}", url)
        return RootKey("AZURE_KEY_VAULT", url, principal)


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureKeyVault]:
    """One counterpart for all tests here."""
    with AzureKeyVault() as azure:
        azure.register_application(azure.tenant, CLIENT, SECRET)
        azure.consent(CUSTOMER, CLIENT)
        yield azure


@pytest.fixture
def world(azure: AzureKeyVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The counterpart, with an application's secret in the environment."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(azure.ca_pem)
    world = World(azure, monkeypatch, ca)
    world.places = {azure.vault_url: VAULT_RESOURCE, azure.hsm_url: HSM_RESOURCE}
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    world.setenv(TENANT_ID=azure.tenant, CLIENT_ID=CLIENT, CLIENT_SECRET=SECRET)
    yield world
    azure.clear_faults()


def _wrap(provider: AzureKeyVaultProvider, key: RootKey) -> bool:
    wrapped = provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    opened = provider.unwrap(key, wrapped.key_version, wrapped.ciphertext, BINDING, budget=5.0)
    return bytes(opened.plaintext) == PAYLOAD


# What Azure was seen to answer.


@every("azure")
def test_a_recorded_answer_of_a_vault(world: World, answer: Recorded) -> None:
    """Each answer that Azure was seen to give reads as what it means, over the SDK (F2a, F6)."""
    said, azure = answer.said, world.azure
    vault = azure.hsm_url if said["managed_hsm"] else azure.vault_url
    provider, key = world.provider(), world.key(vault=vault)
    wrapped = provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    stored = wrapped.key_version, wrapped.ciphertext
    body = said["body"] if isinstance(said["body"], str) else json.dumps(said["body"])
    azure.fault(at=vault, operation=said["operation"], times=None, status=said["status"], body=body)
    again: dict[str, Callable[..., Any]] = {
        "wrapkey": lambda: provider.wrap(key, PAYLOAD, BINDING, budget=5.0),
        "unwrapkey": lambda: provider.unwrap(key, *stored, BINDING, budget=5.0),
        "decrypt": lambda: provider.unwrap(key, *stored, BINDING, budget=5.0),
    }
    with pytest.raises(KmsError) as raised:
        again[said["operation"]]()
    assert raised.value.reason == answer.should
    azure.clear_faults()
    assert _wrap(provider, key)


@every("entra")
def test_a_recorded_answer_of_entra(world: World, answer: Recorded) -> None:
    """Each answer that Entra was seen to give to a customer's principal reads so (F2a)."""
    said = answer.said
    theirs = world.azure.add_vault(CUSTOMER)
    world.places[theirs] = VAULT_RESOURCE
    key, provider = world.key(f"{CUSTOMER}/{CLIENT}", theirs), world.provider()
    # Only the principal's login meets it: the server's own one shows that Keyfold's side is good.
    world.azure.fault(
        at=world.azure.authority,
        operation="token",
        status=said["status"],
        body=json.dumps(said["body"]),
    )
    with pytest.raises(KmsError) as raised:
        provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    assert raised.value.reason == answer.should
    assert _wrap(provider, key)


@every("entra")
def test_no_answer_to_the_server_itself_is_a_refusal(world: World, answer: Recorded) -> None:
    """What Entra says to the server's own identity is never the customer's doing (F2a)."""
    said, key, provider = answer.said, world.key(), world.provider()
    world.azure.fault(
        at=world.azure.authority,
        operation="token",
        status=said["status"],
        body=json.dumps(said["body"]),
    )
    with pytest.raises(CouldNotTellError):
        provider.wrap(key, PAYLOAD, BINDING, budget=5.0)


# Logging in.


def _own_secret(world: World, _: Path) -> str:
    return f"{world.azure.tenant}/{CLIENT}"


def _own_file(world: World, folder: Path) -> str:
    _federate(world, folder)
    return f"{world.azure.tenant}/{CLIENT}"


def _own_identity(world: World, _: Path) -> str:
    world.setenv(CLIENT_ID=IDENTITY, POD_IDENTITY_AUTHORITY_HOST=world.azure.identity_url)
    return world.azure.assign_identity(world.azure.tenant, IDENTITY)


def _federate(world: World, folder: Path) -> None:
    """Puts a token of a cluster's issuer, which the application trusts, into a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = {"iss": "https://k8s.example", "sub": "keyfold", "aud": "api://AzureADTokenExchange"}
    token = jwt.encode({**claims, "exp": time.time() + 600}, key, "ES256")
    (folder / "token").write_text(f"{token}\n")
    world.azure.trust(CLIENT, claims["iss"], claims["sub"], key=public.decode())
    world.setenv(
        TENANT_ID=world.azure.tenant,
        CLIENT_ID=CLIENT,
        FEDERATED_TOKEN_FILE=str(folder / "token"),
    )


@pytest.mark.parametrize("login", [_own_secret, _own_file, _own_identity])
def test_the_servers_own_identity_comes_from_the_environment(
    world: World, tmp_path: Path, login: Callable[[World, Path], str]
) -> None:
    """The server can log in with a secret, a workload identity's file and a managed identity."""
    who = login(world, tmp_path)
    key = world.key()
    world.azure.allow(who, key.uri)
    provider = world.provider()
    provider.authenticate(key, budget=5.0)
    assert _wrap(provider, key)
    assert {one.principal for one in world.azure.requests if "wrapkey" in one.operation} >= {who}


@pytest.mark.parametrize("federated", [False, True])
def test_a_principal_of_another_tenant(world: World, tmp_path: Path, *, federated: bool) -> None:
    """The application logs in to a customer's tenant, with its secret or by federation."""
    if federated:
        _federate(world, tmp_path)
    theirs = world.azure.add_vault(CUSTOMER)
    world.places[theirs] = VAULT_RESOURCE
    key = world.key(f"{CUSTOMER}/{CLIENT}", theirs)
    assert _wrap(world.provider(), key)


def test_a_customer_withdraws_trust(world: World) -> None:
    """An application taken out of the tenant is a refusal; let in again, it serves (F2a)."""
    theirs = world.azure.add_vault(CUSTOMER)
    world.places[theirs] = VAULT_RESOURCE
    key, provider = world.key(f"{CUSTOMER}/{CLIENT}", theirs), world.provider()
    assert _wrap(provider, key)
    world.azure.withdraw(CUSTOMER, CLIENT)
    world.azure.expire_tokens(key.principal)
    with pytest.raises(AccessDeniedError, match="AADSTS7000229"):
        provider.describe(key, budget=5.0)
    world.azure.consent(CUSTOMER, CLIENT)
    assert _wrap(provider, key)


@pytest.mark.parametrize("federated", [False, True])
def test_a_tenant_that_does_not_exist(world: World, tmp_path: Path, *, federated: bool) -> None:
    """The SDK asks for the tenant in two ways, and Keyfold notices its absence in both (F2a)."""
    if federated:
        _federate(world, tmp_path)
    nowhere = RootKey("AZURE_KEY_VAULT", world.key().uri, f"{uuid.uuid4()}/{CLIENT}")
    with pytest.raises(AccessDeniedError, match="AADSTS90002"):
        world.provider().describe(nowhere, budget=5.0)


def test_a_secret_is_of_one_application(world: World) -> None:
    """A secret cannot log in as another application, so Keyfold does not even try (F2a)."""
    key = RootKey("AZURE_KEY_VAULT", world.key().uri, f"{CUSTOMER}/{IDENTITY}")
    before = len(world.azure.requests)
    with pytest.raises(CredentialsFailedError, match="cannot act as"):
        world.provider().describe(key, budget=5.0)
    assert len(world.azure.requests) == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CLIENT_ID": CLIENT, "CLIENT_SECRET": SECRET}, "incomplete"),
        ({"TENANT_ID": CUSTOMER, "CLIENT_SECRET": SECRET}, "incomplete"),
        ({"TENANT_ID": CUSTOMER, "CLIENT_ID": CLIENT, "CLIENT_SECRET": "wrong"}, "AADSTS7000215"),
        (
            {"TENANT_ID": CUSTOMER, "CLIENT_ID": CLIENT, "CLIENT_CERTIFICATE_PATH": "/dev/null"},
            "cannot be used",
        ),
        (
            {"TENANT_ID": CUSTOMER, "CLIENT_ID": CLIENT, "FEDERATED_TOKEN_FILE": "/nowhere"},
            "cannot be read",
        ),
        (
            {"TENANT_ID": str(uuid.uuid4()), "CLIENT_ID": CLIENT, "CLIENT_SECRET": "x"},
            "AADSTS90002",
        ),
    ],
)
def test_an_identity_of_ours_that_is_wrong(
    world: World, environment: dict[str, str], said: str
) -> None:
    """Every fault of the server's own identity is CREDENTIALS_FAILED, with the cause (F2a)."""
    key = world.key()
    world.setenv(**environment)
    with pytest.raises(CredentialsFailedError, match=said):
        world.provider().describe(key, budget=5.0)


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        ({"status": 500, "body": "{}"}, UnreachableError),
        ({"status": 503, "body": "<html>"}, UnreachableError),
        ({"body": "<html>"}, UnreachableError),
        ({"body": '{"access_token": 1}'}, UnreachableError),
        ({"reset": True}, UnreachableError),
        ({"status": 429, "body": "{}", "headers": {"Retry-After": "9"}}, ThrottledError),
        ({"error": "AADSTS7000222"}, CredentialsFailedError),
    ],
)
def test_an_entra_that_fails(world: World, fault: dict[str, Any], meaning: type[KmsError]) -> None:
    """An Entra without a token says nothing about the key, and the next call asks again (F2a)."""
    key, provider = world.key(), world.provider()
    world.azure.fault(at=world.azure.authority, operation="token", **fault)
    with pytest.raises(meaning) as raised:
        provider.describe(key, budget=5.0)
    if meaning is ThrottledError:
        assert raised.value.retry_after == pytest.approx(9.0)
    assert provider.describe(key, budget=5.0).detail


# Hosts that are not what they seem.


def _context(authority: Authority, folder: Path) -> ssl.SSLContext:
    issued = authority.issue("ip:127.0.0.1")
    (folder / "pair.pem").write_bytes(issued.key_pem + issued.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context


@dataclass
class Hostile:
    """An allow-listed host that collects what it receives, and a host that is not listed."""

    inside: FaultLayer
    outside: FaultLayer
    sent: list[Request]
    strayed: list[Request]


@pytest.fixture
def hostile(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hostile]:
    """A host that answers with the status and headers that a test gives it."""
    status, headers = request.param
    authority, sent, strayed = Authority("hostile"), list[Request](), list[Request]()
    world.ca.write_bytes(world.azure.ca_pem + authority.pem)
    context = _context(authority, tmp_path)

    def inside(asked: Request) -> Reply:
        sent.append(asked)
        return Reply(status, {k: v.format(outside=outside.url) for k, v in headers.items()})

    def away(asked: Request) -> Reply:
        strayed.append(asked)
        return Reply(200, {}, b"{}")

    with ExitStack() as stack:
        outside = stack.enter_context(FaultLayer(away, context))
        layer = stack.enter_context(FaultLayer(inside, context))
        world.azure.add_vault(resource=OWN_AUDIENCE)
        world.places[layer.url] = OWN_AUDIENCE
        yield Hostile(layer, outside, sent, strayed)


_CHALLENGE: Final = "WWW-Authenticate"
_HSM_SCOPE: Final = f"{HSM_RESOURCE}/.default"


@pytest.mark.parametrize(
    ("hostile", "meaning"),
    [
        (
            (
                401,
                {_CHALLENGE: f'Bearer authorization="{{outside}}/t", resource="{VAULT_RESOURCE}"'},
            ),
            CredentialsFailedError,
        ),
        (
            (
                401,
                {_CHALLENGE: f'Bearer authorization="{{outside}}/t", scope="{_HSM_SCOPE}"'},
            ),
            CredentialsFailedError,
        ),
        (
            (401, {_CHALLENGE: 'Bearer authorization="{outside}/t", claims="e30="'}),
            CredentialsFailedError,
        ),
        ((307, {"Location": "{outside}/keys/k"}), UnreachableError),
        ((301, {"Location": "http://localhost:1/keys/k"}), UnreachableError),
    ],
    indirect=["hostile"],
)
def test_a_hostile_host_gets_its_own_tokens_and_no_others(
    world: World, hostile: Hostile, meaning: type[KmsError]
) -> None:
    """No challenge or redirect makes Keyfold get or send a token for another host (C3)."""
    provider = world.provider()
    assert _wrap(provider, world.key())
    asked = len(world.azure.requests)
    key = RootKey("AZURE_KEY_VAULT", f"{hostile.inside.url}/keys/k")
    for call in (
        lambda: provider.wrap(key, PAYLOAD, BINDING, budget=5.0),
        lambda: provider.describe(key, budget=5.0),
        lambda: provider.authenticate(key, budget=5.0),
    ):
        with pytest.raises(meaning):
            call()
    unchecked: Any = {"verify_signature": False}
    sent = [one.headers["authorization"].removeprefix("Bearer ") for one in hostile.sent]
    assert {jwt.decode(token, options=unchecked)["aud"] for token in sent} == {OWN_AUDIENCE}
    assert hostile.strayed == []
    scopes = [one.request.body for one in world.azure.requests[asked:] if one.operation == "token"]
    assert scopes
    assert all(b"hostile.example%2F.default" in scope for scope in scopes)


@pytest.mark.parametrize("hostile", [(200, {"Set-Cookie": "a=b; Path=/"})], indirect=True)
def test_what_a_host_wants_kept_is_not(
    world: World, hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keyfold sends no cookie back, and no ~/.netrc takes a token's place."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    key, provider = RootKey("AZURE_KEY_VAULT", f"{hostile.inside.url}/keys/k"), world.provider()
    for _ in range(2):
        with pytest.raises(UnreachableError):
            provider.describe(key, budget=5.0)
    assert len(hostile.sent) == 2
    for one in hostile.sent:
        assert "cookie" not in one.headers
        assert one.headers["authorization"].startswith("Bearer ey")


# Keys.


def test_every_wrap_is_the_services_own(world: World) -> None:
    """Keyfold wraps with no public key of its own: each wrap asks Azure, and opens the result."""
    key, provider = world.key(), world.provider()
    before = len(world.azure.operations(world.azure.vault_url))
    for _ in range(2):
        provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    assert world.azure.operations(world.azure.vault_url)[before:] == ["wrapkey", "unwrapkey"] * 2


def test_a_pinned_version_wraps_after_a_rotation(world: World) -> None:
    """A version in the uri wraps, whatever is newer; without one the newest wraps."""
    key, provider = world.key(), world.provider()
    first = provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    pinned = RootKey("AZURE_KEY_VAULT", f"{key.uri}/{first.key_version}")
    world.azure.new_version(key.uri)
    assert provider.wrap(pinned, PAYLOAD, BINDING, budget=5.0).key_version == first.key_version
    newest = provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    assert newest.key_version != first.key_version
    opened = provider.unwrap(pinned, first.key_version, first.ciphertext, BINDING, budget=5.0)
    assert bytes(opened.plaintext) == PAYLOAD
    gone = RootKey("AZURE_KEY_VAULT", f"{key.uri}/{32 * '0'}")
    with pytest.raises(KeyNotFoundError):
        provider.wrap(gone, PAYLOAD, BINDING, budget=5.0)


@pytest.mark.parametrize(("kind", "bound"), [("oct-HSM", True), ("RSA-HSM", False)])
def test_a_managed_hsm_has_keys_of_both_kinds(world: World, kind: str, *, bound: bool) -> None:
    """An AES key binds the context itself; an RSA key of an HSM wraps as a vault's does."""
    key, provider = world.key(vault=world.azure.hsm_url, kty=kind), world.provider()
    assert _wrap(provider, key)
    assert kind in provider.describe(key, budget=5.0).detail
    wrapped = provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    sealed = Sealed.parsed(wrapped.ciphertext)
    assert sealed is not None
    assert sealed.bound is bound
    other = Binding("c", "r", bytes(15) + b"\1")
    if bound:
        with pytest.raises(KekMismatchError):
            provider.unwrap(key, wrapped.key_version, wrapped.ciphertext, other, budget=5.0)
    else:
        args = (key, wrapped.key_version, wrapped.ciphertext, other)
        assert bytes(provider.unwrap(*args, budget=5.0).plaintext) == PAYLOAD


@pytest.mark.parametrize(
    ("how", "vault"),
    [
        ({"exp": 1}, ""),
        ({"nbf": 4_000_000_000}, ""),
        ({"key_ops": ("unwrapKey",)}, ""),
        ({"kty": "oct-HSM", "size": 128}, "hsm"),
        ({"kty": "oct-HSM", "key_ops": ("wrapKey", "unwrapKey")}, "hsm"),
    ],
)
def test_a_key_that_cannot_wrap_is_invalid(world: World, how: dict[str, Any], vault: str) -> None:
    """A key that is expired, not yet valid, of another size or forbidden to wrap is KEY_INVALID."""
    key = world.key(vault=world.azure.hsm_url if vault else "", **how)
    with pytest.raises(KeyInvalidError):
        world.provider().wrap(key, PAYLOAD, BINDING, budget=5.0)


@pytest.mark.parametrize("how", [{"exp": 1}, {"nbf": 4_000_000_000}, {"key_ops": ("wrapKey",)}])
def test_describing_a_key_that_cannot_wrap(world: World, how: dict[str, Any]) -> None:
    """Describing refuses the same keys as wrapping, and says why."""
    with pytest.raises(KeyInvalidError, match=r"has expired|not valid yet|does not permit"):
        world.provider().describe(world.key(**how), budget=5.0)


@pytest.mark.parametrize(
    "members",
    [
        {"kid": "https://other/keys/k/0123456789abcdef0123456789abcdef"},
        {"kid": None},
        {"value": None},
        {"value": "\u00e4"},
        {"value": "A"},
        {"value": ""},
    ],
)
def test_an_answer_about_something_else_is_none(world: World, members: dict[str, Any]) -> None:
    """An answer with another key's identifier, or without bytes, says nothing about the key."""
    key, provider = world.key(), world.provider()
    world.azure.fault(operation="wrapkey", members=members)
    with pytest.raises(UnreachableError):
        provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    assert _wrap(provider, key)


@pytest.mark.parametrize("value", ["AAAA", None])
def test_what_does_not_open_as_it_was_wrapped_is_not_stored(world: World, value: Any) -> None:
    """A wrap succeeds only after Azure opened the ciphertext to the same bytes."""
    key, provider = world.key(), world.provider()
    world.azure.fault(operation="unwrapkey", members={"value": value})
    with pytest.raises(UnreachableError):
        provider.wrap(key, PAYLOAD, BINDING, budget=5.0)


def test_a_name_in_another_case_is_the_same_key(world: World) -> None:
    """Azure compares the names of keys without case, and so does Keyfold."""
    name = f"Mixed-{uuid.uuid4().hex[:8]}"
    url = world.azure.create_key(name)
    world.azure.allow(f"{world.azure.tenant}/{CLIENT}", url)
    provider, written = world.provider(), RootKey("AZURE_KEY_VAULT", url)
    other = RootKey("AZURE_KEY_VAULT", url.replace(name, name.lower()))
    for wraps, opens in ((written, other), (other, written)):
        wrapped = provider.wrap(wraps, PAYLOAD, BINDING, budget=5.0)
        args = (opens, wrapped.key_version, wrapped.ciphertext, BINDING)
        assert bytes(provider.unwrap(*args, budget=5.0).plaintext) == PAYLOAD
        assert provider.describe(opens, budget=5.0).detail


@pytest.mark.parametrize("error", ["ForbiddenByRbac", "AccessDenied"])
def test_a_denial_proves_that_the_caller_is_known(world: World, error: str) -> None:
    """Whoever may not list keys has logged in: Azure answers so only to a token that it accepts."""
    key, provider = world.key(), world.provider()
    world.azure.fault(operation="list", error=error)
    provider.authenticate(key, budget=5.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "ForbiddenByFirewall"},
        {"error": "ForbiddenByNsp"},
        {"error": "KeyNotFound"},
        {"error": "KeyDisabled"},
        {"error": "BadParameter"},
        {"status": 403, "body": '{"error": {"code": "Forbidden", "innererror": {"code": "New"}}}'},
        {"status": 403, "body": "<html>"},
        {"body": '{"value": "keys"}'},
        {"body": "{}"},
    ],
)
def test_only_a_denial_or_a_list_proves_the_caller(world: World, fault: dict[str, Any]) -> None:
    """Any other answer may be given to anybody, so it neither proves the caller nor refuses."""
    key, provider = world.key(), world.provider()
    world.azure.fault(operation="list", **fault)
    with pytest.raises(UnreachableError):
        provider.authenticate(key, budget=5.0)
    provider.authenticate(key, budget=5.0)


def test_a_deleted_key_that_may_not_be_read_is_not_found(world: World) -> None:
    """A principal that may not read keys learns only that a deleted key is missing."""
    key, provider = world.key(), world.provider()
    wrapped = provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    world.azure.deny(f"{world.azure.tenant}/{CLIENT}", key.uri, "read")
    world.azure.delete(key.uri)
    with pytest.raises(KeyNotFoundError):
        provider.unwrap(key, wrapped.key_version, wrapped.ciphertext, BINDING, budget=5.0)


def test_the_requests_are_the_documented_ones(world: World) -> None:
    """Keyfold sends Azure what Azure's reference says, and nothing else."""
    key, provider = world.key(vault=world.azure.hsm_url), world.provider()
    provider.wrap(key, PAYLOAD, BINDING, budget=5.0)
    sealed, opened = [one.request for one in world.azure.requests if one.at in key.uri][-2:]
    assert set(json.loads(sealed.body)) == {"alg", "value", "aad"}
    assert set(json.loads(opened.body)) == {"alg", "value", "aad", "iv", "tag"}
    assert sealed.query == opened.query == {"api-version": "2025-07-01"}
