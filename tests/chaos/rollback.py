"""A failover that lost changes: servers that have seen them must refuse, and no more is lost (S1).

What was answered before the standby was cut off exists after the failover; some of what was
answered later may exist.
"""

from __future__ import annotations

from collections.abc import Iterator

from behaviour import State
from chaos.history import FOREVER, Answer, Attempt, Change, History, Look
from chaos.order import Item, Violation, items_of, search


def rolled_back(history: History) -> Iterator[Violation]:
    """Finds calls answered after the failover by servers that had seen what was lost.

    Each may answer until its last poll of the old primary is too old; then it must refuse.
    """
    assert history.lost is not None
    bound = history.lost.until + history.staleness
    calls = [(use.cluster, use.method, use.attempt) for use in history.uses]
    calls += [(c.cluster, c.request.method, a) for c in history.changes for a in c.attempts]
    said: dict[str, float] = {}
    for _, _, attempt in calls:
        if attempt.answer.reason == "STORE_ROLLED_BACK":
            at = min(attempt.end, said.get(attempt.server, FOREVER))
            said[attempt.server] = at
    for cluster, method, attempt in calls:
        since = min(bound, said.get(attempt.server, FOREVER))
        if attempt.answer.done and attempt.start > since:
            text = f"{method} on {attempt.server} at {attempt.start:.3f} was answered; {since:.3f}"
            yield Violation("rolled-back", cluster, text)


def left(history: History, cluster: str, state: State, at: float) -> Iterator[Violation]:
    """Yields a violation if a cluster lacks, after the failover, what was replicated before."""
    assert history.lost is not None
    changes = [c for c in history.changes if c.cluster == cluster and c.attempts]
    looks = [look for look in history.looks if look.cluster == cluster]
    items = _kept(changes, looks, history.lost.since)
    items.append(Item(at, at, shown=state, told=True))
    fits, _ = search(items, [])
    if not fits:
        why = "is undecided" if fits is None else "cannot be"
        yield Violation("lost", cluster, f"what is left {why}: {state}")


def _kept(changes: list[Change], looks: list[Look], since: float) -> list[Item]:
    """Returns what must be there and what may be; the answers of the latter do not count."""
    kept: list[Change] = []
    for change in changes:
        known = [a for a in change.attempts if a.end < since]
        later = [
            Attempt(a.start, a.end, a.server, Answer(unknown=True))
            for a in change.attempts
            if a.end >= since and (a.answer.done or a.answer.unknown)
        ]
        if known or later:
            made = Change(change.client, change.cluster, change.request, change.request_id)
            made.attempts = known + later
            kept.append(made)
    seen = [look for look in looks if look.attempt.end < since]
    return items_of(kept, seen, lambda _attempt: FOREVER)
