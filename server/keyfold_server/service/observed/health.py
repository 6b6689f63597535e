"""What this replica has seen of root keys and KEKs, on its way to the store.

Observations, not decisions (protocol S7): they are written now and then, in plain upserts, and
cost no rotation its turn.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from keyfold_server.domain.cluster import Generation, Wrap
from keyfold_server.domain.errors import (
    CouldNotTellError,
    KeyfoldError,
    KmsError,
    RefusedError,
)
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.ports import Clock
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

COULD_NOT_TELL: Final = frozenset((Health.UNREACHABLE, Health.THROTTLED, Health.CREDENTIALS_FAILED))
"""What says nothing of a key, but that nobody could tell (protocol F6)."""

_SKEW: Final = 10_000
"""Milliseconds by which replicas' clocks may differ. What the store has from further ahead was
written before a clock was set back, and must not hide for an hour what is seen now."""


def root_subject(wrap: Wrap) -> str:
    """Returns the subject of a root key version."""
    return f"root:{wrap.root_id}"


def kek_subject(generation: Generation) -> str:
    """Returns the subject of a KEK."""
    return f"kek:{generation.kek_id.hex()}"


def joined(stored: Observation | None, ours: Observation, now: int) -> Observation:
    """Returns what is known of what the store has and of what this replica has seen.

    Args:
        stored: Any replica's, or None.
        ours: This replica's last.
        now: Milliseconds of Unix time.
    """
    if stored is not None and ours.last_check < stored.last_check <= now + _SKEW:
        return stored
    return merged(stored, ours)


def merged(old: Observation | None, new: Observation) -> Observation:
    """Returns what is known after a new observation: what it does not say stays."""
    if old is None:
        return new
    if new.can_wrap is None and of_wrapping(old) and new.health is Health.HEALTHY:
        # It was said of wrapping, of which the new one says nothing: it stands (protocol F5).
        new = _with_error(new, old.reason, old.message, old.request_id, old.missing_permission)
    return replace(
        new,
        # Never ahead of the observation: a clock may have been set back since.
        since=min(old.since, new.since) if old.health is new.health else new.since,
        last_success=new.last_success or old.last_success,
        can_wrap=old.can_wrap if new.can_wrap is None else new.can_wrap,
    )


def of_wrapping(seen: Observation) -> bool:
    """Says whether an observation's error is about wrapping: a key that unwraps has no other."""
    return seen.health is Health.HEALTHY and bool(seen.reason)


class HealthBook:
    """Observations that the store does not have yet, merged by subject."""

    def __init__(self, clock: Clock, storage: Storage) -> None:
        """Makes an empty book."""
        self._clock = clock
        self._storage = storage
        self._new: dict[str, Observation] = {}
        self._written: dict[str, Observation] = {}

    def succeeded(self, generation: Generation) -> None:
        """Notes that a KEK was unwrapped: good for its root key, and for itself."""
        for subject in (root_subject(generation.current), kek_subject(generation)):
            now = self._now()
            self._note(
                Observation(subject, Health.HEALTHY, now, now, last_success=now, can_unwrap=True)
            )

    def failed(
        self, generation: Generation, error: KmsError, *, known: bool = False
    ) -> Observation:
        """Notes that a KEK could not be unwrapped; returns what that says of its root key.

        A refusal speaks for the root key and, until its own unwrap succeeds, for the KEK; an
        outage for the root key alone; a mismatch for the KEK alone, and so a refusal that was
        `known` before (protocol F4).
        """
        now = self._now()
        seen = Observation(
            root_subject(generation.current),
            Health.of(error),
            now,
            now,
            can_unwrap=None if isinstance(error, CouldNotTellError) else False,
        )
        seen = _of(error, seen)
        if isinstance(error, CouldNotTellError) or (isinstance(error, RefusedError) and not known):
            self._note(seen)
        if not isinstance(error, CouldNotTellError):
            self._note(replace(seen, subject=kek_subject(generation)))
        return seen

    def wrapping(self, generation: Generation, error: KmsError | None) -> None:
        """Notes whether the root key wraps; alone it does not make a key unhealthy (F5)."""
        subject = root_subject(generation.current)
        # What was learned of unwrapping may have been written while wrapping was asked.
        seen = self._new.get(subject) or self._written.get(subject)
        if seen is None:
            # Nothing was learned of unwrapping, and wrapping alone says nothing of a key's health.
            return
        if error is None:
            self._note(replace(_cleared(seen) if of_wrapping(seen) else seen, can_wrap=True))
        elif not isinstance(error, CouldNotTellError):
            # Where unwrapping failed too, that decides, and its error is the one to read.
            alone = seen.health is Health.HEALTHY
            self._note(replace(_of(error, seen) if alone else seen, can_wrap=False))

    def unreadable(self, kek_id: str) -> None:
        """Notes, by its id in hex, that a KEK could not be looked at: its rows are not authentic.

        It has had its turn in the sweep; else it would have that of every other KEK, too.
        """
        now = self._now()
        self._note(Observation(f"kek:{kek_id}", Health.UNKNOWN, now, now))

    async def known(self, subjects: list[str]) -> dict[str, Observation]:
        """Returns what the store and this replica know of some subjects.

        Observations decide nothing, so a store that does not answer here fails nobody: a change
        that was committed a moment ago must not look as if it were not.
        """
        try:
            stored = await self._storage.run(self._storage.store.observations, subjects)
        except KeyfoldError as error:
            log.warning("the store does not tell its observations: %s", error.reason)
            stored = {}
        for subject in subjects:
            new = self._new.get(subject)
            if new is not None:
                stored[subject] = joined(stored.get(subject), new, self._now())
        return stored

    async def flush(self) -> None:
        """Writes what is new to the store; until it has it, this replica goes on knowing it."""
        taken = dict(self._new)
        stored = await self._storage.run(self._storage.store.observations, list(taken))
        now = self._now()
        both = [joined(stored.get(subject), new, now) for subject, new in taken.items()]
        await self._storage.run(self._storage.store.observe, both)
        self._written = taken or self._written
        for subject, new in taken.items():
            if self._new.get(subject) is new:
                del self._new[subject]

    @property
    def pending(self) -> bool:
        """Whether there is something to write."""
        return bool(self._new)

    def _note(self, new: Observation) -> None:
        self._new[new.subject] = merged(self._new.get(new.subject), new)

    def _now(self) -> int:
        return int(self._clock.wall() * 1000)


def _of(error: KmsError, seen: Observation) -> Observation:
    """Returns an observation with an error's words, in place of those that it had."""
    return _with_error(
        seen,
        error.reason,
        error.message,
        error.provider_request_id or "",
        error.missing_permission or "",
    )


def _cleared(seen: Observation) -> Observation:
    """Returns an observation without an error."""
    return _with_error(seen, "", "", "", "")


def _with_error(
    seen: Observation, reason: str, message: str, request_id: str, missing_permission: str
) -> Observation:
    return replace(
        seen,
        reason=reason,
        message=message,
        request_id=request_id,
        missing_permission=missing_permission,
    )
