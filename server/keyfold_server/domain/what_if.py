"""What if: what stops once a customer takes a root key, or a right to it, away.

A provider foresees what its KMS will answer (`Foresees`). This module says what that answer means
for a wrap that the store holds: what stops, when, what callers see, and what resumes. Neither calls
a KMS, so nothing here knows in which state a key is today.

The rule, for a wrap whose KEK the KMS will no longer open:

    a wrap of history          nothing stops: another wrap opens the KEK today
    a region out of service    nothing stops, since nothing is served; its Restore will fail
    the newest generation      Wrap, Unwrap and Rotate stop
    an older generation        Unwrap and Rotate stop
    a retired generation       Rotate stops: it moves retired KEKs, too

If the KMS will still open the KEK and will not wrap, Rotate alone stops. A refusal gives no grace
(protocol F2). An answer that tells nothing about the key gives all of it (protocol F1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsError,
)
from keyfold_server.domain.key_usage import KeyUse
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.lifecycle import Action, allows

SLACK: Final = 15.0
"""Seconds beyond the cache TTL within which the last replica meets a refusal."""


class WhatIf(Enum):
    """What a customer may do to a root key, at the KMS."""

    DISABLE = "DISABLE"
    DELETE = "DELETE"
    REMOVE_WRAP_PERMISSION = "REMOVE_WRAP_PERMISSION"
    REMOVE_UNWRAP_PERMISSION = "REMOVE_UNWRAP_PERMISSION"
    REMOVE_DESCRIBE_PERMISSION = "REMOVE_DESCRIBE_PERMISSION"
    REMOVE_PRINCIPAL = "REMOVE_PRINCIPAL"


class Reach(Enum):
    """What a KMS can take away at once if a customer means a version of a key."""

    VERSION = "version"
    """That version alone."""

    AND_OLDER = "and older"
    """That version and every older one."""

    KEY = "key"
    """Nothing less than the key with all its versions."""


@dataclass(frozen=True, slots=True)
class Supposition:
    """What a customer is supposed to do.

    Attributes:
        what: The action.
        uri: The root key in canonical form; empty: every root key in question.
        key_version: The version, as the provider writes it; empty: the whole key. It is set only
            for actions whose reach is not `Reach.KEY`.
    """

    what: WhatIf
    uri: str = ""
    key_version: str = ""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a KMS will answer about one wrap, once the supposition is true.

    Attributes:
        because: Why, in one clause for people.
        unwrap: The error of each unwrap; None: it works as before.
        wrap: The error of each wrap under the same key; None: it works as before.
        later: Seconds for which the KMS may go on as before, such as until a session ends.
        needs: What a person has to do beyond taking the action back before the key works again;
            empty: nothing.
        final: Whether the action cannot be taken back.
    """

    because: str
    unwrap: type[KmsError] | None = None
    wrap: type[KmsError] | None = None
    later: float = 0.0
    needs: str = ""
    final: bool = False


@runtime_checkable
class Foresees(Protocol):
    """A provider that foresees what its KMS will answer. It calls no KMS to do so."""

    def reach(self, what: WhatIf) -> Reach:
        """Returns what the KMS takes away if a customer means one version of a key."""
        ...

    def foreseen(self, supposed: Supposition, key: RootKey, key_version: str) -> Foreseen:
        """Returns what the KMS will answer about a wrap.

        Args:
            supposed: What the customer is supposed to do.
            key: The root key of the wrap, in canonical form.
            key_version: The version of the root key that wrapped.
        """
        ...


class When(Enum):
    """When something stops."""

    AT_ONCE = "AT_ONCE"
    """With the next call to the KMS, so Recheck stops it on every replica at once."""

    AFTER_TTL = "AFTER_TTL"
    """Within the span that the impact gives; no Recheck makes sure that it is sooner."""

    NEVER = "NEVER"
    """Nothing stops."""


@dataclass(frozen=True, slots=True)
class KeyImpact:
    """What a supposition does to one use of a root key.

    Attributes:
        stops_wrap: Whether Wrap and GenerateDataKey stop for the region.
        stops_unwrap: Whether Unwrap stops for what the generation wrapped.
        stops_rotation: Whether Rotate stops for the region while it stays with its key; if
            `stops_unwrap` or `final`, also to another key.
        when: When it stops.
        stops_within: Seconds after which it has stopped at the latest, even without a Recheck.
        error: The error that callers will see; None if nothing stops.
        resumes: Whether it resumes by itself once the action is taken back.
        needs: What a person has to do besides that; empty: nothing.
        because: Why it is so; never empty.
    """

    stops_wrap: bool
    stops_unwrap: bool
    stops_rotation: bool
    when: When
    stops_within: float
    error: type[KmsError] | None
    resumes: bool
    needs: str
    because: str

    @property
    def stops(self) -> bool:
        """Whether anything stops."""
        return self.when is not When.NEVER


def cautious(supposed: Supposition) -> Foreseen:
    """Returns what to expect of a KMS of which nothing is known: the worst that the port allows."""
    unknown = "its provider does not say what its KMS answers then, so expect a refusal"
    match supposed.what:
        case WhatIf.DISABLE:
            return Foreseen(unknown, KeyDisabledError, KeyDisabledError)
        case WhatIf.DELETE:
            needs = "find out from the KMS whether a deleted key can be recovered"
            return Foreseen(unknown, KeyNotFoundError, KeyNotFoundError, needs=needs)
        case WhatIf.REMOVE_WRAP_PERMISSION:
            return Foreseen(unknown, wrap=AccessDeniedError)
        case _:
            return Foreseen(unknown, AccessDeniedError, AccessDeniedError)


def impact(use: KeyUse, foreseen: Foreseen, ttl: float, grace: float) -> KeyImpact:
    """Returns what stops for one use of a root key.

    Args:
        use: The use.
        foreseen: What the KMS will answer.
        ttl: Seconds that one proof lasts in the region.
        grace: Seconds that the region's keys serve beyond that while the KMS cannot be asked.
    """
    if use.superseded:
        return _nothing(
            "another wrap opens this KEK today; only backups and exports from before "
            "that need this one"
        )
    if not allows(use.state, Action.USE):
        return _nothing(_out_of_service(use, foreseen))
    error = foreseen.unwrap or foreseen.wrap
    if error is None:
        return _nothing(foreseen.because)
    opens = foreseen.unwrap is None
    serves = not opens and not use.retired
    told = not issubclass(error, CouldNotTellError)
    within = foreseen.later
    if serves and ttl > 0:
        within += ttl + SLACK + (0.0 if told else grace)
    at_once = foreseen.later == 0 and told and (use.rechecked or ttl == 0 or not serves)
    because = foreseen.because
    if opens:
        because += "; data keys stay usable, and so does a rotation to another key"
    elif use.retired:
        because += "; the generation is retired, but a rotation moves it, too"
    elif not told:
        because += "; that tells nothing about the key, so keys in memory serve on for their grace"
    elif foreseen.later > 0:
        because += (
            "; if neither a canary nor another principal then shows that Keyfold's own side is "
            "good, it counts as an outage (CREDENTIALS_FAILED), with its grace"
        )
    elif not at_once and foreseen.later == 0:
        because += "; a Recheck asks about the newest generation, which is under another version"
    return KeyImpact(
        stops_wrap=serves and use.newest,
        stops_unwrap=serves,
        stops_rotation=True,
        when=When.AT_ONCE if at_once else When.AFTER_TTL,
        stops_within=within,
        error=error,
        resumes=not foreseen.final and not foreseen.needs,
        needs=foreseen.needs,
        because=because,
    )


def _out_of_service(use: KeyUse, foreseen: Foreseen) -> str:
    """Returns why nothing stops for a region that nobody may use."""
    word = use.state.value.lower()
    if foreseen.unwrap is None:
        return f"the region is {word}, so nothing is served; {foreseen.because}"
    back = "Restore" if allows(use.state, Action.RESTORE) else "the Restore after an Undelete"
    until = "for ever" if foreseen.final else "until the action is taken back"
    at = f" after {foreseen.later:g} seconds at the latest" if foreseen.later else ""
    return f"the region is {word}, so nothing is served; {back} fails{at} {until}"


def _nothing(because: str) -> KeyImpact:
    return KeyImpact(
        stops_wrap=False,
        stops_unwrap=False,
        stops_rotation=False,
        when=When.NEVER,
        stops_within=0.0,
        error=None,
        resumes=True,
        needs="",
        because=because,
    )
