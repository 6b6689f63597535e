"""What `contract.live` knows of each KMS: the cost of calls, and the tests that cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contract import aws_kms, azure_key_vault, gcp_kms, vault_transit
from contract.counterparts import HANGS, OUTAGES, Ability, Row


@dataclass(frozen=True)
class Service:
    """A provider's entry.

    Attributes:
        type: The provider's type.
        row: The provider's row of the suite.
        calls: Paid calls to the KMS for each call to the provider, by method.
        price: Dollars for 10,000 paid calls, from the price pages of November 2026.
        besides: Other costs, in words.
    """

    type: str
    row: Row
    calls: Mapping[str, int]
    price: float
    besides: str = ""


_TWICE: Final = {"wrap": 2, "unwrap": 1, "describe": 1}
"""The provider opens at once what it wrapped."""

SERVICES: Final[Mapping[str, Service]] = {
    "aws": Service("AWS_KMS", aws_kms.ROW, _TWICE, 0.03),
    "azure": Service(
        "AZURE_KEY_VAULT",
        azure_key_vault.ROW,
        {**_TWICE, "authenticate": 1},
        0.03,
        "five times that for RSA keys of more than 2,048 bits; a Managed HSM is paid by the hour",
    ),
    "gcp": Service(
        "GCP_CLOUD_KMS", gcp_kms.ROW, {"wrap": 1, "unwrap": 1}, 0.03, "describing costs nothing"
    ),
    "vault": Service("VAULT_TRANSIT", vault_transit.ROW, {**_TWICE, "authenticate": 1}, 0.0),
}

HAND: Final = "it needs the customer's hand on the key, and a live run changes nothing"
NETWORK: Final = "it needs control of the network before the KMS"

_STAYS: Final = {Ability.AUTHENTICATE, Ability.DESCRIBE}
"""Abilities that need no customer's hand."""

_BY_NETWORK: Final = {
    Ability.THROTTLE,
    Ability.THROTTLE_HINT,
    Ability.WRONG_ANSWER,
    Ability.WRONG_CHECKSUM,
    *OUTAGES,
    *HANGS,
}

ABSENT: Final = {
    each: NETWORK if each in _BY_NETWORK else HAND for each in Ability if each not in _STAYS
}
"""The abilities that a live row lacks, with the reason."""

LEFT_OUT: Final = {
    "test_a_new_version_wraps_and_the_old_one_opens": HAND,
    "test_describe_tells_people_what_the_key_is": f"{HAND}; live_checks.py has a part of it",
    "test_a_disabled_key_refuses_until_it_is_enabled": HAND,
    "test_describing_a_disabled_key": HAND,
    "test_a_deleted_key_does_not_open": HAND,
    "test_a_missing_key_is_refused_and_not_made": "the account's policy decides how a missing "
    "key looks",
    "test_a_missing_key_is_not_described": "the account's policy decides how a missing key looks",
    "test_an_outage_is_not_a_refusal": NETWORK,
    "test_a_hang_ends_with_the_budget": f"{NETWORK}; live_checks.py has a budget that ends",
    "test_a_hang_holds_no_other_call": NETWORK,
    "test_a_key_spec_that_is_not_the_providers_is_refused": "it calls no KMS, and its key specs "
    "belong to the counterpart's settings",
    "test_the_canonical_form_is_stable_and_asks_nobody": NETWORK,
    "test_the_account_is_stable_and_asks_nobody": NETWORK,
    "test_a_family_is_of_one_key_and_asks_nobody": NETWORK,
    "test_a_tenant_is_stable_and_asks_nobody": NETWORK,
    "test_abilities_are_as_declared": "it checks rows that have outages",
    "test_nothing_secret_is_ever_said": HAND,
}
"""Tests that need more than a live row has, without a marker that says so."""
