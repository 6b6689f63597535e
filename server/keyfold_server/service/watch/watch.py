"""One watch: the stream of one reader, from its own place in the shared sequences.

Invariant: a reader is told of a state only what its rights show at that moment, and of each event
that it may read exactly one message, in the order of the log. A message's token never stands for
more than the reader has been told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from keyfold_server.domain.cursors import Cursor
from keyfold_server.domain.errors import WatchTooSlowError
from keyfold_server.domain.log import NEWS, START, Position
from keyfold_server.domain.ports import ClusterFilter, KeyUser
from keyfold_server.domain.resuming import invalid_token
from keyfold_server.domain.rights import Caller, Rights
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.service.events.listing import VisibleEvent, visible
from keyfold_server.service.fleet.staleness import NEVER
from keyfold_server.service.loop_turns import one_by_one
from keyfold_server.service.watch.feed import Item
from keyfold_server.service.watch.looks import Look
from keyfold_server.service.watch.messages import Beat, Message, Send, SnapshotEnd, Told
from keyfold_server.service.watch.sources import Sources
from keyfold_server.service.watch.tokens import RIGHTS_SIZE, Place

RPC: Final = "WatchEvents"
"""The method, whose rule says who may watch states."""

READING: Final = "ListEvents"
"""The method whose rule says who may read events, by a list or by a stream."""

_BATCH: Final = 100
"""Most states, and most entries, that a reader goes through in one turn."""

_PAGE: Final = 200
"""Most clusters, and most entries, that the store returns to one reader at once."""

_BEHIND: Final = 5_000
"""Entries by which a reader of states may be behind and still be told only what changed since. One
that is further behind gets a new snapshot."""

_UNFINISHED: Final = bytes(RIGHTS_SIZE)
"""The digest of rights in a token from which states begin with a new snapshot."""

_PERIOD: Final = 0.02
"""Seconds, at whole multiples of which a reader hears that something does not exist."""


class Who(Protocol):
    """The caller of a watch, for as long as the watch goes on."""

    def rights(self) -> Rights:
        """Returns what the caller may do under the policy that is in force now."""
        ...

    async def again(self) -> Caller:
        """Identifies the caller again, by the same credential.

        Raises:
            CallerCredentialError: The credential is no longer valid.
        """
        ...


Take = Callable[[Position], Awaitable[Cursor]]
"""Takes the reader's cursor over; makes it at the given position if it does not exist."""


class Watch:
    """The stream of one reader; belongs to one event loop."""

    def __init__(
        self,
        request: WatchRequest,
        who: Who,
        sources: Sources,
        send: Send,
        take: Take | None = None,
    ) -> None:
        """Prepares a stream; `run` begins it.

        Args:
            request: What the reader asks for.
            who: The reader.
            sources: What happens.
            send: Sends a message.
            take: Takes the cursor over that the request names; None: it names none.
        """
        self._request = request
        self._digest = request.digest
        self._who = who
        self._sources = sources
        self._send = send
        self._take = take
        self._rights = who.rights()
        self._whole = False
        self._session = ""
        self._at = self._told = START
        self._seen = 0
        self._live = False
        self._finished = True
        self._fresh = NEVER
        self._began = sources.now()
        self._beat_at = float("-inf")

    async def run(self) -> None:
        """Streams until something ends it.

        Raises:
            KeyfoldError: What has ended it.
        """
        request, looks = self._request, self._sources.looks
        request.check()
        self._sources.pulse.check()
        self._check(self._rights)
        place = self._place_before()
        names = request.clusters or None
        if request.states:
            looks.join(names)
        try:
            await self._begin(place)
            while True:
                # Before the looks for what there is, so that nothing that comes after is missed.
                wakes = self._sources.feed.wakes
                await self._turn()
                if not self._behind():
                    await self._sources.feed.news(wakes)
        finally:
            if request.states:
                looks.leave(names)

    # The beginning

    def _place_before(self) -> Place | None:
        """Returns the place in the request's token, or None."""
        if not self._request.resume_token:
            return None
        place = self._sources.tokens.open(self._request.resume_token)
        if place.scope != self._digest:
            raise invalid_token("it came from another request")
        return place

    async def _begin(self, place: Place | None) -> None:
        request, sources = self._request, self._sources
        # Before any read, so that a change during the read is told afterwards.
        self._seen, self._told = sources.looks.resume(), sources.feed.newest
        fresh = sources.feed.fresh
        if request.events:
            self._at = sources.feed.newest if place is None else place.events
            if place is not None:
                await sources.check(self._at)
            if self._take is not None:
                cursor = await self._take(self._at)
                self._session = cursor.session.hex()
                if place is None or cursor.position.number > self._at.number:
                    self._at = cursor.position
        if request.states:
            await self._begin_states(place)
        if not request.events or self._at.number >= sources.feed.newest.number:
            self._fresh = fresh

    async def _begin_states(self, place: Place | None) -> None:
        newest = self._told
        if place is None:
            await self._snapshot()
            return
        await self._sources.check(place.states)
        self._told = place.states
        changed = None
        if place.rights == self._rights.digest:
            changed = await self._changed_since(place.states)
        if changed is None:
            await self._snapshot()
        else:
            for first in range(0, len(changed), _PAGE):
                some = changed[first : first + _PAGE]
                for look in await self._sources.look_at(some, changed=True):
                    await self._tell(look)
        if newest.number > self._told.number:
            self._told = newest

    async def _changed_since(self, place: Position) -> list[str] | None:
        """Returns the clusters that changed after an entry; None: better take a snapshot."""
        names: dict[str, None] = {}
        roots: dict[str, None] = {}
        for _ in range(_BEHIND // _PAGE):
            items, live = await self._sources.after(place, _PAGE)
            for item in items:
                if item.root is not None:
                    roots[item.root] = None
                if item.cluster is not None and item.kind in NEWS:
                    names[item.cluster] = None
                place = item.position
            if live and len(items) < _PAGE:
                if roots:
                    names |= {u.cluster: None for u in await self._sources.users(list(roots))}
                wanted = self._request.clusters
                return [name for name in names if not wanted or name in wanted]
        return None

    async def _snapshot(self, before: Rights | None = None) -> None:
        """Tells the state of every cluster that the reader may see.

        Args:
            before: The reader's rights until now. It hears that what it no longer may see does not
                exist. None: it has been told nothing yet.
        """
        self._finished = False
        if self._request.clusters:
            await self._snapshot_of_named()
        else:
            await self._snapshot_of_all(before)
        self._finished = True
        await self._put(SnapshotEnd())

    async def _snapshot_of_named(self) -> None:
        names, clock = sorted(self._request.clusters), asyncio.get_running_loop().time
        for first in range(0, len(names), _PAGE):
            began = clock()
            looks = await self._sources.look_at(names[first : first + _PAGE])
            told = [Told(look, self._seen_now(look)) for look in looks]
            if any(each.regions is None for each in told):
                # A hidden cluster takes longer to read than an absent one. Both get the same
                # message, at the same time (protocol C8).
                await asyncio.sleep(_PERIOD - (clock() - began) % _PERIOD)
            for each in told:
                await self._put(each)
            self._sources.pulse.check()

    async def _snapshot_of_all(self, before: Rights | None) -> None:
        organization = self._request.organization
        known = (self._rights,) if before is None else (self._rights, before)
        # No row of a hidden cluster is read, because the time would tell of it (protocol C8).
        covered = tuple(
            dict.fromkeys(each for rights in known for each in rights.coverage(organization))
        )
        which = ClusterFilter(organization=organization, covered=covered)
        after, more = "", bool(covered)
        while more:
            looks = await self._sources.page(which, after, _PAGE)
            more = len(looks) == _PAGE
            async for look in one_by_one(looks):
                after, seen = look.name, self._seen_now(look)
                if seen is not None or (before is not None and self._seen_of(look, before)):
                    await self._put(Told(look, seen))
            self._sources.pulse.check()

    # Turns

    def _behind(self) -> bool:
        """Says whether there is something that the reader has not got."""
        request, sources = self._request, self._sources
        return (request.states and self._seen < sources.looks.newest) or (
            request.events and self._at.number < sources.feed.newest.number
        )

    async def _turn(self) -> None:
        """Tells some of what there is."""
        sources = self._sources
        sources.pulse.check()
        await self._reconsider(self._who.rights())
        if self._request.states:
            await self._tell_states()
        if self._request.events:
            await self._tell_events()
        if await self._beat_if_due():
            # As often, look whether the reader's credential is still valid.
            await self._reconsider((await self._who.again()).rights)

    async def _beat_if_due(self) -> bool:
        """Sends a heartbeat if it is time for one."""
        sources, request = self._sources, self._request
        pulse = sources.pulse
        self._freshen()
        if sources.now() - self._beat_at < pulse.every:
            return False
        self._beat_at = now = sources.now()
        age = None if self._fresh is NEVER else pulse.since(self._fresh)
        number = self._at.number if request.events else 0
        await self._put(Beat(age, pulse.most, number, now - self._began))
        return True

    def _freshen(self) -> None:
        """Notes the moment up to which the reader has been told all that the store had (R8)."""
        sources, request = self._sources, self._request
        number, _, moment = sources.looks.settled
        moments = []
        if request.states:
            if self._seen < number:
                return
            moments.append(moment)
        if request.events:
            if self._at.number < sources.feed.newest.number:
                return
            moments.append(sources.feed.fresh)
        oldest = min(moments, key=lambda each: each.monotonic)
        if oldest.monotonic > self._fresh.monotonic:
            self._fresh = oldest

    async def _put(self, message: Message) -> None:
        """Sends a message with the token of what the reader has then been told."""
        place = Place(
            self._at if self._request.events else START,
            self._told if self._request.states else START,
            self._digest,
            self._rights.digest if self._finished else _UNFINISHED,
        )
        session, self._session = self._session, ""
        await self._send(message, self._sources.tokens.seal(place), session)

    # Rights

    def _check(self, rights: Rights) -> None:
        """Refuses a caller who may not watch at all.

        Raises:
            NotAllowedError: No grant of the caller has a role for what it asks for.
        """
        rights.check(RPC)
        if self._request.events:
            rights.check(READING)
        self._whole = any(each.is_whole for each in rights.coverage(None, READING))

    async def _reconsider(self, rights: Rights) -> None:
        """Goes on with other rights, if the policy has changed.

        Raises:
            NotAllowedError: The caller may no longer watch what it asks for.
        """
        if rights is self._rights:
            return
        before, self._rights = self._rights, rights
        if rights.digest == before.digest:
            return
        self._check(rights)
        if self._request.states:
            # What changes meanwhile is told after it.
            await self._snapshot(before)

    def _seen_of(self, look: Look, rights: Rights) -> tuple[str, ...] | None:
        """Returns the regions of a cluster that the reader may see; None: it may not see it."""
        if not self._request.is_about(look.name, look.organization):
            return None
        if not rights.sees(look.name, look.organization):
            return None
        if look.cluster is None:
            return () if look.unusable is not None else None
        regions = (each.region.name for each in look.regions)
        seen = tuple(r for r in regions if rights.sees(look.name, look.organization, r))
        return seen or None

    def _seen_now(self, look: Look) -> tuple[str, ...] | None:
        """Returns what `_seen_of` does, for a reader whose rights may just have changed."""
        seen, rights = self._seen_of(look, self._rights), self._who.rights()
        if seen is None or rights is self._rights:
            return seen
        # `_reconsider` will tell the rest.
        now = self._seen_of(look, rights)
        return None if now is None else tuple(region for region in seen if region in now)

    # States

    async def _tell_states(self) -> None:
        sources = self._sources
        found = sources.looks.after(self._seen, _BATCH)
        if found is None:
            raise _too_slow()
        last, looks = found
        for look in looks:
            await self._reconsider(self._who.rights())
            await self._tell(look)
        self._seen = last
        number, position, _ = sources.looks.settled
        if last >= number and position.number > self._told.number:
            self._told = position

    async def _tell(self, look: Look) -> None:
        """Tells of a cluster that has changed, if the reader may know of it."""
        rights, request = self._rights, self._request
        seen = self._seen_of(look, rights)
        gone = look.cluster is None and look.unusable is None
        if gone and not (
            request.is_about(look.name, look.organization)
            and rights.sees(look.name, look.organization)
        ):
            return
        if seen is not None or gone:
            await self._put(Told(look, seen))

    # Events

    async def _tell_events(self) -> None:
        items, live = await self._sources.after(self._at, _BATCH)
        if self._live and not live:
            raise _too_slow()
        self._live = live
        for item in items:
            await self._reconsider(self._who.rights())
            shown = await self._shown(item)
            self._at = item.position
            if shown is not None:
                await self._put(shown)

    async def _shown(self, item: Item) -> VisibleEvent | None:
        """Returns an event as the reader may see it, or None if it is not for this reader."""
        request, which, event = self._request, self._request.which, item.event
        placed = which.cluster is not None or which.organization is not None
        limited = bool(request.clusters) or request.organization is not None
        users: list[KeyUser] = []
        if item.root is not None and (placed or limited or not self._whole):
            users = [u for u in await self._sources.users_of(item) if self._may_read(u)]
        if not request.is_about(event.cluster, event.organization) and not any(
            request.is_about(user.cluster, user.organization) for user in users
        ):
            return None
        by_root = placed and any(
            which.cluster in (None, user.cluster)
            and which.organization in (None, user.organization)
            for user in users
        )
        if not which.selects(event, by_root=by_root):
            return None
        used = frozenset((item.root,)) if users and item.root is not None else frozenset()
        shown = visible(event, self._rights, used, whole=self._whole)
        return shown if shown is not None and shown.shows_key(which.key_uri) else None

    def _may_read(self, user: KeyUser) -> bool:
        return self._rights.covers(READING, user.cluster, user.organization, user.region)


def _too_slow() -> WatchTooSlowError:
    return WatchTooSlowError(
        "this reader has fallen further behind than this replica keeps what happens; resume with "
        "the token of the last message, and read faster"
    )
