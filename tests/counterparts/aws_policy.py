"""A small, strict evaluator of AWS policies: of keys, of roles' trust, and of identities.

It knows what customers and the vendor write for Keyfold and refuses, with ValueError, to guess
at anything else: statements of Effect, Principal, Action, Resource and the condition StringEquals
on `kms:EncryptionContext:…` or `sts:ExternalId`. What AWS takes for malformed is refused likewise.
Nothing is allowed by default, and an explicit Deny wins. Not modelled: that a key's policy may
turn to the identities' policies of its account, by a statement for the account's root; such a
statement lets in the root alone, and every role must be named.

https://docs.aws.amazon.com/kms/latest/developerguide/policy-evaluation.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CONTEXT: Final = "kms:EncryptionContext:"
EXTERNAL_ID: Final = "sts:ExternalId"

_VERSION: Final = "2012-10-17"
_PRINCIPAL: Final = re.compile(r"\*|arn:[a-z-]+:(iam|sts)::[0-9]{12}:(root|[a-z-]+/.+)")
_ARN: Final = re.compile(r"arn:[a-z-]+:[a-z]+:[a-z0-9-]*:[0-9]{12}:[^*?]+")

Policy = Mapping[str, Any]


class Kind(enum.Enum):
    """What a policy belongs to, with the elements that its statements must have.

    Attributes:
        KEY: A KMS key.
        TRUST: A role, and says who may take it.
        IDENTITY: A role or user, and says what it may do.
    """

    KEY = frozenset({"Effect", "Principal", "Action", "Resource"})
    TRUST = frozenset({"Effect", "Principal", "Action"})
    IDENTITY = frozenset({"Effect", "Action", "Resource"})


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


@dataclass(frozen=True)
class Asked:
    """What a policy is asked about.

    Attributes:
        caller: Who calls.
        action: Such as `kms:Decrypt`.
        resource: The ARN of the key or role.
        values: What there is for conditions, by the name that they know it by.
    """

    caller: Caller
    action: str
    resource: str
    values: Mapping[str, str] = field(default_factory=dict)


def evaluate(kind: Kind, policy: Policy, asked: Asked) -> Verdict:
    """Returns what a policy says of a call.

    Raises:
        ValueError: The policy is malformed, or has something that is not modelled.
    """
    check(kind, policy)
    verdict = Verdict.NOT_ALLOWED
    for statement in policy["Statement"]:
        if not (
            _is_for(statement.get("Principal", "*"), asked.caller)
            and any(_like(asked.action, each) for each in _several(statement["Action"]))
            and _is_on(kind, statement, asked.resource)
            and _holds(statement.get("Condition", {}), asked.values)
        ):
            continue
        if statement["Effect"] == "Deny":
            return Verdict.DENIED
        verdict = Verdict.ALLOWED
    return verdict


def check(kind: Kind, policy: Policy) -> None:
    """Refuses a policy that AWS would not take, or that is not modelled.

    Raises:
        ValueError: Its text says why.
    """
    if policy.keys() - {"Id"} != {"Version", "Statement"} or policy["Version"] != _VERSION:
        raise ValueError(f"not modelled as a document: {sorted(policy)}")
    if not isinstance(policy["Statement"], list):
        raise ValueError("not modelled as statements: something else than a list")  # noqa: TRY004
    for statement in policy["Statement"]:
        elements = statement.keys() - {"Sid", "Condition"}
        if elements != kind.value or statement["Effect"] not in ("Allow", "Deny"):
            raise ValueError(f"not modelled in a statement: {sorted(elements)}, or its effect")
        if "Principal" in statement:
            _check_principal(statement["Principal"])
        for resource in _several(statement.get("Resource", "*")):
            if resource != "*" and (kind is Kind.KEY or _ARN.fullmatch(resource) is None):
                raise ValueError(f"not modelled as a resource: {resource}")
        _check_condition(kind, statement.get("Condition", {}))


def _check_principal(principal: Any) -> None:
    if principal == "*":
        return
    if not isinstance(principal, dict) or set(principal) != {"AWS"}:
        raise ValueError(f"not modelled as a principal: {principal}")
    for each in _several(principal["AWS"]):
        if _PRINCIPAL.fullmatch(each) is None:
            raise ValueError(f"not modelled as a principal, since it is nobody: {each}")


def _check_condition(kind: Kind, condition: Mapping[str, Any]) -> None:
    for operator, keys in condition.items():
        if operator != "StringEquals":
            raise ValueError(f"not modelled as a condition: {operator}")
        for key in keys:
            known = key == EXTERNAL_ID if kind is Kind.TRUST else key.startswith(CONTEXT)
            if not known:
                raise ValueError(f"not modelled as a condition's key: {key}")


def _is_for(principal: Any, caller: Caller) -> bool:
    if principal == "*":
        return True
    # Within an ARN AWS knows no wildcards; alone, one means everybody.
    return any(each == "*" or each in caller.arns for each in _several(principal["AWS"]))


def _is_on(kind: Kind, statement: Mapping[str, Any], resource: str) -> bool:
    """Tells whether a statement is on a resource; a key's or role's own policy is on that alone."""
    if kind is not Kind.IDENTITY:
        return True
    return any(each in ("*", resource) for each in _several(statement["Resource"]))


def _like(action: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(action.lower(), pattern.lower())


def _holds(condition: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    """Tells whether all of a condition's keys have one of the values that are given."""
    return all(
        values.get(key) in _several(wanted)
        for keys in condition.values()
        for key, wanted in keys.items()
    )


def _several(value: Any) -> Iterable[Any]:
    """Returns a list where the policy may hold one or several."""
    return value if isinstance(value, list) else [value]
