"""Vault's recorded error answers, on the wire: Keyfold makes one error of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pytest

from clouds.recorded import Recorded, every
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import KmsError, UnreachableError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.vault.origins import Origin
from keyfold_server.providers.vault.provider import VaultTransitProvider

_BINDING: Final = Binding("prod", "eu", bytes(16))
_WRAPPED: Final = b"vault:v1:" + b"A" * 48
_JSON: Final = {"Content-Type": "application/json"}


class Vault:
    """A server that accepts the token, and gives each other call the same answer.

    Attributes:
        reply: That answer.
    """

    def __init__(self) -> None:
        self.reply = Reply()

    def answer(self, request: Request) -> Reply:
        """Answers one request."""
        if request.path.endswith("/lookup-self"):
            return Reply(200, _JSON, b'{"data": {"ttl": 3600}}')
        return self.reply


@pytest.fixture(scope="module")
def vault() -> Vault:
    """The server."""
    return Vault()


@pytest.fixture(scope="module")
def origin(vault: Vault) -> Iterator[str]:
    """The server's origin."""
    with FaultLayer(vault.answer) as layer:
        yield layer.url


def _unwrap(origin: str) -> None:
    sections = {origin: Origin("token", token="t")}
    provider = VaultTransitProvider(origins=sections, allowed=[origin], environment={})
    key = provider.canonical(RootKey("VAULT_TRANSIT", f"{origin}/v1/transit/keys/k"))
    provider.unwrap(key, "1", _WRAPPED, _BINDING, budget=20.0)


@every("vault")
def test_a_recorded_answer_means_one_reason(vault: Vault, origin: str, answer: Recorded) -> None:
    """Each answer has the reason that it should have, and none of its text is passed on (F6)."""
    errors = answer.said.get("errors", [])
    body = json.dumps({"errors": errors}).encode()
    vault.reply = Reply(answer.said["status"], _JSON, body)
    with pytest.raises(KmsError) as raised:
        _unwrap(origin)
    assert raised.value.reason == answer.should
    assert not any(text in raised.value.message for text in errors)


def test_an_engine_that_does_not_run_is_told_as_such(vault: Vault, origin: str) -> None:
    """Only a route that does not exist is a missing engine; one without a backend may return."""
    said = 'no handler for route "transit/decrypt/k". route entry found, but backend is nil.'
    vault.reply = Reply(404, _JSON, json.dumps({"errors": [said]}).encode())
    with pytest.raises(UnreachableError, match=r"secrets engine .* is not running"):
        _unwrap(origin)
