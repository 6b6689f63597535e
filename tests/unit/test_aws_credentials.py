"""When Keyfold renews a credential for AWS, and what a failed renewal means (protocol F2a)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError

from fakes import FakeClock
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    UnreachableError,
)
from keyfold_server.providers.aws import credentials
from keyfold_server.providers.aws.credentials import Signer, own_identity, role, under
from keyfold_server.providers.shared.deadlines import current, within
from keyfold_server.providers.shared.lease import LONGEST, Lease
from keyfold_server.providers.shared.logins import Granted

_ROLE: Final = "arn:aws:iam::111122223333:role/team/keyfold"


def _error(code: str, message: str = "", status: int = 400) -> ClientError:
    metadata = {"RequestId": "8c4f2f9e-0000", "HTTPStatusCode": status, "HTTPHeaders": {}}
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
    return ClientError(answer, "AssumeRole")


# Roles.


class Customer:
    """A customer's account that lets Keyfold take its role, or raises `error`."""

    def __init__(self) -> None:
        self.taken = 0
        self.error: Exception | None = None
        self.own_side_good = True
        self.clock = FakeClock()
        self.role = role(_ROLE, self.take, lambda _: self.own_side_good, self.clock.monotonic)
        self.signer = Signer(self.role)

    def take(self) -> dict[str, Any]:
        self.taken += 1
        if self.error is not None:
            raise self.error
        ends = datetime.now(UTC) + timedelta(minutes=15)
        credentials = {
            "AccessKeyId": f"ASIA{self.taken}",
            "SecretAccessKey": "s",
            "SessionToken": "t",
            "Expiration": ends,
        }
        return {"Credentials": credentials}


@pytest.fixture
def customer() -> Iterator[Customer]:
    """Yields a customer, and makes the test a call."""
    with within(5.0):
        yield Customer()


_DENIED: Final = _error("AccessDenied", "is not authorized to perform: sts:AssumeRole", 403)


def test_a_session_is_taken_once_and_renewed_ahead(customer: Customer) -> None:
    """One session serves many calls, and Keyfold renews it within ten minutes (F2a)."""
    for _ in range(3):
        assert customer.role.fresh().access_key == "ASIA1"
    customer.clock.advance(LONGEST - 1)
    assert customer.role.fresh().access_key == "ASIA2"
    assert customer.signer.get_frozen_credentials() == customer.role.fresh()


def test_a_session_serves_on_while_it_cannot_be_renewed_ahead(customer: Customer) -> None:
    """An outage of STS fails no call while the session is good, and causes no rush on STS."""
    customer.role.fresh()
    customer.clock.advance(LONGEST - 30)
    customer.error = _error("Throttling", "Rate exceeded")
    for _ in range(5):
        assert customer.role.fresh().access_key == "ASIA1"
    assert customer.taken == 2


def test_a_session_does_not_serve_for_longer_than_ten_minutes(customer: Customer) -> None:
    """After ten minutes a call needs a new session, since withdrawn trust shows only then (F2a)."""
    customer.role.fresh()
    customer.clock.advance(LONGEST)
    customer.error = _error("ServiceUnavailable", "", 503)
    with pytest.raises(UnreachableError):
        customer.role.fresh()
    customer.error = None
    assert customer.role.fresh().access_key == "ASIA3"


def test_withdrawn_trust_shows_when_it_is_renewed_ahead(customer: Customer) -> None:
    """Keyfold believes a denial at once, though AWS would still accept the old session (F2a)."""
    customer.role.fresh()
    customer.clock.advance(LONGEST - 1)
    customer.error = _DENIED
    with pytest.raises(AccessDeniedError) as raised:
        customer.role.fresh()
    assert raised.value.missing_permission == "sts:AssumeRole"
    assert customer.signer.get_frozen_credentials() is None


@pytest.mark.parametrize(
    "why",
    [
        "because no identity-based policy allows the sts:AssumeRole action",
        "with an explicit deny in an identity-based policy",
        "because no permissions boundary allows the sts:AssumeRole action",
        "with an explicit deny in a service control policy",
    ],
)
def test_a_denial_by_our_own_policies_is_no_refusal(customer: Customer, why: str) -> None:
    """If AWS says that Keyfold lacks a permission of its own, no customer has revoked (F2a)."""
    customer.error = _error("AccessDenied", f"is not authorized to perform {why}", 403)
    with pytest.raises(CredentialsFailedError):
        customer.role.fresh()


def test_a_denial_counts_only_if_our_side_is_shown_good(customer: Customer) -> None:
    """The same denial is CREDENTIALS_FAILED while Keyfold's own side is in doubt (F2a)."""
    customer.error, customer.own_side_good = _DENIED, False
    with pytest.raises(CredentialsFailedError):
        customer.role.fresh()
    customer.own_side_good = True
    with pytest.raises(AccessDeniedError):
        customer.role.fresh()


@pytest.mark.parametrize("code", ["NotFoundException", "ValidationError", "Whatever"])
def test_nothing_else_that_sts_answers_is_a_refusal(customer: Customer, code: str) -> None:
    """Only a denial of AssumeRole can be the customer's doing (F2a)."""
    customer.error = _error(code)
    with pytest.raises(UnreachableError):
        customer.role.fresh()


def test_many_callers_take_a_role_once(customer: Customer) -> None:
    """Callers who come together wait for one AssumeRole."""

    def call() -> ReadOnlyCredentials:
        with within(5.0):
            return customer.role.fresh()

    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(call) for _ in range(16)]
        assert {each.result().access_key for each in calls} == {"ASIA1"}
    assert customer.taken == 1


def test_who_waits_for_a_renewal_waits_no_longer_than_its_call() -> None:
    """A caller with little time gives up waiting for an AssumeRole that hangs (C4)."""
    entered, over = threading.Event(), threading.Event()

    def take() -> dict[str, Any]:
        entered.set()
        over.wait(10)
        raise _DENIED

    lease = role(_ROLE, take, lambda _: True, FakeClock().monotonic)

    def first() -> None:
        with within(10.0):
            lease.fresh()

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(first)
        entered.wait(10)
        with pytest.raises(UnreachableError), within(0.05):
            lease.fresh()
        over.set()
        assert isinstance(held.exception(10), AccessDeniedError)


# The server's own identity.


class Source:
    """A credential that the SDK found. It lasts so many seconds, unless reading it raises."""

    def __init__(self, key: str, lasts: float) -> None:
        self.keys = ReadOnlyCredentials(key, "s", None, None)
        self._expiry_time = datetime.now(UTC) + timedelta(seconds=lasts)
        self.error: Exception | None = None
        self.remaining: list[float] = []

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        self.remaining.append(current().remaining())
        if self.error is not None:
            raise self.error
        return self.keys


class Machine:
    """A machine where the SDK looks for a credential; `source` is what it finds."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.searches = 0

    def new_session(self) -> Machine:
        return self

    def get_credentials(self) -> Source:
        self.searches += 1
        return self.source


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with a credential for an hour."""
    machine = Machine(Source("AKIA1", 3_600.0))
    monkeypatch.setattr(credentials, "new_session", machine.new_session)
    return machine


def test_a_source_that_hangs_fails_no_call_whose_credential_is_good(machine: Machine) -> None:
    """The SDK renews within half of the call's time, and the old keys serve until their end."""
    clock = FakeClock()
    own = own_identity(clock.monotonic)
    with within(4.0):
        assert own.fresh() == machine.source.keys
        machine.source.error = UnreachableError("dripped")
        clock.advance(LONGEST - 30)
        assert own.fresh() == machine.source.keys
    assert machine.source.remaining[1] <= 2.0
    clock.advance(30)
    with within(4.0), pytest.raises(UnreachableError):
        own.fresh()


def test_the_servers_own_keys_are_not_used_beyond_their_end(machine: Machine) -> None:
    """Keyfold reads keys again before their time is over, and then uses what the SDK has."""
    clock = FakeClock()
    own = own_identity(clock.monotonic)
    machine.source = Source("AKIA1", 120.0)
    with within(5.0):
        own.fresh()
        machine.source = Source("AKIA2", 3_600.0)
        clock.advance(91.0)
        assert own.fresh().access_key == "AKIA1"
        assert own.renew(own.fresh()).access_key == "AKIA2"
    assert machine.searches == 2


def test_rejected_keys_are_looked_for_again_once(machine: Machine) -> None:
    """If the environment still has the rejected keys, the fault is Keyfold's own (F2a)."""
    own = own_identity(FakeClock().monotonic)
    with within(5.0):
        used = own.fresh()
        with pytest.raises(CredentialsFailedError, match="there is no other"):
            own.renew(used)
        machine.source = Source("AKIA2", 3_600.0)
        assert own.renew(used).access_key == "AKIA2"
    assert machine.searches == 3


# Calls under a credential.


class Renewed:
    """A credential that counts its renewals."""

    def __init__(self) -> None:
        self.renewed = 0
        self.lease = Lease(self.login, clock=FakeClock().monotonic)

    def login(self, rejected: ReadOnlyCredentials | None) -> Granted[ReadOnlyCredentials]:
        if rejected is not None:
            assert rejected == self.lease.session
            self.renewed += 1
        return Granted(ReadOnlyCredentials(f"AKIA{self.renewed}", "s", None, None))


def _answers(*each: Exception | str) -> Callable[[], str]:
    left = iter(each)

    def work() -> str:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return work


def test_a_credential_that_is_not_accepted_is_renewed_once() -> None:
    """An expired session costs one renewal and one more call, not two (F2a)."""
    held, expired = Renewed(), _error("ExpiredTokenException")
    with within(5.0):
        assert under(held.lease, _answers(expired, "done"), "kms:Decrypt") == "done"
    assert held.renewed == 1
    with pytest.raises(CredentialsFailedError), within(5.0):
        under(held.lease, _answers(expired, expired), "kms:Decrypt")
    assert held.renewed == 2


def test_a_refusal_renews_nothing() -> None:
    """A denial under an accepted credential reaches the caller as it is."""
    held = Renewed()
    with pytest.raises(ClientError), within(5.0):
        under(held.lease, _answers(_error("AccessDeniedException")), "kms:Decrypt")
    assert held.renewed == 0
