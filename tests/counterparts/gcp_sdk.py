"""Google's own client, pointed at a counterpart, for the tests of the counterpart.

It gets from the tests only what a private cloud would give: address, trusted certificate and
credential. It retries nothing, and sends nothing to another machine.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import grpc
import requests
from google.auth import impersonated_credentials
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcTransport,
)
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from counterparts.gcp_kms import GcpKms

SCOPES = ("https://www.googleapis.com/auth/cloudkms",)
AAD = b"context"


class _OnlyHere(HTTPAdapter):
    # google-auth asks Google for an account's region, in a thread of its own.
    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if urlsplit(request.url).hostname != "localhost":
            raise requests.ConnectionError("nothing is sent to another machine")
        return super().send(request, *args, **kwargs)


def http_session(kms: GcpKms) -> Any:
    """Returns an HTTP session that trusts the counterpart and reaches no other server."""
    session = requests.Session()
    # Otherwise REQUESTS_CA_BUNDLE, if set, takes precedence over the authority given here.
    session.trust_env = False
    session.verify = str(kms.ca_file)
    session.mount("https://", _OnlyHere())
    return session


def account(key: dict[str, str], scopes: tuple[str, ...] = SCOPES) -> Any:
    """Returns the credentials of a service account, given the contents of its key file."""
    load: Any = service_account.Credentials.from_service_account_info
    return load(key, scopes=list(scopes))


def impersonated(kms: GcpKms, source: Any, target: str, delegates: list[str] | None = None) -> Any:
    """Returns the credentials of another service account, got with the source's own."""
    make: Any = impersonated_credentials.Credentials
    return make(
        source_credentials=source,
        target_principal=target,
        target_scopes=list(SCOPES),
        delegates=delegates,
        iam_endpoint_override=(
            f"{kms.iam_uri}/v1/projects/-/serviceAccounts/{target}:generateAccessToken"
        ),
    )


class Sdk:
    """Google's client with a TLS channel of its own.

    Args:
        kms: The counterpart that it connects to.
        credentials: The caller's credentials, or None.
        session: The HTTP session that refreshes credentials.
    """

    def __init__(self, kms: GcpKms, credentials: Any, session: Any) -> None:
        channel_credentials = grpc.ssl_channel_credentials(kms.ca_pem)
        if credentials is not None:
            make: Any = AuthMetadataPlugin
            calls = grpc.metadata_call_credentials(make(credentials, Request(session)))
            channel_credentials = grpc.composite_channel_credentials(channel_credentials, calls)
        self._channel = grpc.secure_channel(kms.target, channel_credentials)
        transport = KeyManagementServiceGrpcTransport(channel=self._channel)
        self._client = kms_v1.KeyManagementServiceClient(transport=transport)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def call(self, method: str, *, timeout: float = 5, **request: Any) -> Any:
        """Calls a method of the client, by its name in Python; the timeout is in seconds."""
        return getattr(self._client, method)(request=request, retry=None, timeout=timeout)

    def encrypt(self, name: str, plaintext: bytes = b"key", /, **more: Any) -> Any:
        """Encrypts, with AAD unless the request has its own."""
        more.setdefault("additional_authenticated_data", AAD)
        return self.call("encrypt", name=name, plaintext=plaintext, **more)

    def decrypt(self, name: str, ciphertext: bytes, aad: bytes = AAD, *, timeout: float = 5) -> Any:
        """Decrypts, with all checksums."""
        return self.call(
            "decrypt",
            timeout=timeout,
            name=name,
            ciphertext=ciphertext,
            additional_authenticated_data=aad,
            ciphertext_crc32c=google_crc32c.value(ciphertext),
            additional_authenticated_data_crc32c=google_crc32c.value(aad),
        )
