"""Holds a history against the behavioural model: what clients saw must have been possible.

Each check has a name, which stands in what it finds:

    order        Changes and reads of a cluster fit one order in which each takes effect between its
                 start and its end, an unknown one once or not at all, all of its regions or none
                 (R1, R6, S5, S8)
    twice        A request that was carried out is not carried out again (R6)
    revoked      No use of a region that began after a Revoke was confirmed, or after the time that
                 its answer gave, until a Restore began (R1 to R4)
    generation   A use tells a generation that there was, and in time the newest
    wrapped-key  A wrapped key opens to what was wrapped, wherever it is opened at all
    refusal      A refused key is not used beyond F1's bound, nor after its refusal was seen (F2)
    stale        No use where the store was not seen for store_max_staleness (S3)
    answers      No call is refused for a reason that nothing explains
    proven       No key is enabled, rotated or restored while it cannot be asked (R7, S5)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from chaos.history import FOREVER, Attempt, Change, History, Look, Span, Use
from chaos.model import Request, State, outcomes, refusals
from chaos.traffic import TWINS, TWINS_URI

BOUND: Final = 300_000
"""States that the search for an order looks at, for one cluster."""

MEMORY: Final = 6.0
"""Seconds after which a refusal that is over is forgotten: 5, and a little."""

BELIEVED: Final = 16.0
"""Seconds for which an outage that is over may still count as one: pause and belief."""

FALLS_BACK: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "STORE_UNAVAILABLE", "OVERLOADED", "BUSY", "CANCELLED"}
)
"""Reasons that faults explain at any time: somebody did not answer."""

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


def validate(history: History) -> list[Violation]:
    """Returns everything in a history that the model does not allow."""
    return list(_validate(history))


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
        yield from _order(history, cluster, changes[cluster], looks[cluster])
        yield from _change_answers(history, cluster, changes[cluster])
        facts = _Facts(history, changes[cluster])
        for use in uses[cluster]:
            yield from _use(history, facts, use)
    yield from _twins(history)


# --- one order ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Item:
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


def _items(changes: Iterable[Change], looks: Iterable[Look]) -> list[_Item]:
    items: list[_Item] = []
    for change in changes:
        _add(items, change)
    for look in looks:
        attempt = look.attempt
        if attempt.answer.told or attempt.answer.reason == "CLUSTER_NOT_FOUND":
            items.append(_read(attempt))
    return items


def _read(attempt: Attempt, behind: int = -1) -> _Item:
    return _Item(attempt.start, attempt.end, shown=attempt.answer.shown, told=True, behind=behind)


def _add(items: list[_Item], change: Change) -> None:
    """Turns a request's attempts into what they say about when it took effect."""
    first, request = change.attempts[0].start, change.request
    made = -1
    for attempt in change.attempts:
        answer, start, end = attempt.answer, attempt.start, attempt.end
        if answer.reason in STATE_REASONS:
            items.append(_Item(start, end, reason=answer.reason, of=request))
        if not answer.done:
            continue
        if answer.replayed:
            if made < 0:
                made = len(items)
                items.append(_Item(first, end, request))
            items.append(_read(attempt, made))
        else:
            made = len(items)
            items.append(_Item(start, end, request, shown=answer.shown, told=True))
    if made < 0 and any(attempt.answer.unknown for attempt in change.attempts):
        items.append(_Item(first, FOREVER, request, needed=False))


def _order(
    history: History, cluster: str, changes: list[Change], looks: list[Look]
) -> Iterator[Violation]:
    items = _items(changes, looks)
    fits, deepest = _search(items, history.spans_of("key"))
    if fits is None:
        yield Violation("order", cluster, f"no order found within {BOUND} states; not decided")
    elif not fits:
        stuck = ", ".join(_named(items[place]) for place in deepest[:4])
        check = "proven" if _search(items, [])[0] else "order"
        yield Violation(check, cluster, f"no order fits; what cannot follow: {stuck}")


def _dead(item: _Item, spans: Iterable[Span]) -> frozenset[str]:
    """Returns the root keys that could not be asked while a change took effect; `*`: any."""
    return frozenset(
        "*" if span.what == "keys" else span.what.removeprefix("key:")
        for span in spans
        if span.begun < item.start and item.end < span.ending
    )


def _proven(request: Request, before: State, after: State, dead: frozenset[str]) -> bool:
    """Whether every key was asked that a change had to ask (R7, S5)."""
    if not dead:
        return True
    old = dict(before or ())
    for name, region in after or ():
        was = old.get(name)
        if was is None:
            asked = {region.uri}
        elif was.revoked and not region.revoked:
            asked = {was.uri}
        elif request.method == "Rotate" and name in request.regions:
            asked = {was.uri, region.uri}
        else:
            continue
        if "*" in dead or asked & dead:
            return False
    return True


def _named(item: _Item) -> str:
    what = item.request or item.of
    told = f" showing {item.shown}" if item.told else f" {item.reason}"
    return f"[{item.start:.3f}-{item.end:.3f}] {what or 'a read'}{told}"


def _search(items: list[_Item], spans: list[Span]) -> tuple[bool | None, list[int]]:
    """Looks for an order; None where the bound was reached.

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
    items: list[_Item], order: list[int], every: int, done: int, state: State
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


def _after(item: _Item, state: State, dead: frozenset[str]) -> list[State]:
    """Returns what a cluster may be after a change, by what its answer showed."""
    if item.request is None:
        return []
    return [
        after
        for after in outcomes(state, item.request)
        if (not item.told or after == item.shown) and _proven(item.request, state, after, dead)
    ]


def _candidates(items: list[_Item], order: list[int], left: int) -> list[int]:
    """Returns what may come next: nothing that is left has ended before it began."""
    found: list[int] = []
    first_end = FOREVER
    for place in order:
        if not left >> place & 1:
            continue
        if items[place].start > first_end:
            break
        found.append(place)
        first_end = min(first_end, items[place].end)
    return [place for place in found if items[place].start <= first_end]


def _fits(items: list[_Item], place: int, done: int, state: State) -> bool:
    item = items[place]
    if item.behind >= 0 and not done >> item.behind & 1:
        return False
    if item.of is not None:
        return item.reason in refusals(state, item.of)
    return item.shown == state


# --- changes -----------------------------------------------------------------------------


def _twice(cluster: str, changes: list[Change]) -> Iterator[Violation]:
    for change in changes:
        carried_out = [a for a in change.attempts if a.answer.done]
        # A Restore that found nothing to prove or to move is not recorded: it did nothing.
        if change.request.method != "Restore" and any(
            not attempt.answer.replayed for attempt in carried_out[1:]
        ):
            text = f"{change.request} with id {change.request_id} was carried out again"
            yield Violation("twice", cluster, text)


def _change_answers(history: History, cluster: str, changes: list[Change]) -> Iterator[Violation]:
    for change in changes:
        for attempt in change.attempts:
            answer = attempt.answer
            known = (
                answer.done
                or answer.reason in STATE_REASONS
                or answer.reason in {"CONCURRENT_CHANGE", "REQUEST_IN_PROGRESS"}
                or _explained(history, attempt)
            )
            if not known:
                text = f"{change.request} was refused: {answer.reason}"
                yield Violation("answers", cluster, text)


def _throughout(span: Span, attempt: Attempt) -> bool:
    return span.begun < attempt.start and attempt.end < span.ending


# --- uses --------------------------------------------------------------------------------


class _Facts:
    """What a cluster's changes say about what must be so at a time."""

    def __init__(self, history: History, changes: list[Change]) -> None:
        self._lag = 0.0 if history.servers == 1 else history.staleness + 1.0
        self.revokes: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.maybe_revoked: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.restores: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.sure_restores: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.shown: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.fresh: dict[str, list[float]] = defaultdict(list)
        self.made: dict[str, float] = {}
        every = {name for c in changes for name in c.request.regions}
        for change in changes:
            for name in change.request.regions or every:
                self._take(change, name)

    def _take(self, change: Change, name: str) -> None:
        first = change.attempts[0].start
        sure = [a for a in change.attempts if a.answer.done]
        # Not later than this it took effect, if it did.
        end = sure[0].end if sure else FOREVER
        if not sure and not any(a.answer.unknown for a in change.attempts):
            return
        if change.request.method == "Revoke":
            self.maybe_revoked[name].append((first, end))
            for attempt in sure[:1]:
                # One that names no region revokes those that there are, not later ones.
                if name in dict(attempt.answer.shown or ()):
                    start = first if attempt.answer.replayed else attempt.start
                    stopped = attempt.end + attempt.answer.stops_within
                    self.revokes[name].append((start, stopped))
        elif change.request.method == "Restore":
            # A repetition may be carried out anew where the first attempt moved nothing.
            self.restores[name].append((first, sure[-1].end if sure else FOREVER))
            self.sure_restores[name] += [(a.start, a.end) for a in sure[:1] if _restored(a, name)]
        elif change.request.fresh:
            self.fresh[name].append(first)
        for attempt in sure:
            for shown, region in attempt.answer.shown or ():
                self.shown[shown].append((attempt.end + self._lag, region.generations))
                self.made[shown] = min(self.made.get(shown, FOREVER), attempt.end + self._lag)

    def forbidden(self, use: Use) -> str:
        """Says by which Revoke a use was forbidden, or nothing."""
        start, end = use.attempt.start, use.attempt.end
        for revoked, stopped in self.revokes[use.region]:
            if stopped < start and not any(
                began < end and ended > revoked for began, ended in self.restores[use.region]
            ):
                return f"Revoke begun at {revoked:.3f} and effective since {stopped:.3f}"
        return ""

    def may_be_revoked(self, use: Use) -> bool:
        """Whether a use may have met a revoked region."""
        start, end = use.attempt.start - self._lag, use.attempt.end
        return any(
            began < end
            and not any(
                other > ended and over < start for other, over in self.sure_restores[use.region]
            )
            for began, ended in self.maybe_revoked[use.region]
        )

    def generations(self, use: Use) -> tuple[int, int]:
        """Returns the oldest generation that may wrap at a use, and the newest there may be."""
        shown = [number for at, number in self.shown[use.region] if at < use.attempt.start]
        return max(shown, default=1), 1 + sum(
            began < use.attempt.end for began in self.fresh[use.region]
        )


def _restored(attempt: Attempt, name: str) -> bool:
    region = dict(attempt.answer.shown or ()).get(name)
    return region is not None and not region.revoked and not attempt.answer.replayed


def _use(history: History, facts: _Facts, use: Use) -> Iterator[Violation]:
    attempt, answer = use.attempt, use.attempt.answer
    what = f"{use.method} in {use.region} at {attempt.start:.3f}-{attempt.end:.3f}"
    if use.wrong:
        yield Violation("wrapped-key", use.cluster, f"{what}: {use.wrong}")
    if not answer.done:
        if not _use_explained(history, facts, use):
            yield Violation("answers", use.cluster, f"{what} was refused: {answer.reason}")
        return
    why = facts.forbidden(use)
    if why:
        yield Violation("revoked", use.cluster, f"{what} succeeded after {why}")
    oldest, newest = facts.generations(use)
    if use.generation > newest or (use.method != "Unwrap" and use.generation < oldest):
        text = f"{what} tells generation {use.generation}, not {oldest} to {newest}"
        yield Violation("generation", use.cluster, text)
    for span in history.spans_of("store"):
        if span.begun + history.staleness < attempt.start and attempt.end < span.ending:
            text = f"{what} succeeded, the store held since {span.begun:.3f}"
            yield Violation("stale", use.cluster, text)
    yield from _beyond(history, use, what)


def _use_explained(history: History, facts: _Facts, use: Use) -> bool:
    """Whether the record or a fault explains a use's refusal."""
    reason = use.attempt.answer.reason
    if reason == "REVOKED":
        return facts.may_be_revoked(use)
    if reason in {"CLUSTER_NOT_FOUND", "REGION_NOT_FOUND"}:
        return facts.made.get(use.region, FOREVER) >= use.attempt.start
    return _explained(history, use.attempt)


def _beyond(history: History, use: Use, what: str) -> Iterator[Violation]:
    """F1: a key that cannot be asked, or refuses, is not used beyond TTL and grace."""
    if use.cluster in TWINS:
        return
    longest = history.ttl + history.grace
    for span in history.spans_of("keys"):
        if span.begun + longest < use.attempt.start and use.attempt.end < span.ending:
            text = f"{what} succeeded, no key to be asked since {span.begun:.3f}"
            yield Violation("refusal", use.cluster, text)


def _explained(history: History, attempt: Attempt) -> bool:
    """Whether a fault explains a refusal."""
    reason = attempt.answer.reason
    if attempt.answer.unknown or reason in FALLS_BACK:
        return True
    if reason == "KEY_DISABLED":
        return _near(history.spans_of("key:"), attempt, MEMORY)
    if reason == "UNREACHABLE":
        return _near(history.spans_of("keys"), attempt, BELIEVED)
    if reason == "STORE_STALE":
        away = [*history.spans_of("store"), *history.spans_of("paused:")]
        # The polls go on with what a held store left; a paused server has polls to make up for.
        return history.servers > 1 or _near(away, attempt, 2 * history.staleness)
    return False


def _near(spans: Iterable[Span], attempt: Attempt, after: float) -> bool:
    return any(s.asked <= attempt.end and attempt.start <= s.ended + after for s in spans)


def _twins(history: History) -> Iterator[Violation]:
    """F1 and F2 on two clusters under one root key: what refuses one, refuses the other.

    One asks on every call (F1 at TTL 0), so it must fail once the key is disabled; from the
    moment that its refusal is answered, the other must not serve from memory either.
    """
    refused: list[tuple[float, str, Span]] = []
    spans = [s for s in history.spans_of("key:") if s.what == f"key:{TWINS_URI}"]
    uses = sorted(
        (u for u in history.uses if u.cluster in TWINS and u.region == "eu"),
        key=lambda use: use.attempt.end,
    )
    for use in uses:
        attempt = use.attempt
        for span in spans:
            if not _throughout(span, attempt):
                continue
            if not attempt.answer.done:
                if attempt.answer.reason == "KEY_DISABLED" and not attempt.answer.again:
                    refused.append((attempt.end, attempt.server, span))
                continue
            if TWINS[use.cluster] == 0:
                text = f"{use.method} at {attempt.start:.3f}, its key disabled: it was not asked"
                yield Violation("refusal", use.cluster, text)
            elif any(
                at < attempt.start and server == attempt.server and where is span
                for at, server, where in refused
            ):
                text = f"{use.method} at {attempt.start:.3f} succeeded after its key's refusal"
                yield Violation("refusal", use.cluster, text)
