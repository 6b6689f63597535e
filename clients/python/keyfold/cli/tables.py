"""What people read: tables, with colour only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyfold.answers import KeyTest
from keyfold.cli.failures import one_line
from keyfold.specs import KeySpec
from keyfold.status import ClusterStatus, Health, RegionStatus, State

_WIDTH_ELSEWHERE: Final = 250
"""Characters of a line in a file or pipe, where nothing must be folded to a screen's width."""

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
"""Of words with a meaning; any other such word is red: refused, failed, no."""


def console() -> Console:
    """Returns the console on stdout. It knows NO_COLOR by itself."""
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        width=None if terminal else _WIDTH_ELSEWHERE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show_status(status: ClusterStatus) -> None:
    """Prints all that is known of a cluster's regions."""
    out = console()
    title = one_line(status.cluster)
    if status.organization:
        title += f" of {one_line(status.organization)}"
    out.print(Text(title, "bold"), Text(f"updated {_time(status.update_time)}", "dim"))
    heads = ("REGION", "STATE", "HEALTH", "WRAP", "UNWRAP", "GENERATIONS", "VERSION", "KEY")
    table = _table(*heads, "LAST CHECK")
    for region in status.regions:
        table.add_row(
            one_line(region.region),
            _word(_name(region.state)),
            _word(_name(region.health)),
            _word(_yes(can=region.can_wrap)),
            _word(_yes(can=region.can_unwrap)),
            _generations(region),
            one_line(region.key_version) or "-",
            _key(region.key_spec),
            _time(region.last_check_time),
        )
    out.print(table)
    for region in status.regions:
        if error := region.last_error:
            line = f"{region.region}: {error.message} ({error.reason})"
            out.print(Text(one_line(line), "red"))


def show_clusters(clusters: Iterable[ClusterStatus]) -> None:
    """Prints one line for each region of several clusters."""
    table = _table("CLUSTER", "ORGANIZATION", "REGION", "STATE", "HEALTH", "KEY")
    for cluster in clusters:
        for region in cluster.regions:
            table.add_row(
                one_line(cluster.cluster),
                one_line(cluster.organization) or "-",
                one_line(region.region),
                _word(_name(region.state)),
                _word(_name(region.health)),
                _key(region.key_spec),
            )
    if table.row_count:
        console().print(table)
    else:
        console().print("no clusters")


def show_key_test(test: KeyTest) -> None:
    """Prints the steps of a key's trial and what they come to."""
    out = console()
    table = _table("STEP", "OUTCOME", "TIME", "REASON", "MESSAGE")
    for step in test.steps:
        message = step.message
        if step.missing_permission:
            message += f" (missing: {step.missing_permission})"
        table.add_row(
            step.step.lower(),
            _word(step.outcome),
            f"{step.latency.total_seconds() * 1000:.0f} ms",
            step.reason or "-",
            one_line(message) or "-",
        )
    out.print(table)
    if test.accessible:
        version = f" (version {one_line(test.key_version)})" if test.key_version else ""
        out.print(Text(f"accessible{version}", "green"))
    else:
        out.print(Text("not accessible", "red"))


def _table(*heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for head in heads:
        # Folded, never cut: a key's uri that is shown in part is of no use.
        table.add_column(head, overflow="fold")
    return table


def _word(word: str) -> Text:
    return Text(word, _COLOURS.get(word, "red"))


def _name(value: State | Health) -> str:
    return "-" if value.value == "UNSPECIFIED" else value.value


def _yes(*, can: bool | None) -> str:
    return "-" if can is None else "yes" if can else "no"


def _generations(region: RegionStatus) -> str:
    numbers = [one.generation for one in region.generations]
    if not numbers:
        return "-"
    first, last = numbers[0], numbers[-1]
    return str(last) if first == last else f"{first}-{last}"


def _key(spec: KeySpec) -> str:
    principal = f" as {spec.auth_principal}" if spec.auth_principal else ""
    return one_line(f"{spec.type} {spec.uri}{principal}")


def _time(time: datetime | None) -> str:
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M:%SZ")
