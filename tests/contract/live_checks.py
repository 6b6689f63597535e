"""Checks of a real KMS beside the provider suite; `contract.live` runs them.

They are the parts of the suite's tests that need no customer's hand. Pytest does not collect this
file's name by itself, which keeps them out of the other runs.
"""

from __future__ import annotations

import contextlib
from typing import Final

import pytest

from contract.counterparts import Bench
from keyfold_server.domain.errors import UnreachableError
from lateness import in_time

_NONE: Final = 0.000001
"""Seconds that have passed before anything is sent."""

_SHORT: Final = 0.05
"""Seconds within which a KMS may answer, or not."""

_SLACK: Final = 0.5
"""Seconds beyond its budget within which a call ends, besides those the machine was late."""


def test_describe_tells_people_what_the_key_is(bench: Bench) -> None:
    """Describing a key gives a line for people."""
    assert bench.describe()


def test_the_credential_is_good(bench: Bench) -> None:
    """Authenticating as the key's principal raises no error."""
    bench.authenticate()


@pytest.mark.parametrize("budget", [_NONE, _SHORT])
def test_a_budget_ends_a_call(bench: Bench, budget: float) -> None:
    """A call ends with its budget, says nothing about the key, and spoils no later call (C4)."""
    wrapped = bench.wrap()
    for call in (
        lambda: bench.wrap(budget=budget),
        lambda: bench.unwrap(wrapped, budget=budget),
        lambda: bench.describe(budget=budget),
    ):
        with in_time(budget + _SLACK):
            if budget == _NONE:
                with pytest.raises(UnreachableError):
                    call()
            else:
                with contextlib.suppress(UnreachableError):
                    call()
    assert bench.unwrap(wrapped) == bench.payload
