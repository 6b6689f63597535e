"""Who needs a root key, and whether it may be disabled."""

from __future__ import annotations

from collections.abc import AsyncIterator

from keyfold.aio.connection import Connection
from keyfold.calls import pages
from keyfold.calls.call import next_page
from keyfold.calls.key_usage import KeyUsagePage, first_key_usage
from keyfold.models.key_usage import KeySelector, KeyUsage, KeyUse
from keyfold.models.what_if import WhatIf


class KeyUses(Connection):
    """The calls that say what needs a root key. They make no call to a KMS."""

    async def key_usage(
        self,
        selector: KeySelector,
        *,
        what_if: WhatIf | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> KeyUsage:
        """Returns whether root keys may be disabled, why, and the first clusters that need them.

        With `what_if`, each use says what stops if the customer does that at the KMS. `page_size`
        is the most uses in the answer, 1 to 1,000, or 0 for the server's choice.

        Raises:
            InvalidSelectorError: The selector is empty or contradicts itself.

        Example:
            >>> old = keyfold.KeySelector(uri="local:acme")
            >>> usage = await client.key_usage(old)
            >>> usage.safe_to_disable, usage.reasons[0]
            (False, 'it opens 2 generations of enabled regions: callers use them')
        """
        return await self._ask(first_key_usage(selector, page_size, what_if), timeout)

    async def list_key_usage(
        self,
        selector: KeySelector,
        *,
        what_if: WhatIf | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyUse]:
        """Yields what needs root keys, by cluster, and fetches one page after another.

        `what_if` is as in `key_usage`. `page_size` is 1 to 1,000, or 0 for the server's choice;
        `timeout` is the deadline of each page. If the stored rows of clusters serve nobody, it
        raises an error at the end, as `list_clusters` does.

        Raises:
            InvalidSelectorError: The selector is empty or contradicts itself.
            RowNotAuthenticError: Some clusters' stored rows are not Keyfold's.
            ClusterBannedError: Some clusters were revoked in that state.

        Example:
            >>> vault = keyfold.KeySelector(uri="local:acme")
            >>> [(one.cluster, one.region) async for one in client.list_key_usage(vault)]
            [('prod', 'eu'), ('prod', 'us')]
        """
        page: KeyUsagePage | None = first_key_usage(selector, page_size, what_if)
        spoilt: list[str] = []
        banned: list[str] = []
        while page is not None:
            response = await self.send(page, timeout=timeout)
            for use in page.result(response).uses:
                yield use
            spoilt += response.not_authentic
            banned += response.banned
            page = next_page(page, response)
        pages.check_usable(spoilt, banned)
