"""Uses: whether a Wrap, Unwrap or Rewrap may have ended as it did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from behaviour import BELIEVED, MEMORY, Power, Verdict, verdicts
from chaos.board import TWINS
from chaos.facts import Facts
from chaos.history import FOREVER, Attempt, History, Span, Use
from chaos.order import STATE_REASONS, Violation

FALLS_BACK: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "STORE_UNAVAILABLE", "OVERLOADED", "BUSY", "CANCELLED"}
)
"""Reasons that faults explain at any time: the KMS or the store did not answer."""


_CONNECT: Final = 1.0


def check_use(history: History, facts: Facts, use: Use) -> Iterator[Violation]:
    """Finds faults in one use."""
    attempt, answer = use.attempt, use.attempt.answer
    what = f"{use.method} in {use.region} at {attempt.start:.3f}-{attempt.end:.3f}"
    if use.wrong:
        yield Violation("wrapped-key", use.cluster, f"{what}: {use.wrong}")
    if not answer.done:
        if not _use_explained(history, facts, use):
            yield Violation("answers", use.cluster, f"{what} was refused: {answer.reason}")
        return
    if not history.served(use):
        yield Violation("region", use.cluster, f"{what} succeeded on {attempt.server}")
    why = facts.forbidden(use)
    if why:
        yield Violation("revoked", use.cluster, f"{what} succeeded after {why}")
    oldest, newest = facts.generations(use)
    if use.generation > newest or (use.method != "Unwrap" and use.generation < oldest):
        text = f"{what} names generation {use.generation}, not {oldest} to {newest}"
        yield Violation("generation", use.cluster, text)
    for span in _at(history, "store", attempt):
        if span.begun + history.staleness < attempt.start and attempt.end < span.ending:
            text = f"{what} succeeded, its store held since {span.begun:.3f}"
            yield Violation("stale", use.cluster, text)
    yield from _beyond(history, use, what)


def _use_explained(history: History, facts: Facts, use: Use) -> bool:
    """Returns whether the record or a fault explains a use's refusal."""
    reason = use.attempt.answer.reason
    if reason in {*STATE_REASONS, "UNKNOWN_KEK"} and history.behind(use.attempt):
        return True
    if reason == "WRONG_REGION":
        return not history.served(use)
    if reason == "REVOKED":
        return facts.may_be_revoked(use)
    if reason in {"CLUSTER_NOT_FOUND", "REGION_NOT_FOUND"}:
        return facts.made.get(use.region, FOREVER) >= use.attempt.start
    return explained(history, use.attempt)


def _beyond(history: History, use: Use, what: str) -> Iterator[Violation]:
    """F1: a key out of reach, or that the KMS refuses, is not used beyond TTL and grace."""
    if use.cluster in TWINS:
        return
    for span in _at(history, "keys", use.attempt):
        if throughout(span, use.attempt):
            power = Power(on=True, on_for=0.0, out=True, out_for=use.attempt.start - span.begun)
            may = verdicts(power, ttl=history.ttl, grace=history.grace)
            if Verdict.SERVED not in may:
                text = f"{what} succeeded, no key to be asked since {span.begun:.3f}"
                yield Violation("refusal", use.cluster, text)


def throughout(span: Span, attempt: Attempt) -> bool:
    """Returns whether a fault lasted from before a call until after it."""
    return span.begun < attempt.start and attempt.end < span.ending


def explained(history: History, attempt: Attempt) -> bool:
    """Returns whether a fault explains a refusal."""
    reason = attempt.answer.reason
    if attempt.answer.unknown or reason in FALLS_BACK:
        return True
    if reason == "KEY_DISABLED":
        return _near(history.spans_of("key:"), attempt, MEMORY)
    if reason == "UNREACHABLE":
        away = [*_at(history, "keys", attempt), *history.spans_of("out:")]
        # A machine that is late makes a KMS late, which has a second to take a connection.
        return (
            _near(away, attempt, BELIEVED) or history.late_around(attempt.end, BELIEVED) > _CONNECT
        )
    if reason == "STORE_STALE":
        away = [*_at(history, "store", attempt), *history.spans_of("paused:")]
        # Polls go on from where a held store left them; a paused server must catch up on polls.
        # A machine that is late polls late, too.
        late = history.late_around(attempt.end, 2 * history.staleness)
        return (
            history.servers > 1
            or _near(away, attempt, 2 * history.staleness)
            or late > history.staleness / 4
        )
    return False


def _at(history: History, what: str, attempt: Attempt) -> list[Span]:
    """Returns the spans of a fault that all servers had, or the called one."""
    own = f"{what}:{attempt.place}"
    return [span for span in history.spans_of(what) if span.what in {what, own}]


def _near(spans: Iterable[Span], attempt: Attempt, after: float) -> bool:
    return any(s.asked <= attempt.end and attempt.start <= s.ended + after for s in spans)
