"""Transitions of a root key's health: what people hear of, out of all that is observed (S0, S7).

A root key is in one of a few conditions. What is observed in between stays out of the log. A change
of condition is one entry for the root key, however many clusters it has: by whoever met it in the
case of a refusal (protocol F2), otherwise with the observation that shows it. To a region's own
replicas a root key may be in another condition than to the others, so it has one for them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from keyfold_server.domain.health import COULD_NOT_TELL, ROOT, Health, Observation

_LASTING: Final = 5 * 60 * 1000
"""Milliseconds after which it counts that a KMS could not be asked about a root key."""


class Condition(Enum):
    """The condition of a root key."""

    HEALTHY = "HEALTHY"
    """It wraps and unwraps."""

    CANNOT_WRAP = "CANNOT_WRAP"
    """It unwraps, and its KMS refused to wrap with it (protocol F5)."""

    COULD_NOT_TELL = "COULD_NOT_TELL"
    """Its KMS could not be asked for 5 minutes or longer."""

    REFUSED = "REFUSED"
    """Its KMS refused it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A root key that is in another condition than an earlier observation shows.

    Attributes:
        root: The root key id.
        condition: The condition that it is in now.
        before: The condition before, as far as observations show it. The log knows better.
        seen: The observation that shows the condition.
    """

    root: str
    condition: Condition
    before: Condition
    seen: Observation


def condition(seen: Observation) -> Condition | None:
    """Returns the condition that an observation of a root key shows, or None if it shows none."""
    if seen.health is Health.UNKNOWN:
        return None
    if seen.health is Health.HEALTHY:
        return Condition.CANNOT_WRAP if seen.can_wrap is False else Condition.HEALTHY
    if seen.health in COULD_NOT_TELL:
        lasts = seen.last_check - seen.since >= _LASTING
        return Condition.COULD_NOT_TELL if lasts else None
    return Condition.REFUSED


def transition(stored: Observation | None, new: Observation) -> Transition | None:
    """Returns the transition of a root key that an observation may show, or None.

    A refusal is not a transition: whoever met it has told it (protocol F2).

    Args:
        stored: The earlier observation of the same subject, or None.
        new: The observation.
    """
    now = condition(new) if new.subject.startswith(ROOT) else None
    if now is None or now is Condition.REFUSED:
        return None
    before = Condition.HEALTHY if stored is None else condition(stored)
    if before is now:
        return None
    root = new.subject.removeprefix(ROOT).partition(":")[0]
    return Transition(root, now, before or Condition.HEALTHY, new)
