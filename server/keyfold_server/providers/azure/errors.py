"""What vaults, Managed HSMs and Microsoft Entra answer, as errors of Keyfold's tree.

Invariant: Keyfold writes the messages itself. It looks for known words in Azure's text and passes
none of that text on, since it may repeat what was sent. An answer that says nothing certain about
the key is "could not tell", so a 403 counts only in the form that Azure itself gives it.
"""

from __future__ import annotations

import re
from typing import Final

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
from keyfold_server.providers.azure.replies import Reply

_BAD_REQUEST: Final = 400
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429
_SERVER: Final = 500

_ACTIONS: Final = {
    "get": ("read", "read/action"),
    "wrapkey": ("wrap/action", "wrap/action"),
    "unwrapkey": ("unwrap/action", "unwrap/action"),
    "encrypt": ("encrypt/action", "encrypt/action"),
    "decrypt": ("decrypt/action", "decrypt/action"),
}
"""The data action of an operation, for vaults and for Managed HSMs."""

_CLOSED: Final = frozenset({"ForbiddenByFirewall", "ForbiddenByConnection", "ForbiddenByNsp"})
_CLOSED_WORDS: Final = re.compile(
    r"\bclient address\b|\ba trusted service\b|\bpublic network access\b"
    r"|\bprivate (?:link|endpoint)\b|\bby (?:the )?firewall\b|\bfirewall rules?\b"
    r"|\bnsp (?:policy|rules?)\b|\bnetwork security perimeter\b",
    re.IGNORECASE,
)
"""What Azure says of a closed network. Older answers have the inner code of a denial with it.

Each alternative contains a space, so no name of a key, a vault or a resource group matches.
"""

_DENIED: Final = frozenset({"ForbiddenByRbac", "ForbiddenByPolicy", "AccessDenied"})
_DENIED_WORDS: Final = re.compile(
    r"\bdoes not have keys [\w ,]{1,64} permission\b"
    r"|\bnot authorized to perform action on resource\b",
    re.IGNORECASE,
)
"""What Azure says of a denial that has no inner code."""

_STATES: Final[tuple[tuple[str, re.Pattern[str], type[KmsError], str], ...]] = (
    (
        "KeyDisabled",
        re.compile(r"\bdisabled key\b"),
        KeyDisabledError,
        "is disabled; enable this version in Azure",
    ),
    (
        "KeyExpired",
        re.compile(r"\bexpired key\b"),
        KeyInvalidError,
        "has expired; set a later expiry, or rotate it",
    ),
    (
        "KeyNotYetValid",
        re.compile(r"\bnot yet valid\b"),
        KeyInvalidError,
        "is not valid yet; look at its activation date",
    ),
    (
        "KeyOperationForbidden",
        re.compile(r"\bnot permitted on this key\b"),
        KeyInvalidError,
        "does not permit {operation}; add it to the key's permitted operations (key_ops)",
    ),
)
"""What a key's own state forbids: the inner code, the words if that is missing, the meaning."""

WITHDRAWN: Final = frozenset({90002, 700016, 7000112, 7000229})
"""Entra's codes: tenant not found; application not in the tenant; application disabled there; its
service principal missing in the tenant.

After a customer removes the service principal, Entra may answer with 700016 or with 7000229.
"""

_TRANSIENT: Final = frozenset({90006, 90033, 90055})
"""Entra's codes for failures of its own."""

_AADSTS: Final = re.compile(r"AADSTS([0-9]{5,8})\b")


def refusal(reply: Reply, operation: str, key: str, *, hsm: bool) -> KmsError:
    """Returns what an answer other than 200 of a vault or Managed HSM means.

    Args:
        reply: The answer.
        operation: `get`, `wrapkey`, `unwrapkey`, `encrypt` or `decrypt`.
        key: The key's uri.
        hsm: Whether the key is a Managed HSM's.
    """
    id_ = reply.request_id
    if reply.status == _FORBIDDEN:
        forbidden = _forbidden(reply, operation, key, hsm=hsm)
        if forbidden is not None:
            return forbidden
    if reply.status == _TOO_MANY:
        return ThrottledError(
            f"Azure asks to slow down with {operation}",
            provider_request_id=id_,
            retry_after=reply.retry_after,
        )
    if reply.missing:
        return KeyNotFoundError(
            f"root key {key}, or the version that the stored key needs, does not exist; check its "
            "uri",
            provider_request_id=id_,
        )
    if reply.status == _BAD_REQUEST:
        bad = _bad_parameter(reply, operation, key, hsm=hsm)
        if bad is not None:
            return bad
    if reply.unauthorized:
        return credentials_failed(f"for {operation}", id_)
    return UnreachableError(
        f"Azure did not carry out {operation}: {reply.words or 'no error of its own'}, "
        f"status {reply.status}",
        provider_request_id=id_,
    )


def credentials_failed(what_for: str, id_: str = "") -> CredentialsFailedError:
    """Returns the error for a token that Azure does not accept."""
    return CredentialsFailedError(
        f"Azure does not accept the token that Keyfold uses {what_for}, nor a new one; check that "
        "the principal is of the vault's tenant",
        provider_request_id=id_,
    )


def _forbidden(reply: Reply, operation: str, key: str, *, hsm: bool) -> KmsError | None:
    """Returns what a 403 means, or None if Keyfold knows neither its code nor its words."""
    id_, code, inner, text = reply.request_id, reply.code, reply.inner_code, reply.text
    if code in _CLOSED or inner in _CLOSED or (code and _CLOSED_WORDS.search(text)):
        return UnreachableError(
            f"the network rules of the vault of {key} keep Keyfold out; allow Keyfold's addresses "
            "or its private endpoint there",
            provider_request_id=id_,
        )
    if denies(reply):
        # Derived from the operation, since Azure's text does not always name the missing action.
        needed = action(operation, hsm=hsm)
        return AccessDeniedError(
            f"Azure denies {operation} on {key}; give Keyfold's principal a role with {needed} "
            "there",
            provider_request_id=id_,
            missing_permission=needed,
        )
    for name, words, kind, meaning in _STATES if code == "Forbidden" else ():
        if inner == name or words.search(text):
            what = meaning.format(operation=operation)
            return kind(f"root key {key} {what}", provider_request_id=id_)
    return None


def denies(reply: Reply) -> bool:
    """Tells whether Azure knows the caller, and denies it what it asked for."""
    code, inner, text = reply.code, reply.inner_code, reply.text
    if reply.status != _FORBIDDEN or _CLOSED_WORDS.search(text):
        return False
    if code == "AccessDenied":
        return inner in _DENIED or not inner
    worded = not inner and _DENIED_WORDS.search(text) is not None
    return code == "Forbidden" and (inner in _DENIED or worded)


def action(operation: str, *, hsm: bool) -> str:
    """Returns the data action that a role must have for an operation."""
    of_vault, of_hsm = _ACTIONS[operation]
    kind, name = ("managedHsm", of_hsm) if hsm else ("vaults", of_vault)
    return f"Microsoft.KeyVault/{kind}/keys/{name}"


def _bad_parameter(reply: Reply, operation: str, key: str, *, hsm: bool) -> KmsError | None:
    """Returns what a 400 means, or None if it is about the form of Keyfold's request.

    Keyfold's requests are well-formed, so when it wraps, the root key is of the wrong kind. When it
    unwraps, the stored key is damaged, because the root key was of the right kind before.
    """
    text = reply.text.lower()
    if not reply.code or "api-version" in text or "specified version" in text:
        return None
    if operation in ("unwrapkey", "decrypt"):
        return KekMismatchError(
            f"root key {key} does not open the stored key with this context: it was changed, or "
            "wrapped for another",
            provider_request_id=reply.request_id,
        )
    wanted = "an RSA-HSM or 256-bit oct-HSM key" if hsm else "an RSA or RSA-HSM key"
    return KeyInvalidError(
        f"root key {key} cannot wrap; use {wanted}", provider_request_id=reply.request_id
    )


def login_codes(reply: Reply) -> tuple[int, ...]:
    """Returns the numbers with which Entra says why it gives no token."""
    listed = reply.body.get("error_codes")
    if isinstance(listed, list):
        return tuple(each for each in listed if isinstance(each, int))
    # Only the first one, since the rest of the text may repeat what was sent.
    found = _AADSTS.search(str(reply.body.get("error_description", "")))
    return () if found is None else (int(found[1]),)


def login_failure(reply: Reply, who: str) -> KmsError:
    """Returns what an answer without a token means, except for withdrawn trust.

    Args:
        reply: The answer of Entra, or of a managed identity's endpoint.
        who: The principal that Keyfold logged in as, for the message.
    """
    codes, id_ = login_codes(reply), reply.request_id
    if reply.status == _TOO_MANY:
        return ThrottledError(
            f"Microsoft Entra asks to slow down with tokens for {who}",
            provider_request_id=id_,
            retry_after=reply.retry_after,
        )
    own_words = codes or isinstance(reply.body.get("error"), str) or reply.unauthorized
    if _TRANSIENT & set(codes) or reply.status >= _SERVER or not own_words:
        return UnreachableError(
            f"Keyfold got no token for {who}: the answer has status {reply.status} and gives no "
            "reason; try again",
            provider_request_id=id_,
        )
    word = f"AADSTS{codes[0]}" if codes else f"status {reply.status}"
    return CredentialsFailedError(
        f"Keyfold got no token for {who} ({word}); check that the secret, certificate or "
        "federated credential of the server's own identity is right and has not expired",
        provider_request_id=id_,
    )
