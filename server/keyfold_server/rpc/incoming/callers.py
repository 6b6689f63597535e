"""Who makes a call: the credential that came with it, taken from gRPC, and what its holder may do.

A credential that was presented is never ignored: one that is not valid refuses the call, whatever
else came with it. A token names the caller where there is one, since it was sent with this very
call; else the connection's certificate does; else the address that the call came in by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from keyfold_server.domain.errors import (
    CallerCredentialError,
    CallerUnknownError,
    MalformedRequestError,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller, Identity, NeedsKeysError, Rights

_MOST_NAMED: Final = 256
"""Characters of the name that a caller says it calls for."""

AUTHORIZATION: Final = "authorization"
ON_BEHALF_OF: Final = "on-behalf-of"


class Certificates(Protocol):
    """Knows a caller by the certificate of its connection."""

    def identity(self, auth_context: Mapping[str, Iterable[bytes]], now: float) -> Identity | None:
        """Returns who a certificate names at a Unix time; None where the connection has none.

        Raises:
            CallerCredentialError: It names nobody, or is not valid now.
        """
        ...


class Tokens(Protocol):
    """Knows a caller by a token."""

    def verify(self, token: str, now: float, *, final: bool = False) -> Identity:
        """Returns whom a token names at a Unix time.

        Raises:
            NeedsKeysError: Its key must be fetched first; never where it is `final`.
            CallerCredentialError: It is not valid here.
            IssuerUnreachableError: Its issuer's keys cannot be had.
        """
        ...

    async def refresh(self) -> None:
        """Fetches the issuer's keys."""
        ...


class Policies(Protocol):
    """Knows what a caller may do."""

    def rights(self, identity: Identity) -> Rights:
        """Returns the rights of a caller, by the policy of this moment."""
        ...

    def believes(self, identity: Identity) -> bool:
        """Says whether the caller is believed when it says for whom it calls."""
        ...


def bearer(headers: Sequence[str | bytes]) -> str:
    """Returns the token of a call's authorization headers.

    Raises:
        CallerCredentialError: There are several, or it is of another scheme than Bearer.
    """
    if len(headers) > 1:
        raise CallerCredentialError("the call brings several authorization headers; send one")
    value = headers[0]
    scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise CallerCredentialError("the authorization header is not: Bearer TOKEN")
    return token.strip()


class Callers:
    """Finds out who makes each call of one listening address."""

    def __init__(
        self,
        policies: Policies,
        default: Identity | None,
        clock: Clock,
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        """Takes what knows callers.

        Args:
            policies: What each may do.
            default: Who calls without a credential, known by the address alone; None: nobody may.
            clock: Tells what is valid now.
            certificates: Where connections bring one.
            tokens: Where calls may bring one.
        """
        self._policies = policies
        self._default = default
        self._clock = clock
        self._certificates = certificates
        self._tokens = tokens

    async def caller(self, context: Any, address: str) -> Caller:
        """Returns who makes a call from an address.

        Raises:
            CallerUnknownError: No credential came with it, and this address needs one.
            CallerCredentialError: One came that is not valid.
        """
        headers: list[str | bytes] = []
        named = ""
        for key, value in context.invocation_metadata() or ():
            if key == AUTHORIZATION:
                headers.append(value)
            elif key == ON_BEHALF_OF:
                named = value
        identity = self._connected(context)
        if headers:
            identity = await self._token(headers)
        if identity is None:
            raise CallerUnknownError(
                "the call brings no credential; call with a token"
                if self._tokens is not None
                else "the call brings no credential; call with a client certificate"
            )
        if named:
            named = self._believed(identity, named)
        return Caller(self._policies.rights(identity), address, named)

    def _connected(self, context: Any) -> Identity | None:
        """Returns who is known by the connection, even where a token will name another."""
        if self._certificates is None:
            return self._default
        return self._certificates.identity(context.auth_context(), self._clock.wall())

    async def _token(self, headers: Sequence[str | bytes]) -> Identity:
        if self._tokens is None:
            raise CallerCredentialError(
                "the call brings a token, and this server takes none; call without one, or have "
                "the server's KEYFOLD_JWT_ISSUER set"
            )
        token = bearer(headers)
        try:
            return self._tokens.verify(token, self._clock.wall())
        except NeedsKeysError:
            await self._tokens.refresh()
            return self._tokens.verify(token, self._clock.wall(), final=True)

    def _believed(self, identity: Identity, named: str) -> str:
        """Returns for whom the caller calls, where it is believed (never a right, only a note)."""
        if not self._policies.believes(identity):
            return ""
        if len(named) > _MOST_NAMED or not named.isprintable():
            raise MalformedRequestError(
                f"on-behalf-of must be at most {_MOST_NAMED} printable characters"
            )
        return named
