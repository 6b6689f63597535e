"""The catalog of providers: made once, on first use, each by itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fakes import FakeProvider
from keyfold_server.domain.errors import SetupError, UnknownProviderError
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers import catalog as catalog_module
from keyfold_server.providers.catalog import Catalog, maker, third_party, type_of
from keyfold_server.providers.local.provider import LocalProvider


def test_a_provider_is_made_once_on_first_use() -> None:
    """Sixteen first callers at once get one and the same provider; nobody else's is made."""
    made: list[KeyProvider] = []
    start = threading.Barrier(16)

    def make() -> KeyProvider:
        made.append(FakeProvider())
        return made[-1]

    def ask(_: int) -> KeyProvider:
        start.wait(timeout=10)
        return catalog.provider("FAKE")

    catalog = Catalog({"FAKE": make, "OTHER": FakeProvider})
    assert not made
    with ThreadPoolExecutor(16) as pool:
        assert set(map(id, pool.map(ask, range(16)))) == {id(catalog.provider("FAKE"))}
    assert len(made) == 1


def test_one_provider_in_the_making_holds_up_no_other() -> None:
    """A slow import of one SDK does not delay calls to another provider."""
    release = threading.Event()

    def slow() -> KeyProvider:
        assert release.wait(timeout=10)
        return FakeProvider()

    catalog = Catalog({"SLOW": slow, "FAKE": FakeProvider})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(catalog.provider, "SLOW")
        assert isinstance(catalog.provider("FAKE"), FakeProvider)
        release.set()
        assert isinstance(waiting.result(timeout=10), FakeProvider)


def test_an_unknown_type_lists_those_that_exist() -> None:
    """A typing error is answered with the types to choose from, and the field."""
    catalog = Catalog({"B": FakeProvider, "A": FakeProvider})
    assert catalog.types() == ("A", "B")
    with pytest.raises(UnknownProviderError, match="A, B") as raised:
        catalog.provider("C")
    assert raised.value.field == "key_spec.type"


def test_a_missing_package_breaks_its_own_provider_only() -> None:
    """Where an SDK is not installed, its type says so, and the others serve; it is tried anew."""
    attempts: list[int] = []

    def missing() -> KeyProvider:
        attempts.append(1)
        raise ModuleNotFoundError("no", name="the_sdk")

    catalog = Catalog({"MISSING": missing, "FAKE": FakeProvider})
    for _ in range(2):
        with pytest.raises(UnknownProviderError, match="the_sdk"):
            catalog.provider("MISSING")
    assert len(attempts) == 2
    assert isinstance(catalog.provider("FAKE"), FakeProvider)


def test_the_table_makes_its_providers(tmp_path: Path) -> None:
    """Every type of the table names a class that exists."""
    catalog = Catalog({"LOCAL": maker("LOCAL", tmp_path / "keys.json")})
    assert isinstance(catalog.provider("LOCAL"), LocalProvider)


def test_a_uri_tells_its_type() -> None:
    """The platform key's setting is a uri alone; one that fits nothing is refused."""
    assert type_of("local:key") == "LOCAL"
    for uri in ("", "key", "LOCAL:key", "other:key"):
        with pytest.raises(UnknownProviderError, match="local:"):
            type_of(uri)


def test_a_package_adds_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed entry point is a type by its name, loaded with its first use."""
    points = [EntryPoint("EXTRA", "fakes:FakeProvider", catalog_module.ENTRY_POINTS)]
    monkeypatch.setattr(catalog_module, "entry_points", lambda group: points)
    catalog = Catalog(third_party())
    assert catalog.types() == ("EXTRA",)
    assert isinstance(catalog.provider("EXTRA"), FakeProvider)


@pytest.mark.parametrize("taken", ["LOCAL", "PLATFORM", "EXTRA"])
def test_a_package_takes_no_type_that_is_taken(monkeypatch: pytest.MonkeyPatch, taken: str) -> None:
    """No package comes between a server and its own provider, or another package's."""
    points = [
        EntryPoint(n, "fakes:FakeProvider", catalog_module.ENTRY_POINTS) for n in ("EXTRA", taken)
    ]
    monkeypatch.setattr(catalog_module, "entry_points", lambda group: points)
    with pytest.raises(SetupError, match=taken):
        third_party()
