"""Work on every region of a request at once: all of it succeeds, or the call fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from keyfold_server.domain.errors import KeyfoldError

_R = TypeVar("_R")


async def for_each_region(work: Mapping[str, Awaitable[_R]], cluster: str | None) -> dict[str, _R]:
    """Awaits the work of all regions, and returns its results by region.

    Raises:
        KeyfoldError: The error of the first region that failed; its message names every region
            that failed, and why.
    """
    results = await asyncio.gather(*work.values(), return_exceptions=True)
    failed: dict[str, KeyfoldError] = {}
    good: dict[str, _R] = {}
    for region, result in zip(work, results, strict=True):
        if isinstance(result, KeyfoldError):
            failed[region] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            good[region] = result
    raise_if_failed(failed, cluster)
    return good


def raise_if_failed(failed: Mapping[str, KeyfoldError], cluster: str | None) -> None:
    """Raises the error of the first region that failed, if one did.

    Raises:
        KeyfoldError: Its message names every region that failed, and why.
    """
    if failed:
        region, first = next(iter(failed.items()))
        error = first.at(cluster=cluster, region=region)
        error.message = "; ".join(f"region {r}: {e.message}" for r, e in failed.items())
        error.args = (error.message,)
        error.regions = tuple(failed)
        raise error
