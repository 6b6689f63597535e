"""Facts: derives from a cluster's changes what must hold at each time."""

from __future__ import annotations

from collections import defaultdict

from chaos.history import FOREVER, Attempt, Change, History, Use


class Facts:
    """What must hold at each time, derived from a cluster's changes."""

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
        # It took effect by then, if it did at all.
        end = sure[0].end if sure else FOREVER
        if not sure and not any(a.answer.unknown for a in change.attempts):
            return
        if change.request.method == "Revoke":
            self.maybe_revoked[name].append((first, end))
            for attempt in sure[:1]:
                # A Revoke without regions revokes those that exist, not later ones. The answer to
                # a repeated Revoke shows the later ones too.
                region = dict(attempt.answer.shown or ()).get(name)
                later = region is not None and not region.revoked and attempt.answer.superseded
                if region is not None and not (later and not change.request.regions):
                    start = first if attempt.answer.replayed else attempt.start
                    stopped = attempt.end + attempt.answer.stops_within
                    self.revokes[name].append((start, stopped))
        elif change.request.method == "Restore":
            # If the first attempt moved nothing, a repeated Restore may be carried out anew.
            anew = [a for a in sure if not a.answer.replayed] or sure[:1]
            known = not any(a.answer.unknown for a in change.attempts)
            self.restores[name].append((first, anew[-1].end if known else FOREVER))
            self.sure_restores[name] += [(a.start, a.end) for a in sure[:1] if _restored(a, name)]
        elif change.request.fresh:
            self.fresh[name].append(first)
        for attempt in sure:
            for shown, region in attempt.answer.shown or ():
                self.shown[shown].append((attempt.end + self._lag, region.generations))
                self.made[shown] = min(self.made.get(shown, FOREVER), attempt.end + self._lag)

    def forbidden(self, use: Use) -> str:
        """Names the Revoke that forbade a use, or returns an empty string."""
        start, end = use.attempt.start, use.attempt.end
        for revoked, stopped in self.revokes[use.region]:
            if stopped < start and not any(
                began < end and ended > revoked for began, ended in self.restores[use.region]
            ):
                return f"Revoke begun at {revoked:.3f} and effective since {stopped:.3f}"
        return ""

    def may_be_revoked(self, use: Use) -> bool:
        """Returns whether a use may have met a revoked region."""
        start, end = use.attempt.start - self._lag, use.attempt.end
        return any(
            began < end
            and not any(
                other > ended and over < start for other, over in self.sure_restores[use.region]
            )
            for began, ended in self.maybe_revoked[use.region]
        )

    def generations(self, use: Use) -> tuple[int, int]:
        """Returns the oldest generation that may wrap at a use, and the newest that may exist."""
        shown = [number for at, number in self.shown[use.region] if at < use.attempt.start]
        return max(shown, default=1), 1 + sum(
            began < use.attempt.end for began in self.fresh[use.region]
        )


def _restored(attempt: Attempt, name: str) -> bool:
    region = dict(attempt.answer.shown or ()).get(name)
    return region is not None and not region.revoked and not attempt.answer.replayed
