"""What the state and the health of a key mean, in the words of the customer who owns the key.

A refusal is the customer's own KMS saying no, so the customer can end it. What could not be told is
an outage, which says nothing about the key. The two are never mixed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from keyfold import Health, KeySpec, State
from keyfold.models.status import RegionStatus

_Maker: TypeAlias = Callable[[KeySpec, str], str]
"""Makes a command from a key and the version of it that the service needs."""

GOOD: Final = "good"
"""The key serves."""

WARN: Final = "warn"
"""The key serves, or nobody can tell; something will need a person."""

BAD: Final = "bad"
"""The key does not serve, and somebody has to act."""

QUIET: Final = "quiet"
"""The key does not serve because somebody wanted it so."""


@dataclass(frozen=True, slots=True)
class Plain:
    """The condition of one key.

    Attributes:
        kind: `good`, `warn`, `bad` or `quiet`, as in `words.Said`.
        word: Two or three words.
        meaning: What it means for the data under the key.
        advice: What the customer does about it; empty: nothing.
        since: When it became so; None: nobody knows.
    """

    kind: str
    word: str
    meaning: str
    advice: str
    since: datetime | None


_REFUSED: Final = "Nothing under this key can be opened until your KMS allows it again."
_OUTAGE: Final = (
    "This says nothing about your key. Keys in memory go on serving for the agreed time, and "
    "everything resumes by itself."
)

_HEALTH: Final = {
    Health.HEALTHY: (
        GOOD,
        "Working",
        "Your KMS answered, and your key opens what it should.",
        "",
    ),
    Health.UNKNOWN: (
        WARN,
        "Not tried yet",
        "The key has not been used since the service last started.",
        "Check it now, or wait for its first use.",
    ),
    Health.ACCESS_DENIED: (
        BAD,
        "Access denied",
        _REFUSED,
        "Give the permission back in the key's policy. The policy to attach is on the key's page.",
    ),
    Health.KEY_DISABLED: (
        BAD,
        "Key disabled",
        _REFUSED,
        (
            "If nobody meant to, enable the key, or its version, in your KMS. It serves again "
            "within seconds."
        ),
    ),
    Health.KEY_PENDING_DELETION: (
        BAD,
        "Key about to be deleted",
        "Once your KMS has deleted the key, nobody can ever open what is under it.",
        (
            "If nobody meant to, cancel the deletion in your KMS before its waiting period ends, "
            "and enable the key."
        ),
    ),
    Health.KEY_NOT_FOUND: (
        BAD,
        "Key not found",
        "Your KMS says that there is no such key. " + _REFUSED,
        (
            "If the key was deleted, recover it in your KMS while that is possible. A key that is "
            "destroyed cannot be brought back."
        ),
    ),
    Health.KEY_INVALID: (
        BAD,
        "Key cannot be used",
        "The key exists, but its purpose or type does not let it encrypt and decrypt.",
        "Undo the change of the key in your KMS, or ask your vendor to move to another key.",
    ),
    Health.KEK_MISMATCH: (
        BAD,
        "Stored key damaged",
        "Your key works, but what the service stored under it does not open.",
        "Tell your vendor, who restores it from a backup.",
    ),
    Health.UNREACHABLE: (
        WARN,
        "Cannot reach your KMS",
        _OUTAGE,
        "Look at your provider's status page, and at firewalls that you run before the KMS.",
    ),
    Health.THROTTLED: (
        WARN,
        "Your KMS asks to slow down",
        _OUTAGE,
        "If it lasts, raise the quota of requests of your KMS.",
    ),
    Health.CREDENTIALS_FAILED: (
        WARN,
        "Vendor's sign-in failed",
        "Your KMS did not accept the service's own credential. " + _OUTAGE,
        "Tell your vendor, unless you just removed the role or application that it uses.",
    ),
    Health.UNSPECIFIED: (
        WARN,
        "Unknown",
        "The service says something that this page does not know yet.",
        "Tell your vendor that the console is older than the service.",
    ),
}


def word(health: Health) -> str:
    """Returns a health in two or three words."""
    return _HEALTH[health][1]


def condition(region: RegionStatus) -> Plain:
    """Returns the condition of a region's key in the customer's words."""
    if region.state is State.REVOKED:
        return Plain(
            QUIET,
            "Revoked",
            "The service refuses all use of this key, because you or your vendor revoked it.",
            "Restore it when you want your data to be readable again.",
            region.state_time,
        )
    if region.state is State.DELETED:
        return Plain(
            QUIET,
            "Deleted",
            "The service erases what it keeps under this key when the waiting period ends. After "
            "that, nobody can open the data.",
            "If nobody meant to, ask your vendor to take the deletion back before that.",
            region.state_time,
        )
    kind, word, meaning, advice = _HEALTH[region.health]
    if kind == GOOD and region.can_wrap is False:
        return Plain(
            WARN,
            "Opens, but cannot encrypt",
            "Data can be read and written. The next rotation of the key will fail.",
            "Give the permission to encrypt back in the key's policy.",
            region.health_time,
        )
    return Plain(kind, word, meaning, advice, region.health_time)


def remedy(region: RegionStatus) -> str:
    """Returns the command that ends the refusal, for the provider's own tool; empty: none is sure.

    The console runs none of it: the customer reads it, and types it where it is signed in.
    """
    if region.state is not State.ENABLED:
        return ""
    make = _REMEDIES.get((region.key_spec.type, region.health))
    return make(region.key_spec, region.key_version) if make else ""


def _aws(*actions: str) -> _Maker:
    def make(key: KeySpec, _: str) -> str:
        region = (key.uri.split(":") + [""] * 4)[3]
        place = f"--region {shlex.quote(region)} --key-id {shlex.quote(key.uri)}"
        return " &&\n".join(f"aws kms {action} {place}" for action in actions)

    return make


def _azure_enable(key: KeySpec, version: str) -> str:
    # Without a version Azure would enable the newest one, which need not be the one in question.
    pinned = key.uri if not version or key.uri.endswith(f"/{version}") else f"{key.uri}/{version}"
    return f"az keyvault key set-attributes --enabled true --id {shlex.quote(pinned)}"


def _azure_recover(key: KeySpec, _: str) -> str:
    host, _, rest = key.uri.removeprefix("https://").partition("/keys/")
    name, vault = rest.split("/")[0], host.split(".")[0]
    which = "--hsm-name" if ".managedhsm." in host else "--vault-name"
    return f"az keyvault key recover {which} {shlex.quote(vault)} --name {shlex.quote(name)}"


def _gcp(*actions: str) -> _Maker:
    def make(key: KeySpec, version: str) -> str:
        number = version.rsplit("/", 1)[-1]
        place = f"{shlex.quote(number)} --key {shlex.quote(key.uri)}"
        return " &&\n".join(f"gcloud kms keys versions {action} {place}" for action in actions)

    return make


_REMEDIES: Final[dict[tuple[str, Health], _Maker]] = {
    ("AWS_KMS", Health.KEY_DISABLED): _aws("enable-key"),
    ("AWS_KMS", Health.KEY_PENDING_DELETION): _aws("cancel-key-deletion", "enable-key"),
    ("AZURE_KEY_VAULT", Health.KEY_DISABLED): _azure_enable,
    ("AZURE_KEY_VAULT", Health.KEY_PENDING_DELETION): _azure_recover,
    ("GCP_CLOUD_KMS", Health.KEY_DISABLED): _gcp("enable"),
    ("GCP_CLOUD_KMS", Health.KEY_PENDING_DELETION): _gcp("restore", "enable"),
}
