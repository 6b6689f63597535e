"""The counterpart's evaluator of key policies is strict, so that tests on it mean something."""

from __future__ import annotations

from typing import Any, Final

import pytest

from counterparts.aws_policy import Caller, Verdict, evaluate

_ROLE: Final = "arn:aws:iam::111122223333:role/keyfold"
_SESSION: Final = "arn:aws:sts::111122223333:assumed-role/keyfold/keyfold"
_ROOT: Final = "arn:aws:iam::111122223333:root"
_ALLOW: Final[dict[str, Any]] = {
    "Effect": "Allow",
    "Principal": {"AWS": _ROLE},
    "Action": "kms:Decrypt",
    "Resource": "*",
}
_CLUSTER: Final = "kms:EncryptionContext:keyfold:cluster"


def _says(*statements: dict[str, Any], context: dict[str, str] | None = None) -> Verdict:
    caller = Caller((_SESSION, _ROLE))
    return evaluate({"Statement": list(statements)}, caller, "kms:Decrypt", context or {})


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"Principal": "*"},
        {"Principal": {"AWS": "*"}},
        {"Principal": {"AWS": [_ROOT, _ROLE]}},
        {"Principal": {"AWS": _SESSION}},
        {"Action": "kms:*"},
        {"Action": ["kms:Encrypt", "kms:De*"]},
        {"Action": "KMS:decrypt"},
        {"Condition": {"StringEquals": {_CLUSTER: ["a", "b"]}}},
    ],
)
def test_what_fits_is_allowed(changed: dict[str, Any]) -> None:
    """Names, wildcards in actions, lists and conditions that hold let a call through."""
    assert _says({**_ALLOW, **changed}, context={"keyfold:cluster": "b"}) is Verdict.ALLOWED


@pytest.mark.parametrize(
    "changed",
    [
        {"Principal": {"AWS": _ROOT}},
        {"Principal": {"AWS": f"{_ROLE}-2"}},
        {"Principal": {"AWS": "arn:aws:iam::111122223333:role/*"}},
        {"Action": "kms:Encrypt"},
        {"Action": "kms:Decrypt*Key"},
        {"Condition": {"StringEquals": {_CLUSTER: "B"}}},
        {"Condition": {"StringEquals": {"kms:EncryptionContext:other": "b"}}},
    ],
)
def test_what_does_not_fit_is_not_allowed(changed: dict[str, Any]) -> None:
    """Nothing is allowed by default; the account's root does not stand for its roles."""
    assert _says({**_ALLOW, **changed}, context={"keyfold:cluster": "b"}) is Verdict.NOT_ALLOWED


def test_a_deny_wins_wherever_it_stands() -> None:
    """An explicit deny outweighs every allow."""
    deny = {**_ALLOW, "Effect": "Deny"}
    assert _says(_ALLOW, deny) is Verdict.DENIED
    assert _says(deny, _ALLOW) is Verdict.DENIED


@pytest.mark.parametrize(
    "changed",
    [
        {"NotAction": "kms:Encrypt"},
        {"Effect": "allow"},
        {"Resource": "arn:aws:kms:eu-west-1:111122223333:key/x"},
        {"Principal": {"Service": "s3.amazonaws.com"}},
        {"Condition": {"StringLike": {_CLUSTER: "*"}}},
        {"Condition": {"StringEquals": {"aws:PrincipalTag/a": "b"}}},
    ],
)
def test_what_is_not_modelled_is_not_guessed(changed: dict[str, Any]) -> None:
    """An element that the evaluator does not know fails the test that uses it."""
    with pytest.raises(ValueError, match=r"not modelled|resource"):
        _says({**_ALLOW, **changed})
