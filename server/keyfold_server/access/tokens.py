"""Who calls, by a JSON Web Token of the one issuer that the settings name.

PyJWT checks form and signature; the claims are judged here, against the time that the caller of
this module gives. Invariants: the token chooses nothing but which of the issuer's keys to try, by
its id: urls, keys and certificates in its header are never looked at; a token is never ignored,
only accepted or refused; no message and no log line holds any part of one. It knows neither gRPC
nor the policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from keyfold_server.access.jwks import ALGORITHMS, KeySet
from keyfold_server.access.jwks_source import KeySource
from keyfold_server.access.lru_cache import LruCache
from keyfold_server.domain.errors import (
    CallerCredentialError,
    IssuerUnreachableError,
    SetupError,
)
from keyfold_server.domain.rights import Identity, NeedsKeysError

PROOF: Final = "token"
"""How such an identity was proven."""

SKEW: Final = 60.0
"""Seconds by which the issuer's clock and this one may differ."""

MAX_SIZE: Final = 8 * 1024
"""Characters of a token."""

_MAX_SUBJECT: Final = 512
_LAST_TIME: Final = 253_402_300_800.0
"""The year 10,000 in Unix time; what lies beyond is no time but an overflow to come."""

_MOST_REMEMBERED: Final = 10_000
"""Verified tokens that need no second verification, about 0.5 KiB each."""

# Three parts, none of them empty, without padding: so an encrypted token (five parts) and one
# without a signature are refused before anything is decoded.
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# Tokens of the same issuer for another purpose (logout, DPoP proofs, security events) say so.
_TYPES: Final = {"jwt", "at+jwt", "application/at+jwt", "application/jwt"}


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token's outcome, and from when to when it holds, in seconds of Unix time."""

    identity: Identity
    begins: float
    ends: float


class TokenVerifier:
    """Verifies one issuer's tokens. One thread uses it: the event loop's."""

    def __init__(
        self,
        keys: KeySource,
        issuer: str,
        audience: str,
        *,
        skew: float = SKEW,
        most_remembered: int = _MOST_REMEMBERED,
    ) -> None:
        """Takes what a token must say.

        Args:
            keys: The issuer's keys.
            issuer: The `iss` that a token must have, to the letter.
            audience: What its `aud` must be or hold.
            skew: Seconds by which clocks may differ.
            most_remembered: Verified tokens kept in memory.

        Raises:
            SetupError: The issuer or the audience cannot be one.
        """
        # Callers are written ISSUER#SUBJECT, and a policy must not read one issuer as another.
        if not issuer or "#" in issuer or not issuer.isprintable() or " " in issuer:
            raise SetupError(
                "KEYFOLD_JWT_ISSUER: give the issuer as its tokens have it in iss, without # and "
                "spaces"
            )
        if not audience:
            raise SetupError(
                "KEYFOLD_JWT_AUDIENCE: name this service as its tokens have it in aud; without, "
                "any token of the issuer would do, those for other services included"
            )
        self._source = keys
        self._issuer = issuer
        self._audience = audience
        self._skew = skew
        self._jws = PyJWS(ALGORITHMS)
        self._verified: LruCache[bytes, _Verified] = LruCache(most_remembered)
        self._verified_with: KeySet | None = None

    def verify(self, token: str, now: float, *, final: bool = False) -> Identity:
        """Says whose token it is.

        Args:
            token: As it came, without the scheme.
            now: Seconds of Unix time.
            final: Whether keys were refreshed for this token, so that an unknown key id is final.

        Raises:
            NeedsKeysError: Its key is not known, and a refresh may help.
            CallerCredentialError: It is not valid here.
        """
        keys = self._source.current()
        if keys is not self._verified_with:
            # A withdrawn key withdraws what was verified with it.
            self._verified.clear()
            self._verified_with = keys
        if len(token) > MAX_SIZE:
            raise CallerCredentialError(f"the token is longer than {MAX_SIZE:,} characters")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is not None:
            self._check_time(known, now)
            return known.identity
        fresh = self._judged(token, keys, final=final)
        self._check_time(fresh, now)
        self._verified.put(digest, fresh)
        return fresh.identity

    async def refresh(self) -> None:
        """Fetches the issuer's keys, as `NeedsKeysError` asks; bounded by some seconds."""
        await self._source.refresh()

    def _judged(self, token: str, keys: KeySet | None, *, final: bool) -> _Verified:
        """Does the work that does not depend on the time."""
        if _FORM.fullmatch(token) is None:
            raise CallerCredentialError("the token is not a signed JWT of three parts")
        header = _header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise CallerCredentialError(
                f"the token's algorithm is not accepted; sign with one of {', '.join(ALGORITHMS)}"
            )
        if not isinstance(key_id, str):
            raise CallerCredentialError("the token's header has no kid, which says its key")
        if (keys is None or key_id not in keys) and not final and self._source.may_help():
            raise NeedsKeysError
        if keys is None:
            raise IssuerUnreachableError(
                "the token cannot be checked, since its issuer's keys cannot be had now; try again",
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

    def _claimed(self, claims: dict[str, Any]) -> _Verified:
        """Judges the claims of a token whose signature is good."""
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
            raise CallerCredentialError("the token has no exp, and would be valid for ever")
        # What a token says of its beginning counts, whichever claim says it later.
        begins = max(_time(claims, "nbf"), _time(claims, "iat"))
        name = f"jwt:{self._issuer}#{subject}"
        return _Verified(Identity((name,), PROOF), begins, _time(claims, "exp"))

    def _check_time(self, verified: _Verified, now: float) -> None:
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
    # Whoever marks something critical wants a token refused that is read without it, and there
    # is nothing that we would read.
    if "crit" in header or "b64" in header:
        raise CallerCredentialError("the token's header demands extensions that are not known here")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise CallerCredentialError("the token is of a type that is not for calling services")
    return header


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    """Reads a JSON object; of two members of one name neither can be believed."""
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CallerCredentialError(f"the token's {what} is not a JSON object of unique names")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _time(claims: dict[str, Any], name: str) -> float:
    """Returns a time claim; one that is absent has always been past."""
    value = claims.get(name, 0)
    # Python counts True as 1. JSON's reader takes NaN and infinity, which are in no range.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_TIME:
        raise CallerCredentialError(f"the token's {name} is not a number of seconds")
    return float(value)
