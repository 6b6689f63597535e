"""One order: whether what clients saw of a cluster can have happened, one change after the other.

Each change and each read takes effect at one moment between its start and its end. What is not
known to have been carried out may have been, once, at any later time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from behaviour import Request, State, asked, outcomes, refusals
from chaos.history import FOREVER, Attempt, Change, History, Look, Span

BOUND: Final = 300_000
"""States that the search for an order looks at, for one cluster."""

STATE_REASONS: Final = frozenset(
    {"REVOKED", "CLUSTER_EXISTS", "REGION_EXISTS", "CLUSTER_NOT_FOUND", "REGION_NOT_FOUND"}
)
"""Reasons that a cluster's state gives."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not have happened.

    Attributes:
        check: Which check found it.
        cluster: Where.
        text: What.
    """

    check: str
    cluster: str
    text: str

    def __str__(self) -> str:
        """Says all of it on a line."""
        return f"{self.check}: {self.cluster}: {self.text}"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that took effect at one moment, or may have.

    Attributes:
        start: Not before.
        end: Not after.
        request: The change; None for a read.
        needed: It took effect for certain.
        shown: What the answer showed of the cluster just after, where `told`.
        told: Whether it did.
        reason: A refusal by the state, which is a read.
        of: The request that a refusal refuses.
        behind: Place of the item that came before, or -1.
    """

    start: float
    end: float
    request: Request | None = None
    needed: bool = True
    shown: State = None
    told: bool = False
    reason: str = ""
    of: Request | None = None
    behind: int = -1


def items_of(
    changes: Iterable[Change],
    looks: Iterable[Look],
    over_by: Callable[[Attempt], float],
    behind: Callable[[Attempt], bool] = lambda _: False,
) -> list[Item]:
    """Turns what clients saw of a cluster into what an order has to hold.

    Args:
        changes: Its changes.
        looks: How it was seen.
        over_by: When what an attempt of unknown outcome began is over, at the latest.
        behind: Whether an attempt may have read a store that is not the right one any more.
    """
    items: list[Item] = []
    for change in changes:
        _add(items, change, over_by, behind)
    for look in looks:
        attempt = look.attempt
        if behind(attempt):
            continue
        if attempt.answer.told or attempt.answer.reason == "CLUSTER_NOT_FOUND":
            items.append(_read(attempt))
    return items


def _read(attempt: Attempt, behind: int = -1) -> Item:
    return Item(attempt.start, attempt.end, shown=attempt.answer.shown, told=True, behind=behind)


def _add(
    items: list[Item],
    change: Change,
    over_by: Callable[[Attempt], float],
    behind: Callable[[Attempt], bool],
) -> None:
    """Turns a request's attempts into what they say about when it took effect."""
    first, request = change.attempts[0].start, change.request
    made = -1
    for attempt in change.attempts:
        answer, start, end = attempt.answer, attempt.start, attempt.end
        if answer.reason in STATE_REASONS and not behind(attempt):
            items.append(Item(start, end, reason=answer.reason, of=request))
        if not answer.done:
            continue
        if answer.replayed:
            if made < 0:
                made = len(items)
                items.append(Item(first, end, request))
            items.append(_read(attempt, made))
        else:
            made = len(items)
            items.append(Item(start, end, request, shown=answer.shown, told=True))
    unknown = [attempt for attempt in change.attempts if attempt.answer.unknown]
    # A Restore that moves nothing is not recorded: another attempt may have moved something, or
    # may yet, until one is replayed.
    if unknown and (made < 0 or request.method == "Restore"):
        over = max(map(over_by, unknown))
        replays = [attempt.end for attempt in change.attempts if attempt.answer.replayed]
        items.append(Item(first, min([over, *replays]), request, needed=False))


def order(
    history: History, cluster: str, changes: list[Change], looks: list[Look]
) -> Iterator[Violation]:
    """Finds no order in which what clients saw of a cluster can have happened."""
    items = items_of(changes, looks, history.over_by, history.behind)
    fits, deepest = search(items, history.spans_of("key"))
    if fits is None:
        yield Violation("order", cluster, f"no order found within {BOUND} states; not decided")
    elif not fits:
        stuck = ", ".join(named(items[place]) for place in deepest[:4])
        check = "proven" if search(items, [])[0] else "order"
        yield Violation(check, cluster, f"no order fits; what cannot follow: {stuck}")


def _dead(item: Item, spans: Iterable[Span]) -> frozenset[str]:
    """Returns the root keys that could not be asked while a change took effect; `*`: any."""
    return frozenset(
        "*" if span.what == "keys" else span.what.removeprefix("key:")
        for span in spans
        if span.begun < item.start and item.end < span.ending
    )


def _proven(request: Request, before: State, after: State, dead: frozenset[str]) -> bool:
    """Whether every key could be asked that a change had to ask (R7, S5)."""
    if not dead:
        return True
    needed = asked(request, before, after)
    uris = {region.uri for name, region in before or () if name in needed.opens} | needed.wraps
    return not uris or ("*" not in dead and not uris & dead)


def named(item: Item) -> str:
    """Says what an item is, for whoever reads a failure."""
    what = item.request or item.of
    told = f" showing {item.shown}" if item.told else f" {item.reason}"
    return f"[{item.start:.3f}-{item.end:.3f}] {what or 'a read'}{told}"


def search(items: list[Item], spans: list[Span]) -> tuple[bool | None, list[int]]:
    """Looks for an order; None where the bound was reached. With it comes what got stuck.

    Reads are taken as soon as they fit: that keeps nothing else from fitting later.
    """
    order = sorted(range(len(items)), key=lambda place: items[place].start)
    every = (1 << len(items)) - 1
    needed = sum(1 << place for place, item in enumerate(items) if item.needed)
    dead = [_dead(item, spans) for item in items]
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State]] = [(0, None)]
    most = -1
    stuck: list[int] = []
    while stack:
        done, state = stack.pop()
        done, candidates = _with_reads(items, order, every, done, state)
        if done & needed == needed:
            return True, []
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if len(seen) > BOUND:
            return None, []
        if done.bit_count() > most:
            most, stuck = done.bit_count(), candidates
        following = [
            (items[place].needed, (done | 1 << place, after))
            for place in candidates
            for after in _after(items[place], state, dead[place])
        ]
        # What surely happened is tried first, so it goes on the stack last.
        following.sort(key=lambda one: one[0])
        stack += [step for _, step in following]
    return False, stuck


def _with_reads(
    items: list[Item], order: list[int], every: int, done: int, state: State
) -> tuple[int, list[int]]:
    """Takes every read that fits; returns what is done then, and what may come next."""
    while True:
        candidates = _candidates(items, order, every & ~done)
        fitting = [
            place
            for place in candidates
            if items[place].request is None and _fits(items, place, done, state)
        ]
        if not fitting:
            return done, candidates
        for place in fitting:
            done |= 1 << place


def _after(item: Item, state: State, dead: frozenset[str]) -> list[State]:
    """Returns what a cluster may be after a change, by what its answer showed."""
    if item.request is None:
        return []
    return [
        after
        for after in outcomes(state, item.request)
        if (not item.told or after == item.shown) and _proven(item.request, state, after, dead)
    ]


def _candidates(items: list[Item], order: list[int], left: int) -> list[int]:
    """Returns what may come next: nothing that must be and is left has ended before it began.

    What may never have been holds up nothing, and comes not after what began when it was over.
    """
    found: list[int] = []
    latest = -FOREVER
    ends = [item.end for place, item in enumerate(items) if item.needed and left >> place & 1]
    first_end = min(ends, default=FOREVER)
    for place in order:
        item = items[place]
        if not left >> place & 1:
            latest = item.start
        elif item.start > first_end:
            break
        else:
            found.append(place)
    return [place for place in found if items[place].needed or items[place].end >= latest]


def _fits(items: list[Item], place: int, done: int, state: State) -> bool:
    item = items[place]
    if item.behind >= 0 and not done >> item.behind & 1:
        return False
    if item.of is not None:
        return item.reason in refusals(state, item.of)
    return item.shown == state
