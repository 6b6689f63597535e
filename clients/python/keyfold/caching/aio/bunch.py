"""Several keys that are lent to a block together: one batch asks for those not in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from keyfold.caching.aio.lending import AsyncAsker
from keyfold.caching.keys import LentKey, OpeningName
from keyfold.caching.reader import async_turn
from keyfold.errors import KeyfoldError


@asynccontextmanager
async def lent_together(
    asker: AsyncAsker, cluster: str, names: Sequence[OpeningName], timeout: float | None
) -> AsyncIterator[list[LentKey | KeyfoldError]]:
    """Lends keys of a cluster, each of them or the error of its own, in the order of the names."""
    await async_turn()  # As one that lends a single key does from time to time.
    here = [asker.holdings.to_open(name) for name in names]
    lent: list[LentKey | KeyfoldError | None] = [
        None if held is None else LentKey(held) for held in here
    ]
    try:
        missing = [at for at, key in enumerate(lent) if key is None]
        if missing:
            answers = await asker.ask_together(cluster, [names[at] for at in missing], timeout)
            for at, answer in zip(missing, answers, strict=True):
                lent[at] = answer if isinstance(answer, KeyfoldError) else LentKey(answer)
        yield [key for key in lent if key is not None]
    finally:
        for key in lent:
            if isinstance(key, LentKey):
                key.give_back(asker.holdings)
