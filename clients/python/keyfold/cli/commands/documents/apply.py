"""The command `apply`: makes what exists as a document declares it."""

from __future__ import annotations

from typing import Annotated

import typer

from keyfold.cli.commands.deletion import waiting_span
from keyfold.cli.commands.documents.carrying_out import carry_out
from keyfold.cli.commands.documents.deletions import read_deletions
from keyfold.cli.commands.documents.planning import make_plan
from keyfold.cli.errors import ExitCode, InputError
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.documents import read_document
from keyfold.cli.input.options import WaitingPeriod, Yes
from keyfold.cli.output.plan import (
    Action,
    Change,
    Plan,
    plan_object,
    show_done,
    show_plan,
    show_rest,
)
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.errors import ConcurrentChangeError


def apply(
    session: Session,
    *,
    file: Annotated[
        str,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="YAML with organizations, key_links and clusters; - is stdin.",
            show_default=False,
        ),
    ],
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Show the plan and change nothing; the exit code is 13 if it changes."
        ),
    ] = False,
    expect: Annotated[
        str,
        typer.Option(
            metavar="PLAN", help="Go on only if this is still the plan.", show_default=False
        ),
    ] = "",
    delete: Annotated[
        list[str] | None,
        typer.Option(
            "--delete",
            metavar="NAME",
            help="Also delete cluster/NAME, region/CLUSTER/NAME, link/ORGANIZATION/NAME or "
            "organization/NAME, which the file must not declare; repeat it for more.",
        ),
    ] = None,
    waiting_period: WaitingPeriod = None,
    yes: Yes = False,
) -> None:
    """Make organizations, key links and clusters as a file declares them.

    Before it changes anything, the command has the server try every change and prove every key. A
    changed key is a rotation in place, and nothing is ever replaced. What the file does not name,
    be it a region or a field, is left alone. A second run changes nothing.

    Changes are made in the order organizations, key links, clusters, deletions, and stop at the
    first that fails. For deletions the command asks for confirmation; without a terminal to ask at
    it needs --yes.
    """
    document = read_document(file)
    deletions = read_deletions(delete or (), document)
    if waiting_period is not None and not deletions:
        raise InputError("--waiting-period needs --delete")
    planned = make_plan(session, document, deletions, waiting_span(waiting_period))
    if expect not in ("", planned.plan.id):
        raise ConcurrentChangeError(
            f"the plan is {planned.plan.id} now, and not {expect}: the file, or what exists, has "
            "changed; look at the new plan",
            code="ABORTED",
        )
    if plan:
        _show(session, planned.plan)
        raise typer.Exit(ExitCode.CHANGES if planned.plan.changes else ExitCode.OK)
    if not session.for_programs:
        show_plan(planned.plan)
    if gone := [one.resource for one in planned.plan.changes if one.action is Action.DELETE]:
        what = one_line(", ".join(gone))
        confirm(f"Apply, and delete {what}?", f"{what}: not deleted, and nothing applied", yes=yes)
    outcome, error = carry_out(session, planned, _silent if session.for_programs else show_done)
    shown = session.printed_object(plan_object(planned.plan, outcome))
    if error is not None:
        if not shown:
            show_rest(outcome)
        raise error


def _show(session: Session, plan: Plan) -> None:
    if not session.printed_object(plan_object(plan)):
        show_plan(plan)


def _silent(change: Change) -> None:
    """Prints nothing: the JSON at the end has every change."""
