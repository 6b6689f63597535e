"""The status of clusters, as text for people."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from datetime import timedelta
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from keyfold.cli.output.tables import (
    NARROW,
    Columns,
    coloured,
    console,
    key_text,
    look,
    remarks,
    styled_table,
    time_text,
    yes_or_no,
)
from keyfold.cli.output.text import one_line
from keyfold.models.status import ClusterStatus, Generation, Health, RegionStatus, State

_POLICY: Final = (
    *("STATE SINCE", "HEALTH SINCE", "LAST SUCCESS", "KEY REGION"),
    *("CACHE TTL", "OUTAGE GRACE", "AUTO-ROTATE", "REPLICA OF", "KEY LINK"),
)


def show_status(status: ClusterStatus, *, verbose: bool = False) -> None:
    """Prints the status of a cluster's regions; `verbose` adds generations and policies."""
    out = console()
    for part in status_parts(status, out.width, verbose=verbose):
        out.print(part)
    beside = remarks()
    for line in besides(status):
        beside.print(line)


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
    titled = look().headers
    if titled:
        when = f"updated {time_text(status.update_time)}"
        yield Text.assemble((title, "bold"), " ", (when, "dim"))
    # Rows without a title say themselves whose they are.
    heads = (
        *(() if titled else ("CLUSTER",)),
        "REGION",
        "STATE",
        "HEALTH",
        "WRAP",
        "UNWRAP",
        "GENERATIONS",
    )
    narrow = width < NARROW
    table = styled_table(
        *heads, *(() if narrow else ("VERSION", "KEY")), "LAST CHECK", narrow=narrow
    )
    for region in status.regions:
        table.add_row(
            *(() if titled else (one_line(status.cluster),)),
            one_line(region.region),
            coloured(_name(region.state)),
            coloured(_name(region.health)),
            coloured(yes_or_no(can=region.can_wrap)),
            coloured(yes_or_no(can=region.can_unwrap)),
            _generations(region),
            *(() if narrow else (one_line(region.key_version) or "-", key_text(region.key_spec))),
            time_text(region.last_check_time),
        )
    yield table
    if narrow:
        for region in status.regions:
            yield Text(f"{one_line(region.region)}: {_key_and_version(region)}", overflow="fold")
    if verbose:
        yield from _policies(status.regions, narrow=narrow)
        yield _every_generation(status.regions)
        if status.declared_regions:
            yield Text(one_line(f"declared regions: {', '.join(status.declared_regions)}"))


def besides(status: ClusterStatus) -> Iterator[Text]:
    """Yields what is said of a cluster below its tables."""
    yield from _lacks(status)
    yield from _remarks(status.regions)


def _lacks(status: ClusterStatus) -> Iterator[Text]:
    """Yields the regions of geos that the cluster lacks."""
    for geo in status.geos:
        if geo.missing_regions:
            line = f"geo {geo.geo} has further regions: {', '.join(geo.missing_regions)}; add them "
            line += f"with add-regions --geo {geo.geo}=TYPE,URI"
            yield Text(one_line(line), "yellow")


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
    table = styled_table("REGION", *_POLICY)
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
        time_text(region.state_time),
        time_text(region.health_time),
        time_text(region.last_success_time),
        one_line(region.key_region) or "-",
        _span(policy.cache_ttl),
        _span(policy.outage_grace),
        "yes" if policy.auto_rotate else "no",
        one_line(region.replica_of) or "-",
        one_line(region.key_link) or "-",
    )


def _every_generation(regions: Iterable[RegionStatus]) -> Columns:
    table = styled_table("REGION", "GENERATION", "MADE", "LAST USE", "RETIRED", "WRAPPED BY")
    for region in regions:
        for one in region.generations:
            by = one.wraps[-1] if one.wraps else None
            table.add_row(
                one_line(region.region),
                str(one.generation),
                time_text(one.create_time),
                last_use(one),
                Text(time_text(one.retire_time), "yellow" if one.retire_time else "dim"),
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
    table = styled_table("REGION", "FROM", "TO", "NEW GENERATION")
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


def show_clusters(clusters: Collection[ClusterStatus]) -> None:
    """Prints a table with a line for each region."""
    table = styled_table("CLUSTER", "ORGANIZATION", "REGION", "STATE", "HEALTH", "WRAP", "KEY")
    for cluster in clusters:
        for region in cluster.regions:
            table.add_row(
                one_line(cluster.cluster),
                one_line(cluster.organization) or "-",
                one_line(region.region),
                coloured(_name(region.state)),
                coloured(_name(region.health)),
                coloured(yes_or_no(can=region.can_wrap)),
                key_text(region.key_spec),
            )
    out = console()
    beside = remarks()
    if table.row_count:
        out.print(table)
    else:
        beside.print("no clusters")
    for cluster in clusters:
        for line in _lacks(cluster):
            beside.print(Text.assemble((f"{one_line(cluster.cluster)}: ", "yellow"), line))


def last_use(generation: Generation) -> str:
    """Returns the time of a generation's last use, or `never`."""
    return time_text(generation.last_use_time) if generation.last_use_time else "never"


def _name(value: State | Health) -> str:
    return "-" if value.value == "UNSPECIFIED" else value.value


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


def _key_and_version(region: RegionStatus) -> str:
    return f"{key_text(region.key_spec)}, version {one_line(region.key_version) or '-'}"


def _span(span: timedelta | None) -> str:
    return "default" if span is None else f"{span.total_seconds():g} s"
