"""Health: what the customer's KMS last answered about a root key or KEK, or that it did not.

Refused and could-not-tell are two families, kept apart everywhere. Every KMS error of the tree
belongs to exactly one health value, whose name is the error's reason. Here are also the rules for
combining observations of one subject; `service.observed` buffers and writes them.

A region's own replicas, which serve some regions alone, reach a KMS by another way and under
another identity than replicas that serve every region. So they have subjects of their own, and
neither overwrites what the others saw. `region_health` says which of them decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keyfold_server.domain.cluster import Generation, Wrap
from keyfold_server.domain.errors import KmsError


class Health(Enum):
    """The KMS's last answer."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    ACCESS_DENIED = "ACCESS_DENIED"
    KEY_DISABLED = "KEY_DISABLED"
    KEY_PENDING_DELETION = "KEY_PENDING_DELETION"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_INVALID = "KEY_INVALID"
    KEK_MISMATCH = "KEK_MISMATCH"
    UNREACHABLE = "UNREACHABLE"
    THROTTLED = "THROTTLED"
    CREDENTIALS_FAILED = "CREDENTIALS_FAILED"

    @staticmethod
    def of(error: KmsError) -> Health:
        """Returns the health value that stands for a KMS error."""
        return Health(error.reason)


COULD_NOT_TELL: Final = frozenset((Health.UNREACHABLE, Health.THROTTLED, Health.CREDENTIALS_FAILED))
"""Health values that say nothing about the key: the KMS could not be asked (protocol F6)."""

_SKEW: Final = 10_000
"""Milliseconds by which replicas' clocks may differ. A stored observation from further ahead was
written before a clock was set back, and must not hide for an hour what a replica sees now."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a replica saw of one root key version, or of one KEK that differs from its root key.

    Attributes:
        subject: `root:` and a `Wrap.root_id`, `kek:` and a kek_id in hex, or `describe:` and a
            `Wrap.root_id`. A colon and a region follow if the region's own replicas saw it.
        health: The last answer.
        since: When the health took this value, milliseconds of Unix time.
        last_check: When a replica last called the KMS, milliseconds of Unix time.
        last_success: When the KMS last unwrapped, milliseconds of Unix time; None: never seen.
        message: The last error's text; empty without an error.
        request_id: The provider's id of the last failed call; empty where it gave none.
        can_wrap: Whether wrapping worked the last time a replica tried; None: never tried.
        can_unwrap: Whether unwrapping worked the last time a replica tried; None: never tried.
        reason: The last error's reason; empty without an error. It says more than `health` where
            a root key unwraps and does not wrap.
        missing_permission: The permission that the last error named, or empty.
    """

    subject: str
    health: Health
    since: int
    last_check: int
    last_success: int | None = None
    message: str = ""
    request_id: str = ""
    can_wrap: bool | None = None
    can_unwrap: bool | None = None
    reason: str = ""
    missing_permission: str = ""

    @property
    def region(self) -> str:
        """The region whose own replicas saw it; empty: a replica that serves every region."""
        return self.subject.partition(":")[2].partition(":")[2]

    @property
    def error_is_about_wrapping(self) -> bool:
        """Whether the error is about wrapping: a key that unwraps can have no other error."""
        return self.health is Health.HEALTHY and bool(self.reason)

    def with_error(self, error: KmsError) -> Observation:
        """Returns this observation with an error's words in place of its own."""
        return replace(
            self,
            reason=error.reason,
            message=error.message,
            request_id=error.provider_request_id or "",
            missing_permission=error.missing_permission or "",
        )

    def without_error(self) -> Observation:
        """Returns this observation without an error."""
        return replace(self, reason="", message="", request_id="", missing_permission="")

    def after(self, old: Observation | None) -> Observation:
        """Returns what is known after this observation: what it leaves open stays as it was.

        Args:
            old: The earlier observation of the same subject, or None.
        """
        if old is None:
            return self
        new = self
        if new.can_wrap is None and old.error_is_about_wrapping and new.health is Health.HEALTHY:
            # The new observation says nothing about wrapping, so that error stands (protocol F5).
            new = replace(
                new,
                reason=old.reason,
                message=old.message,
                request_id=old.request_id,
                missing_permission=old.missing_permission,
            )
        return replace(
            new,
            # Never ahead of the observation: a clock may have been set back since.
            since=min(old.since, new.since) if old.health is new.health else new.since,
            last_success=new.last_success or old.last_success,
            can_wrap=old.can_wrap if new.can_wrap is None else new.can_wrap,
        )

    def combined_with(self, stored: Observation | None, now: int) -> Observation:
        """Combines this replica's last observation with the stored one of the same subject.

        Args:
            stored: The last that any replica wrote, or None.
            now: Milliseconds of Unix time.

        Returns:
            The stored observation where it is newer, else this one after it.
        """
        if stored is not None and self.last_check < stored.last_check <= now + _SKEW:
            return stored
        return self.after(stored)


ROOT: Final = "root:"
"""How the subjects of root keys begin; the root key id follows."""


def root_subject(wrap: Wrap) -> str:
    """Returns the observation subject of a root key version."""
    return f"{ROOT}{wrap.root_id}"


def describe_subject(wrap: Wrap) -> str:
    """Returns the observation subject of whether a root key version can be described."""
    return f"describe:{wrap.root_id}"


def kek_subject(generation: Generation) -> str:
    """Returns the observation subject of a KEK."""
    return f"kek:{generation.kek_id.hex()}"


def own_subject(subject: str, region: str) -> str:
    """Returns the subject of what a region's own replicas see of the same key."""
    return f"{subject}:{region}"


def turn_subject(region: str, prefix: str, *, own: bool) -> str:
    """Returns the subject of the claim of a turn of the sweep, which is no observation.

    Args:
        region: The region's name.
        prefix: The beginning of the ids of the root keys whose turn it is.
        own: Whether it is a turn of the region's own replicas.
    """
    return f"sweep:{region}:{prefix}{':own' if own else ''}"
