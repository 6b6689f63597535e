"""The fake KMS with regions, replicas, external ids and access policies.

A key of region R is `fake:R.NAME`. A name `mrk-…` is a multi-Region key's, whose replicas have the
same name in another region. A call with a principal needs the external id that the key demands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import replicas
from fakes import FakeProvider
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import AccessDeniedError, InvalidKeySpecError
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.provider import (
    AccessPolicy,
    AccessWanted,
    Statement,
    Unwrapped,
    Wrapped,
)
from keyfold_server.domain.residency import ResidencyPolicy, Table
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.replica import Replica

_REGION: Final = re.compile(r"[a-z]+-[a-z]+-[0-9]")

ROLE: Final = "role/customer"
"""The principal of keys that need an external id."""


class RegionalProvider(FakeProvider):
    """A fake KMS that has every ability.

    Attributes:
        demanded: The external id that the customer's trust policy demands.
        shown: The external ids that callers showed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.demanded: str | None = None
        self.shown: set[str] = set()

    def region(self, key: RootKey) -> str:
        return self.account(key)

    def replica(self, key: RootKey, region: str) -> RootKey:
        if _REGION.fullmatch(region) is None:
            raise InvalidKeySpecError(f"the fake KMS has no region {region}")
        _, _, name = key.uri.partition(".")
        if not name.startswith("mrk-"):
            raise InvalidKeySpecError(f"{key.uri} is no multi-Region key", field="key_spec.uri")
        return replace(key, uri=f"fake:{region}.{name}")

    def needs_external_id(self, key: RootKey) -> bool:
        return bool(key.principal)

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        statement = Statement("key policy", key.uri, "json", key.external_id, ("wrap", "unwrap"))
        bound = {"keyfold:cluster": wanted.cluster} if wanted.cluster else {}
        return AccessPolicy(key.principal or "ambient", bound, (statement,), ("a notice",))

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        self._check_trust(key)
        return super().wrap(key, plaintext, binding, budget=budget)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        self._check_trust(key)
        return super().unwrap(key, key_version, ciphertext, binding, budget=budget)

    def _check_trust(self, key: RootKey) -> None:
        if not key.principal:
            assert not key.external_id
            return
        assert key.external_id
        self.shown.add(key.external_id)
        if self.demanded not in (None, key.external_id):
            raise AccessDeniedError("the customer trusts another external id")


class RegionalHouse(replicas.House):
    """Replicas whose KMS has regions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.provider: RegionalProvider = RegionalProvider()
        for name in ("one", "two"):
            self.provider.create_key(name)

    async def with_regions(
        self,
        table: Table | None = None,
        *,
        required: bool = False,
        geos: Mapping[str, tuple[str, ...]] | None = None,
        served: ServedRegions | None = None,
    ) -> replicas.Member:
        """Starts a replica whose settings name these regions and geos."""
        member = await self.replica(served=served)
        set_regions(
            member.replica, ResidencyPolicy(table or {}, required=required, geos=Geos(geos or {}))
        )
        return member


def set_regions(replica: Replica, regions: ResidencyPolicy) -> None:
    """Gives a replica settings of its own, in the parts that read them."""
    replica.clusters._spec_keys.replica_keys._regions = regions
    replica.clusters._spec_keys.geo_keys._regions = regions
    replica.reports._residency._regions = replica._link_proofs._regions = regions
    replica.geos = replica.reports._geos = regions.geos


def role(uri: str) -> KeySpec:
    """Returns the spec of a key that Keyfold calls with the customer's role."""
    return KeySpec("FAKE", uri, ROLE)
