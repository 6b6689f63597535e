"""Events as sentences that somebody reads who has never seen the log of Keyfold."""

from __future__ import annotations

from typing import Final

from keyfold import Event, Health
from keyfold_console.pages.organizations import plain

_DONE: Final = {
    "rpc:cluster:enable": "{cluster} was set up with its keys",
    "rpc:cluster:addregions": "{cluster} got further regions",
    "rpc:cluster:rotate": "The keys of {cluster} were rotated",
    "rpc:cluster:revoke": "{cluster} was revoked",
    "rpc:cluster:restore": "{cluster} was restored",
    "rpc:cluster:deletecluster": "{cluster} was deleted, to be erased after its waiting period",
    "rpc:cluster:undeletecluster": "The deletion of {cluster} was taken back",
    "rpc:cluster:retiregeneration": "An old generation of {cluster} was retired or brought back",
    "server:cluster:use": "{cluster} was used for the first time",
    "server:cluster:erase": "{cluster} was erased",
    "rpc:organization:create": "The organization was set up",
    "rpc:organization:update": "The organization was changed",
    "rpc:organization:delete": "The organization was removed",
    "rpc:organization:claim": "An account or vault was registered as yours",
    "rpc:key_link:create": "A key was linked",
    "rpc:key_link:update": "A linked key was changed",
    "rpc:key_link:delete": "A key was unlinked",
    "rpc:key_link:move": "A linked key was replaced by another one",
    "server:key_link:moved": "The move to another key ended",
    "rpc:key:testkey": "A key was tested",
    "rpc:key:getaccesspolicy": "Somebody asked which policy a key needs",
    "rpc:external_id:issue": "An external id was issued",
    "rpc:seat:reserve": "An identity was reserved",
    "rpc:operation:start": "An operation was started",
    "rpc:operation:cancel": "An operation was cancelled",
    "rpc:operation:delete": "An operation was removed from the list",
    "server:operation:end": "An operation ended",
    "command:cluster:seal": "The vendor declared the data of {cluster} to be right",
    "command:cluster:import": "{cluster} came back from an export",
    "command:organization:import": "The organization came back from an export",
    "store:floor:keep": "A decision about {cluster} was carried forward in the log",
}

_TRIED: Final = {
    "rpc:cluster:enable": "Setting up {cluster} failed",
    "rpc:cluster:addregions": "Adding regions to {cluster} failed",
    "rpc:cluster:rotate": "Rotating the keys of {cluster} failed",
    "rpc:cluster:revoke": "Revoking {cluster} failed",
    "rpc:cluster:restore": "Restoring {cluster} failed",
    "rpc:key_link:create": "Linking a key failed",
    "rpc:key_link:update": "Changing a linked key failed",
    "rpc:key_link:delete": "Unlinking a key failed",
    "rpc:key_link:move": "Replacing a linked key failed",
    "rpc:key:testkey": "A test of a key failed",
}

_HEALTH: Final = {
    "HEALTHY": "Your KMS lets a key be used again",
    "CANNOT_WRAP": "Your KMS no longer encrypts with a key",
    "COULD_NOT_TELL": "Your KMS could not be asked about a key",
}

_FINE: Final = frozenset({"done", "unchanged", "repeated", "validated", "HEALTHY"})


def sentence(event: Event) -> str:
    """Returns what happened, in one sentence."""
    if event.action == "kms:root_key:observe":
        return _HEALTH.get(event.outcome, f"Your KMS said {event.outcome} of a key")
    if event.action == "kms:root_key:refuse":
        why = Health.__members__.get(event.outcome, Health.UNSPECIFIED)
        return f"Your KMS refused a key: {plain.word(why).lower()}"
    known = _DONE if event.outcome in _FINE else _TRIED
    text = known.get(event.action)
    if text is None:
        done = _DONE.get(event.action, event.action)
        text = done if event.outcome in _FINE else f"{done}: {event.outcome}"
    said = text.format(cluster=event.cluster or "A cluster")
    if event.outcome == "validated":
        said += ", as a trial that changed nothing"
    if event.outcome in {"unchanged", "repeated"}:
        said += ", which changed nothing"
    return f"{said} in {', '.join(event.regions)}" if event.regions else said


def kind(event: Event) -> str:
    """Returns how an event is marked: `good`, `warn`, `bad` or `quiet`."""
    if event.action == "kms:root_key:refuse":
        return plain.BAD
    if event.action == "kms:root_key:observe":
        return plain.GOOD if event.outcome == "HEALTHY" else plain.WARN
    if event.outcome not in _FINE:
        return plain.WARN
    return plain.QUIET


def who(event: Event) -> str:
    """Returns who did it: a person's name where it is known, or the service itself."""
    if not event.caller:
        return "your KMS" if event.action.startswith("kms:") else "the service"
    # An issuer's address before the name says nothing to a customer whose people it all are.
    name = event.caller.partition("#")[2] if event.caller.startswith("jwt:") else event.caller
    return event.on_behalf_of or name or event.caller
