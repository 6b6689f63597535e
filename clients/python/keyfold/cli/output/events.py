"""Events and the verification of the log, as text for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from google.protobuf.json_format import MessageToDict
from rich.text import Text

from keyfold.cli.output.tables import console, key_text, remarks, styled_table, time_text
from keyfold.cli.output.text import one_line
from keyfold.models.events import AnchorOutcome, Event, Verification
from keyfold.models.status import State
from keyfold.v1 import event_service_pb2 as api


def show_events(events: Collection[Event], *, more: bool) -> None:
    """Prints a table with a line for each event.

    Args:
        events: The events.
        more: Whether there may be further ones.
    """
    out = console()
    if not events:
        remarks().print("no events")
        return
    table = styled_table("NUMBER", "TIME", "ACTION", "SUBJECT", "OUTCOME", "CALLER", "WHY")
    for event in events:
        table.add_row(
            str(event.number),
            time_text(event.time),
            one_line(event.action),
            one_line(_subject(event)),
            _outcome(event),
            one_line(event.caller) or "-",
            one_line(event.reason or event.message) or "-",
        )
    out.print(table)
    if more:
        remarks().print(Text("there may be more; narrow the list, or use --limit", "dim"))


def show_event(message: api.Event) -> None:
    """Prints everything that is known of an event."""
    event, out = Event.from_message(message), console()
    title = f"event {event.number}"
    out.print(Text.assemble((title, "bold"), " ", (time_text(event.time), "dim")))
    table = styled_table("FIELD", "VALUE")
    told = MessageToDict(message, preserving_proto_field_name=True)
    for name, value in told.items():
        if name not in {"number", "time", "detail", "cluster_uid"}:
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            table.add_row(name, one_line(shown))
    if event.cluster_uid:
        table.add_row("cluster_uid", event.cluster_uid.hex())
    for name, value in event.detail.items():
        table.add_row(one_line(name), one_line(json.dumps(value, ensure_ascii=False)))
    out.print(table)


def show_verification(verified: Verification) -> None:
    """Prints what a walk over the log has shown, and what it has not."""
    out = console()
    if verified.pruned:
        out.print(f"the log begins after entry {verified.pruned}, the last one that was pruned")
    if verified.broken is None:
        first = verified.pruned + 1
        if verified.last < first:
            out.print("the log has no entry to verify")
        else:
            out.print(
                f"verified entries {first} to {verified.last}: each is the one that Keyfold wrote"
            )
    else:
        broken = f"broken at entry {verified.broken}: {one_line(verified.message)}"
        out.print(Text(broken, "bold red"))
        if verified.last > verified.pruned:
            out.print(f"the entries up to {verified.last} are the ones that Keyfold wrote")
    for line, held in enumerate(verified.anchors, 1):
        if held.outcome is not AnchorOutcome.MATCHES:
            bad = held.outcome is not AnchorOutcome.PRUNED
            text = f"anchor {line}: {one_line(held.message)}"
            out.print(Text(text, "bold red" if bad else "yellow"))
    _show_rollback(verified)


def _show_rollback(verified: Verification) -> None:
    """Prints whether the store may have been rolled back, as far as anchors show it."""
    out, held = console(), verified.held_to
    if any(each.outcome is AnchorOutcome.ROLLED_BACK for each in verified.anchors):
        return
    if held is not None and verified.broken is None:
        out.print(
            f"not rolled back behind entry {held.number}: the log has what the anchor of "
            f"{time_text(held.time)} names"
        )
        return
    why = (
        "no anchor names an entry that the log still has"
        if verified.anchors
        else "--anchor needs a line of `keyfold events anchor` that was kept elsewhere"
    )
    out.print(Text(f"rollback not excluded: {why}", "yellow"))


def endings(events: Iterable[Event], states: Mapping[str, State]) -> dict[str, Event]:
    """Returns the event that took each region into its state, the newest events first.

    Args:
        events: The events.
        states: The regions that are REVOKED or DELETED, with their states.
    """
    found: dict[str, Event] = {}
    left = dict(states)
    for event in events:
        for state, moved in ((State.REVOKED, event.revoked), (State.DELETED, event.deleted)):
            for region in [name for name in moved if left.get(name) is state]:
                found[region] = event
                del left[region]
        if not left:
            break
    return found


def ending_text(region: str, state: State, event: Event) -> Text:
    """Returns a line that says who revoked or deleted a region, when and why."""
    who = event.caller or "Keyfold"
    if event.on_behalf_of:
        who += f" on behalf of {event.on_behalf_of}"
    what = state.value.lower()
    line = f"{region}: {what} {time_text(event.time)} by {who}, event {event.number}"
    if event.action not in {"rpc:cluster:revoke", "rpc:cluster:deletecluster"}:
        line += f" ({event.action})"
    return Text(one_line(line + (f": {event.reason}" if event.reason else "")), "yellow")


def _subject(event: Event) -> str:
    if event.cluster:
        return "/".join(filter(None, (event.cluster, ",".join(event.regions))))
    return key_text(event.key) if event.key is not None else event.organization or "-"


def _outcome(event: Event) -> Text:
    good = {"done": "green", "HEALTHY": "green", "unchanged": "dim", "validated": "dim"}
    return Text(one_line(event.outcome), good.get(event.outcome, "yellow"))
