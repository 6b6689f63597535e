"""The words of the customer's pages: every state has some, and commands hold what they should."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyfold
from keyfold import EventKind, Health, KeySpec, RegionPolicy, State, UsageCount
from keyfold.models.status import RegionStatus
from keyfold_console.pages.organizations import plain, sentences, usage
from keyfold_console.pages.organizations.providers import FORMS, form_of
from keyfold_console.pages.organizations.wanted import Wanted

ROOT: Final = Path(__file__).resolve().parents[2]
THEN: Final = datetime(2026, 11, 30, 8, tzinfo=UTC)

REGION: Final = RegionStatus(
    region="eu",
    key_spec=KeySpec("AWS_KMS", "arn:aws:kms:eu-west-1:111122223333:key/k"),
    policy=RegionPolicy(),
    state=State.ENABLED,
    state_time=THEN,
    health=Health.HEALTHY,
    health_time=THEN,
    key_version="1",
    generations=(),
    can_wrap=True,
    can_unwrap=True,
    can_describe=True,
    last_check_time=THEN,
    last_success_time=THEN,
    last_error=None,
    key_owner="ORGANIZATION",
    key_region="eu-west-1",
    notices=(),
)

_REFUSED: Final = {
    *(Health.ACCESS_DENIED, Health.KEY_DISABLED, Health.KEY_PENDING_DELETION),
    *(Health.KEY_NOT_FOUND, Health.KEY_INVALID, Health.KEK_MISMATCH),
}


@pytest.mark.parametrize("health", list(Health))
def test_every_health_has_words(health: Health) -> None:
    """A refusal is bad, an outage is not, and both say since when and what to do."""
    said = plain.condition(replace(REGION, health=health))
    expected = plain.BAD if health in _REFUSED else plain.WARN
    assert said.kind == (plain.GOOD if health is Health.HEALTHY else expected)
    assert said.word
    assert said.meaning
    assert bool(said.advice) == (health is not Health.HEALTHY)
    assert said.since == THEN


@pytest.mark.parametrize("state", [State.REVOKED, State.DELETED])
def test_what_somebody_wanted_so_is_no_fault(state: State) -> None:
    """A key that was revoked or deleted says so, whatever its KMS said before."""
    said = plain.condition(replace(REGION, state=state, health=Health.ACCESS_DENIED))
    assert said.kind == plain.QUIET
    assert plain.remedy(replace(REGION, state=state, health=Health.KEY_DISABLED)) == ""


def test_a_key_that_only_opens() -> None:
    """A key that decrypts and does not encrypt serves, and needs a look."""
    assert plain.condition(replace(REGION, can_wrap=False)).kind == plain.WARN


@pytest.mark.parametrize(
    ("key", "health", "command"),
    [
        (
            KeySpec("AZURE_KEY_VAULT", "https://acme.vault.azure.net/keys/k"),
            Health.KEY_DISABLED,
            (
                "az keyvault key set-attributes --enabled true "
                "--id https://acme.vault.azure.net/keys/k/1"
            ),
        ),
        (
            KeySpec("AZURE_KEY_VAULT", "https://acme.managedhsm.azure.net/keys/k/1"),
            Health.KEY_PENDING_DELETION,
            "az keyvault key recover --hsm-name acme --name k",
        ),
        (
            KeySpec("GCP_CLOUD_KMS", "projects/p/locations/l/keyRings/r/cryptoKeys/k"),
            Health.KEY_PENDING_DELETION,
            (
                "gcloud kms keys versions restore 1 "
                "--key projects/p/locations/l/keyRings/r/cryptoKeys/k &&\n"
                "gcloud kms keys versions enable 1 "
                "--key projects/p/locations/l/keyRings/r/cryptoKeys/k"
            ),
        ),
        (KeySpec("LOCAL", "local:k"), Health.KEY_DISABLED, ""),
    ],
)
def test_the_command_that_ends_a_refusal(key: KeySpec, health: Health, command: str) -> None:
    """It is the provider's own, for the very key and version; none is made up."""
    assert plain.remedy(replace(REGION, key_spec=key, health=health)) == command


@given(st.text(), st.text())
def test_a_command_holds_only_what_it_names(uri: str, version: str) -> None:
    """Whatever stands in a key's name, a shell that runs the command reads it as one word."""

    def words(type_: str) -> list[str]:
        key = KeySpec(type_, uri)
        region = replace(REGION, key_spec=key, key_version=version, health=Health.KEY_DISABLED)
        return shlex.split(plain.remedy(region))

    assert words("AWS_KMS")[5:] == ["--key-id", uri]
    assert words("GCP_CLOUD_KMS")[5:] == [version.rsplit("/", 1)[-1], "--key", uri]
    assert words("AZURE_KEY_VAULT")[6:] in (["--id", uri], ["--id", f"{uri}/{version}"])


def test_every_documented_action_has_a_sentence() -> None:
    """Each action of docs/events.md that concerns a customer is told in words, in each outcome."""
    text = (ROOT / "docs" / "events.md").read_text()
    actions = set(re.findall(r"`((?:rpc|server|kms|command):[a-z_]+:[a-z_]+)`", text))
    # These concern the store of all customers, or somebody's reader of events.
    own = {one for one in actions if ":store:" not in one and ":cursor:" not in one}
    assert len(own) > 25
    for action in own:
        for outcome in ("done", "validated", "ACCESS_DENIED"):
            event = keyfold.Event(
                1, "id", THEN, EventKind.DECISION, action, outcome, cluster="acme-1"
            )
            assert action not in sentences.sentence(event)
            assert sentences.kind(event) in {plain.GOOD, plain.WARN, plain.BAD, plain.QUIET}


def test_who_did_it() -> None:
    """A person's name without its issuer, the person who is spoken for, the KMS, the service."""
    event = keyfold.Event(1, "id", THEN, EventKind.DECISION, "rpc:cluster:revoke", "done")
    assert sentences.who(replace(event, caller="jwt:https://issuer#ann")) == "ann"
    assert sentences.who(replace(event, caller="dns:portal", on_behalf_of="bob")) == "bob"
    assert sentences.who(replace(event, caller="dns:portal")) == "dns:portal"
    assert sentences.who(event) == "the service"
    assert sentences.who(replace(event, action="kms:root_key:refuse")) == "your KMS"


@pytest.mark.parametrize("type_", [*FORMS, "ACME_HSM"])
def test_each_provider_has_a_form(type_: str) -> None:
    """What stands in a form's fields makes a key spec of its type, and the way back keeps it."""
    form = form_of(type_)
    assert form is not None
    given = {field.name: field.example or "x" for field in form.fields}
    wanted = Wanted.of({"type": type_, "region": " eu ", **given})
    assert wanted is not None
    assert not wanted.checked().problems
    assert wanted.spec.type == type_
    assert wanted.spec.uri == given["uri"]
    again = Wanted.of(wanted.hidden)
    assert again is not None
    assert (again.spec, again.values) == (wanted.spec, wanted.values)
    assert wanted.name.endswith("-eu")


def test_what_a_form_puts_together() -> None:
    """Azure's two ids make one principal, and Google's delegates an option."""
    azure = Wanted.of({"type": "AZURE_KEY_VAULT", "uri": "u", "tenant": "t", "client": "seat"})
    assert azure is not None
    assert azure.spec.auth_principal == "t/seat"
    half = Wanted.of({"type": "AZURE_KEY_VAULT", "uri": "u", "tenant": "t", "region": "eu"})
    assert half is not None
    assert set(half.checked().problems) == {"client"}
    google = Wanted.of({"type": "GCP_CLOUD_KMS", "uri": "u", "delegates": "a, b,"})
    assert google is not None
    assert google.spec.options == {"delegates": "a,b"}
    assert Wanted.of({"type": "PLATFORM"}) is None
    assert Wanted.of({}) is None


def test_bars_of_uses() -> None:
    """Uses stand in the span in which they were, failed ones apart, the tallest bar at 100."""
    day = timedelta(days=1)
    start = datetime(2026, 11, 30, tzinfo=UTC)

    def count(when: datetime, outcome: str, number: int) -> UsageCount:
        return UsageCount(when, "acme-1", "acme", "eu", "app", "Unwrap", outcome, number)

    counts = [
        count(start - day, "OK", 30),
        count(start - day, "ACCESS_DENIED", 10),
        count(start, "OK", 10),
        count(start - 9 * day, "OK", 99),
    ]
    first, second = usage.bars(counts, [start - day, start], day)
    assert (first.total.good, first.total.failed, first.height, first.failed) == (30, 10, 100, 25)
    assert (second.total.all, second.height, second.failed) == (10, 25, 0)
    assert dict(first.total.reasons) == {"ACCESS_DENIED": 10}
