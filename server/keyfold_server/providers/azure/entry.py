"""The entry of AZURE_KEY_VAULT: its key uris, and its settings. It must not import the SDK."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.azure.clouds import CLOUDS
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.tables import Table, read


class AzureTable(Table):
    """`[providers.azure]`: what the standard `AZURE_*` environment leaves open.

    Attributes:
        authority: Microsoft Entra's url. Unset, it is `AZURE_AUTHORITY_HOST`, or else the cloud's
            own.
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


def _table(setup: Setup) -> AzureTable:
    return read(AzureTable, setup.table, "providers.azure")


def _make(setup: Setup) -> KeyProvider:
    from keyfold_server.providers.azure.provider import AzureKeyVaultProvider

    table = _table(setup)
    return AzureKeyVaultProvider(
        authority=table.authority,
        instance_discovery=table.instance_discovery,
        ca=None if table.ca is None else str(table.ca),
        allowed_endpoints=setup.allowed_endpoints,
        audiences=table.audiences,
        canary=table.canary,
    )


ENTRY = Entry(
    make=_make,
    uris=tuple(
        f"https://*.{domain}/keys/**" for cloud in CLOUDS for domain in (cloud.vaults, cloud.hsms)
    ),
    endpoint_paths=("/keys/**",),
    example="https://VAULT.vault.azure.net/keys/KEY",
    install="keyfold[azure]",
    table="azure",
    check=_table,
    is_set_up=lambda setup: bool(setup.table),
    environment=("AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
)
