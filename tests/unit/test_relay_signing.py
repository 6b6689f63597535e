"""The relay's signatures, held against the package of those who wrote Standard Webhooks."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from keyfold_relay import signing
from relay_receiver import OTHER, SECRET

BODY = b'{"caf\xc3\xa9": 1}'


def test_what_the_relay_signs_the_reference_accepts() -> None:
    """`standardwebhooks` verifies each signature of a request with either secret alone."""
    keys = [signing.key_of(SECRET), signing.key_of(OTHER)]
    headers = signing.signed(keys, "msg_1", int(time.time()), BODY)
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify(BODY, headers) == {"café": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 24).decode()).verify(BODY, headers)


def test_what_the_reference_signs_the_relay_accepts() -> None:
    """`keyfold-relay listen` accepts what another implementation signed."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("msg_1", now, BODY.decode())
    headers = {
        signing.ID: "msg_1",
        signing.TIMESTAMP: str(int(now.timestamp())),
        signing.SIGNATURE: f"v1a,other v1,wrong {signature}",
    }
    signing.verify([signing.key_of(SECRET)], headers, BODY, now.timestamp())


@pytest.mark.parametrize(
    ("change", "body", "later"),
    [
        ({}, b"{}", 0.0),
        ({signing.ID: "msg_2"}, BODY, 0.0),
        ({signing.SIGNATURE: ""}, BODY, 0.0),
        ({signing.SIGNATURE: "v1,"}, BODY, 0.0),
        ({signing.TIMESTAMP: "now"}, BODY, 0.0),
        ({signing.TIMESTAMP: "\u0661"}, BODY, 0.0),
        ({}, BODY, 301.0),
        ({}, BODY, -301.0),
    ],
)
def test_what_was_changed_or_is_old_is_refused(
    change: dict[str, str], body: bytes, later: float
) -> None:
    """A changed body, id or signature, and a replay after five minutes, are refused."""
    keys = [signing.key_of(SECRET)]
    headers = signing.signed(keys, "msg_1", 1_800_000_000, BODY)
    signing.verify(keys, headers, BODY, 1_800_000_000)
    with pytest.raises(signing.NotSignedError):
        signing.verify(keys, headers | change, body, 1_800_000_000 + later)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_!!!",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_a_weak_or_malformed_secret_is_refused_without_being_repeated(secret: str) -> None:
    """A secret has 24 to 64 bytes behind its prefix; the error does not show what was given."""
    with pytest.raises(signing.BadSecretError) as found:
        signing.key_of(secret)
    assert not secret.removeprefix("whsec_") or secret not in str(found.value)
