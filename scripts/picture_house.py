"""The house that the pictures of the console show: a vendor with four customers, and their day.

The server, the console and what the providers say of keys and policies are the real ones. The KMSs
are in memory, and the clock tells yesterday first, so that the pages have a day to look back on.
Servers in this process and KMSs in memory are among the tests: run it with tests/ in PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

import keyfold
from console_site import Issuer, token_of
from fakes import FakeProvider
from in_process import running
from keyfold_console.app import build
from keyfold_console.settings import Settings
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider
from keyfold_server.providers.gcp.provider import GcpKmsProvider
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.clock import SystemClock

HOUR: Final = 3_600.0

_GCP: Final = "projects/*/locations/*/keyRings/*/cryptoKeys/*"

_KEYS: Final = f"""keys = [
    {{ type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "arn:aws:iam::*:role/*" }},
    {{ type = "AZURE_KEY_VAULT", uri = "https://*/keys/*", principal = "*/*" }},
    {{ type = "GCP_CLOUD_KMS", uri = "{_GCP}", principal = "*" }},
]"""

POLICY: Final = f"""
[[grant]]
callers = ["jwt:https://issuer#*@vendor.example"]
roles = ["admin"]
{_KEYS}

[[grant]]
callers = ["jwt:https://issuer#service-*"]
roles = ["crypto"]

[[grant]]
callers = ["jwt:https://issuer#*"]
roles = ["operator", "auditor"]
organization_claim = "org"
{_KEYS}
"""


class Kms(FakeProvider):
    """All clouds' keys, by their own names."""

    prefix = ""

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key: the clouds' own adapters have read it."""
        return key


class _InMemory:
    """Asks the memory in place of the cloud."""

    kms: Kms

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Finds that the cloud knows Keyfold."""
        self.kms.authenticate(key, budget=budget)

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a key."""
        return self.kms.describe(key, budget=budget)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps under a key."""
        return self.kms.wrap(key, plaintext, binding, budget=budget)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Unwraps under a key."""
        return self.kms.unwrap(key, key_version, ciphertext, binding, budget=budget)


class Aws(_InMemory, AwsKmsProvider):
    """AWS KMS."""


class Azure(_InMemory, AzureKeyVaultProvider):
    """Azure Key Vault."""


class Gcp(_InMemory, GcpKmsProvider):
    """Google Cloud KMS."""


class Clock:
    """A clock that can be behind.

    Attributes:
        behind: Seconds that its wall clock is behind the machine's.
    """

    monotonic = SystemClock.monotonic

    def __init__(self) -> None:
        """Begins at the machine's own time."""
        self.behind = 0.0

    def wall(self) -> float:
        """Returns the time, as far behind as it is."""
        return time.time() - self.behind


def aws(region: str, account: str, name: str) -> keyfold.KeySpec:
    """Returns a key of an account in AWS."""
    arn = f"arn:aws:kms:{region}:{account}:key/{name}"
    return keyfold.KeySpec("AWS_KMS", arn, f"arn:aws:iam::{account}:role/keyfold")


def gcp(project: str, location: str, key: str) -> keyfold.KeySpec:
    """Returns a key of a project in Google Cloud."""
    ring = f"projects/{project}/locations/{location}/keyRings/saas"
    user = f"keyfold-user@{project}.iam.gserviceaccount.com"
    return keyfold.KeySpec("GCP_CLOUD_KMS", f"{ring}/cryptoKeys/{key}", user)


ACME: Final = aws("eu-west-1", "111122223333", "1f0c9a4e-52d1-4c7b-9a8e-6b2f4d7c1e90")
ACME_US: Final = aws("us-east-1", "111122223333", "7b4d2c18-90ae-4f63-8c55-0a9e3d6f2b71")
GLOBEX: Final = gcp("globex-data", "europe-west1", "warehouse")
GLOBEX_US: Final = gcp("globex-data", "us-east1", "warehouse")
GLOBEX_NEXT: Final = gcp("globex-data", "asia-southeast1", "warehouse")
INITECH: Final = keyfold.KeySpec(
    "AZURE_KEY_VAULT",
    "https://initech-saas.vault.azure.net/keys/orders",
    "72f988bf-86f1-41af-91ab-2d7cd011db47/5d0f9a3c-7e21-4b86-a4c0-19f2e8b63d57",
)
NORTHWIND: Final = aws("us-east-1", "444455556666", "e9d37b02-6c84-4a15-9f2d-b71c0e5a8d43")

CLUSTERS: Final[tuple[tuple[str, str, dict[str, str | keyfold.KeySpec]], ...]] = (
    ("acme-orders", "acme", {"eu-west-1": "main-eu", "us-east-1": ACME_US}),
    ("acme-billing", "acme", {"eu-west-1": "main-eu"}),
    ("acme-analytics", "acme", {"us-east-1": ACME_US}),
    ("globex-warehouse", "globex", {"eu-west-1": GLOBEX, "us-east-1": GLOBEX_US}),
    ("globex-search", "globex", {"us-east-1": GLOBEX_US}),
    ("initech-orders", "initech", {"eu-west-1": INITECH}),
    ("northwind-shop", "northwind", {"us-east-1": NORTHWIND}),
    ("northwind-archive", "northwind", {"us-east-1": NORTHWIND}),
)

NAMES: Final = {
    "acme": "Acme Corp",
    "globex": "Globex",
    "initech": "Initech",
    "northwind": "Northwind Traders",
}


@dataclass
class House:
    """What the pictures show.

    Attributes:
        url: The console.
        kms: The clouds' keys.
        clock: The server's clock.
        target: The server.
    """

    url: str
    kms: Kms
    clock: Clock
    target: str

    def client(self, subject: str, org: str = "") -> keyfold.AsyncClient:
        """Returns somebody's client."""
        token = token_for(subject, org)
        return keyfold.AsyncClient(self.target, token=lambda: token, timeout=30)


def token_for(subject: str, org: str) -> str:
    """Returns a token of somebody; `org` is the organization that it names, or empty."""
    return token_of(subject, org=org) if org else token_of(subject)


def _type_of(uri: str) -> str:
    if uri.startswith("arn:"):
        return "AWS_KMS"
    return "AZURE_KEY_VAULT" if uri.startswith("https:") else "GCP_CLOUD_KMS"


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    """Serves the house, with its day behind it, until the block ends."""
    kms, clock = Kms(), Clock()
    clock.behind = 23.4 * HOUR
    providers: dict[str, Any] = {
        "AWS_KMS": Aws(principal="arn:aws:iam::999988887777:role/keyfold-server"),
        "AZURE_KEY_VAULT": Azure(),
        "GCP_CLOUD_KMS": Gcp(principal="keyfold@vendor.iam.gserviceaccount.com"),
    }
    for provider in providers.values():
        provider.kms = kms
    policies: Any = CachedPolicy(parse(POLICY, "policy.toml"))
    policies.believes = lambda _: False
    who = Callers(policies, None, clock, tokens=Issuer())
    others = {name: lambda made=made: made for name, made in providers.items()}
    async with running(
        folder, who=who, clock=clock, others=others, type_of=_type_of, transport="grpc"
    ) as server:
        runner = web.AppRunner(build(Settings(target=server.target)), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            found = House(f"http://127.0.0.1:{port}", kms, clock, server.target)
            await _live_through_a_day(found)
            yield found
        finally:
            await runner.cleanup()


async def _live_through_a_day(here: House) -> None:
    async with here.client("ada@vendor.example") as vendor:
        await _furnish(here, vendor)
        await _use(here)
        await _refuse(here, vendor, GLOBEX, ("globex-warehouse",), 17.2, 15.6)
        await _at(here, 9.8)
        here.kms.new_version(ACME_US.uri)
        scope = keyfold.OperationScope.organization("acme")
        rotate = keyfold.OperationAction.rotate()
        await vendor.start_operation("acme-autumn", rotate, scope, reason="yearly rotation")
        await vendor.wait_operation("acme-autumn")
        await _refuse(here, vendor, GLOBEX_US, ("globex-warehouse", "globex-search"), 7.1, 6.4)
        await _at(here, 4.3)
        await vendor.revoke("northwind-archive", reason="contract ended, ticket 8841")
        await _at(here, 0.7)
        here.kms.disable(INITECH.uri)
        await vendor.recheck("initech-orders")
        await _at(here, 0)
        await _use(here)


async def _at(here: House, behind: float) -> None:
    """Goes to so many hours ago; the server is stale until it has seen its store again."""
    here.clock.behind = behind * HOUR
    await asyncio.sleep(2)


async def _furnish(here: House, vendor: keyfold.AsyncClient) -> None:
    specs = (ACME, ACME_US, GLOBEX, GLOBEX_US, GLOBEX_NEXT, INITECH, NORTHWIND)
    for spec in specs:
        here.kms.create_key(spec.uri)
    for name, title in NAMES.items():
        await vendor.create_organization(
            keyfold.Organization(name, display_name=title, cluster_patterns=(f"{name}-*",))
        )
    link = keyfold.KeyLink(
        "acme", "main-eu", ACME, region="eu-west-1", description="Orders and billing in Europe"
    )
    for name, key in (("acme", ACME), ("northwind", NORTHWIND)):
        await vendor.get_access_policy(key, organization=name)
    async with here.client("sam@acme.example", org="acme") as sam:
        await sam.create_key_link(link)
    for cluster, organization, regions in CLUSTERS:
        given = [
            keyfold.RegionSpec(region, key_link=key)
            if isinstance(key, str)
            else keyfold.RegionSpec(region, key)
            for region, key in regions.items()
        ]
        await vendor.enable(cluster, given, organization=organization)


async def _refuse(
    here: House,
    vendor: keyfold.AsyncClient,
    key: keyfold.KeySpec,
    clusters: tuple[str, ...],
    since: float,
    until: float,
) -> None:
    """Lets a KMS refuse a key, from so many hours ago until so many."""
    for behind, do in ((since, here.kms.deny), (until, here.kms.allow)):
        await _at(here, behind)
        do(key.uri, "unwrap")
        for cluster in clusters:
            await vendor.recheck(cluster)
        # The server writes down by and by that a key works again.
        await asyncio.sleep(6)


async def _use(here: House) -> None:
    """Has applications use keys."""
    for cluster, organization, regions in CLUSTERS:
        service = f"service-{organization}"
        async with here.client(service) as application:
            for region in regions:
                try:
                    for _ in range(5):
                        await application.generate_data_key(cluster, region)
                except keyfold.KeyfoldError:
                    continue
