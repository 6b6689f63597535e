"""What a deletion makes unreadable, and what became of it, as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from keyfold.cli.output.changes import show_confirmed
from keyfold.cli.output.status import show_status
from keyfold.cli.output.tables import Columns, console, styled_table, time_text
from keyfold.cli.output.text import one_line
from keyfold.models.deletion import Deleted, UnreadableGeneration

_RECENT: Final = timedelta(days=7)
"""Keys that were used this recently are likely to be needed."""


def show_losses(planned: Deleted) -> None:
    """Prints on stderr what a deletion that was only tried would make unreadable, and when."""
    out = console(stderr=True)
    for part in _losses(planned):
        out.print(part)


def show_deleted(done: Deleted, *, validated: bool) -> None:
    """Prints what a deletion did; with `validated`, what it would do."""
    out = console()
    out.print(_headline(done, validated=validated))
    if done.superseded:
        out.print("a later change has replaced what this one did")
    if not done.replayed:
        for part in _losses(done):
            out.print(part)
    if done.status is not None:
        show_status(done.status)
    if not (validated or done.erased):
        show_confirmed(done.confirmed, done.pending)


def _headline(done: Deleted, *, validated: bool) -> str:
    if validated:
        return "valid; nothing was stored, and the deletion would be:"
    if done.erased:
        if done.status is None:
            return "erased; the name can be used again"
        return "erased"
    if done.replayed:
        return "Keyfold had already made this change; the cluster is now:"
    return f"deleted; `keyfold undelete` takes it back until {time_text(done.purge_time)}"


def _losses(done: Deleted) -> Iterator[RenderableType]:
    """Yields what a deletion makes unreadable and when, to be printed one below the other."""
    if done.erased:
        yield "nobody ever used the cluster's keys, so nothing becomes unreadable"
        return
    yield f"after {time_text(done.purge_time)} nothing opens what these keys wrapped:"
    yield _table(done.losses)
    last = max((each.last_use_time for each in done.losses if each.last_use_time), default=None)
    if last is not None and datetime.now(UTC) - last < _RECENT:
        yield Text(f"warning: these keys were used in the last {_RECENT.days} days", "yellow")
    yield (
        f"backups may hold the keys until {time_text(done.final_after)}; destroying the root key "
        "at its KMS is final at once, for everything under it"
    )


def _table(losses: Iterable[UnreadableGeneration]) -> Columns:
    table = styled_table("REGION", "GENERATION", "MADE", "LAST USE", "USES OF REGION, 30 DAYS")
    for each in losses:
        table.add_row(
            one_line(each.region),
            str(each.generation),
            time_text(each.create_time),
            time_text(each.last_use_time) if each.last_use_time else "never",
            f"{each.recent_uses:,}",
        )
    return table
