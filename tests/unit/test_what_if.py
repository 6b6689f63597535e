"""What stops if a customer takes a key, or a right to it, away: the rule, each provider's facts.

`tests/integration/test_what_if.py` compares both with what the counterparts really do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsError,
    RefusedError,
)
from keyfold_server.domain.key_usage import KeyUse
from keyfold_server.domain.keyspec import RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.what_if import (
    SLACK,
    Foreseen,
    Foresees,
    KeyImpact,
    Reach,
    Supposition,
    WhatIf,
    When,
    cautious,
    impact,
)
from keyfold_server.providers.aws.foresight import Foresight as Aws
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.providers.azure.foresight import Foresight as Azure
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider
from keyfold_server.providers.gcp.foresight import Foresight as Gcp
from keyfold_server.providers.gcp.provider import GcpKmsProvider
from keyfold_server.providers.local.foresight import Foresight as Local
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.providers.shared.lease import LONGEST
from keyfold_server.providers.vault.foresight import Foresight as Vault
from keyfold_server.providers.vault.provider import VaultTransitProvider

USE: Final = KeyUse(
    cluster="acme",
    cluster_uid=b"u" * 16,
    organization=None,
    region="eu",
    state=State.ENABLED,
    policy=RegionPolicy(),
    generation=2,
    kek_id=b"k" * 16,
    retired=False,
    newest=True,
    rechecked=True,
    wrap=1,
    key_type="LOCAL",
    uri="local:one",
    key_version="1",
    principal="",
    created_at=1,
    superseded_at=None,
)
"""The newest generation of an enabled region."""

OLD: Final = replace(USE, generation=1, newest=False)
RETIRED: Final = replace(OLD, retired=True)

DISABLED: Final = Foreseen("it is disabled", KeyDisabledError, KeyDisabledError)


def stopped(found: KeyImpact) -> str:
    """Names what stops, by initials."""
    parts = {"w": found.stops_wrap, "u": found.stops_unwrap, "r": found.stops_rotation}
    return "".join(letter for letter, stops in parts.items() if stops)


@pytest.mark.parametrize(("use", "stops"), [(USE, "wur"), (OLD, "ur"), (RETIRED, "r")])
def test_what_a_refusal_stops(use: KeyUse, stops: str) -> None:
    """The newest generation wraps, those in use unwrap, and a rotation moves every one."""
    found = impact(use, DISABLED, 60, 900)
    assert stopped(found) == stops
    assert (found.when, found.error) == (When.AT_ONCE, KeyDisabledError)


def test_a_refusal_gives_no_grace() -> None:
    """F2: whoever does not recheck sees the refusal within the TTL, whatever the grace."""
    assert impact(USE, DISABLED, 60, 86_400).stops_within == 60 + SLACK
    assert impact(USE, DISABLED, 0, 86_400).stops_within == 0


def test_an_answer_that_tells_nothing_gives_all_grace() -> None:
    """F1: what says nothing about the key lets keys in memory serve on, whatever a Recheck asks."""
    unclear = Foreseen("who knows", CredentialsFailedError, CredentialsFailedError, later=600)
    found = impact(USE, unclear, 60, 900)
    assert (found.when, found.stops_within) == (When.AFTER_TTL, 600 + 60 + 900 + SLACK)
    assert impact(USE, unclear, 0, 900).stops_within == 600, "at TTL 0 there is no grace"


def test_a_session_outlives_its_principal() -> None:
    """F2a: withdrawn trust shows with the next login, so a Recheck may come too early."""
    found = impact(USE, Foreseen("no trust", AccessDeniedError, later=600), 60, 900)
    assert (found.when, found.stops_within) == (When.AFTER_TTL, 600 + 60 + SLACK)


def test_recheck_asks_about_the_newest_generation() -> None:
    """An old generation under another version stops with its own proof, unless there is no TTL."""
    apart = replace(OLD, rechecked=False)
    assert impact(apart, DISABLED, 60, 0).when is When.AFTER_TTL
    assert impact(apart, DISABLED, 0, 0).when is When.AT_ONCE
    assert impact(replace(apart, retired=True), DISABLED, 60, 0).when is When.AT_ONCE


@pytest.mark.parametrize("use", [USE, OLD, RETIRED])
def test_a_key_that_only_opens_stops_rotations(use: KeyUse) -> None:
    """F5: without the permission to wrap, data keys stay usable and rotations fail."""
    found = impact(use, Foreseen("no Encrypt", wrap=AccessDeniedError), 60, 900)
    assert (stopped(found), found.when, found.stops_within) == ("r", When.AT_ONCE, 0)
    assert "to another key" in found.because


def test_history_stops_nothing() -> None:
    """C6: a superseded wrap is needed by backups alone."""
    found = impact(replace(USE, superseded_at=2), DISABLED, 60, 900)
    assert (found.when, found.error) == (When.NEVER, None)
    assert "backups" in found.because


@pytest.mark.parametrize(
    ("state", "word"), [(State.REVOKED, "; Restore"), (State.DELETED, "after an Undelete")]
)
def test_a_region_out_of_service_stops_nothing_now(state: State, word: str) -> None:
    """What nobody may use does not stop, but its way back does."""
    found = impact(replace(USE, state=state), DISABLED, 60, 900)
    assert not found.stops
    assert word in found.because
    gone = Foreseen("no trust", AccessDeniedError, later=600)
    assert "fails after 600 seconds" in impact(replace(USE, state=state), gone, 60, 900).because
    forever = impact(replace(USE, state=state), replace(DISABLED, final=True), 60, 900)
    assert "for ever" in forever.because


def test_what_does_not_come_back_by_itself() -> None:
    """A key that stays disabled needs a person, and one that is gone does not come back."""
    for foreseen in (replace(DISABLED, needs="enable it"), replace(DISABLED, final=True)):
        assert not impact(USE, foreseen, 60, 900).resumes
    assert impact(USE, DISABLED, 60, 900).resumes


_ERRORS: Final = st.sampled_from(
    (None, KeyDisabledError, KeyInvalidError, AccessDeniedError, CredentialsFailedError)
)


@given(
    use=st.builds(
        replace,
        st.sampled_from((USE, OLD, RETIRED)),
        state=st.sampled_from(State),
        superseded_at=st.sampled_from((None, 2)),
        rechecked=st.booleans(),
    ),
    unwrap=_ERRORS,
    wrap=_ERRORS,
    later=st.sampled_from((0.0, 600.0)),
    final=st.booleans(),
    ttl=st.floats(0, 900),
    grace=st.floats(0, 86_400),
)
def test_an_impact_never_contradicts_itself(
    *,
    use: KeyUse,
    unwrap: type[KmsError] | None,
    wrap: type[KmsError] | None,
    later: float,
    final: bool,
    ttl: float,
    grace: float,
) -> None:
    """What stops has a time, a reason and an error, and what stops Wrap stops all else."""
    found = impact(use, Foreseen("so it is", unwrap, wrap, later, "", final), ttl, grace)
    assert found.because
    assert found.stops == bool(stopped(found)) == (found.error is not None)
    assert stopped(found) in ("", "r", "ur", "wur")
    assert found.resumes or found.stops
    if found.when is not When.AFTER_TTL:
        assert not later or not found.stops


# The facts of each provider


ARN: Final = "arn:aws:kms:{}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
ROLE: Final = "arn:aws:iam::111122223333:role/keyfold"
V: Final = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210")
AZURE_URI: Final = "https://v-1.vault.azure.net/keys/k"

KEYS: Final[dict[type[Foresees], tuple[RootKey, str]]] = {
    Aws: (RootKey("AWS_KMS", ARN.format("eu-west-1"), ROLE), "material"),
    Azure: (RootKey("AZURE_KEY_VAULT", AZURE_URI, f"{V[0]}/{V[1]}"), V[0]),
    Gcp: (
        RootKey("GCP_CLOUD_KMS", "projects/p/k", "a@p.iam.gserviceaccount.com"),
        "projects/p/k/v/2",
    ),
    Vault: (RootKey("VAULT_TRANSIT", "https://h/v1/transit/keys/k", "auth/approle/role/r"), "2"),
    Local: (RootKey("LOCAL", "local:k"), "2"),
}


@pytest.mark.parametrize("foresight", KEYS)
@pytest.mark.parametrize("what", WhatIf)
def test_each_provider_foresees_each_action(foresight: type[Foresees], what: WhatIf) -> None:
    """A row never lacks a reason, and a disabled or deleted key opens nothing."""
    key, version = KEYS[foresight]
    found = foresight().foreseen(Supposition(what, key.uri), key, version)
    assert found.because
    if what in (WhatIf.DISABLE, WhatIf.DELETE):
        assert found.unwrap is not None
        assert issubclass(found.unwrap, RefusedError)
    if what is WhatIf.REMOVE_DESCRIBE_PERMISSION:
        assert (found.unwrap, found.wrap) == (None, None)


def test_the_providers_have_the_ability() -> None:
    """The service finds it with isinstance."""
    for provider in (
        AwsKmsProvider,
        AzureKeyVaultProvider,
        GcpKmsProvider,
        LocalProvider,
        VaultTransitProvider,
    ):
        assert issubclass(provider, Foresees)


def test_aws_keeps_replicas_apart() -> None:
    """A disabled replica leaves the others, but a role that is gone is gone everywhere."""
    key, version = KEYS[Aws]
    elsewhere = ARN.format("us-west-2")
    for what in WhatIf:
        found = Aws().foreseen(Supposition(what, elsewhere), key, version)
        assert (found.unwrap is not None) == (what is WhatIf.REMOVE_PRINCIPAL), what
    own = replace(key, principal="")
    found = Aws().foreseen(Supposition(WhatIf.REMOVE_PRINCIPAL, elsewhere), own, version)
    assert found.unwrap is None, "the server's own identity loses a right to one replica only"
    everywhere = Aws().foreseen(Supposition(WhatIf.DISABLE), key, version)
    assert everywhere.unwrap is KeyDisabledError


def test_azure_disables_versions() -> None:
    """A version is named by itself or by a uri that pins it; without one, all are meant."""
    key, version = KEYS[Azure]
    foreseen = Azure().foreseen

    def disabling(uri: str = AZURE_URI, of: str = "") -> type[KmsError] | None:
        return foreseen(Supposition(WhatIf.DISABLE, uri, of), key, version).unwrap

    assert disabling() is disabling(of=V[0]) is disabling(f"{AZURE_URI}/{V[0]}") is KeyDisabledError
    assert disabling(of=V[1]) is disabling(f"{AZURE_URI}/{V[1]}") is None
    deleted = foreseen(Supposition(WhatIf.DELETE, f"{AZURE_URI}/{V[1]}"), key, version)
    assert deleted.unwrap is KeyPendingDeletionError, "a key is deleted with all its versions"


def test_vault_stops_versions_from_the_oldest_on() -> None:
    """A minimum version stops a version with all that are older, compared as numbers."""
    key, _ = KEYS[Vault]
    for version, opens in (("2", False), ("9", False), ("10", True)):
        found = Vault().foreseen(Supposition(WhatIf.DISABLE, key.uri, "9"), key, version)
        assert (found.unwrap is None) == opens
    assert Vault().reach(WhatIf.DISABLE) is Reach.AND_OLDER
    trimmed = Vault().foreseen(Supposition(WhatIf.DELETE, key.uri, "9"), key, "9")
    assert (trimmed.unwrap, trimmed.final) == (KeyNotFoundError, True)


def test_a_vault_role_that_is_gone_is_no_refusal() -> None:
    """F2a: Vault answers as to a wrong credential, so keys serve on, and the row says so."""
    key, version = KEYS[Vault]
    found = Vault().foreseen(Supposition(WhatIf.REMOVE_PRINCIPAL), key, version)
    assert found.unwrap is CredentialsFailedError
    assert found.later == LONGEST
    assert "permission to decrypt" in found.because


@pytest.mark.parametrize("foresight", [Gcp, Local])
def test_versions_go_alone(foresight: type[Foresees]) -> None:
    """One version that is disabled leaves the others."""
    key, version = KEYS[foresight]
    for what in (WhatIf.DISABLE, WhatIf.DELETE):
        assert foresight().reach(what) is Reach.VERSION
        other = foresight().foreseen(Supposition(what, key.uri, "other"), key, version)
        same = foresight().foreseen(Supposition(what, key.uri, version), key, version)
        assert (other.unwrap, same.unwrap is not None) == (None, True)


def test_google_numbers_versions() -> None:
    """A caller may write a version's number in place of its whole name."""
    key, version = KEYS[Gcp]
    for short, opens in (("2", False), ("12", True), ("1", True)):
        found = Gcp().foreseen(Supposition(WhatIf.DISABLE, key.uri, short), key, version)
        assert (found.unwrap is None) == opens, short


@pytest.mark.parametrize("foresight", [Aws, Azure, Gcp])
def test_the_servers_own_identity_has_no_session_to_outlive(foresight: type[Foresees]) -> None:
    """Without a principal of the customer's, only the key's policy can let Keyfold in."""
    key, version = KEYS[foresight]
    foreseen = foresight().foreseen
    supposed = Supposition(WhatIf.REMOVE_PRINCIPAL)
    assert foreseen(supposed, key, version).later == LONGEST
    own = foreseen(supposed, replace(key, principal=""), version)
    assert (own.unwrap, own.later) == (AccessDeniedError, 0)


@pytest.mark.parametrize("what", WhatIf)
def test_of_an_unknown_kms_expect_the_worst(what: WhatIf) -> None:
    """A provider that foresees nothing gets a warning for every action, and no all-clear."""
    assert impact(USE, cautious(Supposition(what)), 60, 900).stops
