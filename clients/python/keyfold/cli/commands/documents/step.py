"""A step: one change of one resource, how it is tried, and how it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keyfold.calls.call import Call
from keyfold.cli.output.plan import Action, FieldChange
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError


@dataclass(frozen=True, slots=True)
class Step:
    """One call that a plan makes.

    Attributes:
        resource: The resource, such as `cluster/prod`.
        action: What the call does to it.
        asked: The fields that the file changes, for a call that cannot be tried yet.
        call: The call.
        trial: The call that tries it; None: it rests on an earlier step and cannot be tried.
        changed: Reads from a result, and from the form before, what the call changes.
        read: Reads the form of what exists now, None if it does not exist, and what else tells that
            somebody changed it, such as its etag.
        was: That form when the plan was made.
        seen: The rest of it.
        excused: The errors of a trial for which an earlier step may be the remedy.
        subject: The resource that `read` reads; empty: it is `resource`.
        end: Waits until what the call began has ended; None: the call does everything itself.
    """

    resource: str
    action: Action
    asked: tuple[FieldChange, ...]
    call: Call[Any, Any]
    trial: Call[Any, Any] | None
    changed: Callable[[Any, dict[str, Any]], tuple[FieldChange, ...]]
    read: Callable[[Session], tuple[dict[str, Any] | None, str]]
    was: dict[str, Any] | None
    seen: str = ""
    excused: tuple[type[KeyfoldError], ...] = ()
    subject: str = ""
    end: Callable[[Session, Any], None] | None = None
