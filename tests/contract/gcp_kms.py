"""GCP_CLOUD_KMS's row of the provider suite, and its counterpart: `counterparts.gcp_kms`.

The adapter is set up as for a private cloud: endpoints and a CA as arguments, the server's own
credential in the environment.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import secrets as random
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from contract.counterparts import DRIP, Ability, Counterpart, Row
from contract.gcp_wire import GrpcLayer, Impostor, Pair
from counterparts.faults import FaultLayer
from counterparts.gcp_iam import GET_ACCESS_TOKEN
from counterparts.gcp_keys import State
from counterparts.gcp_kms import GcpKms
from counterparts.messages import Reply, Request, forward
from counterparts.pki import Authority
from fakes import FakeClock
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.gcp.provider import GcpKmsProvider

PERMISSIONS: Final = {
    "wrap": "cloudkms.cryptoKeyVersions.useToEncrypt",
    "unwrap": "cloudkms.cryptoKeyVersions.useToDecrypt",
    "describe": "cloudkms.cryptoKeys.get",
}
_METHODS: Final = ("Encrypt", "Decrypt", "GetCryptoKey")
_PROJECT: Final = "customer-project"
_CUSTOMER: Final = f"cmek-user@{_PROJECT}.iam.gserviceaccount.com"
_CLOSED: Final = {
    "perimeter": "perimeter",
    "API disabled": "service_disabled",
    "project suspended": "consumer_suspended",
    "endpoint of another location": "misrouted",
}
"""Answers that say nothing about the key, though they look like a refusal."""

_LARGE: Final = 2**21
"""Bytes of an answer that is larger than Keyfold reads."""


class GcpCounterpart(Counterpart):
    """A customer's project at the wire-level server, and an account in it that trusts Keyfold."""

    def __init__(self, folder: Path) -> None:
        self.kms, self._impostor = _shared()
        self.layer = GrpcLayer(int(self.kms.target.rpartition(":")[2]))
        trust = ssl.create_default_context(cafile=str(self.kms.ca_file))
        self.tokens = self.logins = FaultLayer(
            forward(self.kms.iam_uri, trust), _tls(_pair(self.kms))
        )
        nonce = random.token_hex(4)
        self.own = f"keyfold-{nonce}@vendor-project.iam.gserviceaccount.com"
        self.customer = _CUSTOMER.replace("@", f"-{nonce}@")
        self.ring = f"projects/{_PROJECT}/locations/europe-west1/keyRings/ring-{nonce}"
        self._names = (f"key-{number}" for number in itertools.count(1))
        self.kms.allow(self.own, self.customer, GET_ACCESS_TOKEN)
        self.env = pytest.MonkeyPatch()
        self.env.setenv("GOOGLE_APPLICATION_CREDENTIALS", self._key_file(folder))
        self.env.setenv("NO_PROXY", "127.0.0.1,localhost")
        self.clock = FakeClock()
        self.provider = GcpKmsProvider(
            endpoint=f"127.0.0.1:{self.layer.port}",
            iam_endpoint=self.tokens.url,
            ca=self.kms.ca_file,
            clock=self.clock.monotonic,
        )

    def _key_file(self, folder: Path) -> str:
        held = json.loads(Path(self.kms.service_account_file(self.own)).read_text())
        self._private = str(held["private_key"])
        path = folder / "keyfold.json"
        path.write_text(json.dumps({**held, "token_uri": f"{self.tokens.url}/token"}))
        return str(path)

    # Keys.

    def create_key(self, **how: Any) -> RootKey:
        key = RootKey("GCP_CLOUD_KMS", f"{self.ring}/cryptoKeys/{next(self._names)}", self.customer)
        self.kms.create_key(key.uri, **how)
        return self._allowed(key)

    def missing_key(self) -> RootKey:
        # Without the permission, a missing key would look like a denied one.
        missing = RootKey("GCP_CLOUD_KMS", f"{self.ring}/cryptoKeys/missing", self.customer)
        return self._allowed(missing)

    def _allowed(self, key: RootKey) -> RootKey:
        for permission in PERMISSIONS.values():
            self.kms.allow(self.customer, key.uri, permission)
        return key

    def unusable_key(self, why: Ability) -> RootKey:
        return self.create_key(purpose="ASYMMETRIC_SIGN", algorithm="EC_SIGN_P256_SHA256")

    def exists(self, key: RootKey) -> bool:
        return key.uri in self.kms._keys._keys

    def new_version(self, key: RootKey) -> None:
        self.kms.new_version(key.uri)

    def disable(self, key: RootKey, version: str | None = None) -> None:
        for name in self._versions(key, version):
            self.kms.disable(name)

    def enable(self, key: RootKey, version: str | None = None) -> None:
        for name in self._versions(key, version):
            self.kms.enable(name)

    def delete(self, key: RootKey, version: str | None = None) -> None:
        for name in self._versions(key, version):
            self.kms.destroy(name)
            self.kms.expire_version(name)

    def schedule_deletion(self, key: RootKey) -> None:
        for name in self._versions(key):
            self.kms.destroy(name)

    def cancel_deletion(self, key: RootKey) -> None:
        for name in self._versions(key):
            self.kms.restore(name)

    def _versions(self, key: RootKey, version: str | None = None) -> list[str]:
        """Returns the versions that the customer must change, because a key itself has no state."""
        with self.kms._keys.lock:
            every = self.kms._keys.key(key.uri).versions.values()
            alive = [each.name for each in every if each.state != State.DESTROYED]
        return alive if version is None else [version]

    def deny(self, key: RootKey, permission: str) -> None:
        self.kms.deny(self.customer, key.uri, PERMISSIONS[permission])

    def restore(self, key: RootKey, permission: str) -> None:
        self.kms.allow(self.customer, key.uri, PERMISSIONS[permission])

    # Credentials and trust.

    @contextmanager
    def withdrawn_trust(self, key: RootKey) -> Iterator[None]:
        self.kms.deny(self.own, self.customer, GET_ACCESS_TOKEN)
        self.kms.expire_tokens(self.customer)
        try:
            yield
        finally:
            self.kms.allow(self.own, self.customer, GET_ACCESS_TOKEN)

    @contextmanager
    def broken_credentials(self) -> Iterator[None]:
        iam = self.kms._iam
        kept, iam._keys[self.own] = iam._keys[self.own], {}
        for each in (self.own, self.customer):
            self.kms.revoke_tokens(each)
        try:
            yield
        finally:
            iam._keys[self.own] = kept

    def expire_sessions(self) -> None:
        for each in (self.own, self.customer):
            self.kms.expire_tokens(each)

    def is_login(self, request: Request) -> bool:
        return request.path.endswith(":generateAccessToken")

    # Faults.

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        if hint is None:
            return self._wrong("error", error="throttled")
        return self._wrong("error", error="throttled_with_retry", seconds=hint)

    @contextmanager
    def outage(self, which: str) -> Iterator[None]:
        with ExitStack() as both:
            for each in self._broken(which):
                both.enter_context(each)
            yield

    def _broken(self, which: str) -> tuple[AbstractContextManager[None], ...]:
        """Returns the contexts that break Cloud KMS and the token endpoints."""
        grpc_, http = self.layer, self.tokens
        if which is Ability.REFUSED:
            return grpc_.refusing(), http.refusing()
        if which is Ability.RESET:
            return grpc_.resetting(), http.resetting()
        if which is Ability.TLS_FAILURE:
            stranger = http.distrusted(_tls(_stranger()))
            return grpc_.leading_to(self._impostor.distrusted), stranger
        if which in _CLOSED:
            # To authenticate, Keyfold asks IAM alone.
            failing = http.answering(Reply(500, {}, b"{}"))
            return self._wrong("error", error=_CLOSED[which]), failing
        if which is Ability.SERVER_ERROR:
            return self._wrong("error", error="internal"), http.answering(Reply(500, {}, b"{}"))
        garbage = b"<html>" if which is Ability.GARBAGE else b"{" * _LARGE
        self._impostor.answer = garbage
        html = {"Content-Type": "text/html"}
        return grpc_.leading_to(self._impostor.port), http.answering(Reply(200, html, garbage))

    @contextmanager
    def hanging(self, which: str) -> Iterator[None]:
        with ExitStack() as both:
            for layer in (self.layer, self.tokens):
                ways: dict[Ability, Callable[[], AbstractContextManager[None]]] = {
                    Ability.DRIPPING: functools.partial(layer.dripping, DRIP),
                    Ability.HANG_AT_CONNECT: layer.hanging_at_connect,
                    Ability.HANG_AT_READ: layer.hanging_at_read,
                }
                both.enter_context(ways[Ability(which)]())
            yield

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        return self._wrong("foreign", methods=("Decrypt",))

    def wrong_checksum(self, key: RootKey) -> AbstractContextManager[None]:
        return self._wrong("wrong_crc", methods=("Encrypt", "Decrypt"))

    @contextmanager
    def _wrong(
        self, kind: str, *, methods: tuple[str, ...] = _METHODS, **options: Any
    ) -> Iterator[None]:
        for method in methods:
            self.kms.inject(method, kind, **options)
        try:
            yield
        finally:
            self.kms.clear_faults()

    def secrets(self) -> list[bytes]:
        with self.kms._keys.lock:
            every = [v.secret for k in self.kms._keys._keys.values() for v in k.versions.values()]
        tokens = [token.encode() for token in self.kms._iam._tokens]
        return [each for each in (*every, *tokens, self._private.encode()) if each]

    def close(self) -> None:
        self.layer.close()
        self.tokens.close()
        self.env.undo()


@functools.cache
def _shared() -> tuple[GcpKms, Impostor]:
    """Starts the servers once; each counterpart has principals and keys of its own there."""
    kms = GcpKms()
    kms.__enter__()
    impostor = Impostor(_pair(kms), _stranger())
    atexit.register(kms.__exit__, None, None, None)
    atexit.register(impostor.close)
    return kms, impostor


def _pair(kms: GcpKms) -> Pair:
    return kms._key, kms._certificate


@functools.cache
def _stranger() -> Pair:
    certificate, key = Authority("stranger").issue(["localhost", "127.0.0.1"])
    return key, certificate


def _tls(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(pair))
        file.flush()
        context.load_cert_chain(file.name)
    return context


_KEY: Final = f"projects/{_PROJECT}/locations/europe-west1/keyRings/ring/cryptoKeys/key"


def _spec(uri: str = _KEY, principal: str = "", **options: str) -> RootKey:
    return RootKey("GCP_CLOUD_KMS", uri, principal, tuple(options.items()))


ROW: Final = Row(
    name="GCP_CLOUD_KMS",
    make=GcpCounterpart,
    binds=frozenset({"cluster", "region", "kek_id", "organization"}),
    refused=(
        (_spec("key"), "key_spec.uri"),
        (_spec(f"{_KEY}/cryptoKeyVersions/1"), "key_spec.uri"),
        (_spec(f"//cloudkms.googleapis.com/{_KEY}"), "key_spec.uri"),
        (_spec(f"https://cloudkms.googleapis.com/v1/{_KEY}"), "key_spec.uri"),
        (_spec(f"gcp-kms://{_KEY}"), "key_spec.uri"),
        (_spec(_KEY.replace(_PROJECT, "123456789012")), "key_spec.uri"),
        (_spec(_KEY.replace("europe-west1", "Europe")), "key_spec.uri"),
        (_spec(f"{_KEY}/"), "key_spec.uri"),
        (_spec(f"{_KEY}\n"), "key_spec.uri"),
        (_spec(_KEY.replace("/ring/", "/../")), "key_spec.uri"),
        (_spec(_KEY + 64 * "k"), "key_spec.uri"),
        (_spec(principal="keyfold"), "key_spec.auth_principal"),
        (_spec(principal="somebody@example.com"), "key_spec.auth_principal"),
        (_spec(principal="a@evil.example/gserviceaccount.com"), "key_spec.auth_principal"),
        (_spec(principal=f"{_CUSTOMER}:x"), "key_spec.auth_principal"),
        (_spec(delegates=_CUSTOMER), "key_spec.options"),
        (_spec(principal=_CUSTOMER, delegates=""), "key_spec.options"),
        (_spec(principal=_CUSTOMER, delegates=f"{_CUSTOMER},,"), "key_spec.options"),
        (_spec(principal=_CUSTOMER, quota="x"), "key_spec.options"),
    ),
    further_outages=tuple(_CLOSED),
    absent={
        Ability.REQUEST_IDS: "Cloud KMS gives calls no id; its audit log has time and caller",
        Ability.MATERIAL_MISSING: "in Cloud KMS a version has the material; one without it can "
        "not wrap, and what it cannot open looks like another key's",
    },
)
