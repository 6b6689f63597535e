"""The form that starts an operation: what to do, and on which regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyfold.models.operations import OperationAction, OperationScope

ACTIONS: Final = {
    "recheck": ("Recheck", "has the KMS prove each key now"),
    "test": ("Test", "tries each key step by step, and stores nothing"),
    "rotate": ("Rotate", "moves each region to the newest version of its key"),
    "rotate_generation": ("Rotate to a new generation", "rotates, and makes a new KEK as well"),
}
"""What the form starts: each action's name, and what it does to each region."""

FIELDS: Final = (
    "operation",
    "action",
    "organization",
    "key_link",
    "uri",
    "version",
    "principal",
    "clusters",
    "reason",
)
"""The form's fields."""

_MADE: Final = {
    "recheck": OperationAction.recheck(),
    "test": OperationAction.test(),
    "rotate": OperationAction.rotate(),
    "rotate_generation": OperationAction.rotate(new_generation=True),
}


class WrongFormError(ValueError):
    """The form does not say what to do, or where. The text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a form asks for.

    Attributes:
        name: The operation's name.
        action: What it does to each region.
        scope: The regions.
        reason: Why.
    """

    name: str
    action: OperationAction
    scope: OperationScope
    reason: str


def filled(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns what each field of the form has, as far as it was filled in."""
    return {name: str(fields.get(name, "")).strip() for name in FIELDS}


def wanted(given: Mapping[str, str]) -> Wanted:
    """Reads a form.

    Args:
        given: What `filled` returned.

    Raises:
        WrongFormError: It names no action, no scope, or more than one.
    """
    if given["action"] not in _MADE:
        raise WrongFormError("choose what to do")
    if given["key_link"] and not given["organization"]:
        raise WrongFormError("a key link needs the name of its organization")
    if given["version"] and not given["uri"]:
        raise WrongFormError("a version needs the uri of its key")
    scopes = _scopes(given)
    if len(scopes) != 1:
        raise WrongFormError(
            "fill in one of organization, root key, principal and clusters: "
            + ("more than one is" if scopes else "none is")
            + " filled in"
        )
    return Wanted(given["operation"], _MADE[given["action"]], scopes[0], given["reason"])


def _scopes(given: Mapping[str, str]) -> list[OperationScope]:
    scopes = []
    if given["key_link"]:
        scopes.append(OperationScope.key_link(given["organization"], given["key_link"]))
    elif given["organization"]:
        scopes.append(OperationScope.organization(given["organization"]))
    if given["uri"]:
        scopes.append(OperationScope.root_key(given["uri"], given["version"]))
    if given["principal"]:
        ambient = given["principal"] == "ambient"
        scopes.append(OperationScope.principal("" if ambient else given["principal"]))
    if clusters := given["clusters"].replace(",", " ").split():
        scopes.append(OperationScope.clusters(clusters))
    return scopes
