"""The result of testing a root key, as text for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from keyfold.cli.output.tables import NARROW, Columns, coloured, console, key_text, styled_table
from keyfold.cli.output.text import one_line
from keyfold.models.key_test import KeyTest, ReplicaTest


def show_key_test(test: KeyTest) -> None:
    """Prints the steps of a key's test, and a sentence that sums them up."""
    out = console()
    narrow = out.width < NARROW
    column = not narrow and any(step.missing_permission for step in test.steps)
    heads = ("STEP", "OUTCOME", "LATENCY", "MESSAGE")
    table = styled_table(*heads, *(("MISSING PERMISSION",) if column else ()), narrow=narrow)
    for step in test.steps:
        message = f"{step.message} ({step.reason})" if step.reason else step.message
        table.add_row(
            step.step.lower(),
            coloured(step.outcome),
            f"{step.latency.total_seconds() * 1000:.0f} ms",
            one_line(message) or "-",
            *((one_line(step.missing_permission) or "-",) if column else ()),
        )
    out.print(table)
    for step in test.steps:
        if step.missing_permission and not column:
            lacks = f"{step.step.lower()}: missing permission: {step.missing_permission}"
            out.print(Text(one_line(lacks), overflow="fold"))
    if test.replicas:
        out.print(_replicas(test.replicas, narrow=narrow))
    for notice in test.notices:
        out.print(Text(one_line(notice), "yellow"))
    out.print(Text(verdict(test), "green" if test.accessible else "red"))


def _replicas(replicas: Iterable[ReplicaTest], *, narrow: bool) -> Columns:
    table = styled_table("REGION", "OUTCOME", "KEY", "MESSAGE", narrow=narrow)
    for one in replicas:
        table.add_row(
            one_line(one.region),
            coloured("PASSED" if one.accessible else "FAILED"),
            key_text(one.key_spec),
            one_line(f"{one.summary} ({one.reason})" if one.reason else one.summary),
        )
    return table


def verdict(test: KeyTest) -> str:
    """Returns a sentence that sums up a key's test."""
    if test.summary:
        return one_line(test.summary)
    # An older server does not send a sentence.
    return "accessible" if test.accessible else "not accessible"
