"""What if: what stops for the uses of a root key, if a customer takes something away at the KMS.

The providers foresee what their KMSs will answer. A provider that foresees nothing, or that this
server no longer has, gets a cautious answer (`domain.what_if`). No KMS is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from keyfold_server.domain.errors import InvalidSelectorError, UnknownProviderError
from keyfold_server.domain.key_usage import KeyQuery, KeyUse
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.timing import Timing
from keyfold_server.domain.what_if import (
    Foreseen,
    Foresees,
    KeyImpact,
    Reach,
    Supposition,
    WhatIf,
    cautious,
    impact,
)
from keyfold_server.service.kms.client import KmsClient

_ACTION: Final = {
    WhatIf.DISABLE: "disables a key",
    WhatIf.DELETE: "deletes a key",
    WhatIf.REMOVE_WRAP_PERMISSION: "grants permissions on a key",
    WhatIf.REMOVE_UNWRAP_PERMISSION: "grants permissions on a key",
    WhatIf.REMOVE_DESCRIBE_PERMISSION: "grants permissions on a key",
    WhatIf.REMOVE_PRINCIPAL: "lets a principal use a key",
}


class WhatIfs:
    """Answers the part of ListKeyUsage that asks what would stop."""

    def __init__(self, kms: KmsClient, timing: Timing) -> None:
        """Takes the providers, and the server's time spans for regions without their own."""
        self._kms = kms
        self._timing = timing

    async def meant(self, what: WhatIf, query: KeyQuery, key: RootKey | None) -> KeyQuery:
        """Returns the query that finds all uses that an action concerns.

        Args:
            what: The action.
            query: What the caller selected.
            key: The root key in it, if there is one that a provider knows.

        Raises:
            InvalidSelectorError: The query names a version, and the KMS cannot do this to one.
        """
        if query.key_version is None:
            return query
        reach = await self._reach(what, key)
        type_ = "its KMS" if key is None else key.type
        if reach is Reach.KEY:
            raise InvalidSelectorError(
                f"{type_} {_ACTION[what]} with all its versions; ask about the key without a "
                "version",
                field="selector.key_version",
            )
        if reach is Reach.VERSION:
            return query
        if not query.key_version.isdecimal():
            raise InvalidSelectorError(
                f"a version of {type_} is a number; write it as GetStatus shows it",
                field="selector.key_version",
            )
        return replace(query, and_older=True)

    async def disabled_with(self, query: KeyQuery, key: RootKey | None) -> tuple[KeyQuery, str]:
        """Returns the query of all that is disabled with what a query chooses, and why it is more.

        Args:
            query: What the caller selected.
            key: The root key in it, if there is one that a provider knows.
        """
        if query.key_version is None or query.and_older:
            return query, ""
        reach = await self._reach(WhatIf.DISABLE, key)
        if reach is Reach.VERSION:
            return query, ""
        if reach is Reach.AND_OLDER and query.key_version.isdecimal():
            why = (
                "its KMS disables a version only together with all older ones, so this counts them"
            )
            return replace(query, and_older=True), why
        why = "its KMS disables a key with all its versions, so this counts every version"
        return replace(query, key_version=None), why

    async def impacts(
        self, what: WhatIf, query: KeyQuery, uses: Iterable[KeyUse]
    ) -> tuple[KeyImpact, ...]:
        """Returns what the action does to each use.

        Args:
            what: The action.
            query: What `meant` returned.
            uses: Uses that it chooses.
        """
        supposed = Supposition(what, query.uri or "", query.key_version or "")
        return tuple([await self._impact(supposed, use) for use in uses])

    async def _impact(self, supposed: Supposition, use: KeyUse) -> KeyImpact:
        ttl, grace = use.policy.cache_ttl, use.policy.outage_grace
        return impact(
            use,
            await self._foreseen(supposed, use),
            self._timing.cache_ttl if ttl is None else ttl,
            self._timing.outage_grace if grace is None else grace,
        )

    async def _foreseen(self, supposed: Supposition, use: KeyUse) -> Foreseen:
        provider = await self._provider(use.key_type)
        if provider is None:
            return cautious(supposed)
        root = RootKey(use.key_type, use.uri, use.principal)
        return provider.foreseen(supposed, root, use.key_version)

    async def _reach(self, what: WhatIf, key: RootKey | None) -> Reach:
        provider = None if key is None else await self._provider(key.type)
        return Reach.KEY if provider is None else provider.reach(what)

    async def _provider(self, type_: str) -> Foresees | None:
        """Returns a provider that foresees what its KMS answers, or None."""
        try:
            provider = await self._kms.provider(type_)
        except UnknownProviderError:
            return None
        return provider if isinstance(provider, Foresees) else None


def notes(what: WhatIf, query: KeyQuery) -> list[str]:
    """Returns what the impacts of single uses do not say, one line each.

    Args:
        what: The action.
        query: What `WhatIfs.meant` returned.
    """
    told = []
    if query.and_older:
        told.append(
            "the KMS stops a version only together with all older ones, so their uses are listed, "
            "too; it never stops the newest"
        )
    elif query.key_version is not None:
        told.append(
            "if this version is the one that wraps, rotations of the key's other uses fail as "
            "well, until another version wraps"
        )
    if what is WhatIf.REMOVE_PRINCIPAL and (query.family or query.principal is None):
        told.append(
            "a principal that is gone is gone for all keys; to see all its uses, select it by "
            "auth_principal alone, or at a Vault by the holder"
        )
    if what is WhatIf.DELETE:
        told.append("a deletion is never called safe: safe_to_disable says nothing about it")
    return told
