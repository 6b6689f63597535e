"""The table of providers, a row each, and how a test of the provider suite gets its row.

A test that takes `provider_row` runs once for each provider; one marked `needs(Ability…)` only
for those that have these abilities, so nothing is skipped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from contract.counterparts import Ability, Bench, Counterpart, Row
from fakes import FakeProvider
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.local import LocalProvider
from keyfold_server.providers.local_keys import KeyFile


class LocalCounterpart(Counterpart):
    """A development key file."""

    def __init__(self, folder: Path) -> None:
        self._file = KeyFile(folder / "keys.json")
        self._names = (f"key-{number}" for number in itertools.count(1))
        self._file.create("bystander")
        self.provider = LocalProvider(self._file.path)

    def create_key(self) -> RootKey:
        return RootKey("LOCAL", f"local:{self._file.create(next(self._names)).name}")

    def missing_key(self) -> RootKey:
        return RootKey("LOCAL", "local:missing")

    def exists(self, key: RootKey) -> bool:
        return _name(key) in self._file.read().keys

    def new_version(self, key: RootKey) -> None:
        self._file.rotate(_name(key))

    def disable(self, key: RootKey, version: str | None = None) -> None:
        self._file.disable(_name(key), None if version is None else int(version))

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self._file.enable(_name(key), None if version is None else int(version))

    def delete(self, key: RootKey, version: str | None = None) -> None:
        self._file.destroy(_name(key), None if version is None else int(version))

    @contextmanager
    def outage(self, which: str) -> Iterator[None]:
        path = self._file.path
        whole = path.read_bytes()
        if which == "file half-written":
            path.write_bytes(whole[: len(whole) // 2])
        elif which == "file open to others":
            path.chmod(0o640)
        else:
            path.unlink()
        if which == "folder in its place":
            path.mkdir()
        yield
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(whole)

    def secrets(self) -> list[bytes]:
        keys = self._file.read().keys.values()
        return [bytes(v.material) for key in keys for v in key.versions if v.material is not None]


class FakeCounterpart(Counterpart):
    """The service in memory, which is its own adapter."""

    def __init__(self, folder: Path) -> None:
        self._fake = FakeProvider()
        self.provider = self._fake
        self._names = (f"customer.key-{number}" for number in itertools.count(1))

    def create_key(self) -> RootKey:
        return self._fake.create_key(next(self._names))

    def missing_key(self) -> RootKey:
        return RootKey("FAKE", "fake:missing")

    def exists(self, key: RootKey) -> bool:
        return key.uri in self._fake.uris()

    def new_version(self, key: RootKey) -> None:
        self._fake.new_version(key.uri)

    def disable(self, key: RootKey, version: str | None = None) -> None:
        self._fake.disable(key.uri, version)

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self._fake.enable(key.uri, version)

    def delete(self, key: RootKey, version: str | None = None) -> None:
        self._fake.delete(key.uri, version)

    def schedule_deletion(self, key: RootKey) -> None:
        self._fake.schedule_deletion(key.uri)

    def cancel_deletion(self, key: RootKey) -> None:
        self._fake.cancel_deletion(key.uri)

    def deny(self, key: RootKey, permission: str) -> None:
        self._fake.deny(key.uri, permission)

    def restore(self, key: RootKey, permission: str) -> None:
        self._fake.allow(key.uri, permission)

    def broken_credentials(self) -> AbstractContextManager[None]:
        return self._while(self._fake.break_credentials)

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        return self._while(lambda: self._fake.throttle(retry_after=hint))

    def hanging(self) -> AbstractContextManager[None]:
        return self._while(self._fake.hang)

    def outage(self, which: str) -> AbstractContextManager[None]:
        return self._while(self._fake.disconnect)

    @contextmanager
    def _while(self, start: Callable[[], object]) -> Iterator[None]:
        start()
        try:
            yield
        finally:
            self._fake.mend()

    @contextmanager
    def wrong_plaintext(self, key: RootKey) -> Iterator[None]:
        self._fake.wrong_plaintext(key.uri)
        yield
        self._fake.wrong_plaintext(key.uri, wrong=False)

    def secrets(self) -> list[bytes]:
        return self._fake.secrets()


def _name(key: RootKey) -> str:
    return key.uri.partition(":")[2]


_EVERY_FIELD: Final = frozenset({"cluster", "region", "kek_id", "organization"})

ROWS: Final = (
    Row(
        name="LOCAL",
        make=LocalCounterpart,
        binds=_EVERY_FIELD,
        outages=("file missing", "file half-written", "file open to others", "folder in its place"),
        refused=(
            (RootKey("LOCAL", "local:"), "key_spec.uri"),
            (RootKey("LOCAL", "key"), "key_spec.uri"),
            (RootKey("LOCAL", "LOCAL:key"), "key_spec.uri"),
            (RootKey("LOCAL", "local:../key"), "key_spec.uri"),
            (RootKey("LOCAL", "local:key\n"), "key_spec.uri"),
            (RootKey("LOCAL", "local:" + 129 * "k"), "key_spec.uri"),
            (RootKey("LOCAL", "local:key", "somebody"), "key_spec.auth_principal"),
            (RootKey("LOCAL", "local:key", "", (("region", "x"),)), "key_spec.options"),
        ),
        absent={
            Ability.SCHEDULE_DELETION: "a version in the file is destroyed at once",
            Ability.PERMISSIONS: "whoever can read the file can do everything with it",
            Ability.CREDENTIALS: "the file's mode is its only protection, and is an outage",
            Ability.THROTTLE: "a file has no quota",
            Ability.THROTTLE_HINT: "a file has no quota",
            Ability.HANG: "reading a small local file cannot be held up from outside",
            Ability.WRONG_ANSWER: "it answers in process, and the tag is checked there",
        },
    ),
    Row(
        name="FAKE",
        make=FakeCounterpart,
        binds=_EVERY_FIELD,
        outages=("connection refused",),
        refused=(
            (RootKey("FAKE", "fake:"), "key_spec.uri"),
            (RootKey("FAKE", "key"), "key_spec.uri"),
            (RootKey("FAKE", "fake:key", "", (("region", "x"),)), "key_spec.options"),
        ),
        aliases=(("fake:///key", "fake:key"),),
    ),
)


def pytest_configure(config: pytest.Config) -> None:
    """Declares the suite's own marker."""
    config.addinivalue_line("markers", "needs(*abilities): only providers that have all of these")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test its rows, and the row's own data where it takes some."""
    names = set(metafunc.fixturenames)
    if "provider_row" not in names:
        return
    needed = [a for mark in metafunc.definition.iter_markers("needs") for a in mark.args]
    rows = [row for row in ROWS if row.has(*needed)]
    ids = [row.name for row in rows]
    if "outage" in names:
        pairs = [(row, outage) for row in rows for outage in row.outages]
        ids = [f"{row.name}-{outage}" for row, outage in pairs]
        metafunc.parametrize(("provider_row", "outage"), pairs, ids=ids)
    elif "refused" in names:
        cases = [(row, case) for row in rows for case in row.refused]
        metafunc.parametrize(
            ("provider_row", "refused"),
            cases,
            ids=[f"{r.name}-{c[0].uri[:24]!r}" for r, c in cases],
        )
    else:
        metafunc.parametrize("provider_row", rows, ids=ids)


@pytest.fixture
def bench(provider_row: Row, tmp_path: Path) -> Iterator[Bench]:
    """The provider with its service, new for each test."""
    there = provider_row.make(tmp_path)
    binding = Binding("cluster-1", "eu-west-1", os.urandom(16), "acme")
    yield Bench(provider_row, there, there.create_key(), binding)
    there.close()
