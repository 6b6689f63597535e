"""What backups keep after the live store has lost it (protocol D4, C6).

Keyfold erases from its live store. Copies stay in backups, exports and archived logs of the
database until the vendor's own rules remove them, and Keyfold knows of those rules only what
`KEYFOLD_BACKUP_RETENTION` says. All times are milliseconds of Unix time.
"""

from __future__ import annotations


def final_after(gone_at: int, backup_retention: float) -> int:
    """Returns when no backup holds any more what the live store lost at a time.

    Args:
        gone_at: When the live store loses it: the purge time of a deleted region, or the time at
            which a wrap was superseded.
        backup_retention: Seconds for which the vendor keeps backups and exports.
    """
    return gone_at + round(backup_retention * 1000)


def oldest_backup(now: int, backup_retention: float) -> int:
    """Returns when the oldest backup that still exists was taken, at the earliest."""
    return now - round(backup_retention * 1000)


def backups_with(
    created_at: int, gone_at: int | None, now: int, backup_retention: float
) -> tuple[int, int] | None:
    """Returns between which times a backup was taken that still exists and holds a wrap.

    Args:
        created_at: When the store got the wrap.
        gone_at: When another wrap superseded it; None: it stands in the live store.
        now: The time now.
        backup_retention: Seconds for which the vendor keeps backups and exports.

    Returns:
        The first and the last such time; None if no backup that still exists holds the wrap.
    """
    oldest = oldest_backup(now, backup_retention)
    first, last = max(created_at, oldest), now if gone_at is None else gone_at
    return (first, last) if first < last else None
