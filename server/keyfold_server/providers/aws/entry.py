"""The entry of AWS_KMS: its key uris, and its settings. It must not import the SDK."""

from __future__ import annotations

from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.tables import Table, read


class AwsCanary(Table):
    """A role in an account of the vendor's own, which shows that Keyfold's own side works.

    Attributes:
        role: The ARN of the role.
        external_id: The external id that the role's trust policy demands.
    """

    role: str
    external_id: str


class AwsTable(Table):
    """`[providers.aws]`: what the standard `AWS_*` environment leaves open.

    Attributes:
        principal: The ARN of the server's own identity, for the policies that customers attach.
        session_name: The name of Keyfold's sessions in customers' CloudTrail.
        canary: A role of the vendor's own.
    """

    principal: str | None = None
    session_name: str = "keyfold"
    canary: AwsCanary | None = None


def _table(setup: Setup) -> AwsTable:
    return read(AwsTable, setup.table, "providers.aws")


def _make(setup: Setup) -> KeyProvider:
    from keyfold_server.providers.aws.principals import Canary
    from keyfold_server.providers.aws.provider import AwsKmsProvider

    table = _table(setup)
    canary = table.canary
    return AwsKmsProvider(
        principal=table.principal,
        session_name=table.session_name,
        canary=None if canary is None else Canary(canary.role, canary.external_id),
    )


ENTRY = Entry(
    make=_make,
    # Every ARN, so that the provider can say what is wrong with an alias or another service's.
    uris=("arn:**",),
    example="arn:aws:kms:REGION:ACCOUNT:key/ID",
    install="keyfold[aws]",
    table="aws",
    check=_table,
    is_set_up=lambda setup: bool(setup.table),
    environment=(
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ),
)
