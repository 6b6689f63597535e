"""Tables for people, in colour on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from keyfold.cli.output.text import one_line
from keyfold.models.key_test import KeyTest
from keyfold.models.specs import KeySpec
from keyfold.models.status import ClusterStatus, Generation, Health, RegionStatus, State

_WIDTH_ELSEWHERE: Final = 250
"""Characters in a line of a file or pipe, so wide that nothing is folded."""

_NARROW: Final = 110
"""Characters in a line of a terminal below which a table has no room for the keys' uris."""

_COLOURS: Final = {
    "ENABLED": "green",
    "HEALTHY": "green",
    "PASSED": "green",
    "yes": "green",
    "UNKNOWN": "dim",
    "SKIPPED": "dim",
    "-": "dim",
    "REVOKED": "yellow",
    "UNREACHABLE": "yellow",
    "THROTTLED": "yellow",
    "CREDENTIALS_FAILED": "yellow",
}
"""The colours of words with a meaning; any other such word is red, such as FAILED."""

_WHOLE: Final = frozenset({"STATE", "HEALTH", "OUTCOME"})
"""Columns whose words a narrow terminal must not break."""

_DATE: Final = len("2026-01-31")
"""Characters of a date, the first of the two lines that a time takes in a narrow column."""

_POLICY: Final = (
    *("STATE SINCE", "HEALTH SINCE", "LAST SUCCESS", "KEY REGION"),
    *("CACHE TTL", "OUTAGE GRACE", "AUTO-ROTATE"),
)


def console() -> Console:
    """Returns a console on stdout, which respects NO_COLOR."""
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        width=None if terminal else _WIDTH_ELSEWHERE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show_status(status: ClusterStatus, *, verbose: bool = False) -> None:
    """Prints the status of a cluster's regions; `verbose` adds generations and policies."""
    out = console()
    for part in status_parts(status, out.width, verbose=verbose):
        out.print(part)


def status_parts(
    status: ClusterStatus, width: int, *, verbose: bool = False
) -> Iterator[RenderableType]:
    """Yields the parts of a cluster's status, to be printed one below the other.

    In less than 110 characters the root keys and the policies get lines of their own.

    Args:
        status: The status.
        width: Characters in a line.
        verbose: Whether to add generations and policies.
    """
    title = one_line(status.cluster)
    if status.organization:
        title += f" of {one_line(status.organization)}"
    yield Text.assemble((title, "bold"), " ", (f"updated {_time(status.update_time)}", "dim"))
    heads = ("REGION", "STATE", "HEALTH", "WRAP", "UNWRAP", "GENERATIONS")
    narrow = width < _NARROW
    table = _table(*heads, *(() if narrow else ("VERSION", "KEY")), "LAST CHECK", narrow=narrow)
    for region in status.regions:
        table.add_row(
            one_line(region.region),
            _word(_name(region.state)),
            _word(_name(region.health)),
            _word(_yes(can=region.can_wrap)),
            _word(_yes(can=region.can_unwrap)),
            _generations(region),
            *(() if narrow else (one_line(region.key_version) or "-", key_text(region.key_spec))),
            _time(region.last_check_time),
        )
    yield table
    if narrow:
        for region in status.regions:
            yield Text(f"{one_line(region.region)}: {_key_and_version(region)}", overflow="fold")
    if verbose:
        yield from _policies(status.regions, narrow=narrow)
        yield _every_generation(status.regions)
    yield from _remarks(status.regions)


def _remarks(regions: Iterable[RegionStatus]) -> Iterator[Text]:
    """Yields the last error and the notices of each region."""
    for region in regions:
        if error := region.last_error:
            line = f"{region.region}: {error.message} ({error.reason})"
            if error.missing_permission:
                line += f"; missing permission: {error.missing_permission}"
            yield Text(one_line(line), "red")
        for notice in region.notices:
            yield Text(one_line(f"{region.region}: {notice}"), "yellow")


def _policies(regions: Iterable[RegionStatus], *, narrow: bool) -> Iterator[RenderableType]:
    table = _table("REGION", *_POLICY)
    for region in regions:
        values = _policy(region)
        table.add_row(one_line(region.region), *values)
        if narrow:
            named = zip(_POLICY, values, strict=True)
            line = ", ".join(f"{head.lower()} {value}" for head, value in named)
            yield Text(f"{one_line(region.region)}: {line}", overflow="fold")
    if not narrow:
        yield table


def _policy(region: RegionStatus) -> tuple[str, ...]:
    policy = region.policy
    return (
        _time(region.state_time),
        _time(region.health_time),
        _time(region.last_success_time),
        one_line(region.key_region) or "-",
        _span(policy.cache_ttl),
        _span(policy.outage_grace),
        "yes" if policy.auto_rotate else "no",
    )


def _every_generation(regions: Iterable[RegionStatus]) -> Table:
    table = _table("REGION", "GENERATION", "MADE", "LAST USE", "RETIRED", "WRAPPED BY")
    for region in regions:
        for one in region.generations:
            by = one.wraps[-1] if one.wraps else None
            table.add_row(
                one_line(region.region),
                str(one.generation),
                _time(one.create_time),
                last_use(one),
                Text(_time(one.retire_time), "yellow" if one.retire_time else "dim"),
                one_line(f"{by.type} {by.uri} version {by.key_version}") if by else "-",
            )
    return table


def show_plan(before: ClusterStatus, after: ClusterStatus, regions: Container[str]) -> None:
    """Prints the root key and version of each region before and after a rotation.

    Args:
        before: The cluster as it is.
        after: The cluster as it would be.
        regions: The names of the regions to rotate.
    """
    then = {one.region: one for one in after.regions}
    table = _table("REGION", "FROM", "TO", "NEW GENERATION")
    for region in before.regions:
        if region.region not in regions or region.region not in then:
            continue
        now, new = _key_and_version(region), then[region.region]
        newest = max((one.generation for one in new.generations), default=0)
        known = {one.generation for one in region.generations}
        to = _key_and_version(new)
        table.add_row(
            one_line(region.region),
            now,
            Text("the same", "dim") if to == now else to,
            str(newest) if newest and newest not in known else "-",
        )
    console().print(table)


def show_clusters(clusters: Iterable[ClusterStatus]) -> None:
    """Prints a table with a line for each region."""
    table = _table("CLUSTER", "ORGANIZATION", "REGION", "STATE", "HEALTH", "KEY")
    for cluster in clusters:
        for region in cluster.regions:
            table.add_row(
                one_line(cluster.cluster),
                one_line(cluster.organization) or "-",
                one_line(region.region),
                _word(_name(region.state)),
                _word(_name(region.health)),
                key_text(region.key_spec),
            )
    if table.row_count:
        console().print(table)
    else:
        console().print("no clusters")


def show_key_test(test: KeyTest) -> None:
    """Prints the steps of a key's test, and a sentence that sums them up."""
    out = console()
    narrow = out.width < _NARROW
    column = not narrow and any(step.missing_permission for step in test.steps)
    heads = ("STEP", "OUTCOME", "LATENCY", "MESSAGE")
    table = _table(*heads, *(("MISSING PERMISSION",) if column else ()), narrow=narrow)
    for step in test.steps:
        message = f"{step.message} ({step.reason})" if step.reason else step.message
        table.add_row(
            step.step.lower(),
            _word(step.outcome),
            f"{step.latency.total_seconds() * 1000:.0f} ms",
            one_line(message) or "-",
            *((one_line(step.missing_permission) or "-",) if column else ()),
        )
    out.print(table)
    for step in test.steps:
        if step.missing_permission and not column:
            lacks = f"{step.step.lower()}: missing permission: {step.missing_permission}"
            out.print(Text(one_line(lacks), overflow="fold"))
    for notice in test.notices:
        out.print(Text(one_line(notice), "yellow"))
    out.print(Text(verdict(test), "green" if test.accessible else "red"))


def verdict(test: KeyTest) -> str:
    """Returns a sentence that sums up a key's test."""
    if test.summary:
        return one_line(test.summary)
    # An older server does not send a sentence.
    return "accessible" if test.accessible else "not accessible"


def _table(*heads: str, narrow: bool = False) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=narrow)
    for head in heads:
        # Folded, not cut: part of a key's uri is useless.
        least = _DATE if head == "LAST CHECK" else max(map(len, head.split()))
        table.add_column(head, overflow="fold", no_wrap=head in _WHOLE, min_width=least)
    return table


def _word(word: str) -> Text:
    return Text(word, _COLOURS.get(word, "red"))


def _name(value: State | Health) -> str:
    return "-" if value.value == "UNSPECIFIED" else value.value


def _yes(*, can: bool | None) -> str:
    return "-" if can is None else "yes" if can else "no"


def _generations(region: RegionStatus) -> str:
    serving = _ranges([one.generation for one in region.generations if not one.retire_time])
    retired = _ranges([one.generation for one in region.generations if one.retire_time])
    return ", ".join(filter(None, (serving, f"retired {retired}" if retired else ""))) or "-"


def _ranges(numbers: list[int]) -> str:
    """Returns ascending numbers as ranges, such as `1-3, 5`."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def key_text(spec: KeySpec) -> str:
    """Returns a root key's type, uri and principal in one line."""
    principal = f" as {spec.auth_principal}" if spec.auth_principal else ""
    return one_line(f"{spec.type} {spec.uri}{principal}")


def last_use(generation: Generation) -> str:
    """Returns the time of a generation's last use, or `never`."""
    return _time(generation.last_use_time) if generation.last_use_time else "never"


def _key_and_version(region: RegionStatus) -> str:
    return f"{key_text(region.key_spec)}, version {one_line(region.key_version) or '-'}"


def _span(span: timedelta | None) -> str:
    return "default" if span is None else f"{span.total_seconds():g} s"


def _time(time: datetime | None) -> str:
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M:%SZ")
