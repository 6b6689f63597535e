"""The items of a batch: each goes to its KEK, and a KEK takes all of its items at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from keyfold_server.domain.envelope import Kek, encode_context
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.data.keyring import GrantedKek, check_context

_K = TypeVar("_K")

BatchResult = tuple[bytes | KeyfoldError, GrantedKek | None]
"""The result of an item: a wrapped key or a plaintext, with the KEK that made it; or an error."""


def answered(
    items: Sequence[tuple[_K | KeyfoldError, bytes, Mapping[str, str] | None]],
    keks: Mapping[_K, GrantedKek | KeyfoldError],
    context: Mapping[str, str],
    use: Callable[[Kek, list[tuple[bytes, bytes]]], list[bytes | KeyfoldError]],
) -> list[BatchResult]:
    """Gives the items of a batch to their KEKs, and returns the result of each.

    Args:
        items: For each, the key of its KEK in `keks`, or an error; what it uses the KEK on; and its
            own context, or None if it takes the batch's.
        keks: The KEKs, or why they may not be used.
        context: The batch's context, which is checked and encoded once for each KEK.
        use: Uses a KEK on some items, each with its encoded context.
    """
    shared = {key: _bound(granted, context) for key, granted in keks.items()}
    # For each KEK the places of its items, and the items.
    shares: dict[_K, tuple[list[int], list[tuple[bytes, bytes]]]] = {key: ([], []) for key in keks}
    results: list[BatchResult | None] = [None] * len(items)
    for place, (key, used_on, own) in enumerate(items):
        if isinstance(key, KeyfoldError):
            results[place] = key, None
            continue
        bound = shared[key] if own is None else _bound(keks[key], own)
        if isinstance(bound, bytes):
            places, uses = shares[key]
            places.append(place)
            uses.append((used_on, bound))
        else:
            results[place] = bound, None
    for key, (places, uses) in shares.items():
        granted = keks[key]
        if isinstance(granted, GrantedKek):
            for place, made in zip(places, use(granted.kek, uses), strict=True):
                results[place] = made, granted if isinstance(made, bytes) else None
    return [result for result in results if result is not None]


def _bound(granted: GrantedKek | KeyfoldError, context: Mapping[str, str]) -> bytes | KeyfoldError:
    """Returns an encoded context, or why no item may use a KEK with this context."""
    try:
        encoded = encode_context(context)
        if isinstance(granted, GrantedKek):
            check_context(granted.contexts, context)
            return encoded
    except KeyfoldError as error:
        return error
    return granted
