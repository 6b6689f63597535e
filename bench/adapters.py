"""`adapters`: our own CPU in a call to each provider, without the SDK's.

An adapter's part is what runs around the SDK's call, and what of ours the SDK calls to send a
request. Each is measured by itself, with what is not ours replaced by something that answers at
once: the SDK's client in the first, its HTTP library in the second. So what is subtracted is not
a large figure that varies from run to run. The stand-ins' own cost, about a microsecond, counts as
ours; that of the lock which our connections take for each request does not.
"""

from __future__ import annotations

import base64
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import hvac
import hvac.adapters
import requests
import urllib3
from azure.core.credentials import AccessTokenInfo
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import KeyClient
from botocore.awsrequest import AWSPreparedRequest
from botocore.session import Session
from google.cloud.kms_v1 import DecryptResponse, EncryptResponse
from google_crc32c import value as crc32c
from requests.adapters import HTTPAdapter
from urllib3._collections import HTTPHeaderDict

from bench.goals import Figure, Plan
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.aws import clients as aws_clients
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.providers.azure import clients as azure_clients
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider
from keyfold_server.providers.gcp import clients as gcp_clients
from keyfold_server.providers.gcp import credentials as gcp_credentials
from keyfold_server.providers.gcp.provider import GcpKmsProvider
from keyfold_server.providers.shared import requests_deadlines as deadline_requests
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.logins import Granted
from keyfold_server.providers.vault import clients as vault_client
from keyfold_server.providers.vault.provider import VaultTransitProvider

GOAL: Final = 50.0
"""Microseconds of a call to the service."""

_BUDGET: Final = 5.0
_WHOLE: Final = 600.0
"""Seconds within which the sending parts are measured: they run inside of somebody's call."""

_CALLS: Final = 400
_REPEATS: Final = 25
_QUICK: Final = (50, 3)

_BINDING: Final = Binding("cluster-1", "eu-west-1", bytes(range(16)), "acme")
_PAYLOAD: Final = bytes(_BINDING.payload(bytes(range(32))))
_ID: Final = "8d1c5a4e-0000-4000-8000-000000000001"
_CIPHERTEXT: Final = bytes(range(160))


@dataclass(frozen=True, slots=True)
class Adapter:
    """One provider, with what is not ours replaced.

    Attributes:
        provider: The provider; nothing is sent.
        key: A root key.
        calls: Calls to the service that a wrap makes.
        sending: What of ours the SDK calls to send one request, piece by piece.
    """

    provider: KeyProvider
    key: RootKey
    calls: int = 2
    sending: tuple[Callable[[], object], ...] = ()


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    calls, repeats = _QUICK if plan.quick else (_CALLS, _REPEATS)
    figures = []
    for make in (_aws, _azure, _gcp, _vault):
        with make() as adapter:
            figures += _figures(adapter, calls, repeats)
    return figures


def _figures(adapter: Adapter, calls: int, repeats: int) -> list[Figure]:
    provider, key = adapter.provider, adapter.key
    wrapped = provider.wrap(key, _PAYLOAD, _BINDING, budget=_BUDGET)

    def unwrap() -> object:
        version, ciphertext = wrapped.key_version, wrapped.ciphertext
        return provider.unwrap(key, version, ciphertext, _BINDING, budget=_BUDGET)

    def wrap() -> object:
        return provider.wrap(key, _PAYLOAD, _BINDING, budget=_BUDGET)

    with within(_WHOLE):
        sending = sum(_cpu(piece, calls, repeats) for piece in adapter.sending)
    opening = _cpu(unwrap, calls, repeats) + sending
    sealing = _cpu(wrap, calls, repeats) / adapter.calls + sending
    told = f"{key.type}: our CPU in"
    return [
        Figure("adapters", f"{told} unwrap", opening, "µs", repeats, GOAL),
        Figure("adapters", f"{told} each call of wrap", sealing, "µs", repeats, GOAL),
        Figure("adapters", f"{key.type}: of that, sending", sending, "µs", repeats),
    ]


def _cpu(call: Callable[[], object], calls: int, repeats: int) -> float:
    """Returns the median of µs of this thread's CPU for one call."""
    taken = []
    call()
    gc.disable()
    try:
        for _ in range(repeats):
            began = time.thread_time()
            for _ in range(calls):
                call()
            taken.append((time.thread_time() - began) / calls * 1e6)
            gc.collect()
    finally:
        gc.enable()
    return median(taken)


class _Stub:
    """Answers whatever it is called with by one value for each method."""

    def __init__(self, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, name, self._answering(answer))

    @staticmethod
    def _answering(answer: Any) -> Callable[..., Any]:
        return lambda *_, **__: answer


class _Raw:
    """An answer of urllib3: its status, its headers and its body."""

    status = 200
    headers: Final = HTTPHeaderDict({"Content-Type": "application/json"})

    def read(self, *_: Any, **__: Any) -> bytes:
        return b"{}"

    def release_conn(self) -> None:
        """Gives nothing back."""


@contextmanager
def _aws() -> Iterator[Adapter]:
    ids = {"ResponseMetadata": {"RequestId": _ID}}
    client = _Stub(
        encrypt={"CiphertextBlob": _CIPHERTEXT, **ids},
        decrypt={"Plaintext": _PAYLOAD, "KeyMaterialId": 64 * "a", **ids},
    )
    environment = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
    url = "https://kms.eu-west-1.amazonaws.com/"
    request = AWSPreparedRequest("POST", url, {}, b"{}", stream_output=False)
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment))
        stack.enter_context(patch.object(Session, "create_client", lambda *_, **__: client))
        stack.enter_context(patch.object(urllib3.PoolManager, "request", lambda *_, **__: _Raw()))
        sender = aws_clients._Sender(aws_clients.new_session())  # noqa: SLF001  what is measured
        yield Adapter(
            AwsKmsProvider(),
            RootKey("AWS_KMS", f"arn:aws:kms:eu-west-1:111122223333:key/{_ID}"),
            sending=(lambda: sender.send(request),),
        )


@contextmanager
def _azure() -> Iterator[Adapter]:
    kid = f"https://v-1.vault.azure.net/keys/k/{32 * 'a'}"
    environment = {
        "AZURE_TENANT_ID": _ID,
        "AZURE_CLIENT_ID": _ID,
        "AZURE_CLIENT_SECRET": "secret",
    }

    def answer(value: bytes) -> Any:
        text = base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        content = f'{{"kid":"{kid}","value":"{text}"}}'.encode()
        return SimpleNamespace(status_code=200, headers={"x-ms-request-id": _ID}, content=content)

    sealed, opened = answer(_CIPHERTEXT), answer(_PAYLOAD)

    def answered(_: object, request: Any) -> Any:
        return sealed if request.url.endswith("/wrapkey") else opened

    token = AccessTokenInfo("token", int(time.time()) + 3_600)
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment))
        stack.enter_context(
            patch.object(ClientSecretCredential, "get_token_info", lambda *_, **__: token)
        )
        stack.enter_context(patch.object(KeyClient, "send_request", answered))
        transport = azure_clients.Transport(None)
        stack.enter_context(patch.object(RequestsTransport, "send", lambda *_, **__: _OK))
        yield Adapter(
            AzureKeyVaultProvider(),
            RootKey("AZURE_KEY_VAULT", "https://v-1.vault.azure.net/keys/k"),
            sending=(lambda: transport.send(None), stack.enter_context(_requests())),
        )


@contextmanager
def _gcp() -> Iterator[Adapter]:
    name = "projects/acme-prod/locations/europe-west1/keyRings/cmek/cryptoKeys/keyfold"
    client = _Stub(
        encrypt=EncryptResponse(
            name=f"{name}/cryptoKeyVersions/1",
            ciphertext=_CIPHERTEXT,
            ciphertext_crc32c=crc32c(_CIPHERTEXT),
            verified_plaintext_crc32c=True,
            verified_additional_authenticated_data_crc32c=True,
        ),
        decrypt=DecryptResponse(plaintext=_PAYLOAD, plaintext_crc32c=crc32c(_PAYLOAD)),
    )
    granted = Granted((("authorization", "Bearer token"),))
    with ExitStack() as stack:
        for name_, stand_in in {
            "KeyManagementServiceClient": lambda **_: client,
            "KeyManagementServiceGrpcTransport": lambda **_: None,
        }.items():
            stack.enter_context(patch.object(gcp_clients, name_, stand_in))
        stack.enter_context(patch.object(gcp_credentials.OwnLogin, "__call__", lambda *_: granted))
        # gRPC sends by itself: nothing of ours is called.
        yield Adapter(GcpKmsProvider(), RootKey("GCP_CLOUD_KMS", name), calls=1)


@contextmanager
def _vault() -> Iterator[Adapter]:
    origin = "https://vault.example:8200"
    text = base64.b64encode(_CIPHERTEXT).decode()
    transit = _Stub(
        encrypt_data={"request_id": _ID, "data": {"ciphertext": f"vault:v1:{text}"}},
        decrypt_data={
            "request_id": _ID,
            "data": {"plaintext": base64.b64encode(_PAYLOAD).decode()},
        },
    )
    client = SimpleNamespace(
        secrets=SimpleNamespace(transit=transit),
        auth=SimpleNamespace(token=_Stub(lookup_self={"data": {"ttl": 0}})),
    )
    with ExitStack() as stack:
        stack.enter_context(patch.object(hvac, "Client", lambda **_: client))
        stack.enter_context(patch.object(hvac.adapters.RawAdapter, "request", lambda *_, **__: _OK))
        sends = vault_client._Adapter(base_uri=origin)  # noqa: SLF001  what is measured
        yield Adapter(
            VaultTransitProvider(
                origins={}, environment={"VAULT_ADDR": origin, "VAULT_TOKEN": "token"}
            ),
            RootKey("VAULT_TRANSIT", f"{origin}/v1/transit/keys/app"),
            sending=(
                lambda: sends.request("post", "/v1/transit/decrypt/app"),
                stack.enter_context(_requests()),
            ),
        )


_OK: Final = SimpleNamespace(status_code=200, headers={}, content=b'{"data":{}}')


@contextmanager
def _requests() -> Iterator[Callable[[], object]]:
    """Yields what sends for SDKs that are given a session of requests."""
    response, raw = requests.Response(), _Raw()
    response.status_code = 200

    def answered(*_: Any, **__: Any) -> requests.Response:
        response.raw = raw
        return response

    adapter = deadline_requests._Adapter()  # noqa: SLF001  what is measured
    request = requests.Request("POST", "https://vault.example/").prepare()
    with patch.object(HTTPAdapter, "send", answered):
        yield lambda: adapter.send(request)
