"""Identifies the caller of each call by its credential, and looks up what the caller may do.

Keyfold never ignores a credential: an invalid one makes the call fail, even if a valid one came
with it. A token names the caller if there is one, since the client sent it with this very call.
Otherwise the connection's certificate names the caller, or else the address that the call came in
by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from keyfold_server.domain.errors import (
    CallerCredentialError,
    CallerUnknownError,
    MalformedRequestError,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller, Credential, Identity, NeedsKeysError, Rights
from keyfold_server.rpc.call import Call
from keyfold_server.service.limits import Room

_MOST_NAMED: Final = 256
"""Characters in the `on-behalf-of` header."""

_WAITING: Final = 1_000
"""Calls that may wait for the issuer's keys. Nobody knows yet who makes them, so they must not fill
the places that callers with known keys need to revoke (protocol R9)."""

AUTHORIZATION: Final = "authorization"
ON_BEHALF_OF: Final = "on-behalf-of"


class Certificates(Protocol):
    """Identifies a caller by the certificate of its connection."""

    def credential(self, certificate: bytes | None, now: float) -> Credential | None:
        """Returns whom a certificate in PEM names; None if the client showed no certificate.

        Raises:
            CallerCredentialError: The certificate names nobody, or is not valid at `now`, in
                seconds of Unix time.
        """
        ...


class Tokens(Protocol):
    """Identifies a caller by a token."""

    def verify(
        self, token: str, now: float, claims: frozenset[str], *, final: bool = False
    ) -> Credential:
        """Returns whom a token names.

        Args:
            token: The token, without its scheme.
            now: Seconds of Unix time.
            claims: The claims to read, which may name the caller's organization.
            final: True if the issuer's keys have just been fetched for this token.

        Raises:
            NeedsKeysError: The issuer's keys must be fetched first; never raised if `final`.
            CallerCredentialError: The token is not valid here.
            IssuerUnreachableError: The issuer's keys cannot be fetched.
        """
        ...

    async def refresh(self) -> None:
        """Fetches the issuer's keys."""
        ...


class Policies(Protocol):
    """Says what a caller may do."""

    @property
    def claims(self) -> frozenset[str]:
        """The claims of tokens by which grants of the current policy go."""
        ...

    def rights(self, identity: Identity) -> Rights:
        """Returns a caller's rights under the current policy."""
        ...

    def believes(self, identity: Identity) -> bool:
        """Says whether Keyfold believes the name that the caller says it calls for."""
        ...


def bearer(headers: Sequence[str | bytes]) -> str:
    """Returns the token of a call's authorization headers.

    Raises:
        CallerCredentialError: The call has several such headers, or one of another scheme than
            Bearer.
    """
    if len(headers) > 1:
        raise CallerCredentialError("the call brings several authorization headers; send one")
    value = headers[0]
    if isinstance(value, str):
        scheme, _, rest = value.partition(" ")
        token = rest.strip()
        if token and scheme.lower() == "bearer":
            return token
    raise CallerCredentialError("the authorization header is not: Bearer TOKEN")


class Callers:
    """Identifies the caller of each call that comes in by one address."""

    def __init__(
        self,
        policies: Policies,
        default: Identity | None,
        clock: Clock,
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        """Joins the ways in which this address identifies callers.

        Args:
            policies: Says what each caller may do.
            default: The caller of calls without a credential, if the address alone identifies it.
                None refuses such calls.
            clock: The time at which a credential must be valid.
            certificates: Identifies callers by certificates; None if no client has one.
            tokens: Identifies callers by tokens; None if the server does not accept tokens.
        """
        self._policies = policies
        self._default = default
        self._clock = clock
        self._certificates = certificates
        self._tokens = tokens
        self._waiting = Room(_WAITING, "calls whose keys the issuer has not told yet")

    @property
    def claims(self) -> frozenset[str]:
        """The claims of tokens by which grants of the current policy go."""
        return self._policies.claims

    def rights(self, identity: Identity) -> Rights:
        """Returns the rights of a caller under the policy that is in force now."""
        return self._policies.rights(identity)

    async def caller(self, call: Call) -> Caller:
        """Returns the caller of a call; fetches the issuer's keys first if its token needs them.

        Raises:
            OverloadedError: Too many calls wait for keys of the token's issuer.
            KeyfoldError: As `at_once` raises.
        """
        try:
            return self.at_once(call)
        except NeedsKeysError:
            if self._tokens is not None:
                with self._waiting.place():
                    await self._tokens.refresh()
            return self.at_once(call, final=True)

    def at_once(self, call: Call, *, final: bool = False) -> Caller:
        """Returns the caller of a call, without an await.

        Args:
            call: The call.
            final: True if the issuer's keys have just been fetched for it.

        Raises:
            NeedsKeysError: The issuer's keys must be fetched first; never raised if `final`.
            CallerUnknownError: The call has no credential, and this address needs one; or it came
                in by the socket for health checks.
            CallerCredentialError: The call has a credential that is not valid.
        """
        address = call.peer
        if self._certificates is not None and address.startswith("unix:"):
            # A server that asks for certificates has no other socket than that of `health_socket`.
            # Nobody may step around the handshake there, not even with a token.
            raise CallerUnknownError(
                "this socket answers health checks alone; call the server's address"
            )
        identity, expires = self._default, None
        if self._certificates is not None:
            # The connection's own name, even if a token will give another: it must be valid, too.
            shown = self._certificates.credential(call.certificate(), self._clock.wall())
            identity, expires = (None, None) if shown is None else (shown.identity, shown.ends)
        headers = call.header(AUTHORIZATION)
        if headers:
            token = self._token(headers, final=final)
            identity = token.identity
            expires = token.ends if expires is None else min(expires, token.ends)
        if identity is None:
            raise CallerUnknownError(
                "the call brings no credential; call with a token"
                if self._tokens is not None
                else "the call brings no credential; call with a client certificate"
            )
        behalf = call.header(ON_BEHALF_OF)
        named = self._believed(identity, behalf[-1]) if behalf else ""
        return Caller(self._policies.rights(identity), address, named, expires=expires)

    def _token(self, headers: Sequence[str | bytes], *, final: bool) -> Credential:
        if self._tokens is None:
            raise CallerCredentialError(
                "the call brings a token, and this server accepts no tokens; call without one, or "
                "set KEYFOLD_JWT_ISSUER on the server"
            )
        now, claims = self._clock.wall(), self._policies.claims
        return self._tokens.verify(bearer(headers), now, claims, final=final)

    def _believed(self, identity: Identity, named: str | bytes) -> str:
        """Returns whom the caller says it calls for, if Keyfold believes it; gives no rights."""
        if not named or not isinstance(named, str) or not self._policies.believes(identity):
            return ""
        if len(named) > _MOST_NAMED or not named.isprintable():
            raise MalformedRequestError(
                f"on-behalf-of must be at most {_MOST_NAMED} printable characters"
            )
        return named
