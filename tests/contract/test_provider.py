"""The promises of every provider; conftest.py has the table of providers.

A test calls the provider through the port, as the service does. The row's counterpart acts as the
customer.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import pytest

from contract.counterparts import BUDGET, Ability, Bench, Deviation
from keyfold_server.domain.binding import PAYLOAD_SIZE
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    InvalidKeySpecError,
    InvalidPlaintextError,
    KekMismatchError,
    KeyDisabledError,
    KeyfoldError,
    KeyInvalidError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import (
    Authenticates,
    DescribesKeys,
    HasFamilies,
    HasTenants,
    NamesHolders,
    Wrapped,
)
from keyfold_server.domain.what_if import Foreseen, Foresees, Supposition, WhatIf
from lateness import in_time

_CALLERS: Final = 16
_MOST_FLIPS: Final = 128
_AMPLE: Final = 8 * BUDGET
_SLACK: Final = 0.5
"""Seconds beyond its budget within which a call ends, besides those the machine was late."""


# Wrapping and unwrapping.


def test_opens_what_it_wrapped(bench: Bench) -> None:
    """A wrapped payload of 65 bytes comes back, and its ciphertext shows none of it."""
    assert len(bench.payload) == PAYLOAD_SIZE
    wrapped = bench.wrap()
    assert bench.unwrap(wrapped) == bench.payload
    assert bench.payload[-32:] not in wrapped.ciphertext


def test_the_plaintext_can_be_wiped(bench: Bench) -> None:
    """Opening a payload wipes the plaintext that unwrap returned, and not that of the next call."""
    wrapped = bench.wrap()
    args = (bench.key, wrapped.key_version, wrapped.ciphertext, bench.binding)
    first = bench.provider.unwrap(*args, budget=BUDGET).plaintext
    assert isinstance(first, bytearray)
    assert bench.binding.open_payload(first) == bench.payload[-32:]
    assert not any(first)
    assert bench.provider.unwrap(*args, budget=BUDGET).plaintext == bench.payload


def test_wraps_differ(bench: Bench) -> None:
    """The same payload wraps to a different ciphertext each time, under the same version."""
    first, second = (bench.wrap() for _ in range(2))
    assert first.ciphertext != second.ciphertext
    assert first.key_version == second.key_version


@pytest.mark.parametrize("size", [0, PAYLOAD_SIZE + 1])
def test_wraps_nothing_but_payloads(bench: Bench, size: int) -> None:
    """The provider refuses an empty payload and one over 65 bytes before it calls the KMS."""
    with pytest.raises(InvalidPlaintextError):
        bench.wrap(bytes(size))


@pytest.mark.parametrize("field", ["cluster", "region", "kek_id", "organization"])
def test_another_context_does_not_open(bench: Bench, field: str) -> None:
    """The KMS refuses a changed context; if the KMS does not bind it, the digest does (C5)."""
    value: Any = bytes(16) if field == "kek_id" else "other"
    other = replace(bench.binding, **{field: value})
    wrapped = bench.wrap()
    if field in bench.row.binds:
        with pytest.raises(KekMismatchError):
            bench.unwrap(wrapped, binding=other)
    else:
        with pytest.raises(KekMismatchError):
            other.open_payload(bytearray(bench.unwrap(wrapped, binding=other)))


def test_no_organization_is_another_context(bench: Bench) -> None:
    """A KEK wrapped for no organization does not open for one, nor the reverse (C5)."""
    full = bench.binding
    bare = replace(full, organization=None)
    for mine, other in ((full, bare), (bare, full)):
        wrapped = bench.wrap(bytes(mine.payload(bench.kek)), mine)
        with pytest.raises(KekMismatchError):
            other.open_payload(bytearray(bench.unwrap(wrapped, binding=other)))


def test_another_key_does_not_open(bench: Bench) -> None:
    """A ciphertext opens only under the root key that made it."""
    wrapped = bench.wrap()
    other = bench.there.create_key()
    version = bench.wrap(key=other).key_version
    with pytest.raises(KekMismatchError):
        bench.unwrap(replace(wrapped, key_version=version), key=other)


def test_a_changed_byte_does_not_open(bench: Bench) -> None:
    """A ciphertext with any byte changed is a mismatch, never a refusal (F4)."""
    wrapped = bench.wrap()
    step = -(-len(wrapped.ciphertext) // _MOST_FLIPS)
    for position in range(0, len(wrapped.ciphertext), step):
        changed = bytearray(wrapped.ciphertext)
        changed[position] ^= 0x01
        with pytest.raises(KekMismatchError):
            bench.unwrap(replace(wrapped, ciphertext=bytes(changed)))


def test_foreign_bytes_do_not_open(bench: Bench) -> None:
    """Bytes that no KMS made, or half of a ciphertext, are a mismatch (F4)."""
    wrapped = bench.wrap()
    whole = wrapped.ciphertext
    for foreign in (b"", b"\0", b"KFL1", os.urandom(len(whole)), whole[:-1], whole[:16], whole * 2):
        with pytest.raises(KekMismatchError):
            bench.unwrap(replace(wrapped, ciphertext=foreign))


@pytest.mark.needs(Ability.WRONG_ANSWER)
def test_a_wrong_answer_is_found_by_the_digest(bench: Bench) -> None:
    """If the KMS opens a ciphertext to other bytes, the provider returns no KEK (C5)."""
    wrapped = bench.wrap()
    with bench.there.wrong_plaintext(bench.key), pytest.raises(KekMismatchError):
        bench.binding.open_payload(bytearray(bench.unwrap(wrapped)))


def test_many_at_once(bench: Bench) -> None:
    """Sixteen threads wrap and unwrap at once, each with a payload of its own."""
    start = threading.Barrier(_CALLERS)

    def call(number: int) -> bool:
        own = replace(bench.binding, kek_id=number.to_bytes(16, "big"))
        payload = bytes(own.payload(os.urandom(32)))
        start.wait(timeout=BUDGET)
        # A counterpart may be slower than the KMS, and this test is not about time.
        return all(
            bench.unwrap(bench.wrap(payload, own, budget=_AMPLE), own, budget=_AMPLE) == payload
            for _ in range(4)
        )

    with ThreadPoolExecutor(_CALLERS) as pool:
        assert all(pool.map(call, range(_CALLERS)))


# Versions and states.


def test_a_new_version_wraps_and_the_old_one_opens(bench: Bench) -> None:
    """After the customer rotates the key, old ciphertexts open and wraps use the new version."""
    old = bench.wrap()
    bench.there.new_version(bench.key)
    new, again = (bench.wrap() for _ in range(2))
    assert old.key_version
    assert new.key_version not in ("", old.key_version)
    assert again.key_version == new.key_version
    for wrapped in (old, new, again):
        assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.needs(Ability.DESCRIBE)
def test_describe_tells_people_what_the_key_is(bench: Bench) -> None:
    """Describing a key gives a line for people, also after a rotation."""
    assert bench.describe()
    bench.there.new_version(bench.key)
    assert bench.describe()


def test_a_disabled_key_refuses_until_it_is_enabled(bench: Bench) -> None:
    """Disabling a key takes effect with the next call, and so does enabling it."""
    wrapped = bench.wrap()
    bench.there.disable(bench.key)
    with pytest.raises(KeyDisabledError):
        bench.unwrap(wrapped)
    if Deviation.WRAPS_WHILE_DISABLED in bench.row.deviations:
        bench.wrap()
    else:
        with pytest.raises(KeyDisabledError):
            bench.wrap()
    bench.there.enable(bench.key)
    assert bench.unwrap(wrapped) == bench.payload
    assert bench.unwrap(bench.wrap()) == bench.payload


@pytest.mark.needs(Ability.DESCRIBE)
def test_describing_a_disabled_key(bench: Bench) -> None:
    """Describing a disabled key is refused as wrapping is, unless the row deviates."""
    bench.there.disable(bench.key)
    if Deviation.DESCRIBES_WHILE_DISABLED in bench.row.deviations:
        bench.describe()
    else:
        with pytest.raises(KeyDisabledError):
            bench.describe()
    bench.there.enable(bench.key)
    bench.describe()


@pytest.mark.needs(Ability.VERSION_STATES)
def test_one_disabled_version_concerns_its_own_ciphertexts(bench: Bench) -> None:
    """A disabled old version refuses what it wrapped, while the newest one still serves (F4)."""
    old = bench.wrap()
    bench.there.new_version(bench.key)
    new = bench.wrap()
    bench.there.disable(bench.key, old.key_version)
    with pytest.raises(KeyDisabledError):
        bench.unwrap(old)
    assert bench.unwrap(new) == bench.payload
    assert bench.wrap().key_version == new.key_version
    bench.there.enable(bench.key, old.key_version)
    assert bench.unwrap(old) == bench.payload


@pytest.mark.needs(Ability.VERSION_STATES)
def test_a_disabled_newest_version_does_not_wrap(bench: Bench) -> None:
    """Wrapping never falls back to an older version, whose ciphertexts still open."""
    old = bench.wrap()
    bench.there.new_version(bench.key)
    new = bench.wrap()
    bench.there.disable(bench.key, new.key_version)
    with pytest.raises(KeyDisabledError):
        bench.wrap()
    assert bench.unwrap(old) == bench.payload


@pytest.mark.needs(Ability.DESTROY_VERSION)
def test_a_destroyed_version_is_not_found(bench: Bench) -> None:
    """What a destroyed version wrapped is lost; what other versions wrapped still opens."""
    old = bench.wrap()
    bench.there.new_version(bench.key)
    new = bench.wrap()
    bench.there.delete(bench.key, old.key_version)
    with pytest.raises(KeyNotFoundError):
        bench.unwrap(old)
    assert bench.unwrap(new) == bench.payload


@pytest.mark.needs(Ability.SCHEDULE_DELETION)
def test_a_key_pending_deletion_refuses_until_it_is_brought_back(bench: Bench) -> None:
    """A key pending deletion refuses with its own reason; cancelling that brings it back."""
    wrapped = bench.wrap()
    bench.there.schedule_deletion(bench.key)
    for call in (bench.wrap, lambda: bench.unwrap(wrapped)):
        with pytest.raises(KeyPendingDeletionError):
            call()
    bench.there.cancel_deletion(bench.key)
    if Deviation.CANCELLED_DELETION_ENABLES not in bench.row.deviations:
        with pytest.raises(KeyDisabledError):
            bench.unwrap(wrapped)
        bench.there.enable(bench.key)
    assert bench.unwrap(wrapped) == bench.payload


# What a provider foresees.


@pytest.mark.needs(Ability.FORESEE)
@pytest.mark.parametrize("what", [what for what in WhatIf if what is not WhatIf.REMOVE_PRINCIPAL])
def test_what_is_foreseen_comes_true(bench: Bench, what: WhatIf) -> None:
    """A customer's action has the effect that the provider says before (C6)."""
    wrapped = bench.wrap()
    foreseen = _foreseen(bench, Supposition(what, bench.key.uri), wrapped)
    if what is WhatIf.DISABLE:
        bench.there.disable(bench.key)
    elif what is WhatIf.DELETE and bench.row.has(Ability.SCHEDULE_DELETION):
        bench.there.schedule_deletion(bench.key)
    elif what is WhatIf.DELETE:
        bench.there.disable(bench.key)
        bench.there.delete(bench.key)
    elif bench.row.has(Ability.PERMISSIONS):
        bench.there.deny(bench.key, what.value.split("_")[1].lower())
    assert _error_of(lambda: bench.unwrap(wrapped)) is foreseen.unwrap
    assert _error_of(bench.wrap) is foreseen.wrap


@pytest.mark.needs(Ability.FORESEE, Ability.VERSION_STATES)
def test_what_is_foreseen_of_a_version_comes_true(bench: Bench) -> None:
    """Where a customer can disable one version, the others are foreseen to go on (C6)."""
    old = bench.wrap()
    bench.there.new_version(bench.key)
    new = bench.wrap()
    supposed = Supposition(WhatIf.DISABLE, bench.key.uri, old.key_version)
    foreseen = {each.key_version: _foreseen(bench, supposed, each) for each in (old, new)}
    bench.there.disable(bench.key, old.key_version)
    for each in (old, new):
        error = _error_of(functools.partial(bench.unwrap, each))
        assert error is foreseen[each.key_version].unwrap


def _foreseen(bench: Bench, supposed: Supposition, wrapped: Wrapped) -> Foreseen:
    assert isinstance(bench.provider, Foresees)
    return bench.provider.foreseen(supposed, bench.key, wrapped.key_version)


def _error_of(call: Callable[[], object]) -> type[KmsError] | None:
    try:
        call()
    except KmsError as error:
        return type(error)
    return None


# Missing keys, and permissions.


def test_a_missing_key_is_refused_and_not_made(bench: Bench) -> None:
    """Wrapping under a missing key is refused and creates no key, so typos stay visible."""
    missing = bench.there.missing_key()
    denied = Deviation.MISSING_LOOKS_DENIED in bench.row.deviations
    for _ in range(2):
        with pytest.raises(AccessDeniedError if denied else KeyNotFoundError):
            bench.wrap(key=missing)
    assert not bench.there.exists(missing)


def test_a_deleted_key_does_not_open(bench: Bench) -> None:
    """A deleted key is KEY_NOT_FOUND for what it wrapped, too."""
    wrapped = bench.wrap()
    bench.there.delete(bench.key)
    denied = Deviation.MISSING_LOOKS_DENIED in bench.row.deviations
    with pytest.raises(AccessDeniedError if denied else KeyNotFoundError):
        bench.unwrap(wrapped)
    with pytest.raises(AccessDeniedError if denied else KeyNotFoundError):
        bench.wrap()


@pytest.mark.needs(Ability.DESCRIBE)
def test_a_missing_key_is_not_described(bench: Bench) -> None:
    """Describing a key that does not exist is KEY_NOT_FOUND."""
    with pytest.raises(KeyNotFoundError):
        bench.describe(bench.there.missing_key())


@pytest.mark.needs(Ability.WRONG_PURPOSE)
def test_a_key_of_another_purpose_is_invalid(bench: Bench) -> None:
    """A key that was made for another purpose is KEY_INVALID."""
    other = bench.there.unusable_key(Ability.WRONG_PURPOSE)
    with pytest.raises(KeyInvalidError):
        bench.wrap(key=other)


@pytest.mark.needs(Ability.MATERIAL_MISSING)
def test_a_key_without_its_imported_material_is_invalid(bench: Bench) -> None:
    """A key whose material the customer has not imported is KEY_INVALID."""
    empty = bench.there.unusable_key(Ability.MATERIAL_MISSING)
    with pytest.raises(KeyInvalidError):
        bench.wrap(key=empty)
    if bench.row.has(Ability.DESCRIBE):
        with pytest.raises(KeyInvalidError):
            bench.describe(empty)


@pytest.mark.needs(Ability.PERMISSIONS)
@pytest.mark.parametrize("permission", ["wrap", "unwrap", "describe"])
def test_a_missing_permission_concerns_one_operation(bench: Bench, permission: str) -> None:
    """A missing permission is ACCESS_DENIED for its own operation, until it is back (F5)."""
    wrapped = bench.wrap()
    calls: dict[str, Callable[[], object]] = {
        "wrap": bench.wrap,
        "unwrap": lambda: bench.unwrap(wrapped),
    }
    if bench.row.has(Ability.DESCRIBE):
        calls["describe"] = bench.describe
    bench.there.deny(bench.key, permission)
    concerned = {permission}
    if permission == "unwrap" and Deviation.WRAP_NEEDS_UNWRAP in bench.row.deviations:
        concerned.add("wrap")
    for operation, call in calls.items():
        if operation in concerned:
            with pytest.raises(AccessDeniedError) as raised:
                call()
            # Whoever mends the policy has to know which half of a wrap was denied.
            assert raised.value.while_unwrapping is (operation == "wrap" != permission)
        else:
            call()
    bench.there.restore(bench.key, permission)
    for call in calls.values():
        call()


# Could not tell.


def test_an_outage_is_not_a_refusal(bench: Bench, outage: str) -> None:
    """A KMS out of reach says nothing about the key, and answers again once it is back."""
    wrapped = bench.wrap()
    calls: list[Callable[[], object]] = [
        bench.wrap,
        lambda: bench.unwrap(wrapped),
        lambda: bench.wrap(key=bench.there.missing_key()),
    ]
    if bench.row.has(Ability.DESCRIBE):
        calls.append(bench.describe)
    if bench.row.has(Ability.AUTHENTICATE):
        calls.append(bench.authenticate)
    with bench.there.outage(outage):
        for call in calls:
            with pytest.raises(UnreachableError):
                call()
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.parametrize("budget", [0.05, 0.5])
def test_a_hang_ends_with_the_budget(bench: Bench, hang: str, budget: float) -> None:
    """If the KMS hangs or drips, a call ends with its budget as UNREACHABLE (C4)."""
    wrapped = bench.wrap()
    calls: list[Callable[[], object]] = [
        lambda: bench.wrap(budget=budget),
        lambda: bench.unwrap(wrapped, budget=budget),
    ]
    if bench.row.has(Ability.DESCRIBE):
        calls.append(lambda: bench.describe(budget=budget))
    if bench.row.has(Ability.AUTHENTICATE):
        calls.append(lambda: bench.authenticate(budget=budget))
    with bench.there.hanging(hang):
        for call in calls:
            _is_over(call, budget)
        if bench.row.has(Ability.SESSIONS):
            bench.there.expire_sessions()
            _is_over(calls[1], budget)
    assert bench.unwrap(wrapped) == bench.payload


def _is_over(call: Callable[[], object], budget: float) -> None:
    with in_time(budget + _SLACK), pytest.raises(UnreachableError):
        call()


def test_a_hang_holds_no_other_call(bench: Bench, hang: str) -> None:
    """Sixteen calls that hang end with their own budgets; none waits for another (C4, W2)."""
    wrapped = bench.wrap()
    with (
        bench.there.hanging(hang),
        ThreadPoolExecutor(_CALLERS) as pool,
        in_time(0.3 + 2 * _SLACK),
    ):
        calls = [pool.submit(bench.unwrap, wrapped, budget=0.3) for _ in range(_CALLERS)]
        for call in calls:
            with pytest.raises(UnreachableError):
                call.result()


@pytest.mark.needs(Ability.WRONG_CHECKSUM)
def test_a_damaged_answer_does_not_count(bench: Bench) -> None:
    """An answer with a wrong checksum is not used, and says nothing about the key."""
    wrapped = bench.wrap()
    with bench.there.wrong_checksum(bench.key):
        for call in (bench.wrap, lambda: bench.unwrap(wrapped)):
            with pytest.raises(UnreachableError):
                call()
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.needs(Ability.THROTTLE)
def test_throttling_without_a_hint(bench: Bench) -> None:
    """A busy KMS is THROTTLED; the provider makes up no hint that the KMS did not give."""
    with bench.there.throttled(None), pytest.raises(ThrottledError) as raised:
        bench.wrap()
    assert raised.value.retry_after is None


@pytest.mark.needs(Ability.THROTTLE_HINT)
def test_throttling_with_a_hint(bench: Bench) -> None:
    """A hint of the KMS when to come back reaches the caller."""
    with bench.there.throttled(7.0), pytest.raises(ThrottledError) as raised:
        bench.wrap()
    assert raised.value.retry_after == pytest.approx(7.0)


@pytest.mark.needs(Ability.CREDENTIALS)
def test_our_own_credential_is_not_a_refusal(bench: Bench) -> None:
    """If the KMS rejects Keyfold's own credential, that is CREDENTIALS_FAILED: no refusal (F2a)."""
    wrapped = bench.wrap()
    with bench.there.broken_credentials():
        with pytest.raises(CredentialsFailedError):
            bench.wrap()
        with pytest.raises(CredentialsFailedError):
            bench.unwrap(wrapped)
        if bench.row.has(Ability.AUTHENTICATE):
            with pytest.raises(CredentialsFailedError):
                bench.authenticate()
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.needs(Ability.SESSIONS)
def test_an_expired_session_is_renewed(bench: Bench) -> None:
    """The provider replaces a session or token that has ended, and the call succeeds (F2a)."""
    wrapped = bench.wrap()
    for call in (bench.wrap, lambda: bench.unwrap(wrapped)):
        bench.there.expire_sessions()
        call()


@pytest.mark.needs(Ability.SESSIONS, Ability.CREDENTIALS)
def test_a_session_that_cannot_be_renewed_is_not_a_refusal(bench: Bench) -> None:
    """An ended session with a rejected credential behind it is CREDENTIALS_FAILED (F2a)."""
    wrapped = bench.wrap()
    bench.there.expire_sessions()
    with bench.there.broken_credentials(), pytest.raises(CredentialsFailedError):
        bench.unwrap(wrapped)
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.needs(Ability.TRUST)
def test_withdrawn_trust_is_a_refusal(bench: Bench) -> None:
    """Withdrawn trust in the principal is a refusal, and restored trust ends it (F2a)."""
    wrapped = bench.wrap()
    with bench.there.withdrawn_trust(bench.key):
        for call in (bench.wrap, lambda: bench.unwrap(wrapped)):
            with pytest.raises(AccessDeniedError):
                call()
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.needs(Ability.TRUST, Ability.CREDENTIALS)
def test_withdrawn_trust_counts_only_under_a_good_credential(bench: Bench) -> None:
    """What looks like withdrawn trust is no refusal while Keyfold's own side fails (F2a)."""
    wrapped = bench.wrap()
    with (
        bench.there.withdrawn_trust(bench.key),
        bench.there.broken_credentials(),
        pytest.raises(CredentialsFailedError),
    ):
        bench.unwrap(wrapped)


@pytest.mark.needs(Ability.AUTHENTICATE)
def test_a_good_credential_needs_no_key(bench: Bench) -> None:
    """Authenticating proves the credential, whatever state the key is in."""
    bench.authenticate(bench.there.missing_key())


# Answers without a call to the KMS.


def test_a_key_spec_that_is_not_the_providers_is_refused(
    bench: Bench, refused: tuple[RootKey, str]
) -> None:
    """The provider refuses a wrong URI, principal or option and names the field at fault."""
    spec, field = refused
    with pytest.raises(InvalidKeySpecError) as raised:
        bench.provider.canonical(spec)
    assert raised.value.field == field


def test_the_canonical_form_is_stable_and_asks_nobody(bench: Bench) -> None:
    """A key has one canonical URI, found without the KMS: in an outage, and for missing keys."""
    with bench.there.outage(bench.row.outages[0]):
        for given, uri in (*bench.row.aliases, (bench.key.uri, bench.key.uri)):
            canonical = bench.provider.canonical(replace(bench.key, uri=given))
            assert canonical == replace(bench.key, uri=uri)
            assert bench.provider.canonical(canonical) == canonical
        missing = bench.there.missing_key()
        assert bench.provider.canonical(missing) == missing


def test_the_account_is_stable_and_asks_nobody(bench: Bench) -> None:
    """Keys of one customer's account share its name, found without the KMS (W2)."""
    other = bench.there.create_key()
    account = bench.provider.account(bench.key)
    assert account
    with bench.there.outage(bench.row.outages[0]):
        assert bench.provider.account(bench.key) == bench.provider.account(other) == account


def test_a_family_is_of_one_key_and_asks_nobody(bench: Bench) -> None:
    """The canonical forms of one key have one family, another key has another (C6)."""
    there, provider, key = bench.there, bench.provider, bench.key
    other = there.create_key()
    with there.outage(bench.row.outages[0]):
        if not isinstance(provider, HasFamilies):
            return
        family = provider.family(key)
        assert family
        assert provider.family(other) != family
        assert provider.family(there.missing_key()) != family
        for given, uri in bench.row.aliases:
            canonical = provider.canonical(replace(key, uri=given))
            assert provider.family(canonical) == provider.family(replace(key, uri=uri))


def test_an_administrator_can_write_the_account(bench: Bench) -> None:
    """What an administrator allows is compared with the account, so it has the same form (C9)."""
    provider = bench.provider
    account = provider.account(bench.key)
    for given, uri in bench.row.aliases:
        canonical = provider.canonical(replace(bench.key, uri=given))
        assert provider.account(canonical) == provider.account(replace(bench.key, uri=uri))
    if isinstance(provider, NamesHolders):
        for name in (account, provider.holder_example):
            assert provider.holder(name) == name
        for wrong in ("", " ", "*", bench.key.uri, f"{account} ", f"{account}/x", "1" * 13):
            assert provider.holder(wrong) != account
            assert provider.holder(wrong) is None


def test_a_tenant_is_stable_and_asks_nobody(bench: Bench) -> None:
    """Keys of one principal have one tenant, which is not the name of their account (C6)."""
    provider, other = bench.provider, bench.there.create_key()
    with bench.there.outage(bench.row.outages[0]):
        if isinstance(provider, HasTenants):
            assert provider.tenant(bench.key) == provider.tenant(other)
            assert provider.tenant(bench.key) != provider.account(bench.key)


def test_abilities_are_as_declared(bench: Bench) -> None:
    """A provider has exactly the optional protocols that its row declares, and gives reasons."""
    assert isinstance(bench.provider, DescribesKeys) == bench.row.has(Ability.DESCRIBE)
    assert isinstance(bench.provider, Authenticates) == bench.row.has(Ability.AUTHENTICATE)
    assert all([*bench.row.absent.values(), *bench.row.deviations.values()])
    assert bench.row.outages
    assert bench.row.refused


# Hygiene.


def _failures(bench: Bench, wrapped: Wrapped) -> Iterator[KeyfoldError]:
    """Yields an error of every kind that the row's KMS can cause."""
    row, there, key = bench.row, bench.there, bench.key
    yield _raised(lambda: bench.unwrap(replace(wrapped, ciphertext=wrapped.ciphertext[:-1])))
    yield _raised(lambda: bench.wrap(bench.payload * 2))
    calls: tuple[Callable[[], object], ...] = (bench.wrap, lambda: bench.unwrap(wrapped))
    for outage in row.outages:
        with there.outage(outage):
            yield from map(_raised, calls)
    if row.has(Ability.CREDENTIALS):
        with there.broken_credentials():
            yield from map(_raised, calls)
    if row.has(Ability.PERMISSIONS):
        there.deny(key, "wrap")
        there.deny(key, "unwrap")
        yield from map(_raised, calls)
        there.restore(key, "wrap")
        there.restore(key, "unwrap")
    there.disable(key)
    yield _raised(lambda: bench.unwrap(wrapped))
    there.delete(key)
    yield from map(_raised, calls)


def _raised(call: Callable[[], object]) -> KeyfoldError:
    with pytest.raises(KeyfoldError) as raised:
        call()
    return raised.value


def _told(error: BaseException) -> Iterator[str]:
    """Yields all text that a log of an error and its causes could show."""
    yield from traceback.format_exception(error)
    cause: BaseException | None = error
    while cause is not None:
        yield f"{cause} {cause!r} {vars(cause)} {cause.args}"
        cause = cause.__cause__ or cause.__context__


def test_nothing_secret_is_ever_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """No error, traceback, repr or log record holds key material, credentials or plaintext."""
    caplog.set_level(logging.DEBUG)
    secrets = [*bench.there.secrets(), bench.kek]
    wrapped = bench.wrap()
    said = [repr(bench.provider), repr(vars(bench.provider)), repr(bench.opened(wrapped))]
    for error in _failures(bench, wrapped):
        said += _told(error)
    records = caplog.get_records("setup") + caplog.get_records("call")
    said += [f"{vars(record)} {record.getMessage()}" for record in records]
    for secret in [*secrets, *bench.there.secrets()]:
        for form in (secret.hex(), b64encode(secret).decode(), repr(secret)[2:-1]):
            assert not any(form in text for text in said)


@pytest.mark.needs(Ability.REQUEST_IDS)
def test_calls_can_be_found_in_the_services_log(bench: Bench) -> None:
    """Every answer, and every refusal, carries the KMS's own id of the call."""
    wrapped = bench.wrap()
    opened = bench.opened(wrapped)
    bench.there.disable(bench.key)
    refusal = _raised(lambda: bench.unwrap(wrapped))
    ids = {wrapped.request_id, opened.request_id, refusal.provider_request_id}
    assert len(ids) == 3
    assert all(ids)
