"""Identifies a caller by a JSON Web Token of the one issuer that the settings name.

PyJWT checks form and signature; this module checks the claims, against the time that its caller
gives. Invariants: a token can only choose which of the issuer's keys to try, by the key's id;
Keyfold never looks at urls, keys and certificates in its header. A token is accepted or refused,
never ignored. No message and no log line has any part of a token. The module knows neither gRPC nor
the policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from keyfold_server.access.lru_cache import LruCache
from keyfold_server.access.tokens.key_set import ALGORITHMS, KeySet
from keyfold_server.access.tokens.key_source import KeySource
from keyfold_server.domain.errors import (
    CallerCredentialError,
    InvalidNameError,
    IssuerUnreachableError,
    SetupError,
)
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.rights import Claim, Credential, Identity, NeedsKeysError

PROOF: Final = "token"
"""The `proof` of an identity that comes from a token."""

SKEW: Final = 60.0
"""Seconds by which the issuer's clock and this machine's may differ."""

MAX_SIZE: Final = 8 * 1024
"""Characters of a token."""

_MAX_SUBJECT: Final = 512
_LAST_TIME: Final = 253_402_300_800.0
"""The year 10,000 in Unix time. A later time would overflow somewhere."""

_DIGEST_SIZE: Final = 32
"""Bytes of the digest by which a verified token is known."""

_MOST_REMEMBERED: Final = 10_000
"""Verified tokens that stay in memory, about 0.5 KiB each."""

# Three parts, none of them empty, without padding. So Keyfold refuses an encrypted token (five
# parts) and one without a signature before it decodes anything.
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# An issuer marks its tokens for other purposes (logout, DPoP proofs, security events) by other
# types.
_TYPES: Final = {"jwt", "at+jwt", "application/at+jwt", "application/jwt"}


_WORDS: Final = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
"""What a claim is that is not a string."""


class TokenVerifier:
    """Verifies one issuer's tokens. Only the event loop's thread may use it."""

    def __init__(
        self,
        keys: KeySource,
        issuer: str,
        audience: str,
        *,
        skew: float = SKEW,
        most_remembered: int = _MOST_REMEMBERED,
    ) -> None:
        """Takes what a token must contain.

        Args:
            keys: The issuer's keys.
            issuer: The `iss` that a token must have, exactly.
            audience: The value that a token's `aud` must be or contain.
            skew: Seconds by which clocks may differ.
            most_remembered: The most verified tokens to keep in memory.

        Raises:
            SetupError: The issuer or the audience is malformed.
        """
        # A policy writes callers as ISSUER#SUBJECT, so an issuer must not contain a `#` itself.
        if not issuer or "#" in issuer or not issuer.isprintable() or " " in issuer:
            raise SetupError(
                "KEYFOLD_JWT_ISSUER: give the issuer as its tokens have it in iss, without # and "
                "spaces"
            )
        if not audience:
            raise SetupError(
                "KEYFOLD_JWT_AUDIENCE: give this service's name, as its tokens have it in aud; "
                "without it Keyfold would accept the issuer's tokens for other services, too"
            )
        self._source = keys
        self._issuer = issuer
        self._audience = audience
        self._skew = skew
        self._jws = PyJWS(ALGORITHMS)
        self._verified: LruCache[bytes, Credential] = LruCache(most_remembered)
        self._verified_with: KeySet | None = None
        self._claims: frozenset[str] = frozenset()

    def verify(
        self, token: str, now: float, claims: frozenset[str] = frozenset(), *, final: bool = False
    ) -> Credential:
        """Returns the identity that a token proves, and for how long.

        Args:
            token: The token as the caller sent it, without the scheme.
            now: Seconds of Unix time.
            claims: The claims to read, which may name the caller's organization.
            final: True if the keys have just been refreshed for this token, so that an unknown key
                id is final.

        Raises:
            NeedsKeysError: The token's key is unknown, and a refresh may help.
            CallerCredentialError: The token is not valid here.
            IssuerUnreachableError: Keyfold has no keys of the issuer.
        """
        keys = self._source.current()
        if keys is not self._verified_with or claims != self._claims:
            # Forget what was verified with the old keys: one of them may have been withdrawn. And
            # forget what was read if other claims count now.
            self._verified.clear()
            self._verified_with, self._claims = keys, claims
        if len(token) > MAX_SIZE:
            raise CallerCredentialError(f"the token is longer than {MAX_SIZE:,} characters")
        # Every call comes here, and BLAKE2 takes a fraction of the time of OpenSSL's SHA-256.
        digest = hashlib.blake2b(
            token.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_SIZE
        ).digest()
        known = self._verified.get(digest)
        if known is not None:
            self._check_time(known, now)
            return known
        fresh = self._judged(token, keys, final=final)
        self._check_time(fresh, now)
        self._verified.put(digest, fresh)
        return fresh

    async def refresh(self) -> None:
        """Fetches the issuer's keys, as `NeedsKeysError` asks; takes at most some seconds."""
        await self._source.refresh()

    def _judged(self, token: str, keys: KeySet | None, *, final: bool) -> Credential:
        """Checks everything that does not depend on the time."""
        if _FORM.fullmatch(token) is None:
            raise CallerCredentialError("the token is not a signed JWT of three parts")
        header = _header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise CallerCredentialError(
                f"the token's algorithm is not accepted; sign with one of {', '.join(ALGORITHMS)}"
            )
        if not isinstance(key_id, str):
            raise CallerCredentialError("the token's header has no kid, which names its key")
        if (keys is None or key_id not in keys) and not final and self._source.may_help():
            raise NeedsKeysError
        if keys is None:
            raise IssuerUnreachableError(
                "the token cannot be checked, because Keyfold has no keys of its issuer; try again",
                retry_after=5.0,
            )
        key = keys.get(key_id, str(algorithm))
        if key is None:
            raise CallerCredentialError(
                "the token is signed with a key that its issuer does not publish for this "
                "algorithm; get a new token"
            )
        try:
            payload = self._jws.decode_complete(token, key, [str(algorithm)])["payload"]
        except (PyJWTError, ValueError, TypeError):
            raise CallerCredentialError("the token's signature does not verify") from None
        return self._claimed(_parsed(payload, "payload"))

    def _claimed(self, claims: dict[str, Any]) -> Credential:
        """Checks the claims of a token with a valid signature."""
        if claims.get("iss") != self._issuer:
            raise CallerCredentialError("the token is of another issuer")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise CallerCredentialError(
                "the token is for another audience; ask the issuer for one for this service"
            )
        subject = claims.get("sub")
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= _MAX_SUBJECT
            or not subject.isprintable()
        ):
            raise CallerCredentialError(
                f"the token has no sub of 1 to {_MAX_SUBJECT} printable characters"
            )
        if "exp" not in claims:
            raise CallerCredentialError("the token has no exp, so it would never expire")
        # A token is valid from the later of its two times on.
        begins = max(_time(claims, "nbf"), _time(claims, "iat"))
        name = f"jwt:{self._issuer}#{subject}"
        said = tuple(claim_of(claims, each) for each in sorted(self._claims))
        return Credential(Identity((name,), PROOF, said), begins, _time(claims, "exp"))

    def _check_time(self, verified: Credential, now: float) -> None:
        if now >= verified.ends + self._skew:
            raise CallerCredentialError("the token has expired; get a new one")
        if now < verified.begins - self._skew:
            raise CallerCredentialError(
                "the token is not valid yet; compare this machine's clock with its issuer's"
            )


def _header(token: str) -> dict[str, Any]:
    part = token.partition(".")[0]
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise CallerCredentialError("the token's header is not base64url") from None
    header = _parsed(decoded, "header")
    # "crit" asks the reader to refuse the token unless it understands the listed extensions, and
    # Keyfold understands none.
    if "crit" in header or "b64" in header:
        raise CallerCredentialError(
            "the token's header demands extensions that Keyfold does not know"
        )
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise CallerCredentialError("the token is of a type that is not meant for calling services")
    return header


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    """Reads a JSON object; refuses two members of one name, since neither can be trusted."""
    try:
        # Decoded here, because the JSON reader would also take UTF-16, UTF-32 and half a surrogate
        # pair, which the issuer's other readers refuse or read as something else.
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CallerCredentialError(f"the token's {what} is not a JSON object with unique names")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def claim_of(claims: Mapping[str, object], name: str) -> Claim:
    """Returns which organization a claim names, or why it names none.

    Only a string names one. Who is in several organizations has to say which one is meant, and the
    first of a list would be a guess.
    """
    if name not in claims:
        return Claim(name, "", "is not in its token")
    value = claims[name]
    if not isinstance(value, str):
        return Claim(name, "", f"is {_WORDS.get(type(value), 'something else')}, and not a string")
    try:
        return Claim(name, check_name(value, "claim"))
    except InvalidNameError:
        return Claim(name, "", "is not a valid name" if value else "is empty")


def _time(claims: dict[str, Any], name: str) -> float:
    """Returns a time claim; 0 if it is absent."""
    value = claims.get(name, 0)
    # In Python True is 1. The JSON reader accepts NaN and infinity, which fail the range check.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_TIME:
        raise CallerCredentialError(f"the token's {name} is not a number of seconds")
    return float(value)
