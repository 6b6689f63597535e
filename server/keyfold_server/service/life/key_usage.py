"""Key usage: the pages of ListKeyUsage, and the question whether a root key may be disabled.

A caller sees the uses in the regions that it may read. It also hears how many others there are,
and whether the key is safe to disable in view of all of them (protocol C7), but only if it may ask
about these keys: it may see everything, a grant lets it name the key, or it sees a use of the
customer's own key itself. Anybody else gets the answer that a key gets which nobody uses (protocol
C8).

ListKeyUsage calls no KMS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    InvalidPageError,
    InvalidSelectorError,
    KeyfoldError,
    UnknownProviderError,
    Unusable,
)
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.key_names import KeyNames
from keyfold_server.domain.key_usage import KeyQuery, KeyUse, UsePlace
from keyfold_server.domain.keyspec import MAX_URI, RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.retention import oldest_backup
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.timing import Timing
from keyfold_server.domain.what_if import KeyImpact, WhatIf
from keyfold_server.service import tokens
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.key_safety import (
    Doubts,
    KeySafety,
    doubtful,
    hidden_from,
    judged,
)
from keyfold_server.service.life.what_if import WhatIfs, notes
from keyfold_server.service.storage import Storage

_RPC: Final = "ListKeyUsage"

MAX_PAGE: Final = 1_000
"""Most uses on one page."""

DEFAULT_PAGE: Final = 100
"""Uses on a page if the request does not say how many."""

AMBIENT: Final = "ambient"
"""The word for the server's own identity, as in the policy file."""

_TENANT: Final = re.compile("[0-9a-fA-F-]{36}")
"""The id of a tenant: a GUID."""

_PURPOSE: Final = "page of key usage"
_DIGEST: Final = 8

_UNNAMED: Final = (
    "you may see no use of it, and no grant of yours names it, so Keyfold does not say whether "
    "others use it; ask somebody whose grants cover every cluster"
)
_SHARED: Final = (
    "others may use it, too, and Keyfold does not say; name the customer's own key or its holder "
    "as well, or ask somebody whose grants cover every cluster"
)


@dataclass(frozen=True, slots=True)
class KeySelector:
    """Chooses root keys, in the caller's words. What is not empty must match.

    Attributes:
        uri: A root key's uri.
        key_version: One of its versions.
        principal: The principal, or `AMBIENT`.
        holder: What holds the keys: an account, project, vault, origin or tenant.
    """

    uri: str = ""
    key_version: str = ""
    principal: str = ""
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """The root keys that a selector chooses.

    Attributes:
        query: Chooses their uses in the store.
        key: The root key in canonical form, if the selector names one that a provider knows.
        unknown: Why no provider knows the uri; None: one does, or there is no uri.
    """

    query: KeyQuery
    key: RootKey | None = None
    unknown: KeyfoldError | None = None


@dataclass(frozen=True, slots=True)
class KeyUsagePage:
    """One page of uses.

    Attributes:
        selected: The root keys in question.
        uses: The uses that the caller may see.
        spoilt: The errors of clusters that could not be verified, and that the caller may see.
        next_token: The token of the next page; empty: there is none.
        safety: Whether the keys may be disabled. Only the first page says so, but every page says
            what could not be verified.
        impacts: What the action in question does to each of the uses; empty without one.
    """

    selected: Selected
    uses: tuple[KeyUse, ...]
    spoilt: tuple[Unusable, ...]
    next_token: str
    safety: KeySafety
    impacts: tuple[KeyImpact, ...] = ()


class KeyUsage:
    """Answers ListKeyUsage."""

    def __init__(
        self,
        storage: Storage,
        kms: KmsClient,
        clock: Clock,
        timing: Timing,
        *,
        names: KeyNames,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins ListKeyUsage to the store.

        Args:
            storage: The store.
            kms: The providers, which know what keys have in common. No KMS is called.
            clock: Time.
            timing: The server's time spans.
            names: What key uris and PLATFORM mean.
            check_fresh: Raises if this replica is stale; see `Status`.
        """
        self._storage = storage
        self._kms = kms
        self._clock = clock
        self._backup_retention = timing.backup_retention
        self._what_ifs = WhatIfs(kms, timing)
        self._names = names
        self._check_fresh = check_fresh

    async def page(
        self,
        rights: Rights,
        selector: KeySelector,
        size: int,
        token: str,
        what: WhatIf | None = None,
    ) -> KeyUsagePage:
        """Returns a page of uses, by cluster, region, generation and wrap.

        Args:
            rights: The caller's rights.
            selector: The root keys in question.
            size: Most uses on the page; 0: `DEFAULT_PAGE`.
            token: The token of the page; empty: the first one.
            what: What a customer may do to the keys, or None.

        Raises:
            InvalidSelectorError: The selector is empty, names a version without a key, or names
                one to which the KMS cannot do that.
            InvalidKeySpecError: The uri is malformed.
            UnknownProviderError: The uri is that of no provider.
            InvalidPageError: The size is out of bounds, or the token is not valid.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        selected = await self._selected(selector)
        if what is not None:
            meant = await self._what_ifs.meant(what, selected.query, selected.key)
            selected = replace(selected, query=meant)
        asked = sha256(repr(selected.query).encode()).digest()[:_DIGEST]
        after = self._place_in(token, asked)
        self._check_fresh(self._clock.monotonic())
        covered, store = rights.coverage(None, _RPC), self._storage.store
        found = await self._storage.run(
            store.key_usage, selected.query, covered, after, size or DEFAULT_PAGE
        )
        uses = tuple(
            use
            for use in found.entries
            if isinstance(use, KeyUse)
            and rights.covers(_RPC, use.cluster, use.organization, use.region)
        )
        errors = [error for error in found.entries if not isinstance(error, KeyUse)]
        # Nobody can trust the organization in such a row.
        spoilt = tuple(e for e in errors if rights.covers(_RPC, e.cluster or "", None))
        doubts = Doubts(_names(spoilt), len(spoilt) < len(errors))
        # The first page answers for all uses: to count them for each page would make a list of all
        # cost the square of their number.
        safety = doubtful(doubts)
        if after is None:
            safety = await self._safety(selected, rights, uses, doubts)
        following = ""
        if found.more and found.last is not None:
            data = asked + json.dumps(found.last, ensure_ascii=True).encode()
            following = tokens.sealed(store.mac, _PURPOSE, data)
        if what is None:
            return KeyUsagePage(selected, uses, spoilt, following, safety)
        impacts = await self._what_ifs.impacts(what, selected.query, uses)
        if after is None:
            told = (*safety.reasons, *notes(what, selected.query))
            safety = replace(safety, reasons=told)
        return KeyUsagePage(selected, uses, spoilt, following, safety, impacts)

    async def _safety(
        self, selected: Selected, rights: Rights, uses: Collection[KeyUse], doubts: Doubts
    ) -> KeySafety:
        """Returns whether the keys may be disabled, given the first page of their uses.

        Raises:
            InvalidKeySpecError: The uri is malformed, and nothing uses it.
            UnknownProviderError: The uri is that of no provider, and nothing uses it.
        """
        why = None
        if not any(each.is_whole for each in rights.coverage(None, _RPC)):
            why = self._why_hidden(rights, selected, uses)
        if why is not None and not uses:
            if selected.unknown is not None:
                raise selected.unknown
            return KeySafety(None, (why,))
        safety = await self._together(selected, rights, doubts, why)
        found = safety.visible or safety.hidden or doubts != Doubts()
        if selected.unknown is not None and not found:
            raise selected.unknown
        return safety

    async def _together(
        self, selected: Selected, rights: Rights, doubts: Doubts, why: str | None
    ) -> KeySafety:
        """Returns whether the keys may be disabled; `why`: why the caller may not know.

        Where the KMS cannot disable what the caller selected by itself, the answer is about all
        that goes with it. The counts are of the selected uses.
        """
        query = selected.query
        told = await self._judged(query, rights, doubts, why)
        disabled, because = await self._what_ifs.disabled_with(query, selected.key)
        if disabled == query:
            return told
        whole = await self._judged(disabled, rights, doubts, why)
        return replace(
            whole,
            reasons=(because, *whole.reasons),
            hidden=told.hidden,
            visible=told.visible,
        )

    async def _judged(
        self, query: KeyQuery, rights: Rights, doubts: Doubts, why: str | None
    ) -> KeySafety:
        now, kept = round(self._clock.wall() * 1000), self._backup_retention
        summary = await self._storage.run(
            self._storage.store.key_usage_summary,
            query,
            rights.coverage(None, _RPC),
            oldest_backup(now, kept),
        )
        if why is not None:
            return hidden_from(summary, why, now, kept)
        doubts = replace(doubts, vendors=await self._is_vendors(query))
        return judged(summary, doubts, now, kept)

    def _why_hidden(
        self, rights: Rights, selected: Selected, uses: Collection[KeyUse]
    ) -> str | None:
        """Returns why a narrowed caller hears nothing of others' uses; None: it hears of them."""
        key = selected.key
        if key is not None and rights.may_name(key.type, key.uri):
            return None
        if not uses:
            return _UNNAMED
        vendors = {key.uri for key in self._names.platform_keys}
        asks_customer = selected.query.family is not None or selected.query.holder is not None
        if asks_customer and any(use.uri not in vendors for use in uses):
            return None
        return _SHARED

    async def _is_vendors(self, query: KeyQuery) -> bool:
        """Says whether the settings name one of the keys as PLATFORM key."""
        for key in self._names.platform_keys:
            try:
                groups = await self._kms.groups(key)
            except KeyfoldError:
                # It is another region's, and this replica has no provider that reads its uri.
                groups = KeyGroups(key.uri, holder="")
            if (
                query.family in (None, groups.family)
                and query.holder in (None, groups.holder, groups.tenant)
                and query.principal in (None, key.principal)
            ):
                return True
        return False

    async def _selected(self, selector: KeySelector) -> Selected:
        """Returns the root keys that a selector chooses."""
        _check(selector)
        query = KeyQuery(
            principal="" if selector.principal == AMBIENT else selector.principal or None,
            holder=_holder(selector.holder),
            key_version=selector.key_version or None,
        )
        if not selector.uri:
            return Selected(query)
        try:
            key = await self._canonical(selector.uri)
        except (InvalidKeySpecError, UnknownProviderError) as error:
            # It may be the key of a provider, or at an origin, that the settings no longer have.
            unknown = type(error)(error.message, field="selector.uri")
            return Selected(replace(query, family=selector.uri, uri=selector.uri), unknown=unknown)
        pinned = await self._kms.pinned(key)
        if None not in (pinned, query.key_version) and pinned != query.key_version:
            raise InvalidSelectorError(
                f"the uri names version {pinned}, and key_version another one; leave one of them "
                "out",
                field="selector.key_version",
            )
        groups: KeyGroups = await self._kms.groups(key)
        query = replace(
            query,
            family=groups.family,
            uri=key.uri,
            key_version=query.key_version or pinned,
            principal=await self._principal(key, query.principal),
        )
        return Selected(query, key)

    async def _canonical(self, uri: str) -> RootKey:
        key = RootKey(self._names.type_of(uri), uri)
        provider = await self._kms.provider(key.type)
        return provider.canonical(key)

    async def _principal(self, key: RootKey, principal: str | None) -> str | None:
        """Returns a principal as the provider writes it, if the provider still takes it."""
        if not principal:
            return principal
        provider = await self._kms.provider(key.type)
        try:
            return provider.canonical(replace(key, principal=principal)).principal
        except InvalidKeySpecError:
            return principal

    def _place_in(self, token: str, asked: bytes) -> UsePlace | None:
        """Returns the place of the last use of the page before; None for the first page."""
        if not token:
            return None
        data = tokens.opened(self._storage.store.mac, _PURPOSE, token)
        if data is None or data[:_DIGEST] != asked:
            raise InvalidPageError(
                "page_token is not one that this server gave out for this selector; pass "
                "next_page_token back as it came, with the same selector",
                field="page_token",
            )
        return UsePlace(*json.loads(data[_DIGEST:]))


def _check(selector: KeySelector) -> None:
    """Refuses a selector that says nothing, or too much."""
    named = {
        "uri": selector.uri,
        "key_version": selector.key_version,
        "auth_principal": selector.principal,
        "holder": selector.holder,
    }
    for name, text in named.items():
        if len(text) > MAX_URI or not text.isprintable():
            raise InvalidSelectorError(
                f"{name} must be at most {MAX_URI} printable characters", field=f"selector.{name}"
            )
    if selector.key_version and not selector.uri:
        raise InvalidSelectorError(
            "key_version is a version of the key in uri; give the uri, too",
            field="selector.key_version",
        )
    if not (selector.uri or selector.principal or selector.holder):
        raise InvalidSelectorError(
            "the selector is empty; give at least one of uri, auth_principal and holder",
            field="selector",
        )


def _holder(text: str) -> str | None:
    """Returns a holder as the store has it: origins and ids of tenants in small letters."""
    if "://" in text or _TENANT.fullmatch(text):
        return text.rstrip("/").lower()
    return text or None


def _names(errors: Iterable[Unusable]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(error.cluster or "a cluster without a name" for error in errors))
