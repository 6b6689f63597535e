"""What stops if somebody does something to a root key, as text that a person reads before that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from rich.text import Text

from keyfold.cli.output.key_usage import ANSWERS
from keyfold.cli.output.tables import Columns, coloured, console, styled_table
from keyfold.cli.output.text import counted, one_line
from keyfold.models.key_usage import KeyUsage, KeyUse
from keyfold.models.what_if import ImpactTime, KeyImpact, WhatIf

_SUPPOSED: Final = {
    WhatIf.DISABLE: "the key is disabled",
    WhatIf.DELETE: "the key is deleted",
    WhatIf.REMOVE_WRAP_PERMISSION: "the permission to wrap is removed",
    WhatIf.REMOVE_UNWRAP_PERMISSION: "the permission to unwrap is removed",
    WhatIf.REMOVE_DESCRIBE_PERMISSION: "the permission to describe is removed",
    WhatIf.REMOVE_PRINCIPAL: "the principal is removed",
}
_WHEN: Final = {
    ImpactTime.AT_ONCE: "at once",
    ImpactTime.AFTER_TTL: "later",
    ImpactTime.NEVER: "never",
}

_FATES: Final = {
    "resumes": "resumes by itself once that is taken back",
    "needs a person": "resumes only after a person has done more",
    "is lost": "never resumes",
}
"""What becomes of a use, the best first, in a word and in the summary."""

Row = tuple[KeyUse, KeyImpact]


def show_what_if(usage: KeyUsage, what: WhatIf, limit: int) -> None:
    """Prints what stops, whether that is safe, and each use with what happens to it.

    Args:
        usage: All uses.
        what: What somebody is supposed to do.
        limit: Most uses to show; 0: all of them.
    """
    out = console()
    rows = [
        (use, use.impact)
        for use in usage.uses
        if use.impact is not None and (use.impact.stops or not use.superseded)
    ]
    stops = any(impact.stops for _, impact in rows)
    colour = "red" if stops else "yellow" if usage.hidden else "green"
    out.print(Text(f"if {_SUPPOSED[what]}, {_summary(rows)}", colour, overflow="fold"))
    out.print(ANSWERS[usage.safe_to_disable])
    for reason in usage.reasons:
        out.print(f"  {one_line(reason)}")
    shown = rows[:limit] if limit else rows
    notes = list(dict.fromkeys(_note(impact) for _, impact in shown))
    if shown:
        out.print(_table(shown, notes))
    for number, note in enumerate(notes, start=1):
        out.print(Text(f"[{number}] {note}", overflow="fold"))
    if len(shown) < len(rows):
        out.print(Text(f"there are more, {len(rows):,} in all; raise --limit", "yellow"))
    if past := len(usage.uses) - len(rows):
        out.print(f"{past:,} more are needed by backups alone; key-usage shows them")
    if usage.hidden:
        out.print(Text(f"{usage.hidden:,} more are hidden from you", "yellow"))


def _summary(rows: Iterable[Row]) -> str:
    """Returns in one line how much stops, when at the latest, and what comes back by itself."""
    every = list(rows)
    regions = _regions(every)
    stopping = [row for row in every if row[1].stops]
    if not stopping:
        return "nothing stops"
    serving = _regions(row for row in stopping if row[1].stops_unwrap)
    rotating = _regions(stopping) - serving
    parts = []
    if serving:
        parts.append(f"{len(serving):,} of {counted(len(regions), 'region')} stop serving")
    if rotating:
        parts.append(f"{counted(len(rotating), 'region')} can no longer be rotated")
    return f"{' and '.join(parts)}, {_when(stopping)}; {_afterwards(stopping)}"


def _when(stopping: Iterable[Row]) -> str:
    impacts = [impact for _, impact in stopping]
    within = span_text(max(impact.stops_within for impact in impacts))
    if any(impact.when is not ImpactTime.AT_ONCE for impact in impacts):
        return f"the last within {within}"
    return "at once" if within == "0s" else f"at once after a recheck, or else within {within}"


def _afterwards(stopping: Iterable[Row]) -> str:
    """Returns what comes back once somebody has taken the action back, counted by regions."""
    worst: dict[tuple[str, str], int] = {}
    for use, impact in stopping:
        place, kind = (use.cluster, use.region), list(_FATES).index(fate(impact))
        worst[place] = max(worst.get(place, 0), kind)
    counted = [list(worst.values()).count(kind) for kind in range(len(_FATES))]
    told = [(count, said) for count, said in zip(counted, _FATES.values(), strict=True) if count]
    if len(told) == 1:
        return f"then it {told[0][1]}"
    return f"then it {', '.join(f'{said} in {count:,}' for count, said in told)}"


def _table(rows: Iterable[Row], notes: list[str]) -> Columns:
    table = styled_table(
        *("CLUSTER", "REGION", "STATE", "GENERATION", "STOPS", "WHEN", "WITHIN"),
        *("CALLERS SEE", "THEN", "WHY", "VERSION", "KEY"),
    )
    for use, impact in rows:
        principal = f" as {use.auth_principal}" if use.auth_principal else ""
        table.add_row(
            one_line(use.cluster),
            one_line(use.region),
            coloured(str(use.state)),
            f"{use.generation}{' retired' if use.retired else ''}",
            Text(", ".join(_stopping(impact)) or "-", "red" if impact.stops else "dim"),
            _WHEN.get(impact.when, "-"),
            span_text(impact.stops_within) if impact.stops else "-",
            one_line(f"{impact.reason} {impact.code}".strip()) or "-",
            fate(impact) if impact.stops else "-",
            f"[{notes.index(_note(impact)) + 1}]",
            one_line(use.key_version),
            one_line(f"{use.type} {use.uri}{principal}"),
        )
    return table


def _stopping(impact: KeyImpact) -> Iterator[str]:
    if impact.stops_wrap:
        yield "wrap"
    if impact.stops_unwrap:
        yield "unwrap"
    if impact.stops_rotation:
        yield "rotate"


def fate(impact: KeyImpact) -> str:
    """Returns what becomes of a use once somebody has taken the action back."""
    if impact.resumes:
        return "resumes"
    return "needs a person" if impact.needs else "is lost"


def _note(impact: KeyImpact) -> str:
    note = impact.because
    if impact.needs:
        note += f". Then {impact.needs}"
    return one_line(note)


def _regions(rows: Iterable[Row]) -> set[tuple[str, str]]:
    return {(use.cluster, use.region) for use, _ in rows}


def span_text(span: timedelta) -> str:
    """Returns a span as people write it, such as `1h5m` or `75s`."""
    seconds = round(span.total_seconds())
    if seconds < 120:  # noqa: PLR2004  two minutes, below which seconds read better
        return f"{seconds}s"
    parts = ((seconds // 3_600, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)
