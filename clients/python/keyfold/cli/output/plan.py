"""The plan of `keyfold apply`, and what became of it, for people and as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from rich.text import Text

from keyfold.cli.output.tables import console
from keyfold.cli.output.text import one_line

_SHOWN: Final = 20
"""Most names that a list of what stays as it is shows to people; the JSON has all."""


class Action(StrEnum):
    """What one call does to a resource."""

    CREATE = "CREATE"
    CHANGE = "CHANGE"
    ROTATE = "ROTATE"
    ADD_REGIONS = "ADD_REGIONS"
    MOVE = "MOVE"
    DELETE = "DELETE"


class Result(StrEnum):
    """What became of a change."""

    PLANNED = "PLANNED"
    DONE = "DONE"
    FAILED = "FAILED"
    NOT_DONE = "NOT_DONE"


_WORDS: Final = {
    Action.CREATE: "create {}",
    Action.CHANGE: "change {}",
    Action.ROTATE: "rotate {} in place",
    Action.ADD_REGIONS: "add regions to {}",
    Action.MOVE: "move {} with all that uses it",
    Action.DELETE: "delete {}",
}
_COLOURS: Final = {Action.CREATE: "green", Action.ADD_REGIONS: "green", Action.DELETE: "red"}


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that gets another value.

    Attributes:
        field: Its path within the resource, such as `region_specs[eu].key_spec`.
        old: The value before; None: it had none.
        new: The value after; None: it has none.
    """

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What one call changes.

    Attributes:
        resource: The resource, such as `cluster/prod`.
        action: What is done to it.
        fields: The fields that change.
        proven: Whether the server has tried it. It cannot try what rests on an earlier change of
            the same plan.
        notes: What else a person should know, one line each.
        seen: What the resource was when the plan was made, as far as that is known.
    """

    resource: str
    action: Action
    fields: tuple[FieldChange, ...]
    proven: bool = True
    notes: tuple[str, ...] = ()
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that an apply does, in its order.

    Attributes:
        changes: The changes.
        unchanged: The resources that are as the file says.
        left: What exists beside the file's resources, and is left alone.
    """

    changes: tuple[Change, ...]
    unchanged: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def id(self) -> str:
        """A name that another plan has only if it does the same to the same state."""
        # Notes tell times, which are others each time.
        content = json.dumps([asdict(replace(one, notes=())) for one in self.changes])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Outcome:
    """What became of a plan so far.

    Attributes:
        plan: The plan.
        done: The changes that were made, as they turned out.
        error: The error of the next one, in the form of every JSON error; None: it has none.
    """

    plan: Plan
    done: list[Change] = field(default_factory=list)
    error: Mapping[str, Any] | None = None

    def results(self) -> Iterator[tuple[Change, Result]]:
        """Yields the changes of the plan, each with what became of it."""
        yield from ((each, Result.DONE) for each in self.done)
        rest = self.plan.changes[len(self.done) :]
        for number, each in enumerate(rest):
            yield each, Result.FAILED if self.error and not number else Result.NOT_DONE


def plan_object(plan: Plan, outcome: Outcome | None = None) -> dict[str, Any]:
    """Returns a plan as JSON; with an outcome, what became of it."""
    results = outcome.results() if outcome else ((one, Result.PLANNED) for one in plan.changes)
    changes = []
    for change, result in results:
        shown = asdict(change) | {"result": result}
        del shown["seen"]
        if outcome and result is Result.FAILED:
            shown["error"] = outcome.error
        changes.append(shown)
    return {
        "plan": plan.id,
        "changes": changes,
        "unchanged": list(plan.unchanged),
        "left_alone": list(plan.left),
    }


def show_plan(plan: Plan) -> None:
    """Prints what a plan changes, what is as the file says, and what is left alone."""
    out = console()
    arrow = "→" if out.encoding.startswith("utf") else "->"
    for change in plan.changes:
        out.print(Text(_headline(change), _COLOURS.get(change.action, "yellow")))
        for each in change.fields:
            out.print(
                Text(f"  {one_line(f'{each.field}: {_values(each, arrow)}')}"), soft_wrap=True
            )
        for note in change.notes:
            out.print(Text(f"  {one_line(note)}", "yellow"), soft_wrap=True)
    _show_names("unchanged", plan.unchanged)
    _show_names("not in the file, left alone", plan.left)
    out.print(summary(plan))


def show_done(change: Change) -> None:
    """Prints that a change was made."""
    console().print(Text.assemble(("done: ", "green"), _headline(change)), soft_wrap=True)


def show_rest(outcome: Outcome) -> None:
    """Prints which change failed, and which were not made after it."""
    for change, result in outcome.results():
        if result is not Result.DONE:
            word = (f"{result.value.lower().replace('_', ' ')}: ", "red")
            console().print(Text.assemble(word, _headline(change)), soft_wrap=True)


def summary(plan: Plan) -> str:
    """Returns one line that counts what a plan does."""
    count = {each: sum(one.action is each for one in plan.changes) for each in Action}
    parts = [
        f"{count[Action.CREATE]:,} to create",
        f"{count[Action.CHANGE] + count[Action.ADD_REGIONS]:,} to change",
        f"{count[Action.ROTATE] + count[Action.MOVE]:,} to rotate in place",
        f"{count[Action.DELETE]:,} to delete",
        f"{len(plan.unchanged):,} unchanged",
    ]
    return f"plan {plan.id}: {', '.join(parts)}"


def _headline(change: Change) -> str:
    line = _WORDS[change.action].format(one_line(change.resource))
    return line if change.proven else f"{line} (rests on a change before it; not tried yet)"


def _show_names(title: str, names: Sequence[str]) -> None:
    out = console()
    for name in names[:_SHOWN]:
        out.print(Text(f"{title}: {one_line(name)}", "dim"), soft_wrap=True)
    if len(names) > _SHOWN:
        out.print(Text(f"{title}: {len(names) - _SHOWN:,} more; --json lists all", "dim"))


def _values(change: FieldChange, arrow: str) -> str:
    new = value_text(change.new)
    return new if change.old is None else f"{value_text(change.old)} {arrow} {new}"


def value_text(value: Any) -> str:
    """Returns a field's value in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if not isinstance(value, dict):
        return str(value) or '""'
    # A key spec, the only value with fields.
    principal = f" as {value['auth_principal']}" if "auth_principal" in value else ""
    options = "".join(f" {name}={one}" for name, one in value.get("options", {}).items())
    return f"{value.get('type', '')} {value.get('uri', '')}".rstrip() + principal + options


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """Returns the fields that differ between two forms of a resource, in the order of the form.

    Args:
        before: The form before; empty: the resource did not exist.
        after: The form after.
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    names = [*new, *(name for name in old if name not in new)]
    changed = ((name, old.get(name), new.get(name)) for name in names)
    return tuple(
        FieldChange(name, was, now)
        for name, was, now in changed
        if was != now and not (was is None and now in ("", 0, [], {}) and now is not False)
    )


def _flat(form: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of a form that change by themselves, with their paths."""
    for name, value in form.items():
        if name == "region_specs":
            for spec in value:
                rest = {key: one for key, one in spec.items() if key not in ("region", "geo")}
                where = spec.get("region") or f"geo {spec.get('geo')}"
                yield from _flat(rest, f"{path}region_specs[{where}].")
        elif name == "policy":
            yield from _flat(value, f"{path}policy.")
        else:
            yield f"{path}{name}", value
