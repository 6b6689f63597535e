"""States, times and durations in words. Every state has a word and a sign, never a colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from keyfold.models.events import Event, EventKind
from keyfold.models.status import Health, RegionStatus, State


@dataclass(frozen=True, slots=True)
class Said:
    """A state as people read it.

    Attributes:
        word: One or two words.
        kind: `good`, `bad`, `warn` or `quiet`, which the style sheet draws.
        meaning: One sentence.
        advice: What a person does about it; empty: nothing.
    """

    word: str
    kind: str
    meaning: str
    advice: str = ""


_STATES: Final = {
    State.ENABLED: Said("Enabled", "good", "The key is in use."),
    State.REVOKED: Said(
        "Revoked",
        "bad",
        "Keyfold refuses all use of the key.",
        "Restore it once whoever revoked it agrees.",
    ),
    State.DELETED: Said(
        "Deleted",
        "bad",
        "The key is deleted, and Keyfold erases it when the waiting period ends.",
        "Undelete it before that time if this was a mistake: keyfold undelete-cluster.",
    ),
}

_ASK: Final = "Ask the customer whether this was meant. If it was not, they undo it at their KMS."

_HEALTH: Final = {
    Health.UNKNOWN: Said("Not asked yet", "quiet", "Keyfold has not called the KMS yet."),
    Health.HEALTHY: Said("Healthy", "good", "The last unwrap succeeded."),
    Health.ACCESS_DENIED: Said(
        "Access denied", "bad", "The customer's KMS does not let Keyfold use the key.", _ASK
    ),
    Health.KEY_DISABLED: Said(
        "Key disabled", "bad", "The customer's key, or its version, is disabled.", _ASK
    ),
    Health.KEY_PENDING_DELETION: Said(
        "Deletion pending",
        "bad",
        "The customer's key is scheduled for deletion.",
        "Tell the customer at once: when the KMS deletes the key, all that it protects is lost.",
    ),
    Health.KEY_NOT_FOUND: Said("Key not found", "bad", "The customer's KMS has no such key.", _ASK),
    Health.KEY_INVALID: Said(
        "Key unusable", "bad", "The key exists, but it cannot wrap or unwrap.", _ASK
    ),
    Health.KEK_MISMATCH: Said(
        "Key mismatch",
        "bad",
        "The KMS answered, but what Keyfold stores did not open to what it wrapped.",
        "Look whether the store was changed or restored: docs/operations.md.",
    ),
    Health.UNREACHABLE: Said(
        "Unreachable",
        "warn",
        "Keyfold could not reach the KMS, or the KMS failed.",
        "Look at the network and the KMS's status page. Keys stay in use for the outage grace.",
    ),
    Health.THROTTLED: Said(
        "Throttled",
        "warn",
        "The KMS asked Keyfold to slow down.",
        "Ask for more quota at the KMS, or raise the cache time of busy regions.",
    ),
    Health.CREDENTIALS_FAILED: Said(
        "Credentials failed",
        "warn",
        "The KMS did not accept Keyfold's own credential.",
        "Renew the credential of the server: the customer has done nothing wrong.",
    ),
}

REVOKED: Final = _STATES[State.REVOKED]
"""What is said of a revoked key."""

CANNOT_WRAP: Final = Said(
    "Cannot wrap",
    "warn",
    "The key unwraps, but it does not wrap, so the next rotation will fail.",
    "Ask the customer for the permission to wrap.",
)
"""What is said of a key that the KMS lets Keyfold unwrap with, and not wrap."""

_NEWER: Final = Said("Newer than this console", "quiet", "Upgrade the console to read it.")

_DURATIONS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def state(value: State) -> Said:
    """Returns a state of a region's key."""
    return _STATES.get(value, _NEWER)


def health(value: Health) -> Said:
    """Returns the health of a region's key."""
    return _HEALTH.get(value, _NEWER)


def condition(region: RegionStatus) -> Said:
    """Returns what matters first about a region: its state unless it is enabled, or its health."""
    if region.state is not State.ENABLED:
        return state(region.state)
    said = health(region.health)
    if said.kind == "good" and region.can_wrap is False:
        return CANNOT_WRAP
    return said


_DEEDS: Final = {
    "kms:root_key:observe": "Health of a key",
    "kms:root_key:refuse": "The KMS refused a key",
    "rpc:cluster:addregions": "Add regions",
    "rpc:cluster:deletecluster": "Delete",
    "rpc:cluster:retiregeneration": "Retire a generation",
    "rpc:cluster:undeletecluster": "Undelete",
    "rpc:external_id:issue": "Issue an external id",
    "rpc:key:getaccesspolicy": "Show the access policy",
    "rpc:key:testkey": "Test a key",
    "rpc:organization:claim": "An organization's accounts",
    "rpc:seat:reserve": "Reserve seats",
    "server:cluster:erase": "Erased for good",
    "server:cluster:use": "First use",
    "server:key_link:moved": "Key link: moved",
    "server:operation:end": "Operation: ended",
}
"""Actions whose parts do not say by themselves what happened."""


def deed(event: Event) -> str:
    """Returns what happened in words, such as `Revoke` or `Key link: create`."""
    if event.action in _DEEDS:
        return _DEEDS[event.action]
    _, _, rest = event.action.partition(":")
    subject, _, what = rest.replace("_", " ").partition(":")
    told = what if subject == "cluster" else f"{subject}: {what}"
    return told[:1].upper() + told[1:]


def outcome(event: Event) -> Said:
    """Returns how an event ended."""
    if event.outcome in ("HEALTHY", "done"):
        return Said(event.outcome.lower(), "good", "")
    if event.outcome in ("repeated", "unchanged", "validated"):
        return Said(event.outcome, "quiet", "")
    kind = "bad" if event.kind is EventKind.REFUSAL else "warn"
    return Said(event.outcome, kind, "")


def duration(value: timedelta | float) -> str:
    """Returns a duration in its largest unit, such as `5 minutes`."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if 0 < seconds < 1:
        return f"{round(seconds * 1000)} ms"
    for size, unit in _DURATIONS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def ago(value: datetime) -> str:
    """Returns how long ago a time was, or how long until it comes."""
    seconds = (datetime.now(UTC) - value).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def is_soon(value: datetime | None) -> bool:
    """Returns whether a time comes within five minutes."""
    return value is not None and value - datetime.now(UTC) < timedelta(minutes=5)


def stamp(value: datetime) -> str:
    """Returns a time in full, in UTC."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def count(number: int, noun: str) -> str:
    """Returns a number of things, such as `1 region` or `1,200 regions`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
