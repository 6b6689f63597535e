"""A small, strict evaluator of AWS policies: of keys, of roles' trust, and of identities.

It knows what customers and vendors write for keys, and refuses anything else with ValueError rather
than guess: it takes statements of Effect, Principal, Action, Resource and the condition
StringEquals on `kms:EncryptionContext:…` or `sts:ExternalId`. It also refuses what AWS refuses as
malformed. It allows nothing by default, and an explicit Deny wins.

A statement for an account's root, or for the account's number, lets that account decide: its own
policies must allow the call, too. A Deny for the root is for every identity of the account. In a
key's policy `*` as the resource is the key itself; a statement for another resource says nothing.

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
_PRINCIPAL: Final = re.compile(r"\*|[0-9]{12}|arn:[a-z-]+:(iam|sts)::[0-9]{12}:(root|[a-z-]+/.+)")
_GRANT: Final = "kms:GrantIsForAWSResource"
_ARN: Final = re.compile(r"arn:[a-z-]+:[a-z]+:[a-z0-9-]*:[0-9]{12}:[^*?]+")

Policy = Mapping[str, Any]


class Kind(enum.Enum):
    """The kind of thing that a policy belongs to, with the elements that its statements must have.

    Attributes:
        KEY: A KMS key; also a VPC endpoint, whose policy has the same elements.
        TRUST: A role; the policy says who may assume it.
        IDENTITY: A role or user; the policy says what it may do.
    """

    KEY = frozenset({"Effect", "Principal", "Action", "Resource"})
    TRUST = frozenset({"Effect", "Principal", "Action"})
    IDENTITY = frozenset({"Effect", "Action", "Resource"})


class Verdict(enum.Enum):
    """The answer of a policy.

    Attributes:
        ALLOWED: A statement allows the call, and no statement denies it.
        DELEGATED: A statement lets the caller's account allow the call, and none denies it.
        NOT_ALLOWED: No statement allows the call.
        DENIED: A statement denies the call.
    """

    ALLOWED = enum.auto()
    DELEGATED = enum.auto()
    NOT_ALLOWED = enum.auto()
    DENIED = enum.auto()


@dataclass(frozen=True)
class Caller:
    """The caller as policies name it.

    Attributes:
        arns: The caller's names in policies: its own ARN, and the role of a session.
    """

    arns: tuple[str, ...]

    @property
    def account(self) -> str:
        """The caller's account."""
        return self.arns[0].split(":")[4]


@dataclass(frozen=True)
class Asked:
    """A call, as a policy judges it.

    Attributes:
        caller: The caller.
        action: The action, such as `kms:Decrypt`.
        resource: The ARN of the key or role.
        values: The values that conditions compare, by the name of their condition key.
    """

    caller: Caller
    action: str
    resource: str
    values: Mapping[str, str] = field(default_factory=dict)


def evaluate(kind: Kind, policy: Policy, asked: Asked) -> Verdict:
    """Returns a policy's answer to a call.

    Raises:
        ValueError: The policy is malformed, or has a part that is not modelled.
    """
    check(kind, policy)
    verdict = Verdict.NOT_ALLOWED
    for statement in policy["Statement"]:
        names = _names(statement.get("Principal", "*"), asked.caller)
        if not (
            names is not Verdict.NOT_ALLOWED
            and any(_like(asked.action, each) for each in _several(statement["Action"]))
            and _is_on(kind, statement, asked.resource)
            and _holds(statement.get("Condition", {}), asked.values)
        ):
            continue
        if statement["Effect"] == "Deny":
            return Verdict.DENIED
        if verdict is not Verdict.ALLOWED:
            verdict = names
    return verdict


def check(kind: Kind, policy: Policy) -> None:
    """Refuses a policy that AWS would not accept, or that has a part that is not modelled.

    Raises:
        ValueError: The policy is refused; the text says why.
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
            if resource != "*" and _ARN.fullmatch(resource) is None:
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
        if operator not in ("StringEquals", "Bool"):
            raise ValueError(f"not modelled as a condition: {operator}")
        for key in keys:
            known = key == EXTERNAL_ID if kind is Kind.TRUST else key.startswith(CONTEXT)
            if not (key == _GRANT and kind is Kind.KEY if operator == "Bool" else known):
                raise ValueError(f"not modelled as a condition's key: {key}")


def _names(principal: Any, caller: Caller) -> Verdict:
    """Returns whether a principal names a caller, or DELEGATED if it names the caller's account."""
    # AWS knows no wildcards within a principal's ARN; a wildcard alone means everybody.
    each = ["*"] if principal == "*" else _several(principal["AWS"])
    if any(one == "*" or one in caller.arns for one in each):
        return Verdict.ALLOWED
    account = re.compile(rf"(arn:[a-z-]+:iam::)?{caller.account}(:root)?")
    return Verdict.DELEGATED if any(account.fullmatch(one) for one in each) else Verdict.NOT_ALLOWED


def _is_on(kind: Kind, statement: Mapping[str, Any], resource: str) -> bool:
    """Returns whether a statement covers a resource; a role's trust policy covers itself."""
    if kind is Kind.TRUST:
        return True
    return any(each in ("*", resource) for each in _several(statement["Resource"]))


def _like(action: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(action.lower(), pattern.lower())


def _holds(condition: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    """Returns whether each of a condition's keys has one of the values that it lists."""
    return all(
        values.get(key) in _several(wanted)
        for keys in condition.values()
        for key, wanted in keys.items()
    )


def _several(value: Any) -> Iterable[Any]:
    """Returns a list, since a policy may hold one value or several."""
    return value if isinstance(value, list) else [value]
