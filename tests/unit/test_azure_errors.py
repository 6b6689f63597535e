"""What each answer of Azure means, in the words in which Azure gives them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from counterparts.azure_errors import errors, render
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.providers.azure.errors import (
    WITHDRAWN,
    action,
    login_codes,
    login_failure,
    refusal,
)
from keyfold_server.providers.azure.replies import Reply, parsed

_KEY: Final = "https://v-1.vault.azure.net/keys/k"
_ID: Final = {"x-ms-request-id": "0f9e-1"}


def _seen(name: str, **headers: str) -> Reply:
    """Returns the counterpart's answer of this name; its file says where it was seen."""
    status, body = render(name, {"operation": "unwrapkey", "name": "k"})
    return Reply(status, {**_ID, **headers}, body)


def _made(status: int, code: str = "", inner: str = "", text: str = "", **spelt: Any) -> Reply:
    error: dict[str, Any] = {"code": code, "message": text, **spelt}
    if inner:
        error["innererror"] = {"code": inner}
    return Reply(status, _ID, {"error": error})


_POLICY: Final = (
    "The user, group or application 'appid=..;oid=..' does not have keys unwrap key permission on "
    "key vault 'firewall;location=westeurope'."
)


def _named(vault: str, key: str) -> Reply:
    """Returns the denial of a vault and a key with these names."""
    status, body = render("ForbiddenByRbac", {"vault": vault, "name": key})
    return Reply(status, _ID, body)


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (_seen("KeyDisabled"), KeyDisabledError),
        (_seen("KeyExpired"), KeyInvalidError),
        (_seen("KeyNotYetValid"), KeyInvalidError),
        (_seen("KeyOperationForbidden"), KeyInvalidError),
        (_seen("ForbiddenByRbac"), AccessDeniedError),
        (_seen("AccessDenied"), AccessDeniedError),
        (_made(403, "Forbidden", "ForbiddenByPolicy"), AccessDeniedError),
        (_made(403, "Forbidden", "SomethingNew"), UnreachableError),
        (_made(403, "Forbidden", "SomethingNew", _POLICY), UnreachableError),
        (_made(403, "AccessDenied", "SomethingNew"), UnreachableError),
        (_made(403, "Forbidden", "", "hunter2"), UnreachableError),
        (_made(403, "Forbidden", "", _POLICY), AccessDeniedError),
        (_made(403, "Forbidden", "AccessDenied", _POLICY), AccessDeniedError),
        (_seen("ForbiddenByNsp"), UnreachableError),
        (
            _made(403, "Forbidden", "AccessDenied", "Connection is not an approved private link"),
            UnreachableError,
        ),
        (_named("firewall-rules", "private-link"), AccessDeniedError),
        (_made(403, "Forbidden", innerError={"code": "KeyDisabled"}), KeyDisabledError),
        (
            _made(403, "Forbidden", "", "Operation is not allowed on a disabled key."),
            KeyDisabledError,
        ),
        (_made(403, "Forbidden", "New", "not allowed on an expired key."), KeyInvalidError),
        (_seen("ForbiddenByFirewall"), UnreachableError),
        (_seen("ForbiddenByConnection"), UnreachableError),
        (_made(403), UnreachableError),
        (Reply(403, _ID), UnreachableError),
        (Reply(403, _ID, {"error": "denied"}), UnreachableError),
        (_seen("KeyNotFound"), KeyNotFoundError),
        (_made(404, "ResourceNotFound"), UnreachableError),
        (Reply(404, _ID), UnreachableError),
        (_seen("OaepPadding"), KekMismatchError),
        (_seen("NotAuthentic"), KekMismatchError),
        (_seen("MissingApiVersion"), UnreachableError),
        (Reply(400, _ID), UnreachableError),
        (_seen("Throttled"), ThrottledError),
        (_seen("InternalServerError"), UnreachableError),
        (_seen("ServiceUnavailable"), UnreachableError),
        (_seen("TokenExpired"), CredentialsFailedError),
        (_seen("AKV10032"), CredentialsFailedError),
        (_made(409, "Conflict"), UnreachableError),
        (Reply(307, _ID), UnreachableError),
    ],
)
def test_an_answer_means_what_the_table_says(reply: Reply, meaning: type[KmsError]) -> None:
    """Only Azure's own words about a key or a right refuse; all else could not tell (F2a, F6)."""
    found = refusal(reply, "unwrapkey", _KEY, hsm=False)
    assert type(found) is meaning
    assert found.provider_request_id == "0f9e-1"
    assert "\r" not in found.message


def test_before_anything_is_stored_it_is_the_key_that_does_not_fit() -> None:
    """A bad parameter means KEY_INVALID when wrapping: nothing stored could be at fault."""
    for operation in ("wrapkey", "encrypt"):
        found = refusal(_seen("BadParameter"), operation, _KEY, hsm=operation == "encrypt")
        assert type(found) is KeyInvalidError


@pytest.mark.parametrize(
    ("operation", "hsm", "permission"),
    [
        ("wrapkey", False, "Microsoft.KeyVault/vaults/keys/wrap/action"),
        ("unwrapkey", False, "Microsoft.KeyVault/vaults/keys/unwrap/action"),
        ("get", False, "Microsoft.KeyVault/vaults/keys/read"),
        ("encrypt", True, "Microsoft.KeyVault/managedHsm/keys/encrypt/action"),
        ("decrypt", True, "Microsoft.KeyVault/managedHsm/keys/decrypt/action"),
        ("get", True, "Microsoft.KeyVault/managedHsm/keys/read/action"),
    ],
)
def test_the_missing_permission_is_named(operation: str, permission: str, *, hsm: bool) -> None:
    """A denial tells the data action that must be granted, whether Azure names it or not."""
    silent = _made(403, "Forbidden", "ForbiddenByRbac", "no")
    for answer in (_seen("AccessDenied"), silent):
        found = refusal(answer, operation, _KEY, hsm=hsm)
        assert found.missing_permission == permission == action(operation, hsm=hsm)
        assert permission in found.message


@pytest.mark.parametrize(
    ("hint", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", None), ("-1", None), ("9" * 9, None)]
)
def test_a_hint_is_taken_over_only_if_it_is_one(hint: str, seconds: float | None) -> None:
    """Retry-After in seconds reaches the caller; anything else is no hint."""
    reply = _seen("Throttled", **{"Retry-After": hint})
    assert refusal(reply, "wrapkey", _KEY, hsm=False).retry_after == seconds


def test_azures_own_text_is_not_passed_on() -> None:
    """An answer may repeat what was sent; of it only known words and an id are kept."""
    reply = Reply(
        403,
        {"x-ms-request-id": "<script>"},
        {"error": {"code": "Forbidden", "message": "hunter2", "innererror": {"code": "hunter2 "}}},
    )
    found = refusal(reply, "unwrapkey", _KEY, hsm=False)
    assert "hunter2" not in f"{found.message}{vars(found)}"
    assert found.provider_request_id == ""


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_empty(body: bytes) -> None:
    """Reading a body never raises, however deep or broken it is."""
    assert parsed(body) == {}


# Entra.


@pytest.mark.parametrize("name", [name for name in errors() if name.startswith("AADSTS")])
def test_entras_refusals_are_no_refusals_of_a_key(name: str) -> None:
    """Whatever Entra refuses is Keyfold's own fault, except withdrawn trust (F2a)."""
    reply, number = _seen(name), int(name.removeprefix("AADSTS"))
    assert login_codes(reply) == (number,)
    found = login_failure(reply, "the server")
    assert type(found) is CredentialsFailedError
    assert f"AADSTS{number}" in found.message
    assert (number in WITHDRAWN) == (number in (90002, 700016, 7000112, 7000229))


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (Reply(429, {**_ID, "Retry-After": "3"}), ThrottledError),
        (Reply(500, _ID, {"error": "server_error"}), UnreachableError),
        (Reply(503, _ID), UnreachableError),
        (Reply(400, _ID), UnreachableError),
        (
            Reply(400, _ID, {"error": "temporarily_unavailable", "error_codes": [90033]}),
            UnreachableError,
        ),
        (_seen("IdentityNotFound"), CredentialsFailedError),
        (_seen("IdentityHeader"), CredentialsFailedError),
    ],
)
def test_a_login_that_failed_otherwise(reply: Reply, meaning: type[KmsError]) -> None:
    """Throttling, outages and unusable answers do not pass for a bad credential."""
    assert type(login_failure(reply, "the server")) is meaning


def test_only_the_first_number_in_a_text_counts() -> None:
    """Later numbers do not count: the text after Entra's own words may repeat what was sent."""
    text = "AADSTS7000215: Invalid client secret provided for app 'AADSTS700016'"
    reply = Reply(401, {}, {"error": "invalid_client", "error_description": text})
    assert login_codes(reply) == (7000215,)
    assert login_codes(Reply(400, {}, {"error_codes": "700016"})) == ()
