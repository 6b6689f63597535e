"""The table of providers, one row each, and the fixtures that give a test its row.

A test that takes `provider_row` runs once for each provider. A test marked `needs(Ability…)` runs
only for the providers that have these abilities, so a test is skipped only if a row's KMS is not
installed. Each row and its counterpart are in a module of their own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from contract.counterparts import Bench, NotInstalledError, Row, without
from keyfold_server.domain.binding import Binding

_MODULES: Final = (
    "local",
    "fake",
    "aws_kms",
    "azure_key_vault",
    "gcp_kms",
    "vault_transit",
)

_FROM_PACKAGES: Final = ("acme_row", *os.environ.get("PROVIDER_ROWS", "").split())
"""Modules with rows for the providers of other packages; see examples/custom_provider."""

_FOUND: Final = [
    importlib.import_module(name)
    for name in (*(f"contract.{name}" for name in _MODULES), *_FROM_PACKAGES)
]

ROWS: Final[tuple[Row, ...]] = tuple(
    row for module in _FOUND for row in getattr(module, "ROWS", None) or (module.ROW,)
)


def pytest_configure(config: pytest.Config) -> None:
    """Declares the suite's own marker, `needs`."""
    config.addinivalue_line("markers", "needs(*abilities): only providers that have all of these")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrizes a test with its rows, and with the rows' own data if the test takes some."""
    names = set(metafunc.fixturenames)
    if "provider_row" not in names:
        return
    needed = [a for mark in metafunc.definition.iter_markers("needs") for a in mark.args]
    rows = [row for row in ROWS if row.has(*needed)]
    of: dict[str, dict[str, tuple[object, ...]]] = {
        "outage": {row.name: row.outages for row in rows},
        "hang": {row.name: row.hangs for row in rows},
        "refused": {row.name: row.refused for row in rows},
    }
    for name in of.keys() & names:
        pairs = [(row, each) for row in rows for each in of[name][row.name]]
        ids = [f"{row.name}-{_label(each)}" for row, each in pairs]
        metafunc.parametrize(("provider_row", name), pairs, ids=ids)
        return
    metafunc.parametrize("provider_row", rows, ids=[row.name for row in rows])


def _label(each: object) -> str:
    """Names a case: an outage by itself, a key spec by the beginning of its URI."""
    return f"{each[0].uri[:40]!r}" if isinstance(each, tuple) else str(each)


@pytest.fixture
def bench(provider_row: Row, tmp_path: Path) -> Iterator[Bench]:
    """A provider with its KMS, new for each test."""
    try:
        there = provider_row.make(tmp_path)
    except NotInstalledError as error:
        without(error)
    try:
        binding = Binding("cluster-1", "eu-west-1", os.urandom(16), "acme")
        yield Bench(provider_row, there, there.create_key(), binding)
    finally:
        there.close()
