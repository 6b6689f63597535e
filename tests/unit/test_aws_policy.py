"""The counterpart's evaluator of policies is strict, so that tests on it mean something."""

from __future__ import annotations

from typing import Any, Final

import pytest

from counterparts.aws_policy import Asked, Caller, Kind, Verdict, check, evaluate

_ROLE: Final = "arn:aws:iam::111122223333:role/keyfold"
_SESSION: Final = "arn:aws:sts::111122223333:assumed-role/keyfold/keyfold"
_ROOT: Final = "arn:aws:iam::111122223333:root"
_KEY: Final = "arn:aws:kms:eu-west-1:111122223333:key/x"
_USER: Final = "arn:aws:iam::999988887777:user/keyfold"
_ALLOW: Final[dict[str, Any]] = {
    "Effect": "Allow",
    "Principal": {"AWS": _ROLE},
    "Action": "kms:Decrypt",
    "Resource": "*",
}
_CLUSTER: Final = "kms:EncryptionContext:keyfold:cluster"


def _says(*statements: dict[str, Any], context: dict[str, str] | None = None) -> Verdict:
    values = {f"kms:EncryptionContext:{name}": each for name, each in (context or {}).items()}
    asked = Asked(Caller((_SESSION, _ROLE)), "kms:Decrypt", _KEY, values)
    return evaluate(Kind.KEY, _policy(*statements), asked)


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


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
        {"Resource": _KEY},
        {"Resource": [f"{_KEY}-2", _KEY]},
    ],
)
def test_what_fits_is_allowed(changed: dict[str, Any]) -> None:
    """Names, wildcards in actions, lists and conditions that hold let a call through."""
    assert _says({**_ALLOW, **changed}, context={"keyfold:cluster": "b"}) is Verdict.ALLOWED


@pytest.mark.parametrize(
    "changed",
    [
        {"Principal": {"AWS": _ROOT.replace("1111", "4444")}},
        {"Principal": {"AWS": "444422223333"}},
        {"Principal": {"AWS": f"{_ROLE}-2"}},
        {"Principal": {"AWS": "arn:aws:iam::111122223333:role/*"}},
        {"Action": "kms:Encrypt"},
        {"Action": "kms:Decrypt*Key"},
        {"Condition": {"StringEquals": {_CLUSTER: "B"}}},
        {"Condition": {"StringEquals": {"kms:EncryptionContext:other": "b"}}},
        {"Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}},
        {"Resource": f"{_KEY}-2"},
    ],
)
def test_what_does_not_fit_is_not_allowed(changed: dict[str, Any]) -> None:
    """Nothing is allowed by default; another account, key or context does not fit."""
    assert _says({**_ALLOW, **changed}, context={"keyfold:cluster": "b"}) is Verdict.NOT_ALLOWED


@pytest.mark.parametrize("root", [_ROOT, "111122223333"])
def test_an_accounts_root_lets_the_account_decide(root: str) -> None:
    """A statement for the root allows what the account's own policies allow, and denies to all."""
    delegating = {**_ALLOW, "Principal": {"AWS": root}}
    assert _says(delegating) is Verdict.DELEGATED
    assert _says(delegating, _ALLOW) is _says(_ALLOW, delegating) is Verdict.ALLOWED
    assert _says(_ALLOW, {**delegating, "Effect": "Deny"}) is Verdict.DENIED
    assert _says({**delegating, "Resource": f"{_KEY}-2"}) is Verdict.NOT_ALLOWED


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
        {"Resource": f"{_KEY}*"},
        {"Resource": "alias/x"},
        {"Principal": {"Service": "s3.amazonaws.com"}},
        {"Principal": {"AWS": "<ARN of somebody>"}},
        {"Principal": {}},
        {"Condition": {"StringLike": {_CLUSTER: "*"}}},
        {"Condition": {"Bool": {_CLUSTER: "true"}}},
        {"Condition": {"StringEquals": {"kms:GrantIsForAWSResource": "true"}}},
        {"Condition": {"StringEquals": {"aws:PrincipalTag/a": "b"}}},
        {"Condition": {"StringEquals": {"sts:ExternalId": "b"}}},
    ],
)
def test_what_is_not_modelled_is_not_guessed(changed: dict[str, Any]) -> None:
    """An element that the evaluator does not know fails the test that uses it."""
    with pytest.raises(ValueError, match=r"not modelled|resource"):
        _says({**_ALLOW, **changed})


@pytest.mark.parametrize("lacking", ["Effect", "Principal", "Action", "Resource"])
def test_what_a_statement_must_have_is_not_assumed(lacking: str) -> None:
    """A key policy's statement without one of its four elements is malformed, as at AWS."""
    statement = {name: value for name, value in _ALLOW.items() if name != lacking}
    with pytest.raises(ValueError, match="not modelled in a statement"):
        check(Kind.KEY, _policy(statement))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"Statement": [_ALLOW]},
        {"Version": "2008-10-17", "Statement": [_ALLOW]},
        {"Version": "2012-10-17", "Statement": _ALLOW},
    ],
)
def test_another_language_is_not_guessed(document: dict[str, Any]) -> None:
    """A document names its version, and holds a list of statements."""
    with pytest.raises(ValueError, match="not modelled as"):
        check(Kind.KEY, document)


# Trust: who may take a role.

_TRUST: Final[dict[str, Any]] = {
    "Effect": "Allow",
    "Principal": {"AWS": _USER},
    "Action": "sts:AssumeRole",
    "Condition": {"StringEquals": {"sts:ExternalId": "issued"}},
}


@pytest.mark.parametrize(
    ("user", "shown", "verdict"),
    [
        (_USER, "issued", Verdict.ALLOWED),
        (_USER, "guessed", Verdict.NOT_ALLOWED),
        (_USER, None, Verdict.NOT_ALLOWED),
        (f"{_USER}-2", "issued", Verdict.NOT_ALLOWED),
    ],
)
def test_a_role_is_taken_with_its_external_id(
    user: str, shown: str | None, verdict: Verdict
) -> None:
    """A trust policy names who takes the role, with which id; no id at all does not fit."""
    values = {} if shown is None else {"sts:ExternalId": shown}
    asked = Asked(Caller((user,)), "sts:AssumeRole", _ROLE, values)
    assert evaluate(Kind.TRUST, _policy(_TRUST), asked) is verdict


def test_a_role_knows_no_encryption_context_and_no_resource() -> None:
    """A trust policy that names either is malformed, as at AWS."""
    for changed in ({"Condition": {"StringEquals": {_CLUSTER: "a"}}}, {"Resource": "*"}):
        with pytest.raises(ValueError, match="not modelled"):
            check(Kind.TRUST, _policy({**_TRUST, **changed}))


# Identities: what somebody may do in their own account's eyes.

_MAY: Final[dict[str, Any]] = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": _KEY}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.ALLOWED),
        ({"Resource": "*"}, Verdict.ALLOWED),
        ({"Resource": [f"{_KEY}-2", _KEY]}, Verdict.ALLOWED),
        ({"Resource": f"{_KEY}-2"}, Verdict.NOT_ALLOWED),
        ({"Action": "kms:Encrypt"}, Verdict.NOT_ALLOWED),
        ({"Effect": "Deny"}, Verdict.DENIED),
    ],
)
def test_an_identity_may_what_names_the_resource(changed: dict[str, Any], verdict: Verdict) -> None:
    """A permissions policy is for the resources that it names."""
    asked = Asked(Caller((_SESSION, _ROLE)), "kms:Decrypt", _KEY)
    assert evaluate(Kind.IDENTITY, _policy({**_MAY, **changed}), asked) is verdict


@pytest.mark.parametrize(
    "changed", [{"Principal": "*"}, {"Resource": "arn:aws:kms:eu-west-1:111122223333:key/*"}]
)
def test_an_identitys_policy_names_nobody_and_no_pattern(changed: dict[str, Any]) -> None:
    """A principal is malformed there, as at AWS; wildcards within an ARN are not modelled."""
    with pytest.raises(ValueError, match="not modelled"):
        check(Kind.IDENTITY, _policy({**_MAY, **changed}))
