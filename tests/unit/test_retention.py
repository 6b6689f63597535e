"""What backups keep after the live store has lost it (protocol D4, C6)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyfold_server.domain.retention import backups_with, final_after

DAY = 86_400_000
MOMENTS = st.integers(0, 4_000_000_000_000)
SPANS = st.integers(0, 36_500 * 86_400)


def test_a_deletion_is_final_when_the_last_backup_that_holds_it_is_gone() -> None:
    """D4: a backup from just before the erasure lives for the whole retention after it."""
    assert final_after(1_000, 30 * 86_400.0) == 1_000 + 30 * DAY
    assert final_after(1_000, 0.0) == 1_000
    assert final_after(1_000, 0.5) == 1_500


def test_a_wrap_in_the_live_store_is_in_every_backup_since_it_was_made() -> None:
    """C6: backups from before the wrap do not need its root key, and older ones are gone."""
    assert backups_with(20 * DAY, None, 40 * DAY, 30 * 86_400.0) == (20 * DAY, 40 * DAY)
    assert backups_with(5 * DAY, None, 40 * DAY, 30 * 86_400.0) == (10 * DAY, 40 * DAY)


def test_a_superseded_wrap_is_in_no_backup_from_after_that() -> None:
    """C6: the old root key opens backups of the time in which it wrapped, as long as they exist."""
    assert backups_with(5 * DAY, 35 * DAY, 40 * DAY, 30 * 86_400.0) == (10 * DAY, 35 * DAY)
    assert backups_with(5 * DAY, 10 * DAY, 40 * DAY, 30 * 86_400.0) is None
    assert backups_with(5 * DAY, 35 * DAY, 40 * DAY, 0.0) is None


@given(made=MOMENTS, lasted=st.integers(1, 4_000_000_000), waited=MOMENTS, retention=SPANS)
def test_no_backup_needs_a_wrap_from_the_moment_that_is_final(
    made: int, lasted: int, waited: int, retention: int
) -> None:
    """D4, C6: the two functions agree, so nothing is called final that a backup still holds."""
    gone = made + lasted
    now = gone + waited
    needed = backups_with(made, gone, now, float(retention)) is not None
    assert needed == (now < final_after(gone, float(retention)))
