"""Failpoints: the named points at which a test may kill the process.

A mutation calls `reach` with the name of each failpoint that it passes. Outside tests `reach` does
nothing.
"""

from __future__ import annotations

from typing import Final

_POINTS: Final = {
    "apply": (
        "locked",
        "decided",
        "rows-written",
        "numbered",
    ),
    "organization": ("decided", "rows-written", "numbered"),
    "operation": ("written", "numbered"),
    "attempt": ("numbered",),
    "turn": (),
    "cleared": (),
    "ban": ("recorded", "numbered"),
    "refused": ("observed", "numbered"),
    "register": ("cleared", "written"),
    "poll": (),
    "leave": (),
    "observe": (),
    "issue": ("looked", "written", "numbered"),
    "use": (),
    "prune": ("cleared",),
    "history": ("removed", "kept", "numbered"),
    "reconcile": ("numbered",),
    "cursor": ("made",),
    "advance": (),
    "drop": ("deleted",),
    "expire": ("marked",),
}
"""The points inside each mutation's transaction, in the order in which it passes them."""

FAILPOINTS: Final = tuple(
    f"{mutation}:{point}"
    for mutation, points in _POINTS.items()
    for point in ("begun", *points, "before-commit", "after-commit")
)
"""Every failpoint of every mutation, in the order in which a mutation passes them."""


def no_failpoint(_name: str) -> None:
    """Passes every failpoint: the `reach` of a store outside tests."""
