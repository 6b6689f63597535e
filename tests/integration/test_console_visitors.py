"""Who visits the console: tokens, signing in and out, and that nobody gets rights from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from console_site import POLICY, Site, enable, site, token_of


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Site]:
    """A console in front of a server that knows visitors by their tokens."""
    async with site(tmp_path, POLICY) as found:
        await enable(found, "prod", organization="acme")
        yield found


async def test_nobody_sees_a_page_without_a_token(console: Site) -> None:
    """Without a token every page leads to the form, which leads back to the page."""
    shown = await console.get("/clusters?prefix=pr")
    assert (shown.status, shown.location) == (303, "/sign-in?next=/clusters?prefix%3Dpr")
    form = await console.get(shown.location)
    assert form.status == 200
    assert 'name="next" value="/clusters?prefix=pr"' in form.body


async def test_a_visitor_signs_in_and_out(console: Site) -> None:
    """A token in the form opens the pages until it ends or its visitor signs out."""
    token = token_of("vendor", lasts=600)
    shown = await console.post("/sign-in", token=f" {token}\n", next="/clusters")
    assert (shown.status, shown.location) == (303, "/clusters")
    kept = shown.headers["Set-Cookie"]
    assert kept.startswith(f"keyfold={token};")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(kept.split("; "))
    [seconds] = [int(one.split("=")[1]) for one in kept.split("; ") if one.startswith("Max-Age")]
    assert 590 <= seconds <= 600
    text = (await console.get("/clusters")).text
    assert ("prod" in text, "token ends" in text) == (True, False)
    console.visit(token_of("vendor", lasts=200))
    assert "token ends in 3 minutes" in (await console.get("/clusters")).text
    assert (await console.post("/sign-out")).location == "/sign-in"
    assert console.kept() == ""
    assert (await console.get("/clusters")).status == 303


async def test_a_token_that_expires_leads_to_the_form_and_back(console: Site) -> None:
    """When the server takes a token no longer, its visitor signs in again and is where it was."""
    console.visit(token_of("vendor"))
    assert (await console.get("/clusters")).status == 200
    console.issuer.withdrawn = True
    shown = await console.get("/clusters")
    assert (shown.status, shown.location) == (303, "/sign-in?next=/clusters&again=1")
    assert console.kept() == ""
    assert "no longer accepted" in (await console.get(shown.location)).text
    for path, page in (
        ("/clusters/prod/revoke", "/clusters/prod/revoke"),
        ("/clusters/prod/recheck", "/clusters/prod"),
        ("/operations/plan", "/operations/plan"),
    ):
        shown = await console.post(path)
        assert shown.location == f"/sign-in?next={page}", "a form leads back to the page it was on"
    console.issuer.withdrawn = False
    console.visit(token_of("vendor"))
    assert (await console.get("/operations/plan")).location == "/operations"


async def test_what_cannot_be_kept_is_refused(console: Site) -> None:
    """The form says what is wrong with what was given, does not show it, and keeps nothing."""
    for token, said in (
        ("", "one line of ASCII"),
        ("two words", "one line of ASCII"),
        ("a.b", "a signed JWT"),
        ("a.b.c", "a signed JWT"),
        (token_of("vendor", lasts=-1), "has expired"),
        (token_of("vendor", blob="x" * 4_000), "browsers keep at most 4,000"),
    ):
        shown = await console.post("/sign-in", token=token)
        assert shown.status == 400, token
        assert said in shown.text
        assert "Set-Cookie" not in shown.headers
        assert not token or token not in shown.body


async def test_the_form_leads_nowhere_else(console: Site) -> None:
    """Whatever a link to the form says, signing in ends on a page of the console."""
    for where in ("//evil.example", "https://evil.example", "/\\evil.example", "evil", "/\t/evil"):
        shown = await console.post("/sign-in", token=token_of("vendor"), next=where)
        assert (shown.status, shown.location) == (303, "/"), where


async def test_a_proxy_brings_the_token(console: Site) -> None:
    """The token of an authenticating proxy counts, and the cookie does not count beside it."""
    console.visit(token_of("vendor"))
    shown = await console.get("/clusters", Authorization=f"Bearer {token_of('vendor')}")
    assert shown.status == 200
    assert "prod" in shown.text
    # Signing out here would leave the visitor signed in at the proxy.
    assert "Sign out" not in shown.text
    assert "Sign out" in (await console.get("/clusters")).text
    for header in ("Bearer ", "Basic abc", f"Bearer {token_of('vendor', lasts=-9)}"):
        assert (await console.get("/clusters", Authorization=header)).status == 401


async def test_each_visitor_sees_what_their_token_may_see(console: Site) -> None:
    """One customer's pages hold nothing of another's, whoever asked before."""
    await enable(console, "theirs", organization="globex")
    for organization, own, other in (("acme", "prod", "theirs"), ("globex", "theirs", "prod")):
        console.visit(token_of("customer-admin", org=organization))
        text = (await console.get("/clusters")).text
        assert own in text
        assert other not in text


async def test_the_console_never_calls_as_itself(tmp_path: Path) -> None:
    """Whatever the server would take, a call without a visitor's token is not made.

    In development the server takes everybody on its machine. Whoever comes through a proxy may be
    on any machine, so the console wants a token all the same.
    """
    async with site(tmp_path, behind_proxy=True) as console:
        for path in ("/", "/clusters", "/live", "/events", "/organizations/acme"):
            shown = await console.get(path, Host="console.example")
            assert (shown.status, shown.location.split("?")[0]) == (303, "/sign-in"), path


async def test_over_https_the_cookie_is_bound_to_the_host(tmp_path: Path) -> None:
    """Over https no other host, and no page without TLS, can set or read the visitor's cookie."""
    async with site(tmp_path, POLICY, behind_proxy=True) as console:
        shown = await console.post("/sign-in", token=token_of("vendor"))
        kept = shown.headers["Set-Cookie"].split("; ")
        assert kept[0].startswith("__Host-keyfold=")
        assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(kept)
        assert not any(one.startswith("Domain") for one in kept)
        assert "max-age" in shown.headers["Strict-Transport-Security"]
