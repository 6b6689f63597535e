"""Whose keys, where they are, and how long one answer about them holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from keyfold_server.domain.keyspec import MAX_CACHE_TTL, MAX_OUTAGE_GRACE
from keyfold_server.settings.forms import Duration


def _listed(value: object) -> object:
    """Returns the parts of a list that is written with commas."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


class _Table(BaseModel):
    """A table of the settings file; a key that is none of its own is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AwsCanary(_Table):
    """A role that shows Keyfold's own side to be good.

    Attributes:
        role: Its ARN, in an account of the vendor's own.
        external_id: What its trust policy demands.
    """

    role: str
    external_id: str


class Aws(_Table):
    """`[providers.aws]`: what the standard `AWS_*` environment leaves open.

    Attributes:
        principal: The ARN of the server's own identity, for the policies that customers attach.
        session_name: How Keyfold's sessions are called in customers' CloudTrail.
        canary: A role of the vendor's own.
    """

    principal: str | None = None
    session_name: str = "keyfold"
    canary: AwsCanary | None = None


class Azure(_Table):
    """`[providers.azure]`: what the standard `AZURE_*` environment leaves open.

    Attributes:
        authority: Microsoft Entra's url; unset: `AZURE_AUTHORITY_HOST`, else the cloud's own.
        instance_discovery: Whether the SDK asks Microsoft if the authority is a known one.
        ca: File of the certificates to trust.
        audiences: The audience of tokens for each origin of `allowed_endpoints`.
        canary: A principal of the vendor's own, `TENANT/CLIENT`.
    """

    authority: str | None = None
    instance_discovery: bool = True
    ca: Path | None = None
    audiences: dict[str, str] = Field(default_factory=dict)
    canary: str | None = None


class Gcp(_Table):
    """`[providers.gcp]`: what the standard `GOOGLE_*` environment leaves open.

    Attributes:
        endpoint: Cloud KMS's host, and port where it is not 443.
        iam_endpoint: The address that impersonates.
        ca: File of the certificates to trust.
        principal: As whom the server itself calls, for the statements of GetAccessPolicy.
        canary: A service account of the vendor's own.
    """

    endpoint: str = "cloudkms.googleapis.com"
    iam_endpoint: str = "https://iamcredentials.googleapis.com"
    ca: Path | None = None
    principal: str | None = None
    canary: str | None = None


class Vault(_Table):
    """`[vault."https://HOST:PORT"]`: how Keyfold logs in at one origin (protocol C3).

    Attributes:
        auth: How.
        mount: The auth method's path; empty for its usual one.
        role: The role, of which the principal is made; a token has none.
        role_id: AppRole's role id, where it is not the role's name.
        namespace: Where the auth method is mounted.
        credential: File of the token, the secret id or the JWT, read at each login.
        ca: File of the certificates to trust.
    """

    auth: Literal["token", "approle", "kubernetes", "jwt"]
    mount: str = ""
    role: str = ""
    role_id: str = ""
    namespace: str = ""
    credential: Path | None = None
    ca: Path | None = None


class Providers(_Table):
    """The `[providers.…]` tables.

    Attributes:
        aws: AWS KMS.
        azure: Azure Key Vault.
        gcp: GCP Cloud KMS.
    """

    aws: Aws = Aws()
    azure: Azure = Azure()
    gcp: Gcp = Gcp()


class Keys(BaseModel):
    """The settings of providers, root keys and freshness."""

    local_keys: Path | None = Field(
        default=None,
        description="The key file of the LOCAL provider, made by `keyfold-server dev-keys`. "
        "Unset: there is no LOCAL provider.",
    )
    platform_key: str | dict[str, str] | None = Field(
        default=None,
        description="The vendor's own key for clusters that bring none: one uri for all regions, "
        "or in the file a table of uris by region.",
    )
    allowed_endpoints: Annotated[list[str], NoDecode, BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="Origins of key services outside of the providers' own domains, such as "
        "https://vault.example:8200, with commas between; plain http only where it is written so.",
    )
    providers: Providers = Field(
        default=Providers(),
        description="In the file: the tables [providers.aws], [providers.azure] and "
        "[providers.gcp], for what the SDKs' own environment leaves open; docs/providers tells.",
    )
    vault: dict[str, Vault] = Field(
        default_factory=dict,
        description='In the file: a table [vault."https://HOST:PORT"] for each Vault or OpenBao, '
        "which says how to log in there; docs/providers/vault.md tells.",
    )
    cache_ttl: Duration = Field(
        default=60.0,
        ge=0,
        le=MAX_CACHE_TTL,
        description="How long one successful unwrap lets a key be used, 0s to 15m. At 0s every "
        "call asks the customer's KMS. A region's policy may say otherwise.",
    )
    outage_grace: Duration = Field(
        default=900.0,
        ge=0,
        le=MAX_OUTAGE_GRACE,
        description="How much longer keys serve while the KMS cannot be asked, 0s to 24h. A "
        "region's policy may say otherwise.",
    )
    sweep_interval: Duration = Field(
        default=600.0,
        ge=10,
        le=3600,
        description="How often each key encryption key in use is proven by itself, and each root "
        "key is asked to wrap and unwrap, used or not, 10s to 1h. What shows only then (a root key "
        "that does not wrap, an idle one that is disabled or has a newer version) shows that "
        "late.",
    )
