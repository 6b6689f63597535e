"""The health recorder: buffers what this replica saw of root keys and KEKs, and writes it.

Observations are not decisions (protocol S7): they are plain upserts without a change number, so
writing them never delays a rotation. The rules for combining them are in `domain.health`. A
replica that serves some regions alone records what it saw as those regions' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from keyfold_server.domain.cluster import Generation
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    KmsError,
    RefusedError,
)
from keyfold_server.domain.health import (
    ROOT,
    Health,
    Observation,
    describe_subject,
    kek_subject,
    own_subject,
    root_subject,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.region_health import SILENT_AFTER
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.transitions import transition
from keyfold_server.service.storage import Storage

_AT_ONCE: Final = 1_000
"""Observations that one transaction writes (protocol S12)."""

_MOST: Final = 100_000
"""Most observations that wait for a store that does not take them; then the oldest go."""


class HealthRecorder:
    """Observations that the store does not have yet, one per subject, the newest last."""

    def __init__(self, clock: Clock, storage: Storage, served: ServedRegions, sweep: float) -> None:
        """Starts with an empty buffer.

        Args:
            clock: Time.
            storage: The store.
            served: The regions that this replica serves.
            sweep: Seconds from one sweep to the next.
        """
        self._clock = clock
        self._storage = storage
        self._served = served
        self._silent_after = int(SILENT_AFTER * sweep * 1000)
        self._new: dict[str, Observation] = {}
        self._written: dict[str, Observation] = {}

    @property
    def own_since(self) -> int:
        """Milliseconds of Unix time: what a region's own replicas saw since then decides."""
        return self._now() - self._silent_after

    def subject(self, subject: str, region: str) -> str:
        """Returns the subject under which this replica records what it sees of a region's key."""
        return subject if self._served.all else own_subject(subject, region)

    def succeeded(self, region: str, generation: Generation) -> None:
        """Records that the KMS unwrapped a KEK: its root key and the KEK itself are healthy."""
        for subject in (root_subject(generation.current), kek_subject(generation)):
            now, mine = self._now(), self.subject(subject, region)
            self._record(
                Observation(mine, Health.HEALTHY, now, now, last_success=now, can_unwrap=True)
            )

    def failed(
        self, region: str, generation: Generation, error: KmsError, *, already_refused: bool = False
    ) -> Observation:
        """Records that a KEK could not be unwrapped.

        A refusal is recorded for the root key and for the KEK; an outage for the root key alone.
        A mismatch, and the repeated refusal of a KEK that was `already_refused`, are recorded for
        the KEK alone (protocol F4).

        Returns:
            What the error says of the root key, whether or not it was recorded for that.
        """
        observation = self._failure(root_subject(generation.current), region, error)
        could_not_tell = isinstance(error, CouldNotTellError)
        if could_not_tell or (isinstance(error, RefusedError) and not already_refused):
            self._record(observation)
        if not could_not_tell:
            subject = self.subject(kek_subject(generation), region)
            self._record(replace(observation, subject=subject))
        return observation

    def away(self, region: str, root_id: str, error: CouldNotTellError) -> None:
        """Records that a root key's KMS could not be asked, as another region of it showed.

        Args:
            region: The other region. The sweep would have asked in it next.
            root_id: The root key's id.
            error: Why this process's one way to the KMS gave no answer.
        """
        self._record(self._failure(f"{ROOT}{root_id}", region, error))

    def wrapping(self, region: str, generation: Generation, error: KmsError | None) -> None:
        """Records whether the root key wraps.

        Wrapping alone does not make a key unhealthy (protocol F5), so nothing is recorded until
        this replica has also learned about unwrapping.

        Args:
            region: The region's name.
            generation: A generation under the root key.
            error: Why the root key does not wrap; None: it does.
        """
        subject = self.subject(root_subject(generation.current), region)
        # The unwrap's observation may have been written to the store during the wrap.
        last = self._new.get(subject) or self._written.get(subject)
        if last is None:
            return
        if error is None:
            cleared = last.without_error() if last.error_is_about_wrapping else last
            self._record(replace(cleared, can_wrap=True))
        elif not isinstance(error, CouldNotTellError):
            # Where unwrapping failed too, its error is the one that people must read.
            unwraps = last.health is Health.HEALTHY
            self._record(replace(last.with_error(error) if unwraps else last, can_wrap=False))

    def describing(self, region: str, generation: Generation, error: KmsError | None) -> None:
        """Records whether the root key can be described, which decides nothing (protocol F5).

        Args:
            region: The region's name.
            generation: A generation under the root key.
            error: Why the KMS did not describe it; None: it did. Only a denial counts: with any
                other refusal, the KMS has told what is wrong with the key.
        """
        now = self._now()
        subject = self.subject(describe_subject(generation.current), region)
        seen = Observation(subject, Health.HEALTHY, now, now)
        if isinstance(error, AccessDeniedError):
            seen = replace(seen, health=Health.of(error)).with_error(error)
        self._record(seen)

    def unreadable(self, region: str, kek_id: str) -> None:
        """Records that the sweep could not check a KEK, because its rows are not authentic.

        This marks the KEK as swept; otherwise the sweep would retry it in place of every other.

        Args:
            region: The region's name.
            kek_id: The KEK's id in hex.
        """
        now, subject = self._now(), self.subject(f"kek:{kek_id}", region)
        self._record(Observation(subject, Health.UNKNOWN, now, now))

    def combined(
        self, stored: Mapping[str, Observation], subjects: Iterable[str]
    ) -> dict[str, Observation]:
        """Returns what the store and this replica know of some subjects.

        Args:
            stored: What the store knows, by subject.
            subjects: The subjects.
        """
        known = dict(stored)
        for subject in subjects:
            new = self._new.get(subject)
            if new is not None:
                known[subject] = new.combined_with(stored.get(subject), self._now())
        return known

    async def flush(self) -> None:
        """Writes what is new to the store, in parts, and keeps it until the store has it.

        Raises:
            KeyfoldError: The store did not take it; the next flush writes what is left.
        """
        taken = list(self._new.items())
        written: dict[str, Observation] = {}
        for first in range(0, len(taken), _AT_ONCE):
            part = dict(taken[first : first + _AT_ONCE])
            stored = await self._storage.run(self._storage.store.observations, list(part))
            now = self._now()
            both = [new.combined_with(stored.get(subject), now) for subject, new in part.items()]
            moved = (transition(stored.get(seen.subject), seen) for seen in both)
            found = [each for each in moved if each is not None]
            await self._storage.run(self._storage.store.observe, both, found)
            written |= part
            self._written = written
            for subject, new in part.items():
                if self._new.get(subject) is new:
                    del self._new[subject]

    @property
    def pending(self) -> bool:
        """Whether there is something to write."""
        return bool(self._new)

    def _failure(self, subject: str, region: str, error: KmsError) -> Observation:
        now = self._now()
        return Observation(
            self.subject(subject, region),
            Health.of(error),
            now,
            now,
            can_unwrap=None if isinstance(error, CouldNotTellError) else False,
        ).with_error(error)

    def _record(self, new: Observation) -> None:
        # A newer observation goes to the end, so that the first one is the oldest.
        self._new[new.subject] = new.after(self._new.pop(new.subject, None))
        if len(self._new) > _MOST:
            del self._new[next(iter(self._new))]

    def _now(self) -> int:
        return int(self._clock.wall() * 1000)
