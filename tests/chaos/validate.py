"""Validates a history against the behavioural model: what clients saw must have been possible.

Each check has a name, which its violations carry:

    order        Changes and reads of a cluster fit one order in which each takes effect between its
                 start and its end, an unknown one once or not at all, all of its regions or none
                 (R1, R6, S5, S8)
    twice        A request that was carried out is not carried out again (R6)
    replayed     A repeated request says that it is one, and whether a later change has changed
                 the cluster since (R6)
    revoked      No use of a region succeeds that began after a Revoke was confirmed, or after the
                 time that its answer gave, until a Restore began (R1 to R4)
    region       No use succeeds on a server that does not serve its region
    generation   A use names a generation that existed, and in time the newest
    wrapped-key  A wrapped key opens to what was wrapped, wherever it opens at all
    refusal      A refused key is not used beyond F1's bound, nor after its refusal was seen (F2)
    spread       A server does not use a refused key once others must have passed it on (F2)
    stale        No use succeeds if the server was without its store for store_max_staleness, or
                 if its store takes no writes (S2, S3)
    answers      No call is refused for a reason that nothing explains
    proven       No key is enabled, rotated or restored while it is out of reach (R7, S5)
    rolled-back  After a failover that lost changes, servers that have seen them refuse and say
                 so (S1)
    banned       No server uses a cluster whose row was edited once Revoke has banned it (A6); found
                 while the run goes on
    lost         A failover loses nothing that was replicated before (S1)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.facts import Facts
from chaos.history import FOREVER, Attempt, Change, History, Look, Use
from chaos.order import STATE_REASONS, Violation, order
from chaos.rollback import rolled_back
from chaos.twins import refusals_reach
from chaos.uses import check_use, explained


def validate(history: History) -> list[Violation]:
    """Returns every violation of the model in a history."""
    found = [Violation(*what) for what in history.found]
    if history.lost is None:
        return [*found, *_validate(history)]
    # What clients did on the old primary's answers afterwards is another history.
    return [*found, *_validate(history.before(history.lost.until)), *rolled_back(history)]


def _validate(history: History) -> Iterator[Violation]:
    changes: dict[str, list[Change]] = defaultdict(list)
    looks: dict[str, list[Look]] = defaultdict(list)
    uses: dict[str, list[Use]] = defaultdict(list)
    for change in history.changes:
        if change.attempts:
            changes[change.cluster].append(change)
    for look in history.looks:
        looks[look.cluster].append(look)
    for use in history.uses:
        uses[use.cluster].append(use)
    for cluster in sorted({*changes, *looks, *uses}):
        yield from _twice(cluster, changes[cluster])
        yield from _replayed(cluster, changes[cluster])
        yield from order(history, cluster, changes[cluster], looks[cluster])
        yield from _change_answers(history, cluster, changes[cluster])
        facts = Facts(history, changes[cluster])
        for use in uses[cluster]:
            yield from check_use(history, facts, use)
    yield from refusals_reach(history)


def _twice(cluster: str, changes: list[Change]) -> Iterator[Violation]:
    for change in changes:
        carried_out = [a for a in change.attempts if a.answer.done]
        # A Restore that found nothing to prove or to move is not recorded.
        if change.request.method != "Restore" and any(
            not attempt.answer.replayed for attempt in carried_out[1:]
        ):
            text = f"{change.request} with id {change.request_id} was carried out again"
            yield Violation("twice", cluster, text)


def _replayed(cluster: str, changes: list[Change]) -> Iterator[Violation]:
    for change in changes:
        done = [attempt for attempt in change.attempts if attempt.answer.done]
        for attempt in done:
            answer = attempt.answer
            text = f"{change.request} with id {change.request_id} at {attempt.start:.3f}"
            if answer.replayed and attempt is change.attempts[0]:
                yield Violation("replayed", cluster, f"{text}: replayed, but it is the first")
            if answer.superseded and not answer.replayed:
                yield Violation("replayed", cluster, f"{text}: superseded, but not replayed")
            if not answer.replayed:
                continue
            if not answer.superseded and _followed(change, changes, _made(change), attempt.start):
                yield Violation("replayed", cluster, f"{text}: it does not say superseded")
            if answer.superseded and not _maybe_followed(change, changes, attempt.end):
                yield Violation("replayed", cluster, f"{text}: superseded, but nothing followed")


def _made(change: Change) -> float:
    """Returns the time by which the attempt that a request's replays refer to had taken effect.

    This is when the first attempt was answered. But a Restore that moves nothing is not recorded,
    so any attempt before the first replay may have been the recorded one.
    """
    done = [attempt for attempt in change.attempts if attempt.answer.done]
    if change.request.method != "Restore":
        return done[0].end
    first = next(attempt for attempt in done if attempt.answer.replayed)
    before = change.attempts[: change.attempts.index(first)]
    if any(attempt.answer.unknown for attempt in before):
        return first.end
    return max((attempt.end for attempt in before if attempt.answer.done), default=first.end)


def _followed(change: Change, changes: list[Change], after: float, before: float) -> bool:
    """Returns whether another change surely took effect between two times."""
    return any(
        other is not change
        and other.request.method in {"Rotate", "Revoke"}
        and a.answer.done
        and not a.answer.replayed
        and after < a.start
        and a.end < before
        for other in changes
        for a in other.attempts
    )


def _maybe_followed(change: Change, changes: list[Change], before: float) -> bool:
    """Returns whether another change may have taken effect between a request's start and a time."""
    since = change.attempts[0].start
    return any(
        other is not change and other.attempts[0].start < before and _latest(other) > since
        for other in changes
    )


def _latest(change: Change) -> float:
    """Returns the latest time at which a change took effect, if it did."""
    if any(a.answer.unknown for a in change.attempts):
        return FOREVER
    return max((a.end for a in change.attempts if a.answer.done), default=0.0)


def _change_answers(history: History, cluster: str, changes: list[Change]) -> Iterator[Violation]:
    for change in changes:
        for attempt in change.attempts:
            if not (_known(attempt) or explained(history, attempt)):
                text = f"{change.request} was refused: {attempt.answer.reason}"
                yield Violation("answers", cluster, text)


def _known(attempt: Attempt) -> bool:
    reason = attempt.answer.reason
    return (
        attempt.answer.done
        or reason in STATE_REASONS
        or reason in {"CONCURRENT_CHANGE", "REQUEST_IN_PROGRESS"}
    )
