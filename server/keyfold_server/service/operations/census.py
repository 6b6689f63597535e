"""The census: what an operation has before it, and how long that takes at the rates it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.cluster import Region
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.operations import MOST_KEYS, ActionKind, Census, Work
from keyfold_server.domain.seats import meets
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.kms.gates import SHARE
from keyfold_server.service.operations.items import Item

_REWRAP: Final = 3
"""Calls of a KMS that rewrap a KEK: to open it, to wrap it, and to open that again."""

_CREATE: Final = 2
"""Calls of a KMS that make a new KEK: to wrap it, and to open that again."""

_TEST: Final = 3
"""Calls of a KMS that try a key: to describe it, to wrap and to unwrap."""

_RECHECK: Final = 2
"""Calls of a KMS that prove a key: to unwrap and to wrap."""


class Counting:
    """Counts the items of one operation. It keeps nothing of an item but its root key."""

    def __init__(self, work: Work, kms: KmsClient, rates: Rates) -> None:
        """Takes the operation's work, what knows the accounts of keys, and the set rates."""
        self._work = work
        self._kms = kms
        self._rates = rates
        self._regions = 0
        self._calls = 0
        self._pinned = 0
        self._keys: set[str] = set()
        self._accounts: dict[tuple[str, str, str], str] = {}
        # By what the gates tell apart: root key, account and provider.
        self._gates: Counter[tuple[str, ...]] = Counter()

    async def add(self, item: Item) -> None:
        """Counts an item."""
        self._regions += 1
        region = item.region
        if region is None:
            return
        calls = _calls(self._work, region)
        self._calls += calls
        self._pinned += await self._fails_as_pinned(region)
        if len(self._keys) < MOST_KEYS:
            self._keys.add(item.root)
        if not calls:
            return
        root = region.newest.current.root
        key = (root.type, root.uri, root.principal)
        account = self._accounts.get(key)
        if account is None:
            try:
                account = (await self._kms.groups(root)).holder
            except KeyfoldError:
                account = ""  # The step itself will say what is wrong.
            if len(self._accounts) >= MOST_KEYS:
                self._accounts.clear()
            self._accounts[key] = account
        gates = [("account", root.type, account), ("provider", root.type)]
        if ("key", *key) in self._gates or len(self._gates) < MOST_KEYS:
            gates.append(("key", *key))
        for gate in gates:
            self._gates[gate] += calls

    def census(self) -> Census:
        """Returns what was counted."""
        rates = {
            "key": self._rates.per_key,
            "account": self._rates.per_account,
            "provider": self._rates.per_provider,
        }
        longest = max(self._spans(rates), default=0.0)
        return Census(self._regions, len(self._keys), self._calls, round(longest, 3), self._pinned)

    async def _fails_as_pinned(self, region: Region) -> bool:
        """Says whether the step fails, because a uri names one version of a key.

        Such a key is not followed, and has no newer version (`KeyVersionPinnedError`).
        """
        work, root = self._work, region.newest.current.root
        follows = region.policy.auto_rotate
        match work.kind:
            case ActionKind.ROTATE if work.key_spec is None:
                return not work.new_generation and await self._is_pinned(root)
            case ActionKind.ROTATE | ActionKind.MOVE_LINK if work.key_spec is not None:
                spec = work.key_spec
                if not follows or meets(spec, region.key_spec):
                    return False
                return await self._is_pinned(RootKey(spec.type, spec.uri, options=spec.options))
            case ActionKind.POLICY if work.policy is not None:
                return work.policy.auto_rotate and await self._is_pinned(root)
            case _:
                return False

    async def _is_pinned(self, root: RootKey) -> bool:
        try:
            return await self._kms.pinned(root) is not None
        except KeyfoldError:
            return False  # The step itself will say what is wrong.

    def _spans(self, rates: dict[str, float]) -> Iterator[float]:
        for (kind, *_), calls in self._gates.items():
            yield calls / max(1.0, rates[kind] * SHARE)


def _calls(work: Work, region: Region) -> int:
    """Returns the calls of KMSs for one region, if all go well."""
    match work.kind:
        case ActionKind.ROTATE:
            fresh = _CREATE if work.new_generation else 0
            return fresh + _REWRAP * len(region.generations)
        case ActionKind.MOVE_LINK:
            there = meets(work.key_spec, region.key_spec)
            return 0 if there else _REWRAP * len(region.generations)
        case ActionKind.TEST:
            return _TEST
        case ActionKind.RECHECK:
            return _RECHECK
        case ActionKind.POLICY:
            return 0
