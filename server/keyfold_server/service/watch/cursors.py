"""Named cursors: who reads with which, and what callers may do with them (protocol S0, S11)."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.cursors import Cursor, CursorKey, CursorReport
from keyfold_server.domain.errors import (
    CursorExpiredError,
    CursorNotFoundError,
    CursorTakenError,
    KeyfoldError,
)
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.log import AuditEvent, Position
from keyfold_server.domain.rights import Caller
from keyfold_server.service.storage import Storage
from keyfold_server.service.watch.tokens import ResumeTokens

log = logging.getLogger(__name__)

_CLAIM: Final = "cursors"
"""Name of the claim that lets one replica of all show how far behind cursors are."""

_HOLDS: Final = 27_000
"""Milliseconds for which the claim holds: a little less than the time between two turns."""

EVERY: Final = 30.0
"""Seconds between two turns to show how far behind cursors are."""

SHOWN: Final = 100
"""Most cursors that the metrics show, so that callers who make many do not fill Prometheus."""

_SESSION: Final = 16


class CursorReaders:
    """The cursors, and the streams of this replica that read with one."""

    def __init__(self, storage: Storage, tokens: ResumeTokens) -> None:
        """Takes the store, and what opens tokens."""
        self._storage = storage
        self._tokens = tokens
        self._reading: dict[CursorKey, tuple[bytes, Callable[[KeyfoldError], None]]] = {}

    async def take(
        self,
        caller: Caller,
        name: str,
        scope: bytes,
        begin: Position,
        end: Callable[[KeyfoldError], None],
    ) -> Cursor:
        """Takes a cursor over for a stream, and ends the stream that had it on this replica.

        Args:
            caller: The caller, who owns the cursor.
            name: The cursor's name.
            scope: The digest of what the stream asks for.
            begin: Where a new cursor begins.
            end: Ends the stream once it has lost the cursor.
        """
        key = CursorKey(caller.owner, name)
        session = secrets.token_bytes(_SESSION)
        event = _event(caller, "make", key)
        store = self._storage.store
        cursor = await self._storage.decide(store.take_cursor, key, session, scope, begin, event)
        before = self._reading.get(key)
        self._reading[key] = session, end
        if before is not None:
            before[1](taken(name))
        return cursor

    def leave(self, cursor: Cursor) -> None:
        """Forgets a stream that has ended."""
        reading = self._reading.get(cursor.key)
        if reading is not None and reading[0] == cursor.session:
            del self._reading[cursor.key]

    async def look(self) -> None:
        """Ends the streams whose cursor another replica's reader has taken, or that is gone.

        One read serves all streams. The fencing token is what keeps a cursor safe meanwhile.
        """
        if not self._reading:
            return
        known = {
            report.cursor.key: report.cursor
            for report in await self._storage.run(self._storage.store.cursors)
        }
        for key, (session, end) in list(self._reading.items()):
            cursor = known.get(key)
            if cursor is None:
                end(CursorNotFoundError(f"cursor {key.name} has been deleted"))
            elif cursor.expired_at is not None:
                end(CursorExpiredError(f"nobody advanced cursor {key.name}, so it has expired"))
            elif cursor.session != session:
                end(taken(key.name))

    async def advance(self, caller: Caller, name: str, session: str, token: str) -> CursorReport:
        """Advances a cursor to the place of a token.

        Raises:
            CursorTakenError: Another reader has taken the cursor over.
            CursorExpiredError: The cursor has expired.
            CursorNotFoundError: The caller has no such cursor.
            ResumeTokenInvalidError: The token is not one of this cursor's stream.
        """
        check_name(name, "cursor")
        caller.rights.check("AdvanceCursor")
        place = self._tokens.open(token)
        try:
            fence = bytes.fromhex(session)
        except ValueError:
            fence = b""  # That of no reader. There may be no such cursor either.
        store, key = self._storage.store, CursorKey(caller.owner, name)
        return await self._storage.decide(
            store.advance_cursor, key, fence, place.scope, place.events
        )

    async def list(self, caller: Caller) -> list[CursorReport]:
        """Returns the caller's cursors, or those of all to an auditor of everything."""
        caller.rights.check("ListCursors")
        found = await self._storage.run(self._storage.store.cursors)
        if caller.rights.covers("ListCursors", None, None):
            return list(found)
        return [report for report in found if report.cursor.key.owner == caller.owner]

    async def delete(self, caller: Caller, name: str, owner: str) -> None:
        """Deletes a cursor of the caller or, for an operator of everything, of another caller.

        Raises:
            CursorNotFoundError: There is no such cursor that the caller may delete.
        """
        check_name(name, "cursor")
        caller.rights.check("DeleteCursor")
        key = CursorKey(owner or caller.owner, name)
        if key.owner != caller.owner and not caller.rights.covers("Revoke", None, None):
            raise CursorNotFoundError(
                f"there is no cursor {name} of that caller, or this caller may not delete it"
            )
        store = self._storage.store
        await self._storage.decide(store.drop_cursor, key, _event(caller, "delete", key))

    async def show(self) -> None:
        """Shows in the metrics how far behind cursors are, on one replica of all."""
        found: list[CursorReport] = []
        try:
            if await self._storage.run(self._storage.store.claim, {_CLAIM: _HOLDS}):
                found = list(await self._storage.run(self._storage.store.cursors))
        except KeyfoldError as error:
            log.warning("cannot read how far behind cursors are: %s", error.reason)
        telemetry.CURSOR_LAG_ENTRIES.clear()
        telemetry.CURSOR_LAG_SECONDS.clear()
        live = [report for report in found if report.cursor.expired_at is None]
        live.sort(key=lambda report: report.waiting, reverse=True)
        for report in live[:SHOWN]:
            labels = (report.cursor.key.owner, report.cursor.key.name)
            telemetry.CURSOR_LAG_ENTRIES.labels(*labels).set(report.behind)
            telemetry.CURSOR_LAG_SECONDS.labels(*labels).set(report.waiting / 1000)


def taken(name: str) -> CursorTakenError:
    """Returns the error for a reader that no longer has a cursor."""
    return CursorTakenError(
        f"another reader has taken cursor {name} over; let one reader alone use it"
    )


def _event(caller: Caller, what: str, key: CursorKey) -> AuditEvent:
    text = json.dumps({"cursor": key.name, "owner": key.owner}, sort_keys=True)
    return AuditEvent(
        caller.name,
        f"rpc:cursor:{what}",
        "done",
        text,
        proof=caller.rights.identity.proof,
        address=caller.address,
        on_behalf_of=caller.on_behalf_of,
        trace_id=caller.trace_id,
    )
