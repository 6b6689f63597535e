"""The access policy of AWS is sufficient, and each line of it is necessary.

The counterpart's strict evaluator holds calls against the key's policy, the role's trust and
permissions, and the vendor's own permissions. The tests attach exactly what is generated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from contract.aws_kms import CUSTOMER, VENDOR, AwsCounterpart
from contract.counterparts import BUDGET, NotInstalledError, without
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KeyNotFoundError,
    KmsError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, Statement
from keyfold_server.domain.seats import Seat
from keyfold_server.providers.aws.access import UNTOLD
from keyfold_server.providers.aws.provider import AwsKmsProvider

_ELSEWHERE: Final = "444455556666"
_BINDING: Final = Binding("cluster-1", "eu", os.urandom(16), "acme")
_WANTED: Final = AccessWanted("cluster-1", "eu", "acme")
_OTHERS: Final = {
    "another cluster": replace(_BINDING, cluster="cluster-2"),
    "another region": replace(_BINDING, region="us"),
    "another organization": replace(_BINDING, organization="umbrella"),
    "no organization": replace(_BINDING, organization=None),
}

_ROLE: Final = "a role in the key's account"
_ROLE_ELSEWHERE: Final = "a role in another account than the key's"
_NO_ROLE: Final = "the server's own identity"


@dataclass
class Site:
    """A customer's key, without any permissions yet.

    Attributes:
        there: The customer's account at AWS.
        key: The key.
    """

    there: AwsCounterpart
    key: RootKey

    @property
    def provider(self) -> AwsKmsProvider:
        """The adapter."""
        assert isinstance(self.there.provider, AwsKmsProvider)
        return self.there.provider

    def policy(self, wanted: AccessWanted = _WANTED) -> AccessPolicy:
        """Returns the access policy."""
        return self.provider.access_policy(self.key, wanted)

    def attach(self, *statements: Statement) -> None:
        """Attaches exactly these statements; raises ValueError if AWS refuses one."""
        self.there.attach(self.key, statements)

    def use(self, binding: Binding = _BINDING) -> None:
        """Does all that a test of the key does; raises the error of the first step that fails."""
        payload = bytes(_BINDING.payload(os.urandom(32)))
        self.provider.authenticate(self.key, budget=BUDGET)
        self.provider.describe(self.key, budget=BUDGET)
        made = self.provider.wrap(self.key, payload, binding, budget=BUDGET)
        opened = self.provider.unwrap(
            self.key, made.key_version, made.ciphertext, binding, budget=BUDGET
        )
        assert bytes(opened.plaintext) == payload

    def too_wide(self) -> str:
        """Names who may use the key and should not, or returns an empty text."""
        for name, binding in _OTHERS.items():
            if _permitted(self, binding):
                return name
        if self.key.principal:
            guessed = Site(self.there, replace(self.key, external_id="guessed"))
            if _permitted(guessed):
                return "another external id"
        return ""


def _permitted(site: Site, binding: Binding = _BINDING) -> bool:
    """Returns whether a call succeeds; an error other than a refusal fails the test."""
    try:
        site.use(binding)
    except AccessDeniedError:
        return False
    return True


@pytest.fixture
def there(tmp_path: Path) -> Iterator[AwsCounterpart]:
    """A customer's account at AWS."""
    try:
        made = AwsCounterpart(tmp_path)
    except NotInstalledError as error:
        without(error)
    yield made
    made.close()


def _site(there: AwsCounterpart, who: str, **how: Any) -> Site:
    key = there.create_key(**how)
    if who == _NO_ROLE:
        key = replace(key, principal="", external_id="")
    elif who == _ROLE_ELSEWHERE:
        key = replace(key, principal=there.add_role(_ELSEWHERE))
    site = Site(there, key)
    site.attach()
    return site


@pytest.fixture(params=[_ROLE, _ROLE_ELSEWHERE, _NO_ROLE])
def site(request: pytest.FixtureRequest, there: AwsCounterpart) -> Site:
    """A key, for each kind of identity that may call it."""
    return _site(there, request.param)


# Sufficient, and no more.


def test_the_statements_are_enough(site: Site) -> None:
    """No step of a test works before the statements are attached; with exactly them, each does."""
    assert not _permitted_at_all(site)
    site.attach(*site.policy().statements)
    site.use()


def test_no_other_context_is_permitted(site: Site) -> None:
    """The condition denies another cluster, region or organization, or none (C5)."""
    site.attach(*site.policy().statements)
    site.use()
    for binding in _OTHERS.values():
        with pytest.raises(AccessDeniedError) as raised:
            site.use(binding)
        assert raised.value.missing_permission == "kms:Encrypt"
        named = ", ".join(f"{name}={value}" for name, value in binding.as_map().items())
        assert f"does not allow this cluster or region (context {named})" in raised.value.message


@pytest.mark.parametrize(
    ("wanted", "permitted"),
    [
        (AccessWanted("cluster-1", None, None), {"another region", "another organization"}),
        (AccessWanted("cluster-1", "eu", None), {"another organization"}),
        (AccessWanted(None, None, "acme"), {"another cluster", "another region"}),
        (AccessWanted(None, "eu", "acme"), {"another cluster"}),
    ],
)
def test_the_condition_is_on_what_is_wanted(
    there: AwsCounterpart, wanted: AccessWanted, permitted: set[str]
) -> None:
    """A policy binds exactly the cluster, region and organization that the caller asked for."""
    site = _site(there, _ROLE)
    found = site.policy(wanted)
    given = {
        "keyfold:cluster": wanted.cluster,
        "keyfold:region": wanted.region,
        "keyfold:organization": wanted.organization,
    }
    assert found.bound_context == {name: value for name, value in given.items() if value}
    site.attach(*found.statements)
    site.use()
    able = {name for name, binding in _OTHERS.items() if _permitted(site, binding)}
    assert able - {"no organization"} == permitted
    assert ("no organization" in able) is (wanted.organization is None)


def test_nobody_else_may_take_the_role_or_use_the_key(there: AwsCounterpart) -> None:
    """AWS refuses another identity of the vendor's account, whatever it may do there (C2)."""
    site = _site(there, _ROLE)
    site.attach(*site.policy().statements)
    stranger, secret = there.aws.sts.add_user(f"{VENDOR}-2")
    there.env.setenv("AWS_ACCESS_KEY_ID", stranger)
    there.env.setenv("AWS_SECRET_ACCESS_KEY", secret)
    there.provider = AwsKmsProvider(principal=VENDOR)
    with pytest.raises(AccessDeniedError) as raised:
        site.use()
    assert raised.value.missing_permission == "sts:AssumeRole"
    with pytest.raises(AccessDeniedError) as raised:
        Site(there, replace(site.key, principal="")).use()
    assert raised.value.missing_permission == "kms:DescribeKey"


def test_another_external_id_is_not_trusted(there: AwsCounterpart) -> None:
    """Only the external id of the key can assume its role (C2)."""
    site = _site(there, _ROLE)
    site.attach(*site.policy().statements)
    other = Site(there, replace(site.key, external_id="guessed"))
    with pytest.raises(AccessDeniedError) as raised:
        other.use()
    assert raised.value.missing_permission == "sts:AssumeRole"
    site.use()


def test_a_seat_is_used_by_all_of_its_principals(there: AwsCounterpart) -> None:
    """The customer names a seat's principals in the key's policy; its role is the vendor's (C2)."""
    key = there.create_key()
    role, also = there.add_role(VENDOR.split(":")[4]), there.add_role(_ELSEWHERE)
    site = Site(there, replace(key, principal=role, external_id="eu-0001"))
    seat = Seat("eu-0001", "AWS_KMS", "eu", role, (also,))
    policy = site.policy(replace(_WANTED, seat=seat))
    site.attach(*policy.statements)
    site.use()
    assert site.too_wide() == ""
    by_customer = [each for each in policy.statements if not each.by_vendor]
    assert {each.attach_to for each in by_customer} == {key.uri}
    named = [json.loads(each.text)["Principal"]["AWS"] for each in by_customer]
    assert named == [[role, also]] * 2


# Necessary, line by line.


def test_each_line_is_needed(site: Site) -> None:
    """If any line is left out, AWS refuses the policy or a use, or permits a wrong use."""
    statements = site.policy().statements
    tried = 0
    for index, statement in enumerate(statements):
        for path in _lines(json.loads(statement.text)):
            tried += 1
            left = replace(statement, text=json.dumps(_without(statement, path)))
            what = f"{statement.title}: {path}"
            noticed = _noticed(site, *statements[:index], left, *statements[index + 1 :])
            assert noticed is not None, what
            if isinstance(noticed, KmsError):
                assert noticed.missing_permission in _named(statement, path), what
                # A fault on Keyfold's own side never counts as the customer's refusal (F2a).
                kind = CredentialsFailedError if statement.by_vendor else AccessDeniedError
                assert type(noticed) is kind, what
    assert tried > 20
    site.attach(*statements)
    site.use()


def test_each_value_is_needed(site: Site) -> None:
    """With another principal, action, resource, external id or context in a line, a use fails."""
    statements = site.policy().statements
    for index, statement in enumerate(statements):
        for path in _lines(json.loads(statement.text)):
            changed = _with_another(statement, path)
            if changed is None:
                continue
            left = replace(statement, text=json.dumps(changed))
            what = f"{statement.title}: {path}"
            noticed = _noticed(site, *statements[:index], left, *statements[index + 1 :])
            if not isinstance(noticed, KmsError):
                # Another policy version, or a resource in a key's own policy that is not that key.
                assert path[-1] in ("Version", "Resource"), what
                assert "not modelled" in str(noticed), what
                continue
            assert noticed.missing_permission in _named(statement, path), what
            kind = CredentialsFailedError if statement.by_vendor else AccessDeniedError
            assert type(noticed) is kind, what


def test_each_statement_is_needed(site: Site) -> None:
    """Without any one statement a step is refused, and the error names the missing action."""
    statements = site.policy().statements
    for index, statement in enumerate(statements):
        noticed = _noticed(site, *statements[:index], *statements[index + 1 :])
        assert isinstance(noticed, KmsError), statement.title
        assert noticed.missing_permission in statement.permissions, statement.title


def test_what_is_permitted_is_what_the_statements_say(site: Site) -> None:
    """The permissions listed with a statement are its actions, and no line has a wildcard."""
    for statement in site.policy().statements:
        document = json.loads(statement.text)
        for each in document.get("Statement", [document]):
            actions = each["Action"]
            listed = actions if isinstance(actions, list) else [actions]
            assert tuple(listed) == statement.permissions
            # In a key's policy, a star as the resource means the key itself.
            starred = {name for name, value in each.items() if "*" in json.dumps(value)}
            assert starred == ({"Resource"} if statement.attach_to == site.key.uri else set())


# Identities that need a policy.


def test_who_is_in_the_same_account_needs_no_policy_of_its_own(there: AwsCounterpart) -> None:
    """An identity needs a policy of its own only for a key or role of another account."""
    of = {who: _site(there, who) for who in (_ROLE, _ROLE_ELSEWHERE, _NO_ROLE)}
    attached = {who: _places(site) for who, site in of.items()}
    key, role = of[_ROLE].key.uri, of[_ROLE].key.principal
    assert attached[_ROLE] == [role, key, key, VENDOR]
    elsewhere = of[_ROLE_ELSEWHERE].key
    by = elsewhere.principal
    assert attached[_ROLE_ELSEWHERE] == [by, by, elsewhere.uri, elsewhere.uri, VENDOR]
    assert attached[_NO_ROLE] == [of[_NO_ROLE].key.uri] * 2 + [VENDOR]
    # Here the vendor is the customer.
    there.provider = AwsKmsProvider(principal=f"arn:aws:iam::{CUSTOMER}:user/keyfold")
    assert _places(of[_ROLE]) == [role, key, key]
    assert _places(of[_NO_ROLE]) == [of[_NO_ROLE].key.uri] * 2


def test_an_identity_in_the_keys_account_needs_the_keys_policy_alone(
    there: AwsCounterpart,
) -> None:
    """If the vendor's server is in the key's own account, the generated policy is enough, too."""
    own = f"arn:aws:iam::{CUSTOMER}:user/keyfold-{os.urandom(4).hex()}"
    key, secret = there.aws.sts.add_user(own)
    there.aws.sts.policies[own] = []
    there.env.setenv("AWS_ACCESS_KEY_ID", key)
    there.env.setenv("AWS_SECRET_ACCESS_KEY", secret)
    there.provider = AwsKmsProvider(principal=own)
    for who in (_ROLE, _NO_ROLE):
        site = _site(there, who)
        site.attach(*site.policy().statements)
        site.use()
        there.provider = AwsKmsProvider(principal=own)


def test_an_untold_identity_is_left_open_and_said(there: AwsCounterpart) -> None:
    """Without the setting, the policy has a placeholder that AWS refuses, and a notice says so."""
    there.provider = AwsKmsProvider()
    for who in (_ROLE, _NO_ROLE):
        site = _site(there, who)
        found = site.policy()
        assert "[providers.aws] principal" in " ".join(found.notices)
        assert any(each.by_vendor for each in found.statements)
        named = [each for each in found.statements if UNTOLD in each.text]
        assert named
        for each in named:
            with pytest.raises(ValueError, match="it is nobody"):
                site.attach(each)
        assert found.principal == (site.key.principal or UNTOLD)


def test_no_policy_without_an_external_id(there: AwsCounterpart) -> None:
    """Keyfold never writes a trust policy that trusts everybody (C2)."""
    site = _site(there, _ROLE)
    with pytest.raises(CredentialsFailedError, match="no external id"):
        Site(there, replace(site.key, external_id="")).policy()


# Replicas.


def test_a_replica_has_a_policy_of_its_own(there: AwsCounterpart) -> None:
    """A replica has a policy of its own, and a denial there names the replica's ARN."""
    site = _site(there, _ROLE_ELSEWHERE, MultiRegion=True)
    found = site.policy()
    assert any("each replica of a multi-Region key" in each for each in found.notices)
    there.replicate(site.key, "us-east-1")
    replica = Site(there, site.provider.replica(site.key, "us-east-1"))
    replica.attach()
    site.attach(*found.statements)
    site.use()
    with pytest.raises(AccessDeniedError) as raised:
        replica.use()
    assert raised.value.missing_permission == "kms:DescribeKey"
    assert replica.key.uri in raised.value.message
    replica.attach(*replica.policy().statements)
    replica.use()


def test_a_replica_that_does_not_exist_is_named(there: AwsCounterpart) -> None:
    """If a replica does not exist, AWS's error names the ARN that Keyfold derived."""
    site = _site(there, _ROLE, MultiRegion=True)
    site.attach(*site.policy().statements)
    replica = Site(there, site.provider.replica(site.key, "us-west-2"))
    with pytest.raises(KeyNotFoundError, match=r"us-west-2:.* does not exist"):
        replica.use()


# Leaving lines out.


def _noticed(site: Site, *statements: Statement) -> KmsError | str | None:
    """Returns how these statements show to be wrong, or None if they do not.

    AWS refuses them as malformed or refuses a use, or a use that should be refused succeeds.
    """
    try:
        site.attach(*statements)
    except ValueError as error:
        return str(error)
    try:
        site.use()
    except KmsError as error:
        return error
    return site.too_wide() or None


def _permitted_at_all(site: Site) -> bool:
    try:
        site.use()
    except (AccessDeniedError, CredentialsFailedError):
        return False
    return True


def _lines(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Returns the paths of everything that can be left out of a document."""
    each = enumerate(value) if isinstance(value, list) else value.items()
    for name, inner in each:
        yield (name,)
        if isinstance(inner, list | dict):
            yield from ((name, *rest) for rest in _lines(inner))


def _without(statement: Statement, path: tuple[str | int, ...]) -> Any:
    document = json.loads(statement.text)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return document


def _with_another(statement: Statement, path: tuple[str | int, ...]) -> Any:
    """Returns the document with a changed value, or None if the path has no value.

    An ARN becomes another ARN, an action another action, Allow becomes Deny.
    """
    document = json.loads(statement.text)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    value = inner[path[-1]]
    if not isinstance(value, str):
        return None
    inner[path[-1]] = "Deny" if value == "Allow" else f"{value}2"
    return document


def _named(statement: Statement, path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Returns the names that a refusal may give: the action left out, or any of the statement's."""
    last = path[-1]
    return (
        (statement.permissions[last],)
        if isinstance(last, int) and "Action" in path
        else (statement.permissions)
    )


def _places(site: Site) -> list[str]:
    return [each.attach_to for each in site.policy().statements]
