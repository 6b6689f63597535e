"""A small, strict evaluator of AWS key policies.

It knows what customers write for Keyfold and refuses, with ValueError, to guess at anything
else: statements of Effect, Principal, Action, Resource `*` and the condition StringEquals on
`kms:EncryptionContext:…`. Nothing is allowed by default, and an
explicit Deny wins. Not modelled: IAM policies, which a statement for the account's root turns to;
so such a statement lets in the root alone, and every role must be named.

https://docs.aws.amazon.com/kms/latest/developerguide/policy-evaluation.html
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_ELEMENTS: Final = frozenset({"Sid", "Effect", "Principal", "Action", "Resource", "Condition"})
_CONTEXT: Final = "kms:EncryptionContext:"


class Verdict(enum.Enum):
    """What a policy says.

    Attributes:
        ALLOWED: A statement allows it, and none denies it.
        NOT_ALLOWED: No statement allows it.
        DENIED: A statement denies it.
    """

    ALLOWED = enum.auto()
    NOT_ALLOWED = enum.auto()
    DENIED = enum.auto()


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        arns: The names that a policy may know the caller by: itself, and a session's role.
    """

    arns: tuple[str, ...]


def evaluate(
    policy: Mapping[str, Any], caller: Caller, action: str, context: Mapping[str, str]
) -> Verdict:
    """Returns what a key policy says of a call.

    Args:
        policy: The policy document.
        caller: Who calls.
        action: Such as `kms:Decrypt`.
        context: The encryption context of the call.

    Raises:
        ValueError: The policy has something that is not modelled.
    """
    verdict = Verdict.NOT_ALLOWED
    for statement in _several(policy["Statement"]):
        unknown = statement.keys() - _ELEMENTS
        if unknown or statement.get("Effect") not in ("Allow", "Deny"):
            raise ValueError(f"not modelled in a statement: {sorted(unknown) or 'its effect'}")
        if statement.get("Resource", "*") not in ("*", ["*"]):
            raise ValueError("a key policy's resource is the key, written *")
        if not (
            _is_for(statement["Principal"], caller)
            and any(_like(action, each) for each in _several(statement["Action"]))
            and _holds(statement.get("Condition", {}), context)
        ):
            continue
        if statement["Effect"] == "Deny":
            return Verdict.DENIED
        verdict = Verdict.ALLOWED
    return verdict


def _is_for(principal: Any, caller: Caller) -> bool:
    if principal == "*":
        return True
    if set(principal) != {"AWS"}:
        raise ValueError(f"not modelled as a principal: {sorted(principal)}")
    # Within an ARN AWS knows no wildcards; alone, one means everybody.
    return any(each == "*" or each in caller.arns for each in _several(principal["AWS"]))


def _like(action: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(action.lower(), pattern.lower())


def _holds(condition: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    """Tells whether all of a condition's keys have one of the values that are given."""
    for operator, keys in condition.items():
        if operator != "StringEquals":
            raise ValueError(f"not modelled as a condition: {operator}")
        for key, values in keys.items():
            if not key.startswith(_CONTEXT):
                raise ValueError(f"not modelled as a condition's key: {key}")
            if context.get(key.removeprefix(_CONTEXT)) not in _several(values):
                return False
    return True


def _several(value: Any) -> Iterable[Any]:
    """Returns a list where the policy may hold one or several."""
    return value if isinstance(value, list) else [value]
