"""The entry of VAULT_TRANSIT: its key uris, and its settings. It must not import the SDK."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.tables import Table, read


class VaultTable(Table):
    """`[vault."https://HOST:PORT"]`: how Keyfold logs in at one origin (protocol C3).

    Attributes:
        auth: The auth method.
        mount: The auth method's path; empty for its usual one.
        role: The role to log in as, which the principal is made of; a token does not have one.
        role_id: AppRole's role id, if it is not the role's name.
        namespace: The namespace that holds the auth method.
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


def _tables(setup: Setup) -> dict[str, VaultTable]:
    return {
        origin: read(VaultTable, values, f'vault."{origin}"')
        for origin, values in setup.settings.get("vault", {}).items()
    }


def _make(setup: Setup) -> KeyProvider:
    from keyfold_server.providers.vault.origins import Origin
    from keyfold_server.providers.vault.provider import VaultTransitProvider

    origins = {name: Origin(**dict(table)) for name, table in _tables(setup).items()}
    return VaultTransitProvider(origins=origins, allowed=setup.allowed_endpoints)


ENTRY = Entry(
    make=_make,
    uris=("https://*/v1/**/keys/*",),
    example="https://HOST:8200/v1/transit/keys/KEY",
    install="keyfold[vault]",
    other_table='[vault."https://HOST:PORT"]',
    settings=("vault",),
    check=_tables,
    is_set_up=lambda setup: bool(setup.settings.get("vault")) or "VAULT_ADDR" in os.environ,
)
