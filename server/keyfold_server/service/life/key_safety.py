"""Key safety: may these root keys be disabled, and which backups still need them (protocol C6, C7).

The answer is about all uses, those that the caller may not see as well. "No" and "could not tell"
are both False, and the reasons say which it is. The answer is never that a key may be deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from keyfold_server.domain.key_usage import KeyUseSummary, UseGroup
from keyfold_server.domain.lifecycle import Action, State, allows
from keyfold_server.domain.retention import backups_with, final_after
from keyfold_server.service.life.notices import time_text


@dataclass(frozen=True, slots=True)
class KeySafety:
    """Whether root keys may be disabled.

    Attributes:
        safe: Whether no cluster needs them now; None: the caller may not know.
        reasons: Why, one line each.
        since: Backups that still exist and were taken since then hold wraps under the keys, in
            milliseconds of Unix time; None: there are no such backups.
        until: When the last such backup was taken; None: there are none, or new ones hold such
            wraps, too.
        hidden: Number of uses that the caller may not see.
        visible: Number of uses that the caller may see.
    """

    safe: bool | None
    reasons: tuple[str, ...]
    since: int | None = None
    until: int | None = None
    hidden: int = 0
    visible: int = 0


@dataclass(frozen=True, slots=True)
class Doubts:
    """What may need the keys without being counted.

    Attributes:
        spoilt: Names of clusters that could not be verified and that the caller may see.
        unseen: Whether there are such clusters that the caller may not see.
        vendors: Whether the settings name one of the keys as PLATFORM key.
    """

    spoilt: tuple[str, ...] = ()
    unseen: bool = False
    vendors: bool = False


def judged(summary: KeyUseSummary, doubts: Doubts, now: int, backup_retention: float) -> KeySafety:
    """Returns whether keys may be disabled, to a caller who may know.

    Args:
        summary: All uses.
        doubts: What is not counted.
        now: Milliseconds of Unix time.
        backup_retention: Seconds for which the vendor keeps backups.
    """
    against = [*_unclear(summary.lost, doubts), *_needed(summary.groups)]
    if doubts.vendors:
        against.append(
            "KEYFOLD_PLATFORM_KEY names it, so clusters whose customer brings no key get it"
        )
    reasons = against or [
        "no cluster needs it now: another root key, or another version, opens every KEK that it "
        "wrapped"
        if summary.groups
        else "Keyfold has no wrap under it, neither now nor in its history; if you expected one, "
        "check how its uri, version, principal or holder is written"
    ]
    safe = KeySafety(not against, tuple(reasons))
    return _with_backups(safe, summary.groups, now, backup_retention)


def hidden_from(summary: KeyUseSummary, why: str, now: int, backup_retention: float) -> KeySafety:
    """Returns what a caller hears who may know only of the uses that it may see.

    Args:
        summary: All uses. Those that the caller may not see leave no trace in what it returns.
        why: Why the caller hears of no others.
        now: Milliseconds of Unix time.
        backup_retention: Seconds for which the vendor keeps backups.
    """
    seen = [group for group in summary.groups if group.visible]
    against = list(_needed(seen))
    known = KeySafety(False if against else None, (*against, why))
    return _with_backups(known, seen, now, backup_retention)


def doubtful(doubts: Doubts) -> KeySafety:
    """Returns what a page says that is not the first: only that Keyfold could not tell."""
    reasons = tuple(_unclear(0, doubts))
    return KeySafety(False if reasons else None, reasons)


def _with_backups(
    told: KeySafety, groups: Collection[UseGroup], now: int, backup_retention: float
) -> KeySafety:
    span = _backups(groups, now, backup_retention)
    in_use = any(not group.superseded for group in groups)
    return replace(
        told,
        reasons=(*told.reasons, *_about_backups(groups, span, backup_retention)),
        since=None if span is None else span[0],
        until=None if span is None or in_use else span[1],
        hidden=_count(group for group in groups if not group.visible),
        visible=_count(group for group in groups if group.visible),
    )


def _unclear(lost: int, doubts: Doubts) -> Iterator[str]:
    """Yields why Keyfold cannot tell."""
    if doubts.spoilt:
        yield (
            f"could not tell: the stored rows of {', '.join(doubts.spoilt)} are not authentic, or "
            "were not when somebody revoked it; restore them, or seal them and call Restore"
        )
    if doubts.unseen:
        yield "could not tell: rows of clusters that you may not see are not authentic"
    if lost:
        yield (
            f"could not tell: {_many(lost, 'cluster is', 'clusters are')} banned and "
            f"{'has' if lost == 1 else 'have'} no rows that would say which root keys they needed"
        )


def _needed(groups: Iterable[UseGroup]) -> Iterator[str]:
    """Yields who needs the keys now."""
    current = [group for group in groups if not group.superseded]
    for state in State:
        for retired in (False, True):
            alike = [g for g in current if g.state is state and g.retired == retired]
            if count := _count(alike):
                kind = "retired generation" if retired else "generation"
                yield (
                    f"it opens {_many(count, kind, f'{kind}s')} of {state.value.lower()} regions"
                    f"{_hidden(alike)}: {_why(state, retired=retired)}"
                )
    others = [group for group in current if group.other_uri]
    if count := _count(others):
        yield (
            f"of these, {count:,} {'names' if count == 1 else 'name'} the key by another uri, such "
            "as that of a replica in another region, which its KMS disables by itself"
        )


def _why(state: State, *, retired: bool) -> str:
    if not allows(state, Action.USE):
        back = "Restore" if allows(state, Action.RESTORE) else "Restore after an Undelete"
        return f"{back} needs it"
    return "a rotation moves them, too, and needs it" if retired else "callers use them"


def _backups(
    groups: Iterable[UseGroup], now: int, backup_retention: float
) -> tuple[int, int] | None:
    """Returns between which times backups were taken that still exist and need the keys."""
    spans = [
        span
        for group in groups
        if not group.expired
        and (span := backups_with(group.since, group.until, now, backup_retention)) is not None
    ]
    if not spans:
        return None
    return min(first for first, _ in spans), max(last for _, last in spans)


def _about_backups(
    groups: Collection[UseGroup], span: tuple[int, int] | None, backup_retention: float
) -> Iterator[str]:
    """Yields what deleting the keys, which disabling them is not, would make unreadable."""
    kept = f"KEYFOLD_BACKUP_RETENTION is {backup_retention / 86_400:g} days"
    if span is None:
        if groups:
            yield f"no backup that still exists holds a wrap under it, if that is right: {kept}"
        return
    first, last = (time_text(each / 1000) for each in span)
    if any(not group.superseded for group in groups):
        yield f"each backup and export since {first} holds wraps that only it opens"
        return
    final = time_text(final_after(span[1], backup_retention) / 1000)
    yield (
        f"do not delete it: backups and exports taken from {first} to {last} hold wraps that only "
        f"it opens, and the last of them is kept until {final} ({kept})"
    )


def _hidden(groups: Iterable[UseGroup]) -> str:
    count = _count(group for group in groups if not group.visible)
    return f" ({count:,} hidden from you)" if count else ""


def _count(groups: Iterable[UseGroup]) -> int:
    return sum(group.count for group in groups)


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"
