"""A real server with a cluster in it, as the tests of the client and of the command line use it.

The cluster is `prod` of organization `acme`, with the root key `local:acme` in the regions `eu`
and `us`. The server's clock stands still until a test moves it, so every time that is shown is
known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc

import callers
import keyfold
from fakes import FakeClock, FakeProvider
from in_process import InProcess, Setup, running, serving
from keyfold_server.domain.bounds import Bounds, Rates
from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, Statement
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Credential
from keyfold_server.domain.timing import Timing
from keyfold_server.rpc.incoming.callers import Callers
from relay import Relay

BEGAN: Final = 1_800_000_000
"""Seconds of Unix time at which the server's clock stands: 2027-01-15 08:00:00Z."""

KEY: Final = keyfold.KeySpec("LOCAL", "local:acme")

_EVER: Final = 1e9
"""Seconds for which the server goes on without its store, however a test moves the clock."""


class Aws(FakeProvider):
    """A fake AWS KMS, type `AWS_KMS`: its uris are ARNs, and it has every ability of a provider.

    Attributes:
        latency: Seconds of the server's clock that each call takes.
    """

    type = "AWS_KMS"
    prefix = "arn:"

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.latency = 0.0
        self._clock = clock

    def canonical(self, key: RootKey) -> RootKey:
        if not key.uri.startswith(self.prefix):
            raise InvalidKeySpecError("the uri must be an ARN", field="key_spec.uri")
        return key

    def account(self, key: RootKey) -> str:
        return "111122223333"

    def region(self, key: RootKey) -> str:
        return (key.uri.split(":") + [""] * 3)[3]

    def replica(self, key: RootKey, region: str) -> RootKey:
        parts = key.uri.split(":")
        return replace(key, uri=":".join([*parts[:3], region, *parts[4:]]))

    def needs_external_id(self, key: RootKey) -> bool:
        return key.principal.startswith("arn:")

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        principal = key.principal or "keyfold"
        bound = {"keyfold:cluster": wanted.cluster, "keyfold:region": wanted.region}
        return AccessPolicy(
            principal,
            {name: value for name, value in bound.items() if value},
            (
                Statement(
                    "Key policy of the root key",
                    key.uri,
                    "json",
                    f'{{\n  "Principal": "{principal}"\n}}',
                    ("kms:Encrypt", "kms:Decrypt"),
                ),
                Statement(
                    "The vendor's role",
                    principal,
                    "shell",
                    "cloud iam attach\n",
                    (),
                    by_vendor=True,
                ),
            ),
            ("the role's session lasts 10 minutes",),
        )

    def _enter(self, *call: Any) -> list[Any]:
        self._clock.advance(self.latency)
        return super()._enter(*call)


class Served(Relay):
    """A relay in front of a real server.

    Attributes:
        keyfold: The server itself.
        aws: The KMS of its keys of type `AWS_KMS`.
        clock: Its clock.
        local_keys: Its keys of type `LOCAL`.
    """

    def __init__(
        self,
        server: InProcess,
        aws: Aws,
        clock: FakeClock,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        super().__init__(server.target, credentials)
        self.keyfold = server
        self.aws = aws
        self.clock = clock
        self.local_keys = server.local_keys

    def beside(self) -> Served:
        """Returns a second relay, for a test that shares the server with others."""
        return Served(self.keyfold, self.aws, self.clock)

    @contextmanager
    def client(self) -> Iterator[keyfold.Client]:
        """Yields a client that goes past the relay, which therefore notes nothing of it."""
        with keyfold.Client(self.keyfold.target) as client:
            yield client

    def status(self, cluster: str = "prod") -> keyfold.ClusterStatus:
        """Returns a cluster's status, from the server itself."""
        with self.client() as client:
            return client.get_status(cluster)

    def make_key(self, uri: str) -> None:
        """Makes a key of type `AWS_KMS`, if it does not exist."""
        if uri not in self.aws.uris():
            self.aws.create_key(uri.removeprefix(self.aws.prefix))


@contextmanager
def served(
    folder: Path,
    clock: FakeClock | None = None,
    credentials: grpc.ServerCredentials | None = None,
    regions: ResidencyPolicy | None = None,
) -> Iterator[Served]:
    """Serves in a thread of its own until the block ends.

    Args:
        folder: An empty folder.
        clock: The server's clock; one that stands at `BEGAN` by default.
        credentials: The certificate with which the relay ends TLS.
        regions: The places of the vendor's regions.
    """
    clock = clock or FakeClock(BEGAN)
    aws = Aws(clock)
    with serving(folder, aws, **_setup(aws, clock, regions)) as server:
        _enable_prod(server.target)
        with Served(server, aws, clock, credentials) as relay:
            yield relay


@asynccontextmanager
async def served_here(folder: Path) -> AsyncIterator[Served]:
    """Serves on the event loop of an asynchronous test until the block ends."""
    clock = FakeClock(BEGAN)
    aws = Aws(clock)
    async with running(folder, aws, **_setup(aws, clock, None)) as server:
        await asyncio.to_thread(_enable_prod, server.target)
        relay = Served(server, aws, clock)
        relay.start()
        try:
            yield relay
        finally:
            # In a thread: calls that are under way need the loop, on which the server answers.
            await asyncio.to_thread(relay.stop)


def _setup(aws: Aws, clock: FakeClock, regions: ResidencyPolicy | None) -> Setup:
    setup = Setup(
        others={"AWS_KMS": lambda: aws},
        clock=clock,
        local_keys=("a", "acme", "b", "eu", "platform", "us"),
        platform=lambda _: RootKey("LOCAL", "local:platform"),
        # No rate is reached while the clock stands, and nobody waits for a replica in vain.
        bounds=Bounds(
            rate_per_caller=1e6,
            rate_per_organization=1e6,
            kms_rates=Rates(per_key=1e6, per_account=1e6, per_provider=1e6),
        ),
        timing=Timing(store_max_staleness=_EVER, revoke_wait=0.0),
        who=Callers(callers.POLICIES, callers.LOCAL, clock, tokens=_AnyToken()),
    )
    return setup if regions is None else setup | {"regions": regions}


def _enable_prod(target: str) -> None:
    specs = [keyfold.RegionSpec(region, KEY) for region in ("eu", "us")]
    with keyfold.Client(target) as client:
        client.enable("prod", specs, organization="acme")


class _AnyToken:
    """An issuer whose every token is good: how tokens are checked is not what these tests ask."""

    def verify(
        self, token: str, now: float, claims: frozenset[str], *, final: bool = False
    ) -> Credential:
        return Credential(callers.LOCAL, 0, now + 300)

    async def refresh(self) -> None:
        raise AssertionError("its keys never change")


def numbered_keys(count: int, size: int = 32) -> list[bytes]:
    """Returns keys that tell their place in a batch."""
    return [number.to_bytes(4, "big") * (size // 4) for number in range(count)]


def read_with(client: keyfold.Client, cursor: str) -> None:
    """Watches events with a cursor up to the first heartbeat, which makes the cursor."""
    with client.watch(states=False, events=True, cursor=cursor) as watch:
        for message in watch:
            if isinstance(message, keyfold.Heartbeat):
                return
