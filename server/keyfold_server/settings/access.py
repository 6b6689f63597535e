"""The settings of the server's address, and of how it identifies callers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from keyfold_server.settings.forms import MAX_PORT, Permissions, is_loopback, listed

_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")
"""An origin as browsers write it: lower case, and nothing behind the port."""


class AccessSettings(BaseModel):
    """The settings of the address, TLS, tokens and policy."""

    listen: str = Field(
        default="127.0.0.1:7443",
        description="The address to listen on: HOST:PORT, where port 0 takes a free port, or unix: "
        "and an absolute path. Without TLS the server listens only on loopback addresses and unix "
        "sockets.",
    )
    transport: Literal["grpc", "asgi"] = Field(
        default="grpc",
        description="What carries the calls: gRPC's own library (grpc), or h2corn, an HTTP/2 "
        "server for ASGI, which takes less time per call (asgi). asgi needs the extra `fast`; "
        "docs/transports.md says in what the two differ.",
    )
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(listed)] = Field(
        default_factory=list,
        description="The origins whose pages in a browser may call this server over Connect, such "
        "as https://console.example, separated by commas; each must match exactly. A page is a "
        "caller like any other, and needs a token where others do. Empty: the server refuses every "
        "page. Only with KEYFOLD_TRANSPORT=asgi.",
    )
    socket_mode: Permissions = Field(
        default=0o600,
        ge=0,
        le=0o777,
        description="The permissions of the unix socket, which decide who may call: 0600 for the "
        "server's own user, 0660 for its group too.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="The file with the server's certificate in PEM, followed by those of "
        "intermediate authorities, if any. The server reads a changed file for the next "
        "connection.",
    )
    tls_key: Path | None = Field(
        default=None,
        description="The file with the certificate's private key, in PEM, not encrypted.",
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="The file with the authorities, in PEM, that must have issued the clients' "
        "certificates. If it is set, a client without a certificate cannot connect. Unset: callers "
        "identify themselves by tokens.",
    )
    policy: Path | None = Field(
        default=None,
        description="The policy file, which says what each caller may do. The server reads a "
        "changed file within a second. Unset: on a loopback address or a unix socket, without TLS "
        "and tokens, every caller may do everything; otherwise the server does not start.",
    )
    jwt_issuer: str | None = Field(
        default=None,
        description="The issuer whose tokens callers may use, as it stands in the tokens' iss.",
    )
    jwt_audience: str | None = Field(
        default=None,
        description="The name of this service, which the tokens must have in aud.",
    )
    jwt_jwks: str | None = Field(
        default=None,
        description="The issuer's public keys (JWKS): an https:// url, or the path of a file.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _origin_form(cls, value: list[str]) -> list[str]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is not an origin; write scheme, host and port as browsers do, such "
                    "as https://console.example or http://localhost:3000, without a path"
                )
        return value

    @field_validator("listen")
    @classmethod
    def _address_form(cls, value: str) -> str:
        if value.startswith("unix:"):
            if not value.removeprefix("unix:").startswith("/"):
                raise ValueError("give a unix socket as unix: and an absolute path")
            return value
        _, colon, port = value.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > MAX_PORT:
            raise ValueError("write HOST:PORT, such as 127.0.0.1:7443, or unix:/path")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuses settings that contradict one another."""
        tokens = (self.jwt_issuer, self.jwt_audience, self.jwt_jwks)
        host = self.listen.rpartition(":")[0].strip("[]")
        local = self.listen.startswith("unix:") or host == "localhost" or is_loopback(host)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("KEYFOLD_TLS_CERT and KEYFOLD_TLS_KEY belong together; set both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("KEYFOLD_TLS_CLIENT_CA needs KEYFOLD_TLS_CERT and KEYFOLD_TLS_KEY")
        if any(tokens) and not all(tokens):
            raise ValueError(
                "KEYFOLD_JWT_ISSUER, KEYFOLD_JWT_AUDIENCE and KEYFOLD_JWT_JWKS belong together; "
                "set all three"
            )
        if self.cors_origins and self.transport != "asgi":
            raise ValueError(
                "KEYFOLD_CORS_ORIGINS needs KEYFOLD_TRANSPORT=asgi, since browsers cannot call "
                "gRPC; set it, or unset KEYFOLD_CORS_ORIGINS"
            )
        if self.listen.startswith("unix:") and self.tls_cert is not None:
            raise ValueError(
                "KEYFOLD_LISTEN is a unix socket, which takes no TLS; unset KEYFOLD_TLS_CERT"
            )
        if not local and self.tls_cert is None:
            raise ValueError(
                "KEYFOLD_LISTEN: without TLS the server listens on loopback or a unix socket only, "
                "since calls carry keys in the clear; use 127.0.0.1, [::1], localhost or "
                "unix:/path, or set KEYFOLD_TLS_CERT and KEYFOLD_TLS_KEY"
            )
        if self.tls_cert is not None and self.tls_client_ca is None and not any(tokens):
            raise ValueError(
                "with KEYFOLD_TLS_CERT alone the server cannot identify callers; set "
                "KEYFOLD_TLS_CLIENT_CA for client certificates, or KEYFOLD_JWT_ISSUER for tokens"
            )
        if self.policy is None and (self.tls_cert is not None or any(tokens)):
            raise ValueError(
                "KEYFOLD_POLICY: without a policy no caller may do anything; write one "
                "(docs/security.md shows how), and give its path here"
            )
        return self
