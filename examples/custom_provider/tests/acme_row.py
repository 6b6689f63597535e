"""ACME_KMS's row of Keyfold's provider suite, and its counterpart: Acme KMS in this process."""

from __future__ import annotations

import itertools
import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from acme_service import PATH, AcmeKms, Key, Version
from certificates import authority, loopback_tls
from contract.counterparts import DRIP, Ability, Counterpart, Deviation, Row
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.catalog import installed
from keyfold_server.providers.shared.entry import Setup

TYPE: Final = "ACME_KMS"


class AcmeCounterpart(Counterpart):
    """Acme KMS, with the customer's hand on it; the provider comes from the installed entry."""

    def __init__(self, folder: Path) -> None:
        self.service = AcmeKms()
        self.layer = FaultLayer(self.service.answer, loopback_tls("trusted"))
        self._names = (f"key-{number}" for number in itertools.count(1))
        (folder / "token").write_text(self.service.token)
        (folder / "ca.pem").write_bytes(authority("trusted").pem)
        self.table = {
            "origin": self.layer.url,
            "token_file": str(folder / "token"),
            "ca": str(folder / "ca.pem"),
        }
        self.provider = installed()[TYPE].make(Setup(self.table))

    # The customer's keys.

    def create_key(self) -> RootKey:
        return self._new(Key())

    def missing_key(self) -> RootKey:
        return RootKey(TYPE, f"{self.layer.url}{PATH}missing")

    def unusable_key(self, why: Ability) -> RootKey:
        return self._new(Key(encrypts=False))

    def exists(self, key: RootKey) -> bool:
        return _name(key) in self.service.keys

    def new_version(self, key: RootKey) -> None:
        self._key(key).versions.append(Version())

    def disable(self, key: RootKey, version: str | None = None) -> None:
        self._enable(key, version, enabled=False)

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self._enable(key, version, enabled=True)

    def delete(self, key: RootKey, version: str | None = None) -> None:
        if version is None:
            del self.service.keys[_name(key)]
        else:
            self._key(key).versions[int(version) - 1].destroyed = True

    def schedule_deletion(self, key: RootKey) -> None:
        self._key(key).pending = True

    def cancel_deletion(self, key: RootKey) -> None:
        found = self._key(key)
        found.pending, found.enabled = False, False

    def deny(self, key: RootKey, permission: str) -> None:
        self._key(key).denied.add(permission)

    def restore(self, key: RootKey, permission: str) -> None:
        self._key(key).denied.discard(permission)

    def _new(self, key: Key) -> RootKey:
        name = next(self._names)
        self.service.keys[name] = key
        return RootKey(TYPE, f"{self.layer.url}{PATH}{name}")

    def _key(self, key: RootKey) -> Key:
        return self.service.keys[_name(key)]

    def _enable(self, key: RootKey, version: str | None, *, enabled: bool) -> None:
        found = self._key(key)
        if version is None:
            found.enabled = enabled
        else:
            found.versions[int(version) - 1].enabled = enabled

    # Faults.

    @contextmanager
    def broken_credentials(self) -> Iterator[None]:
        self.service.accepts_token = False
        try:
            yield
        finally:
            self.service.accepts_token = True

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        headers = {} if hint is None else {"Retry-After": f"{hint:.0f}"}
        return self.layer.answering(Reply(429, headers, b'{"error": "too_many_requests"}'))

    def outage(self, which: str) -> AbstractContextManager[None]:
        garbage = Reply(200, {"Content-Type": "text/html"}, b"<html>")
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            Ability.REFUSED: self.layer.refusing,
            Ability.RESET: self.layer.resetting,
            Ability.TLS_FAILURE: lambda: self.layer.distrusted(loopback_tls("stranger")),
            Ability.SERVER_ERROR: lambda: self.layer.answering(Reply(503)),
            Ability.GARBAGE: lambda: self.layer.answering(garbage),
            Ability.TOO_LARGE: lambda: self.layer.answering(replace(garbage, body=b"{" * 2**21)),
            _PROXY: lambda: self.layer.answering(Reply(404, {}, b"<html>not found")),
        }
        return ways[which]()

    def hanging(self, which: str) -> AbstractContextManager[None]:
        if which == Ability.DRIPPING:
            return self.layer.dripping(DRIP)
        if which == Ability.HANG_AT_CONNECT:
            return self.layer.hanging_at_connect()
        return self.layer.hanging_at_read()

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        def changed(request: Request) -> Reply:
            reply = self.service.answer(request)
            if not request.path.endswith(f"{_name(key)}:unwrap"):
                return reply
            wrong = {"plaintext": b64encode(os.urandom(65)).decode()}
            return replace(reply, body=json.dumps(wrong).encode())

        return self.layer.instead(changed)

    def secrets(self) -> list[bytes]:
        keys = self.service.keys.values()
        material = [version.material for key in keys for version in key.versions]
        return [self.service.token.encode(), *material]

    def close(self) -> None:
        self.layer.close()


def _name(key: RootKey) -> str:
    return key.uri.rpartition("/")[2]


_PROXY: Final = "the page of a proxy"
_ELSEWHERE: Final = "https://kms.example:8443/acme/v1/keys/app"
_STATIC: Final = "there is one token for all keys, and it is not exchanged for anything"

ROW: Final = Row(
    name=TYPE,
    make=AcmeCounterpart,
    binds=frozenset({"cluster", "region", "kek_id", "organization"}),
    refused=(
        (RootKey(TYPE, "app"), "key_spec.uri"),
        (RootKey(TYPE, "acme/v1/keys/app"), "key_spec.uri"),
        (RootKey(TYPE, _ELSEWHERE), "key_spec.uri"),
        (RootKey(TYPE, _ELSEWHERE.replace("https", "http")), "key_spec.uri"),
        (RootKey(TYPE, f"{_ELSEWHERE}/1"), "key_spec.uri"),
        (RootKey(TYPE, _ELSEWHERE, "somebody"), "key_spec.auth_principal"),
        (RootKey(TYPE, _ELSEWHERE, "", (("region", "x"),)), "key_spec.options"),
    ),
    further_outages=(_PROXY,),
    absent={
        Ability.FORESEE: "a provider need not; Keyfold then expects a refusal",
        Ability.TRUST: _STATIC,
        Ability.SESSIONS: _STATIC,
        Ability.MATERIAL_MISSING: "its keys are not imported",
        Ability.WRONG_CHECKSUM: "its answers carry no checksums",
    },
    deviations={
        Deviation.WRAP_NEEDS_UNWRAP: "the adapter opens at once what it wrapped",
    },
)
