"""What `rewrap --batch` says on its own account: what a file would take, and what may follow it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import typer

from keyfold import calls
from keyfold.cli.commands.rewrapping.tally import Count, Kek, Tally
from keyfold.cli.output.forms import Form
from keyfold.cli.output.status import last_use
from keyfold.cli.output.tables import console, styled_table, time_text
from keyfold.cli.output.text import one_line, span_text
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.status import Generation

_PACE: Final = 10_000
"""Wrapped keys a second that a server allows a caller, unless its settings say otherwise."""

_MAX_CLUSTERS: Final = 1_000
"""Most clusters whose status is read."""

_SHOWN: Final = 20
"""Most generations that text shows; `--json` has all that are known."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A generation that wrapped keys of the file are or were under.

    Attributes:
        kek: Its KEK.
        count: Its lines.
        region: Its region; empty if the status does not show the KEK.
        generation: It, with its number and last use; None as for the region.
        newest: Whether it is the region's newest.
        hidden: Why the cluster's status could not be read; empty if it could.
    """

    kek: Kek
    count: Count
    region: str = ""
    generation: Generation | None = None
    newest: bool = False
    hidden: str = ""

    def __str__(self) -> str:
        if self.generation is None:
            return one_line(f"KEK {self.kek.id.hex()} of {self.kek.cluster}")
        number = self.generation.generation
        return one_line(f"generation {number} of region {self.region} of {self.kek.cluster}")

    def to_json(self) -> dict[str, Any]:
        """Returns it as `--json` prints it."""
        shown: dict[str, Any] = {"cluster": self.kek.cluster, "kek_id": self.kek.id.hex()}
        if self.generation is not None:
            shown |= {
                "region": self.region,
                "generation": self.generation.generation,
                "current": self.newest,
                "last_use_time": self.generation.last_use_time.isoformat()
                if self.generation.last_use_time
                else None,
            }
        return shown | {"keys": self.count.held, "moved_away": self.count.left}

    @property
    def left_for_good(self) -> bool:
        """Whether the file has left it altogether."""
        return self.count.left > 0 and not self.count.held


def show_census(session: Session, tally: Tally, calls_needed: int, *, moves: bool) -> None:
    """Prints what the lines are under, and what it takes to move them.

    Args:
        session: The session.
        tally: The counts of the input.
        calls_needed: The calls that `rewrap` would make.
        moves: Whether the options move each key, so that current ones count as well.
    """
    places = _places(session, tally)
    keys = sum(place.count.held for place in places) + tally.uncounted
    clusters = len({place.kek.cluster for place in places})
    regions = len({(place.kek.cluster, place.region) for place in places if place.region})
    stale = sum(place.count.held for place in places if place.generation and not place.newest)
    seconds = math.ceil(keys / _PACE)
    census = {
        "lines": tally.lines,
        "keys": keys,
        "unreadable": tally.unread,
        "clusters": clusters,
        "regions": regions,
        "not_current": stale,
        "calls": calls_needed,
        "seconds": seconds,
        "generations": [place.to_json() for place in places],
        "uncounted": tally.uncounted,
    }
    if session.printed_object(census):
        return
    out = console()
    typer.echo(
        f"{tally.lines:,} lines with {keys:,} wrapped keys of {clusters:,} clusters and "
        f"{regions:,} regions; {tally.unread:,} lines cannot be read"
    )
    if places:
        table = styled_table("CLUSTER", "REGION", "GENERATION", "KEYS", "CURRENT")
        for place in places[:_SHOWN]:
            known = place.generation
            table.add_row(
                one_line(place.kek.cluster),
                one_line(place.region) or "-",
                str(known.generation) if known else f"KEK {place.kek.id.hex()}",
                f"{place.count.held:,}",
                ("yes" if place.newest else "no") if known else "-",
            )
        out.print(table)
    _say_more(places, tally)
    _say_hidden(places)
    to_move = "all of them move" if moves else f"{stale:,} keys are not current"
    span = span_text(timedelta(seconds=seconds))
    typer.echo(
        f"{to_move}; {calls_needed:,} calls, at least {span} at {_PACE:,} keys a second, which "
        "servers allow a caller unless their settings say otherwise; nothing moved"
    )


def show_summary(session: Session, tally: Tally, before: int, ended: datetime) -> None:
    """Prints, on stderr, what became of the lines, and which old generations may retire when.

    Args:
        session: The session.
        tally: The counts of all lines.
        before: The lines that earlier runs have done.
        ended: When the run ended.
    """
    places = _places(session, tally)
    if session.form is Form.JSON:
        summary = {
            "lines": tally.lines,
            "moved": tally.moved,
            "already_current": tally.current,
            "failed": tally.failed,
            "unreadable": tally.unread,
            "lines_of_earlier_runs": before,
            "end_time": ended.isoformat(),
            "generations": [
                place.to_json() | {"left_by_this_file": place.left_for_good and not tally.unread}
                for place in places
            ],
            "uncounted": tally.uncounted,
        }
        typer.echo(json.dumps(summary, ensure_ascii=False), err=True)
        return
    earlier = f", {before:,} of them by earlier runs" if before else ""
    typer.echo(
        f"{tally.lines:,} lines{earlier}: {tally.moved:,} keys moved, {tally.current:,} were "
        f"current, {tally.failed:,} lines failed",
        err=True,
    )
    old = [place for place in places if place.count.left or not (place.newest or place.hidden)]
    for place in [one for one in old if one.generation is None or not one.newest][:_SHOWN]:
        for line in _about(place, tally, ended):
            typer.echo(line, err=True)
    _say_more(old, tally)
    _say_hidden(places)


def _about(place: _Place, tally: Tally, ended: datetime) -> Iterable[str]:
    """Yields what may be done with a generation that is not the newest one."""
    left, held = place.count.left, place.count.held
    if held:
        yield f"{place}: {left:,} keys left it, {held:,} of this file are still under it"
        if place.generation is not None:
            yield "  do not retire it: see the errors in the output, and run the output once more"
        return
    rest = ", and lines that could not be read may be under it" if tally.unread else ""
    yield f"{place}: all {left:,} keys that this file had under it have left it{rest}"
    if place.generation is None:
        return
    region, number = one_line(place.region), place.generation.generation
    cluster = one_line(place.kek.cluster)
    yield (
        f"  it may retire once no other file holds keys under it. Its last use is "
        f"{last_use(place.generation)}; this run ended at {time_text(ended)}, and a use later than "
        "about a minute after that is not this run's"
    )
    yield f"  look again: keyfold status {cluster} --verbose"
    yield (
        f"  retire it:  keyfold retire-generation {cluster} --region {region} --generation {number}"
    )


def _say_more(places: list[_Place], tally: Tally) -> None:
    if (more := len(places) - _SHOWN) > 0:
        typer.echo(f"and {more:,} more generations; --json shows them", err=True)
    if tally.uncounted:
        typer.echo(f"and {tally.uncounted:,} lines of further generations", err=True)


def _say_hidden(places: list[_Place]) -> None:
    """Says why generations of some clusters have no names."""
    reasons = {place.kek.cluster: place.hidden for place in places if place.hidden}
    for cluster, reason in list(reasons.items())[:_SHOWN]:
        typer.echo(one_line(f"{cluster}: its generations are not known here: {reason}"), err=True)


def _places(session: Session, tally: Tally) -> list[_Place]:
    """Returns the generations of the counted keys, those with most lines first."""
    counts: dict[str, dict[Kek, Count]] = {}
    for kek, count in tally.keks.items():
        counts.setdefault(kek.cluster, {})[kek] = count
    places: list[_Place] = []
    for number, (cluster, keks) in enumerate(counts.items()):
        if number >= _MAX_CLUSTERS:
            places += [
                _Place(kek, count, hidden="too many clusters") for kek, count in keks.items()
            ]
        else:
            places += _of_cluster(session, cluster, keks)
    return sorted(places, key=lambda one: (-one.count.left, -one.count.held, one.kek))


def _of_cluster(session: Session, cluster: str, keks: Mapping[Kek, Count]) -> Iterable[_Place]:
    """Yields the generations of one cluster; without names if its status may not be read."""
    try:
        status, _ = session.ask(calls.get_status(cluster))
    except KeyfoldError as error:
        hidden = f"{error.message} ({error.reason})"
        yield from (_Place(kek, count, hidden=hidden) for kek, count in keks.items())
        return
    known = {
        one.kek_id: (region.region, one, one is region.generations[-1])
        for region in status.regions
        for one in region.generations
    }
    for kek, count in keks.items():
        if kek.id in known:
            yield _Place(kek, count, *known[kek.id])
        else:
            yield _Place(kek, count)
