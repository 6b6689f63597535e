"""The providers, from the settings to the catalog; what each is made of is read on first use."""

from __future__ import annotations

import os
from collections.abc import Callable

from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.catalog import Catalog, Maker, maker, third_party, type_of
from keyfold_server.settings import Settings
from keyfold_server.settings.keys import Aws, Azure, Gcp


def catalog(settings: Settings) -> Catalog:
    """Returns the providers that there are: LOCAL where it has a key file, the others always."""
    makers: dict[str, Maker] = third_party() | {
        "AWS_KMS": lambda: _aws(settings.providers.aws),
        "AZURE_KEY_VAULT": lambda: _azure(settings),
        "GCP_CLOUD_KMS": lambda: _gcp(settings.providers.gcp),
        "VAULT_TRANSIT": lambda: _vault(settings),
    }
    if settings.local_keys is not None:
        makers["LOCAL"] = maker("LOCAL", settings.local_keys)
    return Catalog(makers)


def set_up(settings: Settings, providers: Catalog) -> list[str]:
    """Returns the types of providers that the settings speak of, and those that packages add."""
    tables = settings.providers
    spoken = {
        "AWS_KMS": tables.aws != Aws(),
        "AZURE_KEY_VAULT": tables.azure != Azure(),
        "GCP_CLOUD_KMS": tables.gcp != Gcp(),
        "VAULT_TRANSIT": bool(settings.vault) or "VAULT_ADDR" in os.environ,
    }
    return [type_ for type_ in providers.types() if spoken.get(type_, True)]


def _aws(table: Aws) -> KeyProvider:
    from keyfold_server.providers.aws.principals import Canary

    canary = table.canary and Canary(table.canary.role, table.canary.external_id)
    return maker(
        "AWS_KMS",
        principal=table.principal,
        session_name=table.session_name,
        canary=canary,
    )()


def _azure(settings: Settings) -> KeyProvider:
    table = settings.providers.azure
    return maker(
        "AZURE_KEY_VAULT",
        authority=table.authority,
        instance_discovery=table.instance_discovery,
        ca=None if table.ca is None else str(table.ca),
        allowed_endpoints=settings.allowed_endpoints,
        audiences=table.audiences,
        canary=table.canary,
    )()


def _gcp(table: Gcp) -> KeyProvider:
    return maker(
        "GCP_CLOUD_KMS",
        endpoint=table.endpoint,
        iam_endpoint=table.iam_endpoint,
        ca=table.ca,
        principal=table.principal,
        canary=table.canary,
    )()


def _vault(settings: Settings) -> KeyProvider:
    from keyfold_server.providers.vault.origins import Origin

    origins = {name: Origin(**dict(table)) for name, table in settings.vault.items()}
    return maker("VAULT_TRANSIT", origins=origins, allowed=settings.allowed_endpoints)()


def platform_keys(settings: Settings, providers: Catalog) -> Callable[[str], RootKey | None]:
    """Returns what tells the vendor's own key of a region.

    Raises:
        SetupError: A uri is none of a known provider's, or that provider is not set up.
    """

    def key(uri: str) -> RootKey:
        root = RootKey(type_of(uri), uri)
        return providers.provider(root.type).canonical(root)

    given = settings.platform_key
    uris = given if isinstance(given, dict) else {}
    every = given if isinstance(given, str) else None
    try:
        keys = {region: key(uri) for region, uri in uris.items()}
        default = None if every is None else key(every)
    except KeyfoldError as error:
        raise SetupError(f"KEYFOLD_PLATFORM_KEY: {error.message}") from None
    return lambda region: keys.get(region, default)
