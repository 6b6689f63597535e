"""How often a customer's keys were used: day by day, and by whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from keyfold import UsageCount, UsageFilter
from keyfold.calls.usage import first_usage
from keyfold_console.api import one_page
from keyfold_console.pages.organizations.frame import framed, shown

_PATH: Final = "/organizations/{organization}/usage"

_PAGES: Final = 20
"""Most pages of 1,000 counts that are added up for one page."""

PERIODS: Final = {
    "day": ("24 hours", timedelta(hours=1), 24),
    "week": ("7 days", timedelta(days=1), 7),
    "month": ("30 days", timedelta(days=1), 30),
}
"""What may be looked at: in words, the span of each bar, and how many there are."""


@dataclass(slots=True)
class Total:
    """Uses, added up.

    Attributes:
        good: How many came to their end.
        failed: How many were refused or failed.
        reasons: The reasons of those that failed, and how many each.
    """

    good: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def all(self) -> int:
        """All of them."""
        return self.good + self.failed

    def add(self, count: UsageCount) -> None:
        """Adds a count."""
        if count.outcome == "OK":
            self.good += count.count
        else:
            self.failed += count.count
            self.reasons[count.outcome] += count.count


@dataclass(frozen=True, slots=True)
class Bar:
    """The uses of one span.

    Attributes:
        start: When it began.
        total: The uses.
        height: The height of its bar, 0 to 100.
        failed: The height of the part of those that failed.
    """

    start: datetime
    total: Total
    height: int
    failed: int


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [web.get(_PATH, show)]


async def show(request: web.Request) -> web.Response:
    """Shows the uses of a period."""
    frame = await framed(request, "usage")
    period = request.query.get("period", "week")
    if period not in PERIODS:
        period = "week"
    _, span, count = PERIODS[period]
    newest = _floor(datetime.now(UTC), span)
    starts = [newest - span * back for back in reversed(range(count))]
    narrow = UsageFilter(organization=frame.name, start=starts[0], span=span)
    found, response = await one_page(request, first_usage(narrow, 1_000), "")
    counts, pages = list(found), 1
    while response.next_page_token and pages < _PAGES:
        token = response.next_page_token
        found, response = await one_page(request, first_usage(narrow, 1_000), token)
        counts, pages = [*counts, *found], pages + 1
    return await shown(
        request,
        frame,
        "usage.html",
        period=period,
        periods=PERIODS,
        bars=bars(counts, starts, span),
        callers=_by(counts, lambda one: (one.caller,)),
        places=_by(counts, lambda one: (one.cluster, one.region or "any", one.method)),
        partial=bool(response.next_page_token),
        read=response.read_time.ToDatetime(UTC),
    )


def bars(counts: Iterable[UsageCount], starts: list[datetime], span: timedelta) -> list[Bar]:
    """Returns a bar for each span, the tallest of them 100 high."""
    totals = {start: Total() for start in starts}
    for count in counts:
        # The server's clock decides, which may be a span before or after the console's.
        if (total := totals.get(_floor(count.start, span))) is not None:
            total.add(count)
    most = max((total.all for total in totals.values()), default=0) or 1
    return [
        Bar(start, total, round(100 * total.all / most), round(100 * total.failed / most))
        for start, total in totals.items()
    ]


def _by(
    counts: Iterable[UsageCount], key: Callable[[UsageCount], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], Total]]:
    """Returns totals by what a function makes of each count, the largest first."""
    totals: dict[tuple[str, ...], Total] = defaultdict(Total)
    for count in counts:
        totals[key(count)].add(count)
    return sorted(totals.items(), key=lambda item: -item[1].all)


def _floor(time: datetime, span: timedelta) -> datetime:
    """Returns the beginning of a span, counted from 1970 on as the server counts it."""
    seconds = span.total_seconds()
    return datetime.fromtimestamp(time.timestamp() // seconds * seconds, UTC)
