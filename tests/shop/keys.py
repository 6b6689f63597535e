"""The shop's tenants, which each test sets."""

from __future__ import annotations

from keyfold.integrations.django import Tenants

current: list[Tenants] = []


def tenants() -> Tenants:
    """Returns the test's tenants."""
    return current[-1]
