"""The result of a recheck, as text for people."""

from __future__ import annotations

from rich.text import Text

from keyfold.cli.output.tables import coloured, console, styled_table, yes_or_no
from keyfold.cli.output.text import one_line
from keyfold.models.recheck import Recheck


def show_recheck(result: Recheck) -> None:
    """Prints what the KMS answered about each root key."""
    out = console()
    if not result.results:
        out.print("no region of the cluster is enabled, so there was no key to prove")
        return
    table = styled_table("CLUSTER", "REGION", "KEY", "HEALTH", "WRAPS", "UNWRAPS")
    for one in result.results:
        table.add_row(
            one_line(one.cluster),
            one_line(one.region),
            one_line(f"{one.type} {one.uri}".strip()) or "-",
            coloured(one.health.name),
            coloured(yes_or_no(can=one.can_wrap)),
            coloured(yes_or_no(can=one.can_unwrap)),
        )
    out.print(table)
    for one in result.results:
        if one.error is not None:
            said = f"{one.cluster}/{one.region}: {one.error.message} ({one.error.reason})"
            out.print(Text(one_line(said), "red", overflow="fold"))
    if result.more:
        out.print(Text("more root keys have this uri; recheck their clusters by name", "yellow"))
