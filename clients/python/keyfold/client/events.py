# Generated from aio/events.py by `make client`; never edited.

"""Reading what happened to keys, and verifying the log that tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyfold.calls import events as calls
from keyfold.calls.call import next_page
from keyfold.calls.events import EVERY_EVENT, EventFilter, EventPage, LogWalk
from keyfold.calls.usage import ALL_USAGE, UsageFilter, UsagePage, first_usage
from keyfold.client.connection import Connection
from keyfold.models.events import Anchor, Event, Verification
from keyfold.models.usage import UsageCount


class Events(Connection):
    """The calls of the event service, for auditors."""

    def list_events(
        self,
        narrow: EventFilter = EVERY_EVENT,
        *,
        newest_first: bool = False,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Event]:
        """Yields events in the order of their numbers, and fetches one page after another.

        The caller sees the events about clusters that its grants cover, and those about the root
        keys of these clusters. `page_size` is 1 to 1,000, or 0 for the server's choice; `timeout`
        is the deadline of each page.

        Raises:
            InvalidPageError: The page size is below zero.

        Example:
            >>> narrow = keyfold.EventFilter(cluster="prod", action="rpc:cluster:enable")
            >>> [(one.caller, one.outcome) for one in client.list_events(narrow)]
            [('local', 'done')]
        """
        page: EventPage | None = calls.first_events(
            narrow, newest_first=newest_first, page_size=page_size
        )
        while page is not None:
            response = self.send(page, timeout=timeout)
            for event in page.result(response):
                yield event
            page = next_page(page, response)

    def list_usage(
        self,
        narrow: UsageFilter = ALL_USAGE,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[UsageCount]:
        """Yields how often callers used keys, by time, and fetches one page after another.

        The counts of all replicas are added up, and come up to a minute late. `page_size` is 1 to
        1,000, or 0 for the server's choice; `timeout` is the deadline of each page.

        Raises:
            InvalidPageError: The page size is below zero.

        Example:
            >>> narrow = keyfold.UsageFilter(cluster="prod", span=timedelta(days=1))
            >>> for one in client.list_usage(narrow):
            ...     print(one.start.date(), one.method, one.outcome, one.count)
        """
        page: UsagePage | None = first_usage(narrow, page_size)
        while page is not None:
            response = self.send(page, timeout=timeout)
            for count in page.result(response):
                yield count
            page = next_page(page, response)

    def verify_events(
        self, anchors: Iterable[str] = (), *, timeout: float | None = None
    ) -> Verification:
        """Verifies the server's whole log, and holds it against anchors that were kept elsewhere.

        A broken link, or an anchor that speaks against the log, is a result and not an error: see
        `Verification.whole`. `timeout` is the deadline of each of the calls that this takes.

        Raises:
            NotAllowedError: The caller is not an auditor of everything.

        Example:
            >>> anchor = client.get_anchor()
            >>> verified = client.verify_events([anchor.line])
            >>> verified.whole, verified.held_to.number == anchor.number
            (True, True)
        """
        walk = LogWalk(anchors)
        while walk.call is not None:
            walk.took(self.send(walk.call, timeout=timeout))
        return calls.verification_of(walk.whole)

    def get_anchor(self, *, timeout: float | None = None) -> Anchor:
        """Returns a signed line about the newest entry of the server's log, to keep elsewhere.

        Raises:
            NotAllowedError: The caller is not an auditor of everything.
        """
        return self._ask(calls.get_anchor(), timeout)
