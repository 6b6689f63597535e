"""Refusals: how far a refusal that one server saw must have reached (protocol F1, F2).

Two clusters share a root key: one asks the KMS on every call, the other uses its KEK from memory.
A refusal to the first must end the second, on the same server at once, and on others when the
store has passed it on. A server that cannot reach the KMS must stop all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chaos.board import TWINS, TWINS_URI
from chaos.history import Attempt, History, Span, Use
from chaos.order import Violation
from chaos.uses import throughout

TOLD: Final = 1.0
"""Seconds within which a running server that has its store passes a refusal on."""


def refusals_reach(history: History) -> Iterator[Violation]:
    """Finds uses after a refusal that had to end them."""
    uses = sorted(
        (use for use in history.uses if use.cluster in TWINS and use.region == "eu"),
        key=lambda use: use.attempt.end,
    )
    spans = [s for s in history.spans_of("key:") if s.what == f"key:{TWINS_URI}"]
    refused = _Refused(history, uses)
    for use in uses:
        if not use.attempt.answer.done:
            continue
        what = f"{use.method} on {use.attempt.server} at {use.attempt.start:.3f}"
        for span in spans:
            if throughout(span, use.attempt):
                if TWINS[use.cluster] == 0:
                    text = f"{what}, its key disabled: it was not asked"
                    yield Violation("refusal", use.cluster, text)
                elif refused.here(use.attempt, span):
                    text = f"{what} succeeded after its key's refusal"
                    yield Violation("refusal", use.cluster, text)
        at = refused.elsewhere(use.attempt, spans)
        if at is not None:
            text = f"{what} succeeded, its key refused elsewhere at {at:.3f}"
            yield Violation("spread", use.cluster, text)


class _Refused:
    """The refusals that servers have seen in answers of the KMS."""

    def __init__(self, history: History, uses: list[Use]) -> None:
        self._reach = history.staleness + TOLD
        self._cuts = history.spans_of("keys:")
        self._stores = history.spans_of("store")
        self._heard: dict[str, float] = {}
        for use in uses:
            if use.attempt.answer.reason != "UNAVAILABLE" and not use.attempt.answer.unknown:
                self._heard[use.attempt.server] = use.attempt.start
        self._seen = list(_news(uses))

    def here(self, use: Attempt, span: Span) -> bool:
        """Returns whether the called server had seen the key refused during a span."""
        return any(
            seen.server == use.server and throughout(span, seen) and seen.end < use.start
            for seen in self._seen
        )

    def elsewhere(self, use: Attempt, spans: list[Span]) -> float | None:
        """Returns when another server saw a refusal that must have reached the called one."""
        lasting = [s for s in spans if throughout(s, use)]
        lasting += [c for c in self._cuts if c.what == f"keys:{use.place}" and throughout(c, use)]
        for span in lasting:
            for seen in self._seen:
                if (
                    span.begun < seen.end < use.start - self._reach
                    and seen.server != use.server
                    and self._heard[seen.server] > seen.end + TOLD
                    and not self._disturbed(seen.end, use.end)
                ):
                    return seen.end
        return None

    def _disturbed(self, begin: float, end: float) -> bool:
        return any(s.asked < end and begin < s.ended for s in self._stores)


def _news(uses: list[Use]) -> Iterator[Attempt]:
    """Yields the refusals that end other uses: those of a KEK that the server had opened before.

    Later refusals of a KEK that stays refused end nothing, even if its root key has been proven
    meanwhile (protocol F4).
    """
    known: set[tuple[str, str]] = set()
    for use in uses:
        who = (use.cluster, use.attempt.server)
        if use.attempt.answer.done:
            known.discard(who)
        elif use.attempt.answer.reason == "KEY_DISABLED":
            if who not in known and not use.attempt.answer.again:
                yield use.attempt
            known.add(who)
