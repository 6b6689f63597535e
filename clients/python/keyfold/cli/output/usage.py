"""Counts of uses, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from keyfold.cli.output.tables import console, remarks, styled_table, time_text
from keyfold.cli.output.text import one_line
from keyfold.models.usage import UsageCount


def show_usage(counts: Sequence[UsageCount], *, more: bool) -> None:
    """Prints counts, and whether there are more of them."""
    out = console()
    if not counts:
        remarks().print("no use was counted")
        return
    table = styled_table("TIME", "CLUSTER", "REGION", "CALLER", "METHOD", "OUTCOME", "COUNT")
    for one in counts:
        table.add_row(
            time_text(one.start),
            one_line(one.cluster),
            one_line(one.region) or "-",
            one_line(one.caller),
            one.method,
            Text(one.outcome, "" if one.outcome == "OK" else "red"),
            f"{one.count:,}",
        )
    out.print(table)
    if more:
        remarks().print(Text("there are more; narrow the time, or raise --limit", "yellow"))
