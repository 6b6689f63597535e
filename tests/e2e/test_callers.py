"""Callers on the wire: certificates, tokens and sockets, and what the policy allows each.

A real server with TLS, and every kind of wrong credential on every method.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import socket
import stat
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certificates import Authority, Issued, self_signed
from e2e.conftest import StartServer
from e2e.server import Server
from e2e.wire import METHODS, Refusal, refusal, refused, spec
from in_process import TRANSPORT, grpc_alone
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.rpc import health_socket

POLICY: Final = """
on_behalf_of = ["spiffe://example.org/gateway"]

[[grant]]
callers = ["spiffe://example.org/admin"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]

[[grant]]
callers = ["spiffe://example.org/app", "spiffe://example.org/gateway", "jwt:https://issuer#app"]
roles = ["crypto"]
clusters = ["prod"]

[[grant]]
callers = ["dns:reader.example"]
roles = ["auditor"]
organizations = ["acme"]
"""

ISSUER: Final = "https://issuer"
AUDIENCE: Final = "keyfold"


@dataclass(frozen=True)
class House:
    """A server with TLS, and what its callers need.

    Attributes:
        server: The process.
        authority: The authority whose client certificates it accepts.
        key: The issuer's signing key.
        policy: The policy file.
    """

    server: Server
    authority: Authority
    key: ec.EllipticCurvePrivateKey
    policy: Path

    def issue(self, name: str, **options: Any) -> Issued:
        """Returns a client certificate."""
        return self.authority.issue(name, **options)

    def token(self, subject: str = "app", **claims: object) -> str:
        """Returns a token of the issuer."""
        now = int(time.time())
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 300}
        return jwt.encode(body | claims, self.key, "ES256", headers={"kid": "k1"})


def jwks(key: ec.EllipticCurvePrivateKey, key_id: str = "k1") -> str:
    """Returns an issuer's key set."""
    public: dict[str, object] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return json.dumps({"keys": [public | {"kid": key_id, "use": "sig", "alg": "ES256"}]})


def write(path: Path, text: str | bytes) -> Path:
    """Replaces a file in one step, as tools that renew files do."""
    new = path.with_suffix(".new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    new.chmod(0o600)
    new.replace(path)
    return path


def tls_settings(folder: Path, authority: Authority) -> dict[str, Any]:
    """Makes the server's certificate, and returns the settings that name it."""
    own = authority.issue("dns:localhost", "ip:127.0.0.1")
    return {
        "KEYFOLD_TLS_CERT": str(write(folder / "server.pem", own.pem)),
        "KEYFOLD_TLS_KEY": str(write(folder / "server.key", own.key_pem)),
    }


@pytest.fixture(scope="module")
def mutual(start_module_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A server that accepts client certificates and tokens; cluster prod is enabled."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority()
    key = ec.generate_private_key(ec.SECP256R1())
    policy = write(folder / "policy.toml", POLICY)
    server = start_module_server(
        **tls_settings(folder, authority),
        KEYFOLD_TLS_CLIENT_CA=str(write(folder / "ca.pem", authority.pem)),
        KEYFOLD_POLICY=str(policy),
        KEYFOLD_JWT_ISSUER=ISSUER,
        KEYFOLD_JWT_AUDIENCE=AUDIENCE,
        KEYFOLD_JWT_JWKS=str(write(folder / "jwks.json", jwks(key))),
    )
    house = House(server, authority, key, policy)
    with calling(house, house.issue("spiffe://example.org/admin")) as stub:
        for cluster, organization in (("prod", "acme"), ("other", "umbrella")):
            stub.Enable(
                pb.EnableRequest(
                    cluster=cluster, organization=organization, region_specs=[spec("eu")]
                ),
                timeout=10,
            )
    return house


@contextmanager
def channel(
    house: House, client: Issued | tuple[bytes, bytes] | None, root: bytes | None = None
) -> Iterator[grpc.Channel]:
    """Opens a connection as a client with a certificate, or without one."""
    key, chain = (None, None)
    if isinstance(client, Issued):
        key, chain = client.key_pem, client.pem
    elif client is not None:
        key, chain = client
    credentials = grpc.ssl_channel_credentials(root or house.authority.pem, key, chain)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(house.server.target, credentials, options) as opened:
        yield opened


@contextmanager
def calling(
    house: House, client: Issued | tuple[bytes, bytes] | None
) -> Iterator[service.KeyManagementServiceStub]:
    """Yields the stubs of a client."""
    with channel(house, client) as opened:
        yield service.KeyManagementServiceStub(opened)


def every_method(
    stub: service.KeyManagementServiceStub, *, but: Collection[str] = (), **options: Any
) -> Iterator[tuple[str, Refusal]]:
    """Calls each method but some with an empty request, and yields its refusal."""
    for method in METHODS:
        if method.name in but:
            continue
        request = getattr(pb, method.input_type.name)()
        if "cluster" in method.input_type.fields_by_name:
            request.cluster = "prod"

        made = functools.partial(getattr(stub, method.name), **options)
        yield method.name, refused(made, request)


@pytest.mark.parametrize("who", ["nobody", "self-signed", "another authority's", "expired"])
def test_a_bad_certificate_does_not_get_in(mutual: House, who: str) -> None:
    """A missing, self-signed, foreign or expired certificate is refused on every method."""
    client: Issued | tuple[bytes, bytes] | None = None
    if who == "self-signed":
        client = self_signed("reader.example")
    elif who == "another authority's":
        client = Authority("another").issue("spiffe://example.org/admin")
    elif who == "expired":
        client = mutual.issue(
            "spiffe://example.org/admin", begins=timedelta(hours=-2), ends=timedelta(hours=-1)
        )
    with calling(mutual, client) as stub:
        for method, told in every_method(stub):
            # The handshake fails, so there is nobody to give a reason to.
            assert told.code in {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.UNAUTHENTICATED,
            }, method


def test_a_certificate_that_names_nobody(mutual: House) -> None:
    """A certificate without SPIFFE id, URI and DNS name is refused, whatever its common name."""
    with calling(mutual, mutual.authority.issue(common_name="spiffe://example.org/admin")) as stub:
        for method, told in every_method(stub):
            assert told.code is grpc.StatusCode.UNAUTHENTICATED, method
            assert told.reason == "CALLER_CREDENTIAL_INVALID"


def test_a_caller_without_a_grant(mutual: House) -> None:
    """A good certificate that no grant names learns its own name, and may do nothing else."""
    with channel(mutual, mutual.issue("spiffe://example.org/stranger")) as opened:
        stub = service.KeyManagementServiceStub(opened)
        me = stub.GetCaller(pb.GetCallerRequest(), timeout=5)
        assert me.names == [me.caller] == ["spiffe://example.org/stranger"]
        assert not me.grants
        assert not me.HasField("replica")
        for method, told in every_method(stub, but={"GetCaller"}):
            assert told.code is grpc.StatusCode.PERMISSION_DENIED, method
            assert told.reason == "NOT_ALLOWED"
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection.ServerReflectionInfo(iter([asked]), timeout=5))
        assert refusal(caught.value).reason == "NOT_ALLOWED"
        health: Any = health_pb2_grpc.HealthStub(opened)
        found = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert found.status == health_pb2.HealthCheckResponse.SERVING


def test_each_does_what_its_grant_says(mutual: House) -> None:
    """The application wraps only in its cluster; the reader sees only its organization."""
    wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")
    with calling(mutual, mutual.issue("spiffe://example.org/app")) as app:
        blob = app.Wrap(wrap, timeout=5).wrapped_key
        assert app.Unwrap(pb.UnwrapRequest(cluster="prod", wrapped_key=blob)).plaintext == b"k"
        wrap.cluster = "other"
        hidden = refused(app.Wrap, wrap)
        wrap.cluster = "nosuch"
        absent = refused(app.Wrap, wrap)
        assert hidden.message.replace("other", "nosuch") == absent.message
        assert (hidden.code, hidden.reason) == (absent.code, absent.reason)
        assert hidden.code is grpc.StatusCode.NOT_FOUND
        told = refused(app.Revoke, pb.RevokeRequest(cluster="prod"))
        assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")
    with calling(mutual, mutual.issue("dns:reader.example")) as reader:
        listed = reader.ListClusters(pb.ListClustersRequest(), timeout=5)
        assert [cluster.cluster for cluster in listed.clusters] == ["prod"]
        assert not listed.next_page_token
        told = refused(reader.GetStatus, pb.GetStatusRequest(cluster="other"))
        assert told.reason == "CLUSTER_NOT_FOUND"


def test_a_caller_learns_who_it_is(mutual: House) -> None:
    """C7: GetCaller has the caller's names, its grants and when its credentials end; no more."""
    certificate = mutual.authority.issue("spiffe://example.org/app", "dns:app.example")
    with calling(mutual, certificate) as stub:
        me = stub.GetCaller(pb.GetCallerRequest(), timeout=5)
        assert me.proof == pb.CALLER_PROOF_CERTIFICATE
        assert me.names == ["spiffe://example.org/app", "dns:app.example"]
        [grant] = me.grants
        assert list(grant.roles) == ["crypto:unwrap", "crypto:wrap"]
        assert list(grant.cluster_patterns) == ["prod"]
        assert "Rewrap" in grant.methods
        assert not grant.keys
        assert not {"Revoke", "GetStatus"} & set(grant.methods)
        ends = certificate.certificate.not_valid_after_utc
        assert me.expire_time.ToDatetime(UTC) == ends
        assert abs(me.replica.time.seconds - time.time()) < 60
        assert me.replica.store_age.ToSeconds() < 60
        # The token is the one that ends first, and it names the caller.
        within = (("authorization", f"Bearer {mutual.token(exp=int(time.time()) + 90)}"),)
        me = stub.GetCaller(pb.GetCallerRequest(), timeout=5, metadata=within)
        assert (me.caller, me.proof) == ("jwt:https://issuer#app", pb.CALLER_PROOF_TOKEN)
        assert 0 < me.expire_time.seconds - time.time() <= 90
        # And a token that lasts longer than the connection's certificate does not.
        late = int(ends.timestamp()) + 90
        within = (("authorization", f"Bearer {mutual.token(exp=late)}"),)
        me = stub.GetCaller(pb.GetCallerRequest(), timeout=5, metadata=within)
        assert me.expire_time.ToDatetime(UTC) == ends


def test_a_token_names_the_caller(mutual: House) -> None:
    """The token of a call names the caller, whatever the connection's certificate may do."""
    admin = mutual.issue("spiffe://example.org/admin")
    with calling(mutual, admin) as stub:
        bearer = (("authorization", f"Bearer {mutual.token()}"),)
        wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")
        assert stub.Wrap(wrap, metadata=bearer, timeout=5).wrapped_key
        revoke = pb.RevokeRequest(cluster="prod")
        told = refused(lambda r, timeout: stub.Revoke(r, metadata=bearer, timeout=timeout), revoke)
        assert told.reason == "NOT_ALLOWED"


def _none(token: str) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."


def _confused(house: House, token: str) -> str:
    """Returns the token's claims, signed with the published key as if it were a secret."""
    public = jwks(house.key).encode()
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, base64.b64encode(public * 2), "HS256", headers={"kid": "k1"})


BAD_TOKENS: Final[dict[str, Callable[[House], str]]] = {
    "garbage": lambda _: "x.y.z",
    "no signature": lambda h: _none(h.token("app")),
    "key confusion": lambda h: _confused(h, h.token("app")),
    "expired": lambda h: h.token(exp=int(time.time()) - 3600),
    "not yet": lambda h: h.token(nbf=int(time.time()) + 3600),
    "another issuer": lambda h: h.token(iss="https://issuer.example"),
    "another audience": lambda h: h.token(aud="others"),
    "unknown key": lambda h: jwt.encode(
        {"iss": ISSUER}, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "k9"}
    ),
    "changed": lambda h: h.token()[:-8] + "AAAAAAAA",
}


@pytest.mark.parametrize("which", sorted(BAD_TOKENS))
def test_a_bad_token_refuses_the_call(mutual: House, which: str) -> None:
    """An invalid token is never ignored, on any method, even beside a valid certificate."""
    metadata = (("authorization", f"Bearer {BAD_TOKENS[which](mutual)}"),)
    with calling(mutual, mutual.issue("spiffe://example.org/admin")) as stub:
        for method, told in every_method(stub, metadata=metadata):
            assert told.code is grpc.StatusCode.UNAUTHENTICATED, method
            assert told.reason == "CALLER_CREDENTIAL_INVALID"
            assert metadata[0][1].split()[1] not in told.message


def test_strangers_stand_in_the_log_alone(mutual: House) -> None:
    """R5: refusals of strangers go to the server's log with address and reason, not the store's."""
    with calling(mutual, mutual.issue("spiffe://example.org/intruder")) as stub:
        refused(stub.Revoke, pb.RevokeRequest(cluster="prod"))
    deadline = time.monotonic() + 10
    while "intruder" not in mutual.server.log() and time.monotonic() < deadline:
        time.sleep(0.05)
    (line,) = [json.loads(line) for line in mutual.server.log().splitlines() if "intruder" in line]
    assert line["method"] == "Revoke"
    assert line["reason"] == "NOT_ALLOWED"
    assert line["address"].startswith("ipv4:127.0.0.1:")


def test_audit_knows_the_caller(mutual: House, tmp_path: Path) -> None:
    """The log has the caller, its proof and address, and whom it calls for, if believed."""
    admin = mutual.issue("spiffe://example.org/admin")
    with calling(mutual, admin) as stub:
        behalf = (("on-behalf-of", "alice"),)
        stub.Rotate(
            pb.RotateRequest(cluster="prod", region_specs=[res.RegionSpec(region="eu")]),
            metadata=behalf,
            timeout=10,
        )
    mutual.server.command("export", "--out", str(tmp_path / "out"))
    events = [
        line for line in (tmp_path / "out").read_text().splitlines() if "cluster:rotate" in line
    ]
    assert '"spiffe://example.org/admin"' in events[-1]
    assert '"certificate"' in events[-1]
    assert "ipv4:127.0.0.1:" in events[-1]
    assert "alice" not in events[-1]  # The policy does not let the administrator call for others.
    with calling(mutual, mutual.issue("spiffe://example.org/gateway")) as stub:
        wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")
        stub.Wrap(wrap, metadata=(("on-behalf-of", "bob"),), timeout=5)
    deadline = time.monotonic() + 10
    while '"on_behalf_of":"bob"' not in mutual.server.log() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert '"on_behalf_of":"bob"' in mutual.server.log()


BROKEN: Final = (
    "",
    "[[grant",
    POLICY + "\n[[grant]]\nroles = ['crypto']\n",
    POLICY.replace('"auditor"', '"king"'),
    POLICY.replace("clusters", "cluster"),
    POLICY.replace('["prod"]', '"prod"'),
    POLICY.replace('["acme"]', "[]"),
    POLICY.replace('uri = "local:*"', "uri = 7"),
    POLICY.replace("on_behalf_of = [", "on_behalf_of = [1, "),
    "\x00" + POLICY,
)


def test_a_broken_policy_keeps_the_old_one(mutual: House) -> None:
    """A policy broken in ten ways while the server runs changes nothing; each way is logged."""
    wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")
    with (
        calling(mutual, mutual.issue("spiffe://example.org/app")) as app,
        calling(mutual, mutual.issue("spiffe://example.org/late")) as late,
    ):
        for count, broken in enumerate(BROKEN, 1):
            write(mutual.policy, broken)
            deadline = time.monotonic() + 10
            while (
                mutual.server.log().count("the policy file is broken") < count
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
            assert mutual.server.log().count("the policy file is broken") == count, broken
            assert app.Wrap(wrap, timeout=5).wrapped_key
        assert refused(late.Wrap, wrap).reason == "NOT_ALLOWED"
        write(mutual.policy, POLICY.replace("example.org/app", "example.org/late"))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError):
                late.Wrap(wrap, timeout=5)
                break
            time.sleep(0.05)
        assert refused(app.Wrap, wrap).reason == "NOT_ALLOWED"
        write(mutual.policy, POLICY)


def test_renewed_certificates_drop_no_connection(start_server: StartServer, tmp_path: Path) -> None:
    """A new certificate and authority count for the next connection; the open one goes on."""
    old, new = Authority("old"), Authority("new")
    policy = write(tmp_path / "policy.toml", POLICY)
    bundle = tmp_path / "ca.pem"
    server = start_server(
        **tls_settings(tmp_path, old),
        KEYFOLD_TLS_CLIENT_CA=str(write(bundle, old.pem)),
        KEYFOLD_POLICY=str(policy),
    )
    house = House(server, old, ec.generate_private_key(ec.SECP256R1()), policy)
    listing = pb.ListClustersRequest()
    with calling(house, old.issue("spiffe://example.org/admin")) as before:
        before.ListClusters(listing, timeout=5)
        write(bundle, new.pem)
        tls_settings(tmp_path, new)
        renewed = House(server, new, house.key, policy)
        with calling(renewed, new.issue("spiffe://example.org/admin")) as after:
            after.ListClusters(listing, timeout=10, wait_for_ready=True)
        if TRANSPORT == "grpc":  # On h2corn all clients connect anew (docs/transports.md).
            before.ListClusters(listing, timeout=5)
        with channel(house, old.issue("spiffe://example.org/admin"), new.pem) as late:
            told = refused(service.KeyManagementServiceStub(late).ListClusters, listing)
            assert told.code is grpc.StatusCode.UNAVAILABLE


def test_tokens_alone(start_server: StartServer, tmp_path: Path) -> None:
    """Without client certificates every call needs a token, except health checks."""
    authority = Authority()
    key = ec.generate_private_key(ec.SECP256R1())
    policy = write(
        tmp_path / "policy.toml",
        POLICY.replace("spiffe://example.org/admin", "jwt:https://issuer#me"),
    )
    server = start_server(
        **tls_settings(tmp_path, authority),
        KEYFOLD_POLICY=str(policy),
        KEYFOLD_JWT_ISSUER=ISSUER,
        KEYFOLD_JWT_AUDIENCE=AUDIENCE,
        KEYFOLD_JWT_JWKS=str(write(tmp_path / "jwks.json", jwks(key))),
    )
    house = House(server, authority, key, policy)
    with channel(house, None) as opened:
        stub = service.KeyManagementServiceStub(opened)
        for method, told in every_method(stub):
            assert told.code is grpc.StatusCode.UNAUTHENTICATED, method
            assert told.reason == "CALLER_UNKNOWN"
        bearer = (("authorization", f"bearer {house.token('me')}"),)
        stub.ListClusters(pb.ListClustersRequest(), metadata=bearer, timeout=5)
        health: Any = health_pb2_grpc.HealthStub(opened)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
        # The issuer's next key is believed once the file holds it.
        later = House(server, authority, ec.generate_private_key(ec.SECP256R1()), policy)
        bearer = (("authorization", f"Bearer {later.token('me')}"),)
        listing = pb.ListClustersRequest()
        told = refused(
            lambda r, timeout: stub.ListClusters(r, metadata=bearer, timeout=timeout), listing
        )
        assert told.reason == "CALLER_CREDENTIAL_INVALID"
        write(tmp_path / "jwks.json", jwks(later.key))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError):
                stub.ListClusters(listing, metadata=bearer, timeout=5)
                break
            time.sleep(0.1)
        stub.ListClusters(listing, metadata=bearer, timeout=5)


def test_a_socket_is_a_caller(start_server: StartServer, tmp_path: Path) -> None:
    """A caller over the unix socket is named after it, and its file has the set permissions."""
    path = Path(os.path.realpath(tmp_path)) / "k.sock"
    grant = f'[[grant]]\ncallers = ["socket:{path}"]\nroles = ["auditor"]\n'
    policy = write(tmp_path / "policy.toml", grant)
    start_server(
        KEYFOLD_LISTEN=f"unix:{path}", KEYFOLD_POLICY=str(policy), KEYFOLD_SOCKET_MODE="0660"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with grpc.insecure_channel(f"unix:{path}") as opened:
        stub = service.KeyManagementServiceStub(opened)
        stub.ListClusters(pb.ListClustersRequest(), timeout=5)
        told = refused(stub.Revoke, pb.RevokeRequest(cluster="c"))
        assert told.reason == "NOT_ALLOWED"
        metadata = (("authorization", "Bearer x.y.z"),)
        told = refused(
            lambda r, timeout: stub.ListClusters(r, metadata=metadata, timeout=timeout),
            pb.ListClustersRequest(),
        )
        assert told.reason == "CALLER_CREDENTIAL_INVALID"


def test_the_development_default_says_so(start_server: StartServer) -> None:
    """Without policy, TLS and tokens the server warns at its start what anybody may do."""
    server = start_server()
    assert "has every role on every cluster" in server.log()


def test_dev_certs_are_all_it_takes(start_server: StartServer, tmp_path: Path) -> None:
    """A server and its client work with the certificates and settings of dev-certs."""
    server = start_server(ready=False)
    folder = tmp_path / "certs"
    printed = server.command(
        "dev-certs", "--out", str(folder), "--client", "spiffe://example.org/admin"
    )
    policy = write(tmp_path / "policy.toml", POLICY)
    server.settings |= dict(
        line.removeprefix("export ").split("=", 1)
        for line in printed.splitlines()
        if line.strip().startswith("export KEYFOLD_TLS")
    ) | {"KEYFOLD_POLICY": str(policy)}
    server.start()
    client = {
        name: value.strip("'\"")
        for name, value in (
            line.strip().removeprefix("export ").split("=", 1)
            for line in printed.splitlines()
            if line.strip().startswith("export KEYFOLD_C")
            or line.strip().startswith("export KEYFOLD_KEY")
        )
    }
    server.settings |= client
    assert "prod" not in server.cli("clusters")
    assert server.command("health", "--target", server.target) == "SERVING\n"


# --- health checks ---


@pytest.fixture
def recipe(start_server: StartServer, tmp_path: Path) -> House:
    """Starts a server with the certificates of the page's cert-manager recipe.

    Its own certificate is a server's alone, from the issuer that is its clients' authority.
    """
    issuer = Authority("keyfold-callers")
    own = issuer.issue("dns:keyfold.keyfold.svc", use=ExtendedKeyUsageOID.SERVER_AUTH)
    key = ec.generate_private_key(ec.SECP256R1())
    policy = write(tmp_path / "policy.toml", POLICY)
    server = start_server(
        KEYFOLD_TLS_CERT=str(write(tmp_path / "tls.crt", own.pem)),
        KEYFOLD_TLS_KEY=str(write(tmp_path / "tls.key", own.key_pem)),
        KEYFOLD_TLS_CLIENT_CA=str(write(tmp_path / "ca.crt", issuer.pem)),
        KEYFOLD_POLICY=str(policy),
        KEYFOLD_JWT_ISSUER=ISSUER,
        KEYFOLD_JWT_AUDIENCE=AUDIENCE,
        KEYFOLD_JWT_JWKS=str(write(tmp_path / "jwks.json", jwks(key))),
        KEYFOLD_METRICS="off",
    )
    return House(server, issuer, key, policy)


def test_health_of_the_cert_manager_recipe(recipe: House) -> None:
    """The health command works with a certificate that is a server's alone, and after its end."""
    server = recipe.server
    assert server.command("health", "--target", server.target) == "SERVING\n"
    server.settings["KEYFOLD_LISTEN"] = f"0.0.0.0:{server.target.rpartition(':')[2]}"
    assert server.command("health") == "SERVING\n"
    server.stop()
    assert "UNAVAILABLE" in server.command("health", "--timeout", "1", code=1)


def test_the_socket_for_health_steps_around_nothing(recipe: House) -> None:
    """Without the handshake of mutual TLS there is health alone, whatever else a call brings."""
    with grpc.insecure_channel(health_socket.of(recipe.server.target)) as opened:
        stub = service.KeyManagementServiceStub(opened)
        for credential in ((), (("authorization", f"Bearer {recipe.token()}"),)):
            for method, told in every_method(stub, metadata=credential):
                assert told.reason == "CALLER_UNKNOWN", method
                assert "health checks alone" in told.message
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection.ServerReflectionInfo(iter([asked]), timeout=5))
        assert refusal(caught.value).reason == "CALLER_UNKNOWN"
        health: Any = health_pb2_grpc.HealthStub(opened)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_over_tls_alone(start_server: StartServer, tmp_path: Path) -> None:
    """With tokens alone the command connects by TLS, and takes the certificate of the settings."""
    authority, key = Authority("nobody's"), ec.generate_private_key(ec.SECP256R1())
    server = start_server(
        **tls_settings(tmp_path, authority),
        KEYFOLD_POLICY=str(write(tmp_path / "policy.toml", POLICY)),
        KEYFOLD_JWT_ISSUER=ISSUER,
        KEYFOLD_JWT_AUDIENCE=AUDIENCE,
        KEYFOLD_JWT_JWKS=str(write(tmp_path / "jwks.json", jwks(key))),
    )
    assert server.command("health", "--target", server.target) == "SERVING\n"
    (tmp_path / "other").mkdir()
    server.settings |= tls_settings(tmp_path / "other", Authority("another"))
    assert "UNAVAILABLE" in server.command("health", "--target", server.target, code=1)


@grpc_alone
def test_failed_handshakes_are_counted_and_logged(recipe: House) -> None:
    """An operator sees that clients cannot connect, and why, in the metrics and in the log."""
    server = recipe.server
    server.restart(KEYFOLD_METRICS="127.0.0.1:0")
    with grpc.secure_channel(
        server.target, grpc.ssl_channel_credentials(recipe.authority.pem)
    ) as nobody:
        health: Any = health_pb2_grpc.HealthStub(nobody)
        with pytest.raises(grpc.RpcError):
            health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    host, _, port = server.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert plain.recv(1) == b""
    wanted = {"PEER_DID_NOT_RETURN_A_CERTIFICATE", "HTTP_REQUEST"}
    found = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log())
    assert found is not None
    shown: set[str] = set()
    ends = time.monotonic() + 30
    while not wanted <= shown:
        assert time.monotonic() < ends, shown
        with urllib.request.urlopen(found[0], timeout=5) as answer:
            text = answer.read().decode()
        shown = set(re.findall(r'handshakes_failed_total\{reason="(\w+)"\} [1-9]', text))
        time.sleep(0.1)
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log().splitlines()]
    told = [line for line in lines if line["event"].startswith("a TLS handshake failed: ")]
    assert {line["event"].split("(")[-1].partition(")")[0] for line in told} >= wanted
    assert all(line["logger"] == "keyfold_server.grpc_log" for line in told)
