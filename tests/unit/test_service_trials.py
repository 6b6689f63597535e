"""TestKey: tries a key step by step and stores nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callers import EVERYTHING
from keyfold_server import telemetry
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    InvalidKeySpecError,
    KekMismatchError,
    KmsError,
    OrganizationMismatchError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.domain.rights import Caller
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trial_results import Outcome, Step, TestKeyResult
from keyfold_server.service.root_keys.trials import TestKeyRequest
from replicas import House, Member, house_in

PASSED, FAILED, SKIPPED = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with nothing in its store."""
    return await house.replica()


async def trial(one: Member, uri: str, cluster: str = "acme") -> TestKeyResult:
    """Tries a key."""
    tried = await one.replica.trials.test(
        Caller(EVERYTHING),
        TestKeyRequest(KeySpec("FAKE", uri), Scope(cluster, "eu" if cluster else "", None)),
    )
    assert [t.step for t in tried.steps] == list(Step)
    assert one.line.counts["apply"] == 0
    return tried


def outcomes(tried: TestKeyResult) -> list[Outcome]:
    """Returns how each step ended."""
    return [t.outcome for t in tried.steps]


async def test_a_good_key_passes_every_step(one: Member) -> None:
    """The steps are authenticate, describe, wrap, unwrap, context; nothing is stored."""
    tried = await trial(one, "fake:one")
    assert outcomes(tried) == [PASSED] * 5
    assert tried.accessible
    assert tried.key_version == "1"
    assert tried.summary == "Keyfold can use this key: it wraps, and unwraps what it wrapped"


def kms_calls() -> dict[str, float]:
    """Returns the number of calls to the KMS so far, by outcome."""
    counted: Counter[str] = Counter()
    for family in telemetry.KMS_CALLS.collect():
        for sample in family.samples:
            if sample.name.endswith("_count") and sample.labels["provider"] == "FAKE":
                counted[sample.labels["outcome"]] += int(sample.value)
    return dict(counted)


async def test_a_good_key_counts_no_errors(one: Member) -> None:
    """That the key does not open for another cluster is what the trial is after, and no alert."""
    before = kms_calls()
    tried = await trial(one, "fake:one")
    assert tried.steps[-1].outcome is PASSED
    after = kms_calls()
    new = {name: count - before.get(name, 0) for name, count in after.items()}
    assert {name for name, count in new.items() if count} == {"OK"}


async def test_a_key_that_does_not_open_counts_its_error(house: House, one: Member) -> None:
    """A mismatch in the step UNWRAP is an error of the key, and counts as one."""
    house.provider.fail(KekMismatchError("not the same"), "fake:one", ("unwrap",))
    before = kms_calls().get("KEK_MISMATCH", 0)
    tried = await trial(one, "fake:one")
    assert tried.steps[3].outcome is FAILED
    assert kms_calls()["KEK_MISMATCH"] == before + 1


async def test_an_unknown_key_says_so(one: Member) -> None:
    """The summary is one sentence about the step that decides, with what to do."""
    tried = await trial(one, "fake:none")
    assert outcomes(tried) == [PASSED, FAILED, FAILED, SKIPPED, SKIPPED]
    assert not tried.accessible
    assert tried.summary.startswith("Keyfold cannot use this key, since the key does not wrap: ")


async def test_an_outage_is_not_told_as_a_credential_that_failed(house: House, one: Member) -> None:
    """F2a: the summary does not send its reader to renew a credential that nobody refused."""
    house.provider.disconnect()
    tried = await trial(one, "fake:one")
    assert tried.steps[0].outcome is FAILED
    assert "gave no answer that counts" in tried.summary
    assert "credential" not in tried.summary


async def test_a_key_need_not_be_described(house: House, one: Member) -> None:
    """A key that wraps and unwraps is accessible, and the summary says what is missing."""
    house.provider.deny("fake:one", "describe")
    tried = await trial(one, "fake:one")
    assert outcomes(tried) == [PASSED, FAILED, PASSED, PASSED, PASSED]
    assert tried.accessible
    assert "but not describe it" in tried.summary


async def test_an_identity_that_cannot_be_asked_for_is_told_as_such(
    house: House, one: Member
) -> None:
    """A key that works although authentication failed is described as usable."""
    away = UnreachableError("who tells identities could not be asked")
    house.provider.fail(away, None, ("authenticate",))
    tried = await trial(one, "fake:one")
    assert outcomes(tried) == [FAILED, PASSED, PASSED, PASSED, PASSED]
    assert tried.accessible
    assert "describe" not in tried.summary
    assert tried.summary.endswith("; who tells identities could not be asked")


async def test_a_key_that_only_wraps_is_not_accessible(house: House, one: Member) -> None:
    """F5: the steps show a policy that allows wrapping but not unwrapping."""
    house.provider.deny("fake:one", "unwrap")
    tried = await trial(one, "fake:one")
    assert outcomes(tried) == [PASSED, PASSED, PASSED, FAILED, SKIPPED]
    assert not tried.accessible
    error = tried.steps[3].error
    assert isinstance(error, AccessDeniedError)
    assert "does not unwrap what it wrapped" in tried.summary


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("no", missing_permission="to unwrap", while_unwrapping=True),
        UnreachableError("no", while_unwrapping=True),
    ],
)
async def test_a_wrap_that_does_not_open_fails_the_unwrap_step(
    house: House, one: Member, error: KmsError
) -> None:
    """F5: where a provider opens at once what it wraps, a denied unwrap is not a denied wrap."""
    house.provider.fail(error, "fake:one", ("wrap",))
    tried = await trial(one, "fake:one")
    assert outcomes(tried) == [PASSED, PASSED, PASSED, FAILED, SKIPPED]
    assert not tried.accessible
    assert tried.steps[2].error is None
    found = tried.steps[3].error
    assert found is not None
    assert found.reason == error.reason
    if isinstance(error, AccessDeniedError):
        assert "does not unwrap what it wrapped" in tried.summary


async def test_a_key_that_opens_to_something_else_is_not_accessible(
    house: House, one: Member
) -> None:
    """A KMS that answers success with somebody else's plaintext does not pass."""
    house.provider.wrong_plaintext("fake:two")
    tried = await trial(one, "fake:two")
    assert tried.steps[3].outcome is FAILED
    assert not tried.accessible


async def test_a_broken_credential_is_told_first(house: House, one: Member) -> None:
    """F2a: the summary does not blame the key for a fault on Keyfold's own side."""
    house.provider.break_credentials()
    tried = await trial(one, "fake:two")
    assert outcomes(tried) == [FAILED, FAILED, FAILED, SKIPPED, SKIPPED]
    assert "the KMS did not accept its credential" in tried.summary


async def test_a_principal_that_does_not_trust_keyfold_is_told_as_such(
    house: House, one: Member
) -> None:
    """F2a: Keyfold's credential is good; the customer has not let it act as the principal."""
    refusal = AccessDeniedError("the service account does not trust keyfold@vendor")
    house.provider.fail(refusal, "fake:one", ("authenticate", "describe", "wrap"))
    tried = await trial(one, "fake:one")
    assert tried.steps[0].outcome is FAILED
    why = "since the KMS does not let Keyfold act as the key's principal: the service account"
    assert why in tried.summary


async def test_without_a_cluster_nothing_is_bound(one: Member) -> None:
    """TestKey without a cluster binds nothing and says that it did not try the context."""
    tried = await trial(one, "fake:one", cluster="")
    assert tried.steps[4].outcome is SKIPPED
    assert tried.steps[4].message.startswith("not tried")
    assert tried.accessible


async def test_a_cluster_that_is_there_has_its_own_organization(house: House, one: Member) -> None:
    """C5: a trial for a cluster is bound as its KEKs, even if the request names no organization."""
    await one.enable(organization="org")
    spec, calls = KeySpec("FAKE", "fake:one"), house.provider.calls
    calls.clear()
    await one.replica.trials.test(
        Caller(EVERYTHING), TestKeyRequest(spec, Scope("acme", "eu", None))
    )
    assert {c.binding.organization for c in calls if c.binding is not None} == {"org"}
    with pytest.raises(OrganizationMismatchError):
        await one.replica.trials.test(
            Caller(EVERYTHING), TestKeyRequest(spec, Scope("acme", "eu", "other"))
        )


async def test_what_does_not_bind_its_context_is_still_bound_by_the_digest(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: if the KMS opens for any context, Keyfold's own digest refuses."""
    unwrap = house.provider.unwrap
    bound: list[Binding] = []

    def any_context(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        bound.append(binding)
        return unwrap(key, key_version, ciphertext, bound[0], budget=budget)

    monkeypatch.setattr(house.provider, "unwrap", any_context)
    tried = await trial(one, "fake:one")
    assert tried.steps[4].outcome is PASSED
    assert tried.steps[4].message.startswith("Keyfold's own digest")
    assert bound[0] != bound[1]


async def test_an_outage_in_the_last_step_does_not_pass(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KMS that could not be asked does not count as a yes."""
    unwrap, calls = house.provider.unwrap, 0

    def once(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        nonlocal calls
        calls += 1
        if calls > 1:
            house.provider.disconnect()
        return unwrap(key, key_version, ciphertext, binding, budget=budget)

    monkeypatch.setattr(house.provider, "unwrap", once)
    tried = await trial(one, "fake:one")
    assert tried.steps[4].outcome is FAILED
    assert not tried.accessible


async def test_a_spec_that_cannot_be_right_is_refused(one: Member) -> None:
    """Bad input is an error, not an answer."""
    with pytest.raises(InvalidKeySpecError):
        await trial(one, "nonsense")
