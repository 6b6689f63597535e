"""The entry of GCP_CLOUD_KMS: its key uris, and its settings. It must not import the SDK."""

from __future__ import annotations

from pathlib import Path

from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.tables import Table, read


class GcpTable(Table):
    """`[providers.gcp]`: what the standard `GOOGLE_*` environment leaves open.

    Attributes:
        endpoint: Cloud KMS's host, with its port where that is not 443.
        iam_endpoint: The url of the IAM endpoint that impersonates service accounts.
        ca: File of the certificates to trust.
        principal: The server's own identity, for the statements of GetAccessPolicy.
        canary: A service account of the vendor's own.
    """

    endpoint: str = "cloudkms.googleapis.com"
    iam_endpoint: str = "https://iamcredentials.googleapis.com"
    ca: Path | None = None
    principal: str | None = None
    canary: str | None = None


def _table(setup: Setup) -> GcpTable:
    return read(GcpTable, setup.table, "providers.gcp")


def _make(setup: Setup) -> KeyProvider:
    from keyfold_server.providers.gcp.provider import GcpKmsProvider

    table = _table(setup)
    return GcpKmsProvider(
        endpoint=table.endpoint,
        iam_endpoint=table.iam_endpoint,
        ca=table.ca,
        principal=table.principal,
        canary=table.canary,
    )


ENTRY = Entry(
    make=_make,
    uris=("projects/**",),
    example="projects/P/locations/L/keyRings/R/cryptoKeys/K",
    install="keyfold[gcp]",
    table="gcp",
    check=_table,
    is_set_up=lambda setup: bool(setup.table),
    environment=("GOOGLE_APPLICATION_CREDENTIALS",),
)
