"""One order: whether what clients saw of a cluster can have happened, one change after the other.

Each change and each read takes effect at one moment between its start and its end. A change of
unknown outcome may have taken effect once at any later time, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from behaviour import Request, State, asked, outcomes, refusals
from chaos.history import FOREVER, Attempt, Change, History, Look, Span

BOUND: Final = 300_000
"""Most states that the search for an order visits for one cluster."""

STATE_REASONS: Final = frozenset(
    {
        "REVOKED",
        "CLUSTER_REVOKED",
        "CLUSTER_EXISTS",
        "REGION_EXISTS",
        "CLUSTER_NOT_FOUND",
        "REGION_NOT_FOUND",
    }
)
"""Reasons that a cluster's state can give."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not have happened.

    Attributes:
        check: Name of the check that found it.
        cluster: Name of the cluster.
        text: Description for the reader of a failure.
    """

    check: str
    cluster: str
    text: str

    def __str__(self) -> str:
        """Returns all of it on one line."""
        return f"{self.check}: {self.cluster}: {self.text}"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that took effect at one moment, or may have.

    Attributes:
        start: It took effect no earlier.
        end: It took effect no later.
        request: The change, or None for a read.
        needed: Whether it certainly took effect.
        shown: The cluster just after, as the answer showed it, if `told`.
        told: Whether the answer showed the cluster.
        reason: Refusal that the state explains; such a refusal is a read.
        of: The request that was refused.
        behind: Place of the item that must precede it, or -1.
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
    """Turns what clients saw of a cluster into the items of an order.

    Args:
        changes: The cluster's changes.
        looks: The cluster's GetStatus answers.
        over_by: Returns by when an attempt of unknown outcome is over.
        behind: Returns whether an attempt may have read a store that is no longer the right one.
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
    """Adds the items that a request's attempts imply about when it took effect."""
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
    # A Restore that moves nothing is not recorded. Another attempt may have moved something, or
    # may still do so, until an answer says that it was replayed.
    if unknown and (made < 0 or request.method == "Restore"):
        over = max(map(over_by, unknown))
        replays = [attempt.end for attempt in change.attempts if attempt.answer.replayed]
        items.append(Item(first, min([over, *replays]), request, needed=False))


def order(
    history: History, cluster: str, changes: list[Change], looks: list[Look]
) -> Iterator[Violation]:
    """Yields a violation if what clients saw of a cluster fits no order."""
    items = items_of(changes, looks, history.over_by, history.behind)
    fits, deepest = search(items, [*history.spans_of("key"), *history.spans_of("out:")])
    if fits is None:
        yield Violation("order", cluster, f"no order found within {BOUND} states; undecided")
    elif not fits:
        stuck = ", ".join(named(items[place]) for place in deepest[:4])
        check = "proven" if search(items, [])[0] else "order"
        yield Violation(check, cluster, f"no order fits; what cannot follow: {stuck}")


def _dead(item: Item, spans: Iterable[Span]) -> frozenset[str]:
    """Returns the root keys that were out of reach while a change took effect; `*` means any."""
    return frozenset(
        "*" if span.what == "keys" else span.what.partition(":")[2]
        for span in spans
        if span.begun < item.start and item.end < span.ending
    )


def _proven(request: Request, before: State, after: State, dead: frozenset[str]) -> bool:
    """Returns whether every key that a change had to ask was in reach (R7, S5)."""
    if not dead:
        return True
    needed = asked(request, before, after)
    uris = {region.uri for name, region in before or () if name in needed.opens} | needed.wraps
    return not uris or ("*" not in dead and not uris & dead)


def named(item: Item) -> str:
    """Describes an item for the reader of a failure."""
    what = item.request or item.of
    told = f" showing {item.shown}" if item.told else f" {item.reason}"
    return f"[{item.start:.3f}-{item.end:.3f}] {what or 'a read'}{told}"


def search(items: list[Item], spans: list[Span]) -> tuple[bool | None, list[int]]:
    """Searches for an order; returns None at the bound, and the items that got stuck.

    It takes reads as soon as they fit and close nothing, since such a read never keeps another item
    from fitting later. A read that began after an uncertain change was over closes that change, so
    it is one of the ways on.
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
            for after in _after(items, place, done, state, dead[place])
        ]
        # The items that surely happened are tried first, so they go on the stack last.
        following.sort(key=lambda one: one[0])
        stack += [step for _, step in following]
    return False, stuck


def _with_reads(
    items: list[Item], order: list[int], every: int, done: int, state: State
) -> tuple[int, list[int]]:
    """Takes every read that fits; returns the items done then and those that may come next."""
    while True:
        candidates = _candidates(items, order, every & ~done)
        closing = min(
            (items[place].end for place in candidates if not items[place].needed), default=FOREVER
        )
        fitting = [
            place
            for place in candidates
            if items[place].request is None
            and items[place].start <= closing
            and _fits(items, place, done, state)
        ]
        if not fitting:
            return done, candidates
        for place in fitting:
            done |= 1 << place


def _after(
    items: list[Item], place: int, done: int, state: State, dead: frozenset[str]
) -> list[State]:
    """Returns the states that an item may lead to, given what its answer showed."""
    item = items[place]
    if item.request is None:
        return [state] if _fits(items, place, done, state) else []
    return [
        after
        for after in outcomes(state, item.request)
        if (not item.told or after == item.shown) and _proven(item.request, state, after, dead)
    ]


def _candidates(items: list[Item], order: list[int], left: int) -> list[int]:
    """Returns the items that may come next: those that began before any needed item left ended.

    An uncertain item holds up nothing, and precedes whatever began after its end.
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
