"""Draws of what a client asks to change in a cluster."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from behaviour import Request, State

REGIONS: Final = ("eu", "us", "ap")
URIS: Final = ("local:a", "local:b")


KEYS: Final[Mapping[str, Sequence[str]]] = dict.fromkeys(REGIONS, URIS)
"""The URIs of the root keys that a region may have."""


def wish(choose: random.Random, state: State, keys: Mapping[str, Sequence[str]] = KEYS) -> Request:
    """Draws a change that usually makes sense, to keys that a region may have."""
    there = dict(state or ())
    if not there:
        names = sorted(choose.sample(REGIONS, choose.randint(1, 2)))
        return Request("Enable", tuple(names), tuple((n, choose.choice(keys[n])) for n in names))
    some = tuple(sorted(choose.sample(sorted(there), choose.randint(1, len(there)))))
    draw = choose.random()
    if draw < 0.06:
        return Request(
            "Enable", tuple(there), tuple((n, region.uri) for n, region in there.items())
        )
    if draw < 0.16:
        names = sorted(choose.sample(REGIONS, choose.randint(1, 2)))
        uris = tuple(
            (n, there[n].uri if n in there and choose.random() < 0.8 else choose.choice(keys[n]))
            for n in names
        )
        into_revoked = choose.random() < 0.5
        return Request("AddRegions", tuple(names), uris, into_revoked=into_revoked)
    revoked = sum(region.revoked for region in there.values())
    if choose.random() < (0.6 if revoked else 0.1):
        return Request("Restore", () if choose.random() < 0.5 else some)
    if draw < 0.40:
        return Request("Revoke", () if choose.random() < 0.5 else some)
    moved = tuple((n, choose.choice(keys[n])) for n in some if choose.random() < 0.4)
    return Request("Rotate", some, moved, fresh=choose.random() < 0.5)
