"""What needs a root key, as text that a person reads before disabling the key."""

from __future__ import annotations

from rich.text import Text

from keyfold.cli.output.tables import Columns, coloured, console, styled_table, time_text
from keyfold.cli.output.text import one_line
from keyfold.models.key_usage import KeyUsage, KeyUse
from keyfold.models.status import State

ANSWERS = {
    True: Text("safe to disable: yes", "green"),
    False: Text("safe to disable: no", "red"),
    None: Text("safe to disable: unknown", "yellow"),
}
"""What the server answers to the question whether root keys may be disabled."""


def show_key_usage(usage: KeyUsage, *, more: bool) -> None:
    """Prints whether root keys may be disabled, why, and what needs them."""
    out = console()
    out.print(ANSWERS[usage.safe_to_disable])
    for reason in usage.reasons:
        out.print(f"  {one_line(reason)}")
    if usage.uses:
        out.print(_table(usage.uses))
    if more:
        out.print(Text(f"there are more, {usage.total:,} in all; raise --limit", "yellow"))
    if usage.hidden:
        out.print(Text(f"{usage.hidden:,} more are hidden from you, and count", "yellow"))


def _table(uses: tuple[KeyUse, ...]) -> Columns:
    table = styled_table(
        "CLUSTER", "REGION", "STATE", "GENERATION", "NEEDED FOR", "SINCE", "UNTIL", "VERSION", "KEY"
    )
    for use in uses:
        principal = f" as {use.auth_principal}" if use.auth_principal else ""
        table.add_row(
            one_line(use.cluster),
            one_line(use.region),
            coloured(str(use.state)),
            str(use.generation),
            needed_for(use),
            time_text(use.create_time),
            time_text(use.supersede_time),
            one_line(use.key_version),
            one_line(f"{use.type} {use.uri}{principal}"),
        )
    return table


def needed_for(use: KeyUse) -> str:
    """Returns what the root key of a use is needed for."""
    if use.superseded:
        return "backups"
    if use.state is not State.ENABLED:
        return "restore"
    return "rotation" if use.retired else "use"
