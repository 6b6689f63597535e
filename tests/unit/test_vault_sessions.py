"""Logins to Vault: each auth method, renewal, and credentials that stay with their origin."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

from contract.counterparts import NotInstalledError
from counterparts.messages import Reply, Request
from counterparts.openbao import OpenBao, shared
from counterparts.openbao_roles import Issuer, Site
from fakes import FakeClock
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    UnreachableError,
)
from keyfold_server.domain.provider import Wrapped
from keyfold_server.providers.shared.lease import AHEAD, LONGEST
from keyfold_server.providers.vault.origins import Auth, Origin
from keyfold_server.providers.vault.provider import VaultTransitProvider
from keyfold_server.providers.vault.sessions import RECENT

_AUTHS: Final[tuple[Auth, ...]] = get_args(Auth)
_BUDGET: Final = 5.0
_BINDING: Final = Binding("cluster-1", "eu-west-1", bytes(16))
_PAYLOAD: Final = bytes(_BINDING.payload(bytes(32)))

MakeSite = Callable[[Auth], Site]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OpenBao, OpenBao]]:
    """Two servers, one for each of two customers."""
    try:
        first = shared()
    except NotInstalledError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"VAULT_TRANSIT: {error}")
        pytest.skip(f"VAULT_TRANSIT: {error}")
    second = OpenBao()
    yield first, second
    second.stop()


@pytest.fixture
def issuer() -> Issuer:
    """The issuer of JWTs, which both servers trust."""
    return Issuer()


@pytest.fixture
def site(servers: tuple[OpenBao, OpenBao], issuer: Issuer, tmp_path: Path) -> Iterator[MakeSite]:
    """Returns a function that makes origins at the first server."""
    made: list[Site] = []

    def make(auth: Auth) -> Site:
        made.append(Site(servers[0], tmp_path, issuer, auth))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _wrap(provider: VaultTransitProvider, at: Site) -> Wrapped:
    return provider.wrap(at.key, _PAYLOAD, _BINDING, budget=_BUDGET)


@pytest.mark.parametrize("auth", _AUTHS)
def test_every_auth_method_logs_in(site: MakeSite, auth: Auth) -> None:
    """Keyfold uses a key as its origin's role, with one login for many calls."""
    at = site(auth)
    provider = at.provider()
    provider.authenticate(at.key, budget=_BUDGET)
    wrapped = _wrap(provider, at)
    opened = provider.unwrap(at.key, "1", wrapped.ciphertext, _BINDING, budget=_BUDGET)
    assert opened.plaintext == _PAYLOAD
    assert wrapped.request_id
    assert opened.request_id
    assert at.logins() == (auth != "token")


@pytest.mark.parametrize("auth", _AUTHS)
def test_a_credential_that_is_not_there_is_not_a_refusal(site: MakeSite, auth: Auth) -> None:
    """A missing, empty, binary or wrong credential is CREDENTIALS_FAILED (protocol F2a)."""
    at = site(auth)
    for contents in (b"", b"\xff\n", b"two\nlines", b"wrong", None):
        if contents is None:
            at.credential.unlink()
        else:
            at.credential.write_bytes(contents)
        with pytest.raises(CredentialsFailedError) as raised:
            _wrap(at.provider(), at)
        assert "wrong" not in raised.value.message


@pytest.mark.parametrize("auth", ["jwt", "kubernetes"])
def test_a_jwt_for_others_is_not_sent(site: MakeSite, issuer: Issuer, auth: Auth) -> None:
    """A JWT whose only audience is not the origin goes nowhere (protocol C3)."""
    at = site(auth)
    for audience in ("https://other", [at.layer.url, "https://other"], []):
        token = issuer.token(audience)
        at.credential.write_text(token)
        with pytest.raises(CredentialsFailedError, match="only audience"):
            _wrap(at.provider(), at)
        assert not at.sent
    at.credential.write_text(issuer.token([at.layer.url]))
    _wrap(at.provider(), at)


def test_a_login_is_renewed_ahead(site: MakeSite) -> None:
    """Keyfold logs in anew within ten minutes, before the token ends (protocol F2a)."""
    at, clock = site("approle"), FakeClock()
    provider = at.provider(clock=clock.monotonic)
    _wrap(provider, at)
    clock.advance(AHEAD * 0.8)
    _wrap(provider, at)
    assert at.logins() == 1
    clock.advance(AHEAD * 0.3)
    _wrap(provider, at)
    assert at.logins() == 2


def test_an_outage_of_logins_costs_nothing_yet(site: MakeSite) -> None:
    """If renewing ahead fails, the token serves on until its time is over, and no longer."""
    at, clock = site("approle"), FakeClock()
    provider = at.provider(clock=clock.monotonic)
    _wrap(provider, at)

    def no_logins(request: Request) -> Reply:
        if request.path.endswith("/login"):
            return Reply(503, {}, b'{"errors":["Vault is sealed"]}')
        return at.server.answer(request)

    with at.layer.instead(no_logins):
        clock.advance(AHEAD + 1)
        _wrap(provider, at)
        clock.advance(LONGEST - AHEAD)
        with pytest.raises(UnreachableError):
            _wrap(provider, at)
    _wrap(provider, at)


def test_a_login_that_hangs_leaves_the_call_its_time(site: MakeSite) -> None:
    """Renewing ahead takes half of a call's time at most, and the call goes through."""
    at, clock, ended = site("approle"), FakeClock(), threading.Event()
    provider = at.provider(clock=clock.monotonic)
    _wrap(provider, at)

    def hanging_logins(request: Request) -> Reply:
        if request.path.endswith("/login"):
            ended.wait(_BUDGET)
        return at.server.answer(request)

    clock.advance(AHEAD)
    with at.layer.instead(hanging_logins):
        provider.wrap(at.key, _PAYLOAD, _BINDING, budget=1.0)
        ended.set()


def test_a_role_that_is_taken_away_shows_within_ten_minutes(site: MakeSite) -> None:
    """A deleted role shows at the next login, as CREDENTIALS_FAILED (protocol F2a)."""
    at, clock = site("approle"), FakeClock()
    provider = at.provider(clock=clock.monotonic)
    _wrap(provider, at)
    at.server.call("DELETE", f"auth/{at.login}/role/keyfold")
    clock.advance(LONGEST)
    with pytest.raises(CredentialsFailedError):
        _wrap(provider, at)


def test_policies_given_back_to_the_role_count_soon(site: MakeSite) -> None:
    """After a denial under an older login, Keyfold tries a new one with the role's policies."""
    at, clock = site("approle"), FakeClock()
    at.give("default")
    provider = at.provider(clock=clock.monotonic)
    with pytest.raises(AccessDeniedError):
        _wrap(provider, at)
    at.give(at.mount)
    with pytest.raises(AccessDeniedError):
        _wrap(provider, at)
    assert at.logins() == 1
    clock.advance(RECENT)
    _wrap(provider, at)
    assert at.logins() == 2


def test_a_denial_counts_though_no_login_can_be_made(site: MakeSite) -> None:
    """A denial under an accepted token is a refusal even while nobody can log in."""
    at, clock = site("approle"), FakeClock()
    provider = at.provider(clock=clock.monotonic)
    _wrap(provider, at)
    at.allow({f"{at.mount}/*": ["deny"]})
    at.server.call("DELETE", f"auth/{at.login}/role/keyfold")
    clock.advance(RECENT)
    with pytest.raises(AccessDeniedError):
        _wrap(provider, at)


def test_a_token_of_ones_own_is_read_again(site: MakeSite) -> None:
    """Keyfold renews a token in a file ahead, and takes another one that was put there."""
    at, clock = site("token"), FakeClock()
    provider = at.provider(clock=clock.monotonic)
    _wrap(provider, at)
    old = at.credential.read_text().strip()
    made = at.server.call("POST", "auth/token/create", policies=[at.mount], ttl="1h")
    at.credential.write_text(made["auth"]["client_token"])
    clock.advance(LONGEST)
    _wrap(provider, at)
    assert sum(each.path.endswith("/renew-self") for each in at.sent) == 2
    assert at.sent[-1].headers["x-vault-token"] != old


def test_the_environments_token_reaches_no_other_origin(
    site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keyfold never sends VAULT_TOKEN to another origin than VAULT_ADDR (protocol C3)."""
    own, other = site("token"), site("approle")
    token = own.credential.read_text().strip()
    monkeypatch.setenv("VAULT_ADDR", own.layer.url)
    monkeypatch.setenv("VAULT_TOKEN", token)
    urls = [own.layer.url, other.layer.url]
    provider = VaultTransitProvider(origins={urls[1]: other.section}, allowed=urls)
    _wrap(provider, own)
    _wrap(provider, other)
    assert own.sent
    assert other.sent
    assert token not in _all(other.sent)


def test_what_one_vault_was_sent_opens_nothing_at_another(
    servers: tuple[OpenBao, OpenBao], issuer: Issuer, tmp_path: Path
) -> None:
    """A customer who keeps all that Keyfold sent their Vault can use none of it elsewhere (C3)."""
    pairs = [[Site(server, tmp_path, issuer, auth) for auth in _AUTHS] for server in servers]
    sites = [each for pair in pairs for each in pair]
    origins = {each.layer.url: each.section for each in sites}
    provider = VaultTransitProvider(origins=origins, allowed=origins, environment={})
    for each in sites:
        _wrap(provider, each)
    for mine, others in (pairs, pairs[::-1]):
        for one in mine:
            for secret in _credentials(one):
                assert secret in _all(one.sent)
                assert not any(secret in _all(other.sent) for other in sites if other is not one)
                for other in others:
                    _opens_nothing(secret, other)
    for each in sites:
        each.close()


@pytest.mark.parametrize("auth", _AUTHS)
def test_a_redirect_takes_no_credential_along(site: MakeSite, auth: Auth) -> None:
    """Keyfold follows no redirect from one Vault to another (protocol C3)."""
    one, other = site(auth), site(auth)
    urls = [one.layer.url, other.layer.url]
    origins = dict(zip(urls, (one.section, other.section), strict=True))
    provider = VaultTransitProvider(origins=origins, allowed=urls, environment={})
    for status in (301, 302, 303, 307, 308):

        def away(request: Request, status: int = status) -> Reply:
            return Reply(status, {"Location": other.layer.url + request.path})

        with one.layer.instead(away):
            with pytest.raises(UnreachableError, match="redirect"):
                _wrap(provider, one)
            with pytest.raises(UnreachableError, match="redirect"):
                provider.authenticate(one.key, budget=_BUDGET)
    assert not other.sent


def test_a_cookie_is_not_kept(site: MakeSite) -> None:
    """Keyfold sends no cookie back."""
    at = site("approle")
    provider = at.provider()

    def with_cookie(request: Request) -> Reply:
        reply = at._record(request)
        return Reply(reply.status, {**reply.headers, "Set-Cookie": "a=b; Path=/"}, reply.body)

    with at.layer.instead(with_cookie):
        _wrap(provider, at)
        _wrap(provider, at)
    assert at.sent
    assert not any("cookie" in each.headers for each in at.sent)


def _all(sent: list[Request]) -> str:
    return "".join(f"{each.path}{dict(each.headers)}{each.body!r}" for each in sent)


def _credentials(at: Site) -> set[str]:
    """Returns the credentials and tokens that Keyfold sent to a site."""
    tokens = {each.headers.get("x-vault-token", "") for each in at.sent}
    return (tokens | {at.credential.read_text().strip()}) - {""}


def _opens_nothing(secret: str, at: Site) -> None:
    """Tries a secret in every way that a site has."""
    path = f"{at.mount}/keys/app"
    assert at.server.status("GET", path, token=secret) == 403
    assert at.server.status("GET", "auth/token/lookup-self", token=secret) == 403
    if at.auth == "token":
        return
    body = {"role": "keyfold", "jwt": secret}
    if at.auth == "approle":
        body = {"role_id": "keyfold", "secret_id": secret}
    status = at.server.status("POST", f"auth/{at.login}/login", **body)
    assert status in (400, 403, 500), json.dumps([at.auth, status])


def test_sections_keep_secrets_out_of_sight() -> None:
    """A token of the environment is not in a section's repr."""
    assert "hvs.secret" not in repr(Origin("token", token="hvs.secret"))
