"""Checks of the log for people: VerifyEvents and GetAnchor (protocol A3)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import InvalidPageError, NotAllowedError
from keyfold_server.domain.events import LogCheck, LogMark
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Rights
from keyfold_server.service import tokens
from keyfold_server.service.events import anchors
from keyfold_server.service.events.alarm import LogAlarm
from keyfold_server.service.events.anchors import AnchorCheck, SignedAnchor
from keyfold_server.service.storage import Storage

CHECKED: Final = 2_000
"""Most entries that one call verifies."""

MAX_ANCHORS: Final = 1_000
"""Most anchors in one call."""

_TOKEN: Final = struct.Struct(">Q16s32s")
_PURPOSE: Final = "page of a verification"


@dataclass(frozen=True, slots=True)
class VerifiedResult:
    """What one call of VerifyEvents found.

    Attributes:
        check: What the chain shows.
        message: What is wrong with a broken link, in words; empty if none is broken.
        anchors: What the log says to each anchor of the request.
        next_token: The token of the next call; empty if there is none.
    """

    check: LogCheck
    message: str
    anchors: tuple[AnchorCheck, ...]
    next_token: str


class LogChecks:
    """Answers VerifyEvents and GetAnchor."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        alarm: LogAlarm,
        *,
        check_fresh: Callable[[float], None],
    ) -> None:
        """Joins the checks to the store.

        Args:
            storage: The store.
            clock: Time.
            alarm: Tells of broken links.
            check_fresh: Raises if this replica is stale; see `Status`.
        """
        self._storage = storage
        self._clock = clock
        self._alarm = alarm
        self._check_fresh = check_fresh

    async def verify(self, rights: Rights, token: str, lines: Collection[str]) -> VerifiedResult:
        """Verifies the next part of the log, and holds the log against anchors.

        Raises:
            NotAllowedError: The caller's grants narrow what it may see.
            InvalidPageError: The token is not valid, or there are too many anchors.
            RowNotAuthenticError: The row that names the ends of the log is not authentic.
            StoreStaleError: This replica has not seen the store for too long.
        """
        self._admit("VerifyEvents", rights)
        if len(lines) > MAX_ANCHORS:
            raise InvalidPageError(
                f"one call takes at most {MAX_ANCHORS:,} anchors; send the others with another",
                field="anchors",
            )
        after, run = self._mark_in(token), self._storage.run
        check = await run(self._storage.store.check_log, after, CHECKED)
        message = ""
        if check.broken is not None:
            self._alarm.met(check.broken)
            message = (
                f"entry {check.broken} of the log is missing, or is not the one that Keyfold wrote "
                f"after entry {check.broken - 1}"
            )
        ended = check.complete or check.broken is not None
        return VerifiedResult(
            check,
            message,
            await self._held(lines),
            "" if ended else self._token(check.last),
        )

    async def anchor(self, rights: Rights) -> SignedAnchor:
        """Returns a signed line about the newest entry of the log.

        Raises:
            NotAllowedError: The caller's grants narrow what it may see.
            RowNotAuthenticError: The log does not have that entry as Keyfold wrote it.
            StoreStaleError: This replica has not seen the store for too long.
        """
        self._admit("GetAnchor", rights)
        log = await self._storage.run(self._storage.store.log_marks, ())
        return anchors.signed(log, self._storage.store.mac)

    async def _held(self, lines: Collection[str]) -> tuple[AnchorCheck, ...]:
        if not lines:
            return ()
        said = [anchors.parsed(line) for line in lines]
        numbers = {each.number for each in said if each is not None}
        log = await self._storage.run(self._storage.store.log_marks, numbers)
        return tuple(anchors.held(each, log, self._storage.store.mac) for each in said)

    def _admit(self, rpc: str, rights: Rights) -> None:
        if not rights.covers(rpc, None, None):
            raise NotAllowedError(
                f"{rights.identity.name} may not call {rpc}: the log is one chain for the whole "
                "store; ask for a grant of the role auditor that narrows neither clusters nor "
                "organizations nor regions"
            )
        self._check_fresh(self._clock.monotonic())

    def _token(self, mark: LogMark) -> str:
        data = _TOKEN.pack(mark.number, mark.entry_id, mark.mac)
        return tokens.sealed(self._storage.store.mac, _PURPOSE, data)

    def _mark_in(self, token: str) -> LogMark | None:
        """Returns where the part before ended, by its token; None for the first part."""
        if not token:
            return None
        data = tokens.opened(self._storage.store.mac, _PURPOSE, token)
        if data is None:
            raise InvalidPageError(
                "page_token is not one that this server gave out; pass next_page_token back as it "
                "came",
                field="page_token",
            )
        return LogMark(*_TOKEN.unpack(data))
