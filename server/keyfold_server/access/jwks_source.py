"""An issuer's keys as they are now: fetched, kept fresh, and kept for a while without the issuer.

Invariants: the event loop never waits for a file or a socket; there is one fetch at a time, and
unknown key ids, which anyone can make up, cause at most one in ten seconds; a key that the issuer
has withdrawn is gone with the next good fetch, and every key after 24 h without one. It knows
nothing of tokens.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

from keyfold_server.access import jwks, jwks_fetch
from keyfold_server.access.jwks import KeySet, KeySetError
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.ports import Clock

log = logging.getLogger(__name__)

PERIOD: Final = 300.0
"""Seconds between two fetches over HTTPS, and so how long a withdrawn key may live on."""

FILE_PERIOD: Final = 2.0
"""Seconds between two looks at a file. Its contents are compared: they are small, and a stamp can
stay the same through two quick changes."""

RETRY: Final = 15.0
"""Seconds until the next fetch over HTTPS after one that failed."""

UNKNOWN_KEY_PAUSE: Final = 10.0
"""Seconds between two fetches that unknown key ids may cause."""

MAX_AGE: Final = 24 * 3_600.0
"""Seconds that the last good set is used while no other can be had."""

TIMEOUT: Final = 5.0
"""Seconds that an answer of the issuer may take in all."""


class KeySource:
    """One issuer's key set. Belongs to the event loop, but for the fetching itself."""

    def __init__(self, where: str, clock: Clock, context: ssl.SSLContext | None = None) -> None:
        """Names the source; touches nothing yet.

        Args:
            where: An `https://` url, or the path of a file.
            clock: Tells how old the set is.
            context: What the issuer's certificate is checked with; None: the system's.

        Raises:
            SetupError: `where` is neither.
        """
        self._fetch = jwks_fetch.fetcher(where, TIMEOUT, context)
        self._where: Final = where
        self._remote: Final = "://" in where
        self._clock = clock
        self._keys: KeySet | None = None
        self._text = b""
        self._good_at = 0.0
        self._asked_at = float("-inf")
        self._fault = ""
        self._under_way: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads the set for the first time.

        An issuer out of reach does not keep the server from starting: callers with certificates
        need it not, and it is asked again.

        Raises:
            SetupError: The file is missing or no key set.
        """
        await self.refresh()
        if self._keys is None and not self._remote:
            raise SetupError(f"KEYFOLD_JWT_JWKS: {self._where}: {self._fault}")

    async def keep(self) -> None:
        """Keeps the set fresh until it is cancelled; a failed fetch never ends it."""
        while True:
            if self._remote:
                await asyncio.sleep(RETRY if self._fault else PERIOD)
            else:
                await asyncio.sleep(FILE_PERIOD)
            await self.refresh()

    def current(self) -> KeySet | None:
        """Returns the keys; None where there are none, or where they are too old to be trusted."""
        if self._clock.monotonic() - self._good_at > MAX_AGE:
            return None
        return self._keys

    def may_help(self) -> bool:
        """Says whether a refresh may bring a key that is not known, and may be made for it."""
        if self._under_way is not None:
            return True
        return self._clock.monotonic() - self._asked_at >= UNKNOWN_KEY_PAUSE

    async def refresh(self) -> None:
        """Fetches the set, or joins the fetch under way; failing, it keeps the one it has.

        The fetch does not belong to who asks: one caller who gives up must not end it for the
        others who wait for it.
        """
        if self._under_way is None:
            self._asked_at = self._clock.monotonic()
            self._under_way = asyncio.create_task(self._refresh())
            self._under_way.add_done_callback(self._ended)
        await asyncio.shield(self._under_way)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._under_way = None

    async def _refresh(self) -> None:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT * 2):
                text = await jwks_fetch.in_thread(self._fetch)
            # The same object stays where nothing changed: what was verified with it stays known.
            keys = self._keys if text == self._text else None
            keys = keys or jwks.parse(text)
        except (KeySetError, TimeoutError) as error:
            self._failed(str(error) or "the issuer's host name was not resolved in time")
            return
        except Exception:
            # Whatever it is, the next look may do better, and nobody's call fails with it.
            log.exception("token keys cannot be read", extra={"jwks": self._where})
            self._failed("unexpected")
            return
        if self._fault or keys is not self._keys:
            log.info(
                "token keys read",
                extra={"jwks": self._where, "keys": len(keys), "unusable": keys.skipped},
            )
        self._keys, self._text, self._good_at, self._fault = keys, text, began, ""

    def _failed(self, fault: str) -> None:
        """Keeps what there is; one line for each change of fault, not for each attempt."""
        if fault != self._fault:
            log.warning(
                "token keys cannot be read; the last good ones are used for up to 24 h",
                extra={"jwks": self._where, "fault": fault, "have": self._keys is not None},
            )
        self._fault = fault
