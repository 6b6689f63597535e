"""The health of a region's key: which of what several replicas saw decides.

What a region's own replicas saw decides, because their calls serve the region's applications. What
replicas that serve every region saw decides where the region has no replicas of its own, or where
these have fallen silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.cluster import Generation
from keyfold_server.domain.health import (
    Health,
    Observation,
    describe_subject,
    kek_subject,
    own_subject,
    root_subject,
)

SILENT_AFTER: Final = 3
"""Intervals of the sweep after which what a region's own replicas saw last may be overtaken. They
ask about each root key in use once in an interval; one that could not may be a little late."""


@dataclass(frozen=True, slots=True)
class RegionHealth:
    """What is known of a region's newest KEK.

    Attributes:
        own: What the region's own replicas saw, or None.
        common: What replicas saw that serve every region, or None.
        own_decides: Whether `own` decides.
        described: The observation of whether the root key can be described, of those that decide.
    """

    own: Observation | None
    common: Observation | None
    own_decides: bool
    described: Observation | None = None

    @property
    def seen(self) -> Observation | None:
        """The observation that decides, or None."""
        return self.own if self.own_decides else self.common

    @staticmethod
    def of(
        known: Mapping[str, Observation], region: str, generation: Generation, own_since: int
    ) -> RegionHealth:
        """Returns what is known of a region. The store's `region_health` has the same rule in SQL.

        Args:
            known: Observations by subject, with all that `subjects_of` names.
            region: The region's name.
            generation: Its newest generation.
            own_since: Milliseconds of Unix time. What the region's own replicas saw since then
                decides, whatever others saw later.
        """
        kek, root, description = _subjects(generation)
        common_root, own_root = known.get(root), known.get(own_subject(root, region))
        own_kek = known.get(own_subject(kek, region))
        own = [each.last_check for each in (own_root, own_kek) if each is not None]
        own_decides = bool(own) and (
            common_root is None
            or max(own) >= own_since
            or (own_root is not None and own_root.last_check >= common_root.last_check)
        )
        return RegionHealth(
            _decisive(own_kek, own_root),
            _decisive(known.get(kek), common_root),
            own_decides,
            known.get(own_subject(description, region) if own_decides else description),
        )


def subjects_of(region: str, generation: Generation) -> list[str]:
    """Returns the subjects of all that replicas see of a region's newest generation."""
    subjects = _subjects(generation)
    return [*subjects, *(own_subject(subject, region) for subject in subjects)]


def _subjects(generation: Generation) -> tuple[str, str, str]:
    wrap = generation.current
    return kek_subject(generation), root_subject(wrap), describe_subject(wrap)


def _decisive(kek: Observation | None, root: Observation | None) -> Observation | None:
    """Returns the observation that decides a KEK's health, of the KEK's own and its root key's.

    The root key's decides, unless the KMS refused the KEK by itself: that stands until the KEK's
    own unwrap succeeds, whatever proves the root key in the meantime (protocol F4).
    """
    if kek is not None and kek.health is not Health.HEALTHY:
        return kek if root is None else replace(kek, can_wrap=root.can_wrap)
    return root or kek
