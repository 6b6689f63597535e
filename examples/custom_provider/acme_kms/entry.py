"""The entry of ACME_KMS: its key uris, and its settings. It must not import the adapter."""

from __future__ import annotations

from pathlib import Path

from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.tables import Table, read


class AcmeTable(Table):
    """`[providers.acme_kms]`: the one server of Acme KMS that Keyfold calls.

    Attributes:
        origin: The server's origin, such as `https://kms.example:8443`.
        token_file: File of the bearer token. Keyfold reads it with every call, so that whoever
            renews the token only has to replace the file.
        ca: File of the certificates to trust, in PEM. Unset, it is the system's.
    """

    origin: str
    token_file: Path
    ca: Path | None = None


def _table(setup: Setup) -> AcmeTable:
    return read(AcmeTable, setup.table, "providers.acme_kms")


def _make(setup: Setup) -> KeyProvider:
    from acme_kms.provider import AcmeKmsProvider

    table = _table(setup)
    return AcmeKmsProvider(
        origin=table.origin,
        token_file=table.token_file,
        ca=table.ca,
        allowed_endpoints=setup.allowed_endpoints,
    )


ENTRY = Entry(
    make=_make,
    uris=("https://*/acme/v1/keys/*",),
    example="https://HOST/acme/v1/keys/NAME",
    install="keyfold-acme-kms",
    table="acme_kms",
    check=_table,
    is_set_up=lambda setup: bool(setup.table),
    only_if_set_up=True,
)
