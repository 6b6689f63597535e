"""The step that moves a key link that regions use to another key, with all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from keyfold.calls import operations as calls
from keyfold.calls.call import Call
from keyfold.cli.commands.documents.step import Step
from keyfold.cli.commands.operations import until_end
from keyfold.cli.errors import IncompleteError
from keyfold.cli.output.plan import Action, FieldChange
from keyfold.cli.session import Session
from keyfold.models.operations import (
    Operation,
    OperationAction,
    OperationScope,
    OperationStarted,
)
from keyfold.models.organizations import KeyLink
from keyfold.models.specs import KeySpec


def move_step(
    name: str,
    found: KeyLink,
    key_spec: KeySpec,
    fields: tuple[FieldChange, ...],
    was: dict[str, Any],
    read: Callable[[Session], tuple[dict[str, Any] | None, str]],
) -> Step:
    """Returns the step that moves a link; without fields, it goes on with a move that failed.

    Args:
        name: The link's name in plans.
        found: The link.
        key_spec: The key that the document declares.
        fields: The field that changes, if the link does not have that key yet.
        was: The form of the link.
        read: Reads the form and the etag of the link.
    """
    action = OperationAction.move_link(key_spec)
    scope = OperationScope.key_link(found.organization, found.key_link)

    def start(operation: str, *, dry_run: bool) -> Call[Any, OperationStarted]:
        return calls.start_operation(
            operation, action, scope, dry_run=dry_run, max_concurrency=0, reason="keyfold apply"
        )

    return Step(
        name,
        Action.MOVE,
        fields,
        start(f"apply-{uuid.uuid4().hex}", dry_run=False),
        start("", dry_run=True),
        lambda _result, _before: fields,
        read,
        was,
        found.etag,
        end=_end,
    )


def move_notes(result: Any) -> tuple[str, ...]:
    """Returns what a person should know before a move that was tried."""
    if not isinstance(result, OperationStarted) or result.census is None:
        return ()
    return (f"{result.census.regions:,} regions rotate to its key, and nothing wrapped is lost",)


def _end(session: Session, result: OperationStarted) -> None:
    """Waits until a move has ended.

    Raises:
        IncompleteError: It failed on some regions, or ended before its end.
    """
    if result.operation is None:
        return
    operation, _ = until_end(session, result.operation.name)
    if operation.failed or operation.error:
        raise IncompleteError(_failed(operation))


def _failed(operation: Operation) -> str:
    if operation.error:
        return f"operation {operation.name} ended before its end: {operation.error}"
    first = ", ".join(
        f"{one.cluster}/{one.region}: {one.message} ({one.reason})"
        for one in operation.failures[:3]
    )
    return (
        f"operation {operation.name} failed on {operation.failed:,} of {operation.total:,} "
        f"regions, which stay with the key that they had: {first}; apply again, and it goes on"
    )
