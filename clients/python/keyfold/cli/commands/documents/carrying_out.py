"""Carries a plan out, step by step, and stops at the first one that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from keyfold.cli.commands.documents.planning import Planned
from keyfold.cli.commands.documents.step import Step
from keyfold.cli.errors import error_object
from keyfold.cli.output.plan import Action, Change, Outcome
from keyfold.cli.session import Session
from keyfold.errors import ConcurrentChangeError, KeyfoldError


def carry_out(
    session: Session, planned: Planned, done: Callable[[Change], None]
) -> tuple[Outcome, KeyfoldError | None]:
    """Carries out a plan.

    Args:
        session: The connection.
        planned: The plan.
        done: Is told of each change that was made.

    Returns:
        What became of the plan, and the error at which it stopped.
    """
    outcome = Outcome(planned.plan)
    own: set[str] = set()
    moved = False
    for step, change in zip(planned.steps, planned.plan.changes, strict=True):
        subject = step.subject or step.resource
        # A link that moves rotates clusters, which then are not as they were.
        is_first = subject not in own and not (moved and subject.startswith("cluster/"))
        try:
            made = _take(session, step, change, is_first=is_first)
        except KeyfoldError as error:
            error.message = f"{step.resource}: {error.message}"
            outcome.error = error_object(error)
            return outcome, error
        own.add(subject)
        moved = moved or step.action is Action.MOVE
        outcome.done.append(made)
        done(made)
    return outcome, None


def _take(session: Session, step: Step, change: Change, *, is_first: bool) -> Change:
    """Takes a step; returns what it changed.

    Raises:
        ConcurrentChangeError: Somebody else changed the resource since the plan was made.
    """
    # What is to be made needs no look: the server refuses to make what exists and differs.
    now, seen = step.read(session) if step.was is not None else (None, "")
    # After a step of the plan itself, the resource is not as it was, and only the server knows.
    if is_first and (now, seen) != (step.was, step.seen):
        raise ConcurrentChangeError(
            "it has changed since the plan was made, and nothing was done to it; "
            "look at the new plan, and apply again",
            code="ABORTED",
        )
    result, _ = session.ask(step.call)
    if step.end is not None:
        step.end(session, result)
    return replace(change, fields=step.changed(result, now or {}), proven=True)
