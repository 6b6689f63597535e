"""Fetches an issuer's keys, keeps them fresh, and keeps them for a while without the issuer.

Invariants: the event loop never waits for a file or a socket. Only one fetch runs at a time, and
unknown key ids, which anyone can make up, cause at most one fetch in ten seconds. A key that the
issuer has withdrawn is gone after the next successful fetch, and all keys are gone after 24 hours
without one. The module knows nothing of tokens.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

from keyfold_server.access.tokens import fetching, key_set
from keyfold_server.access.tokens.key_set import KeySet, KeySetError
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.ports import Clock

log = logging.getLogger(__name__)

PERIOD: Final = 300.0
"""Seconds between two fetches over HTTPS, and so the longest that a withdrawn key stays valid."""

FILE_PERIOD: Final = 2.0
"""Seconds between two readings of a file. The contents are compared: they are small, and a file's
times may not show two quick changes."""

RETRY: Final = 15.0
"""Seconds from a failed fetch over HTTPS to the next one."""

UNKNOWN_KEY_PAUSE: Final = 10.0
"""Seconds between two fetches that unknown key ids cause."""

MAX_AGE: Final = 24 * 3_600.0
"""Seconds that the last good set stays in use while no fetch succeeds."""

TIMEOUT: Final = 5.0
"""Seconds that an answer of the issuer may take in all."""


class KeySource:
    """One issuer's key set. It belongs to the event loop; only the fetch runs in a thread."""

    def __init__(self, where: str, clock: Clock, context: ssl.SSLContext | None = None) -> None:
        """Names the source; `start` reads it.

        Args:
            where: An `https://` url, or the path of a file.
            clock: The clock that tells the age of the set.
            context: The TLS context that checks the issuer's certificate; None takes the system's.

        Raises:
            SetupError: `where` is neither.
        """
        self._fetch = fetching.fetcher(where, TIMEOUT, context)
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

        The server starts even if it cannot reach the issuer: callers with certificates do not need
        the keys, and `turn` tries again.

        Raises:
            SetupError: The file is missing, or it is not a key set.
        """
        await self.refresh()
        if self._keys is None and not self._remote:
            raise SetupError(f"KEYFOLD_JWT_JWKS: {self._where}: {self._fault}")

    async def turn(self) -> None:
        """Waits until it is time to fetch the set again, and does so."""
        if self._remote:
            await asyncio.sleep(RETRY if self._fault else PERIOD)
        else:
            await asyncio.sleep(FILE_PERIOD)
        await self.refresh()

    def current(self) -> KeySet | None:
        """Returns the keys; None if no fetch has succeeded, or if the keys are too old to trust."""
        if self._clock.monotonic() - self._good_at > MAX_AGE:
            return None
        return self._keys

    @property
    def fault(self) -> str:
        """Why the last fetch failed; empty: it did not."""
        return self._fault

    def may_help(self) -> bool:
        """Says whether the caller may call `refresh` to look for an unknown key."""
        if self._under_way is not None:
            return True
        return self._clock.monotonic() - self._asked_at >= UNKNOWN_KEY_PAUSE

    async def refresh(self) -> None:
        """Fetches the set, or waits for the fetch that is under way; keeps the old set if it fails.

        The fetch does not belong to any one caller: if one gives up, the others still get it.
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
                text = await fetching.in_thread(self._fetch)
            # Keep the same object if nothing changed, so that verified tokens stay remembered.
            keys = self._keys if text == self._text else None
            keys = keys or key_set.parse(text)
        except (KeySetError, TimeoutError) as error:
            self._failed(str(error) or "the issuer's host name was not resolved in time")
            return
        except Exception:
            # The next attempt may succeed, and no call should fail because of this one.
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
        """Keeps the old set, and logs a line for each new fault, not for each attempt."""
        if fault != self._fault:
            log.warning(
                "token keys cannot be read; the last good ones stay in use for up to 24 h",
                extra={"jwks": self._where, "fault": fault, "have": self._keys is not None},
            )
        self._fault = fault
