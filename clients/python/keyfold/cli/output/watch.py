"""States and events as lines, for a watch."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from keyfold.cli.output.text import one_line
from keyfold.models.events import Event
from keyfold.models.status import Health, State
from keyfold.models.watch import ClusterState, RegionState


def state_line(state: ClusterState) -> Text:
    """Returns the state of a cluster as a line, with the time at which it came."""
    line = Text(f"{datetime.now(UTC):%H:%M:%SZ}  ", "dim")
    line.append(one_line(state.cluster), "bold")
    line.append("  ")
    if not state.exists:
        line.append("does not exist", "yellow")
    elif state.banned:
        line.append("banned", "bold red")
    elif state.not_authentic:
        line.append("not authentic", "bold red")
    else:
        for number, region in enumerate(state.regions):
            if number:
                line.append(", ")
            line.append_text(_region(region))
    return line


def _region(region: RegionState) -> Text:
    good = region.state is State.ENABLED and region.health in {Health.HEALTHY, Health.UNKNOWN}
    text = Text(f"{one_line(region.region)} ")
    text.append(f"{region.state} {region.health}", "" if good else "yellow")
    if region.can_wrap is False:
        text.append(" cannot wrap", "yellow")
    return text


def event_line(event: Event) -> Text:
    """Returns an event as a line."""
    line = Text(f"{event.time.astimezone(UTC):%H:%M:%SZ}  ", "dim")
    line.append(f"{event.number}  ")
    line.append(one_line(event.action), "bold")
    subject = event.cluster or (event.key.uri if event.key is not None else "")
    if subject:
        line.append(f"  {one_line(subject)}")
    if event.regions:
        line.append(f" ({one_line(', '.join(event.regions))})")
    line.append(f"  {one_line(event.outcome)}", "" if event.outcome == "done" else "yellow")
    if event.caller:
        line.append(f"  by {one_line(event.caller)}", "dim")
    if event.reason or event.message:
        line.append(f": {one_line(event.reason or event.message)}", "dim")
    return line
