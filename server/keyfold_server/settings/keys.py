"""Settings of root keys: where they are, and how long one answer of a KMS holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_settings import NoDecode

from keyfold_server.domain.keyspec import MAX_CACHE_TTL, MAX_OUTAGE_GRACE
from keyfold_server.domain.timing import Timing
from keyfold_server.settings.forms import Duration, listed


class KeySettings(BaseModel):
    """The settings of providers, root keys and freshness.

    The tables of providers are read by the providers themselves, which know what belongs in them;
    see `providers.shared.entry`.
    """

    local_keys: Path | None = Field(
        default=None,
        description="The key file of the LOCAL provider, made by `keyfold-server dev-keys`. "
        "Unset: there is no LOCAL provider.",
    )
    platform_key: str | dict[str, str] | None = Field(
        default=None,
        description="The vendor's own key, for clusters that do not bring a key: one uri for all "
        "regions, or in the file a table of uris by region. Where a uri does not tell its "
        'provider, write the type before it: "AZURE_KEY_VAULT https://kms.example/keys/app".',
    )
    allowed_endpoints: Annotated[list[str], NoDecode, BeforeValidator(listed)] = Field(
        default_factory=list,
        description="Origins of KMSs outside of the providers' own domains, such as "
        "https://vault.example:8200, separated by commas. Keyfold calls an origin over plain http "
        "only if it is listed here with http.",
    )
    providers: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="In the file: a table [providers.NAME] for a provider, such as "
        "[providers.aws], for what the environment of its SDK leaves open; see docs/providers.",
    )
    vault: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description='In the file: a table [vault."https://HOST:PORT"] for each Vault or OpenBao '
        "server, which says how Keyfold logs in there; see docs/providers/vault.md.",
    )
    cache_ttl: Duration = Field(
        default=Timing().cache_ttl,
        ge=0,
        le=MAX_CACHE_TTL,
        description="How long Keyfold may use a key after one successful unwrap, 0s to 15m. At 0s "
        "every call asks the customer's KMS. A region's policy can override this.",
    )
    outage_grace: Duration = Field(
        default=Timing().outage_grace,
        ge=0,
        le=MAX_OUTAGE_GRACE,
        description="How much longer Keyfold may use a key while it cannot reach the KMS, 0s to "
        "24h. A region's policy can override this.",
    )
    sweep_interval: Duration = Field(
        default=Timing().sweep,
        ge=10,
        le=3600,
        description="How often Keyfold opens each stored key encryption key (KEK) anew, and asks "
        "each root key to wrap and unwrap, whether callers use it or not, 10s to 1h. Some changes "
        "show up only then: a root key that no longer wraps, or an idle root key that is disabled "
        "or has a newer version.",
    )
