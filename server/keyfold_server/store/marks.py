"""The points at which a process may die, named so that tests can kill it there.

At each of them a mutation calls `reach` with the name; in service that does nothing.
"""

from __future__ import annotations

from typing import Final

_OWN: Final = {
    "apply": (
        "locked",
        "decided",
        "rows-written",
        "audited",
        "request-recorded",
        "numbered",
    ),
    "refused": ("observed", "numbered"),
    "register": ("cleared", "written"),
    "poll": ("written",),
    "leave": (),
    "observe": (),
    "issue": ("looked", "written"),
    "use": (),
    "prune": (),
}

MARKS: Final = tuple(
    f"{mutation}:{point}"
    for mutation, points in _OWN.items()
    for point in ("begun", *points, "before-commit", "after-commit")
)
"""Every mark of every mutation, in the order in which they are reached."""


def nowhere(_mark: str) -> None:
    """Passes every mark."""
