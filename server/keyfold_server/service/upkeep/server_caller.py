"""The server's own caller: who rotates when the server follows a root key by itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NoReturn

from keyfold_server.domain.errors import KeyNotGrantedError, NotAllowedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.rights import (
    DENIED,
    Caller,
    Coverage,
    Holding,
    Identity,
    Purpose,
    Use,
)

CALLER: Final = "keyfold:auto_rotate"
"""The caller's name in the audit trail; no caller from outside can have such a name."""

RPC: Final = "Rotate"
"""The one method that this caller may call."""


class _AutoRotateRights:
    """The rights to rotate any region while it stays with its root key, and nothing else."""

    @property
    def identity(self) -> Identity:
        """The caller's name; nobody called, so there is nothing to prove it with."""
        return Identity((CALLER,), "")

    @property
    def owner(self) -> str:
        """The caller's name."""
        return CALLER

    def use(self, cluster: str, organization: str | None, region: str, purpose: Purpose) -> Use:
        """Denies every use of a KEK."""
        del cluster, organization, region, purpose
        return DENIED

    def sees(self, cluster: str, organization: str | None, region: str | None = None) -> bool:
        """Sees every cluster, since any cluster may have to be rotated."""
        del cluster, organization, region
        return True

    def coverage(self, organization: str | None, rpc: str | None = None) -> tuple[Coverage, ...]:
        """Covers nothing, since this caller lists no clusters."""
        del organization, rpc
        return ()

    def covers(
        self, rpc: str, cluster: str | None, organization: str | None, region: str | None = None
    ) -> bool:
        """Covers nothing, since this caller reads no events."""
        del rpc, cluster, organization, region
        return False

    def covers_all_regions(self, rpc: str, cluster: str, organization: str | None) -> bool:
        """Covers nothing, since this caller reads no events."""
        del rpc, cluster, organization
        return False

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """Holds no grant: what this caller may do is in this class."""
        return ()

    @property
    def lapsed(self) -> tuple[str, ...]:
        """No grant names this caller."""
        return ()

    @property
    def digest(self) -> bytes:
        """The same as long as the server runs: these rights never change."""
        return b"rotating"

    def check(self, rpc: str) -> None:
        """Refuses every method but Rotate."""
        if rpc != RPC:
            raise NotAllowedError(f"{CALLER} may rotate, and nothing else")

    def check_named(self, rpc: str, cluster: str, regions: Collection[str]) -> None:
        """Refuses every method but Rotate."""
        del cluster, regions
        self.check(rpc)

    def check_cluster(
        self, rpc: str, cluster: str, organization: str | None, regions: Collection[str]
    ) -> None:
        """Refuses every method but Rotate."""
        del cluster, organization, regions
        self.check(rpc)

    def check_key(
        self, cluster: str | None, organization: str | None, region: str | None, key: RootKey
    ) -> NoReturn:
        """Refuses every key: this caller stays with the key that a region has."""
        del organization, key
        raise KeyNotGrantedError(
            f"{CALLER} stays with the key that a region has", cluster=cluster, region=region
        )

    def may_name(self, type_: str, uri: str) -> bool:
        """Names no key, since it asks about none."""
        del type_, uri
        return False

    def check_organization(self, rpc: str, organization: str) -> NoReturn:
        """Refuses: this caller knows no organization."""
        raise NotAllowedError(f"{CALLER} may not call {rpc} for organization {organization}")

    def covers_organization(self, rpc: str, organization: str, region: str | None) -> bool:
        """Covers nothing, since this caller knows no organization."""
        del rpc, organization, region
        return False

    def organizations(self, rpc: str) -> tuple[str, ...]:
        """Covers nothing, since this caller knows no organization."""
        del rpc
        return ()

    def check_organization_key(
        self, organization: str, region: str | None, key: RootKey
    ) -> NoReturn:
        """Refuses every key, as `check_key` does."""
        self.check_key(None, organization, region, key)

    def names_freely(self, rpc: str, cluster: str, organization: str) -> bool:
        """Says True, since no grant narrows this caller; it makes no cluster."""
        del rpc, cluster, organization
        return True

    def check_key_named(self, cluster: str, region: str | None, key: RootKey) -> NoReturn:
        """Refuses every key, as `check_key` does."""
        self.check_key(cluster, None, region, key)


SERVER_CALLER: Final = Caller(_AutoRotateRights())
"""The caller with which the server calls Rotate."""
