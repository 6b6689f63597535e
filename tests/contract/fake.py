"""FAKE's row of the provider suite: the KMS in memory, which is its own adapter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from contract.counterparts import NETWORK, Ability, Counterpart, Row
from fakes import FakeProvider
from keyfold_server.domain.keyspec import RootKey


class FakeCounterpart(Counterpart):
    """The KMS in memory, which is its own adapter."""

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

    def hanging(self, which: str) -> AbstractContextManager[None]:
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


_HAS: Final = (Ability.REFUSED, Ability.HANG_AT_READ)

ROW: Final = Row(
    name="FAKE",
    make=FakeCounterpart,
    binds=frozenset({"cluster", "region", "kek_id", "organization"}),
    refused=(
        (RootKey("FAKE", "fake:"), "key_spec.uri"),
        (RootKey("FAKE", "key"), "key_spec.uri"),
        (RootKey("FAKE", "fake:key", "", (("region", "x"),)), "key_spec.options"),
    ),
    aliases=(("fake:///key", "fake:key"),),
    absent={
        Ability.FORESEE: "what it leaves open gets the cautious answer, which tests need, too",
        Ability.TRUST: "a rejected credential is enough for the tests that use it",
        Ability.WRONG_PURPOSE: "its other refusals are enough for the tests that use it",
        Ability.MATERIAL_MISSING: "its other refusals are enough for the tests that use it",
        Ability.SESSIONS: "it has no sessions",
        Ability.WRONG_CHECKSUM: "it sends nothing that could be damaged on its way",
        **{each: "it sends nothing over a network" for each in NETWORK if each not in _HAS},
    },
)
