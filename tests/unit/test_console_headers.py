"""What the console tells browsers, and which requests it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from console_site import site
from keyfold.transport.tls import Tls
from keyfold_console.settings import Settings, SettingsError

CROSS_SITE: tuple[dict[str, str], ...] = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {},
)


async def test_headers_of_every_answer(tmp_path: Path) -> None:
    """Each answer, faults included, forbids scripts, frames, sniffing, caches and referrers."""
    async with site(tmp_path) as console:
        for path in ("/clusters", "/nothing-here", "/static/console.css", "/livez", "/sign-in"):
            shown = await console.get(path)
            assert shown.headers["Content-Security-Policy"] == (
                "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
                "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
            )
            assert shown.headers["X-Content-Type-Options"] == "nosniff"
            assert shown.headers["Referrer-Policy"] == "same-origin"
            assert shown.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            stays = path.startswith("/static/")
            assert shown.headers["Cache-Control"] == ("max-age=300" if stays else "no-store")
            assert not {"style=", "onclick=", "<style", "javascript:"} & set(shown.body.split())


async def test_a_form_of_another_site_is_refused(tmp_path: Path) -> None:
    """Only a page of the console sends forms; a browser says from where a form comes."""
    async with site(tmp_path) as console:
        for headers in CROSS_SITE:
            assert (await console.send("/sign-out", dict(headers))).status == 403, headers
        host = f"127.0.0.1:{console.browser.port}"
        assert (await console.send("/sign-out", {"Origin": f"http://{host}"})).status == 303


async def test_a_page_pointed_at_this_machine_sees_nothing(tmp_path: Path) -> None:
    """Where no token is needed, a web site whose name leads to the loopback address is refused."""
    async with site(tmp_path) as console:
        for host in ("evil.example", "127.0.0.1.evil.example:80", "[", ""):
            assert (await console.get("/clusters", Host=host)).status in (400, 403), host
        for host in ("localhost:9", "127.0.0.1", "[::1]:80"):
            assert (await console.get("/clusters", Host=host)).status == 200, host


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"listen": "0.0.0.0:80"}, "in plain text"),
        ({"listen": "console.internal:80"}, "in plain text"),
        ({"listen": "8080"}, "HOST:PORT"),
        ({"certificate": Path("a.pem")}, "go together"),
        ({"embed": ("portal.example",)}, "write an origin"),
        (
            {"certificate": Path("a"), "private_key": Path("b"), "behind_proxy": True},
            "give one of them",
        ),
    ],
)
def test_settings_that_cannot_be_used(given: dict[str, object], said: str) -> None:
    """A console that would send tokens in plain text, or misunderstand, does not start."""
    with pytest.raises(SettingsError, match=said):
        Settings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"target": "unix:/run/keyfold/k.sock"},
        {"target": "keyfold.example:7443", "tls": Tls()},
        {"tls": Tls(cert="client.pem", key="client.key")},
        {"behind_proxy": True, "listen": "0.0.0.0:80"},
        {"behind_proxy": True},
    ],
)
def test_where_nobody_does_without_a_token(given: dict[str, object]) -> None:
    """A call without a token would be the console's own: with its certificate, or by its socket."""
    assert not Settings(**given).without_token  # type: ignore[arg-type]


def test_in_development_a_visitor_may_do_without_a_token() -> None:
    """Where all is on this machine and without TLS, every program is the same caller already."""
    assert Settings().without_token
    assert Settings(target="[::1]:7443, 127.0.0.1:7444").without_token
