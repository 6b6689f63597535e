"""Checks of what identifies callers: TLS, the policy and its holes, the keys of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from cryptography import x509

from keyfold.checks import Finding, failure, of_certificates, of_validity, ok, unknown
from keyfold.checks import warning as warned
from keyfold_server.access.policy import development
from keyfold_server.access.policy.grants import Role
from keyfold_server.access.policy.rights import Policy
from keyfold_server.access.policy.watcher import read
from keyfold_server.bootstrap.access import server_tls, token_keys
from keyfold_server.bootstrap.checking.faults import of_error
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.clock import SystemClock
from keyfold_server.settings import Settings

_RENEW: Final = "renew it and replace the file; the server takes it without a restart"
_NARROW: Final = "narrow the grant in the policy file; `keyfold-server policy explain` shows it"
_EVERYBODY: Final = "*"
_OF_AN_ISSUER: Final = "#*"
"""How a pattern ends that every token of its issuer matches."""


def tls(settings: Settings) -> Iterator[Finding]:
    """Looks at the server's certificate, its key, and the authorities of clients."""
    try:
        made = server_tls(settings, SystemClock())
    except KeyfoldError as error:
        yield from of_error(error, "tls", _RENEW)
        return
    if made is None:
        local = settings.listen.startswith("unix:")
        where = "a unix socket" if local else "the loopback interface"
        yield ok("tls", f"it is off, and {settings.listen} is on {where}")
        return
    found = made.current()
    chain = x509.load_pem_x509_certificates(found.certificate)
    yield from of_certificates("tls certificate", "the server's certificate", chain, _RENEW)
    if found.key_exposed:
        yield warned(
            "tls key",
            "every user of this machine can read it",
            "chmod o-r on it, unless a container keeps other users out",
        )
    if found.client_ca is None:
        return
    for authority in x509.load_pem_x509_certificates(found.client_ca):
        yield of_validity(
            "tls client authority",
            f"{authority.subject.rfc4514_string()}, which may have issued clients' certificates,",
            authority.not_valid_before_utc,
            authority.not_valid_after_utc,
            "add the authority that replaces it to KEYFOLD_TLS_CLIENT_CA, and have clients renewed",
        )


def tokens(settings: Settings) -> Iterator[Finding]:
    """Reads the keys of the tokens' issuer."""
    try:
        made = token_keys(settings, SystemClock())
        if made is None:
            yield ok("tokens", "the server accepts none")
            return
        keys, _ = made
        asyncio.run(keys.start())
    except KeyfoldError as error:
        yield from of_error(error, "tokens", "mend KEYFOLD_JWT_JWKS")
        return
    found = keys.current()
    if found is None:
        yield unknown(
            "tokens",
            f"the keys of {settings.jwt_issuer} cannot be fetched from {settings.jwt_jwks}: "
            f"{keys.fault}",
            "look at the network between here and there; until it works, calls with tokens fail",
        )
    else:
        yield ok("tokens", f"{len(found)} keys of {settings.jwt_issuer}")


def policy(settings: Settings) -> Iterator[Finding]:
    """Reads the policy, and looks for holes in it."""
    if settings.policy is None:
        yield warned(
            "policy", development.WARNING.partition("; ")[0], "set KEYFOLD_POLICY to narrow it"
        )
        return
    try:
        found = read(settings.policy)
    except KeyfoldError as error:
        yield from of_error(error, "policy", "mend the policy file")
        return
    yield ok("policy", f"{settings.policy} has {len(found.grants)} grants")
    yield from holes(found)


def holes(policy: Policy) -> Iterator[Finding]:
    """Yields what a policy allows that hardly anybody means."""
    for grant in policy.grants:
        anybody = [p.text for p in grant.callers.items if _is_anybody(p.text)]
        whole = grant.covers_all() and grant.regions is None
        roles = ", ".join(sorted(role.value for role in grant.roles))
        # A claim of the token narrows the grant to one organization, whoever the caller is.
        if anybody and grant.organization_claim is None:
            yield (failure if Role.ADMIN in grant.roles else warned)(
                "policy",
                f"{grant.where}: {', '.join(anybody)} gives {roles} to whoever the server knows",
                f"name the callers; {_NARROW}",
            )
        if whole and Role.ADMIN in grant.roles and grant.organization_claim is None:
            yield warned(
                "policy",
                f"{grant.where}: {grant.callers} administers every cluster and organization",
                "keep such a grant for emergencies, and give daily work operator and auditor",
            )
    if any(_is_anybody(pattern.text) for pattern in policy.on_behalf_of.items):
        yield warned(
            "policy",
            "on_behalf_of believes every caller who says whom it calls for, so the audit trail can "
            "be made to name anybody",
            "name the gateways that may say so",
        )


def _is_anybody(pattern: str) -> bool:
    return pattern == _EVERYBODY or pattern.endswith(_OF_AN_ISSUER)
