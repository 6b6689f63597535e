"""The console in Chromium: every page for everybody, every action, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, expect

import browser
import keyfold
from e2e.conftest import StartServer
from e2e.console import KEYS, House, IdentityProvider, console, furnish
from e2e.visitors import PHONE, Visitors, inspect, tab_to

OPERATOR_PAGES: Final = (
    "/",
    "/clusters",
    "/clusters/acme-prod",
    "/clusters/acme-prod/test",
    "/clusters/acme-prod/rotate",
    "/clusters/acme-prod/revoke",
    "/clusters/globex-old",
    "/clusters/globex-old/restore",
    "/clusters/globex-sick",
    "/keys",
    "/keys?uri=local:acme-eu",
    "/keys?uri=local:acme-eu&what_if=DISABLE",
    "/events",
    "/events?kind=REFUSAL&from=2020-01-01T00:00",
    "/events/1",
    "/operations",
)

CUSTOMER_PAGES: Final = (
    "/organizations/acme",
    "/organizations/acme/connect",
    "/organizations/acme/connect?type=AWS_KMS",
    "/organizations/acme/links/acme-main",
    "/organizations/acme/links/acme-main/replace",
    "/organizations/acme/clusters/acme-prod",
    "/organizations/acme/events",
    "/organizations/acme/usage",
    "/organizations/acme/what-if?key=local:acme-eu&action=DISABLE",
)


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[House]:
    """A vendor with two customers: acme is well, and globex has a revoked and a sick cluster."""
    provider = IdentityProvider(tmp_path_factory.mktemp("provider"))
    settings: dict[str, str | None] = {**provider.settings}
    server = start_module_server(keys=(*KEYS, "globex-sick"), ready=True, **settings)
    with console(server.target, tmp_path_factory.mktemp("console")) as served:
        found = House(server, served, provider)
        with found.client() as client:
            furnish(client, ("acme-prod", "acme-stage", "acme-typed", "acme-own"))
            for cluster, key in (("globex-old", "globex-eu"), ("globex-sick", "globex-sick")):
                spec = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", f"local:{key}"))
                client.enable(cluster, [spec], organization="globex")
            client.revoke("globex-old", reason="contract ended")
            server.dev_keys("disable", "globex-sick")
            client.recheck("globex-sick")
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def visitors(house: House, chromium: Browser) -> Iterator[Visitors]:
    """Lends browsers to all tests of this file."""
    lent = Visitors(house, chromium)
    yield lent
    lent.close()


@pytest.fixture
def visit(visitors: Visitors) -> Iterator[Visitors]:
    """Lends browsers that end with the test; none may have had anything to complain of."""
    yield visitors
    assert visitors.end() == []


def test_axe_finds_barriers(chromium: Browser) -> None:
    """Axe says what a person could not use, and is silent about a page that is whole."""
    page = chromium.new_page()
    frame = '<!doctype html><html lang="en"><title>Keys</title><main><h1>Keys</h1>{}</main></html>'
    page.set_content(frame.format("<label>Name <input></label>"))
    assert browser.barriers(page) == []
    page.set_content(frame.format("<input>"))
    [barrier] = browser.barriers(page)
    page.close()
    assert ": label: " in barrier


@pytest.mark.parametrize("path", OPERATOR_PAGES)
def test_everybody_can_use_the_operators_pages(visit: Visitors, path: str) -> None:
    """Axe finds no barrier in a page, in light and dark; on a phone it does not scroll sideways."""
    assert inspect(visit(), path) == []


@pytest.mark.parametrize("path", CUSTOMER_PAGES)
def test_everybody_can_use_the_customers_pages(visit: Visitors, path: str) -> None:
    """The same holds for the pages that a customer sees."""
    assert inspect(visit("ann", org="acme"), path) == []


def test_everybody_can_sign_in_and_read_what_is_wrong(house: House, visit: Visitors) -> None:
    """The same holds for signing in, for what does not exist, and for an operation."""
    wrong = inspect(visit(None), "/sign-in?again=1&next=/clusters")
    with house.client() as client:
        action = keyfold.OperationAction.recheck()
        scope = keyfold.OperationScope.clusters(["acme-prod", "globex-sick"])
        started = client.start_operation("looked-at", action, scope)
        client.wait_operation("looked-at")
    assert started.operation is not None
    visitor = visit()
    wrong += inspect(visitor, f"/{started.operation.name}")
    for path in ("/clusters/nobody", "/nowhere"):
        wrong += inspect(visitor, path, 404)
    assert wrong == []


def test_an_operator_tests_rotates_revokes_and_restores(house: House, visit: Visitors) -> None:
    """Every action of a cluster's page does what it says, and says what it did."""
    visitor = visit()
    page = visitor.open("/clusters/acme-stage")
    page.get_by_role("link", name="Test a key…").click()
    page.get_by_role("radio", name="us").check()
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_role("status")).to_contain_text("The key works")
    expect(page.locator(".steps > li.good")).to_have_count(5)

    house.server.dev_keys("rotate", "acme-us")
    visitor.open("/clusters/acme-stage/rotate")
    page.get_by_role("checkbox", name="eu").uncheck()
    page.get_by_role("button", name="Rotate").click()
    visitor.at("/clusters/acme-stage")
    expect(page.get_by_role("status").first).to_be_visible()
    with house.client() as client:
        assert [one.key_version for one in client.get_status("acme-stage").regions] == ["1", "2"]

    page.get_by_role("link", name="Revoke…").click()
    page.get_by_label("Type the name").fill("acme-prod")
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("alert")).to_contain_text("nothing was done")
    page.get_by_label("Reason").fill("a drill")
    page.get_by_label("Type the name").fill("acme-stage")
    page.get_by_role("button", name="Revoke").click()
    visitor.at("/clusters/acme-stage")
    expect(page.get_by_role("heading", name="revoked").first).to_be_visible()
    with house.client() as client:
        assert {one.state for one in client.get_status("acme-stage").regions} == {
            keyfold.State.REVOKED
        }

    page.get_by_role("link", name="Restore…").click()
    page.get_by_role("button", name="Restore").click()
    visitor.at("/clusters/acme-stage")
    expect(page.get_by_role("heading", name="revoked")).to_have_count(0)
    page.get_by_role("button", name="Recheck").click()
    visitor.at("/clusters/acme-stage")
    expect(page.get_by_role("status").first).to_contain_text("asked just now")
    expect(page.get_by_role("table", name="Who did what")).to_contain_text("a drill")


def test_the_keyboard_is_enough_to_revoke(house: House, visit: Visitors) -> None:
    """From signing in to a revocation, everything is done with the keyboard, and focus is seen."""
    visitor = visit(None)
    page = visitor.open("/clusters/acme-typed/revoke")
    visitor.at("/sign-in")
    keys = page.keyboard
    expect(page.get_by_label("Token")).to_be_focused()
    keys.type(house.provider.token("operator"))
    keys.press("Enter")
    visitor.at("/clusters/acme-typed/revoke")
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keys.press("Enter")
    expect(page.locator("main")).to_be_focused()
    tab_to(page, "typed")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    keys.type("acme-typed")
    keys.press("Enter")
    visitor.at("/clusters/acme-typed")
    with house.client() as client:
        states = {one.state for one in client.get_status("acme-typed").regions}
    assert states == {keyfold.State.REVOKED}


def test_an_operation_is_started_and_watched(visit: Visitors) -> None:
    """It is counted first; its page then comes further by itself until it has ended."""
    visitor = visit()
    page = visitor.open("/operations")
    page.get_by_label("Name yours").fill("autumn")
    page.get_by_role("radio", name="Recheck").check()
    page.get_by_label("Clusters").fill("acme-prod globex-sick")
    page.get_by_role("button", name="Count what it would do").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "Recheck: clusters acme-prod, globex-sick"
    )
    page.get_by_role("button", name="Start autumn").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("autumn")
    expect(page.locator("main")).to_contain_text("3 of 3")
    expect(page.get_by_role("table", name="What failed")).to_contain_text("KEY_DISABLED")
    page.get_by_role("button", name="Delete this record").click()
    visitor.at("/operations")
    expect(page.get_by_role("table")).not_to_contain_text("autumn")


def test_filters_of_events(visit: Visitors) -> None:
    """Whoever looks for something narrows the log, opens an entry, and goes on from there."""
    page = visit().open("/events")
    page.get_by_label("Only what was refused or failed").check()
    page.get_by_text("More filters").click()
    page.get_by_label("Refusal").check()
    page.get_by_role("button", name="Show").click()
    row = page.get_by_role("row").filter(has_text="local:globex-sick").first
    expect(row).to_contain_text("KEY_DISABLED")
    row.get_by_role("rowheader").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The KMS refused a key")
    page.get_by_role("link", name="local:globex-sick").click()
    expect(page.get_by_role("heading", name="Not safe to disable")).to_be_visible()


def test_without_scripts_everything_works(house: House, visit: Visitors) -> None:
    """A browser that runs no script can do the same: here, revoke and restore."""
    visitor = visit(script=False)
    page = visitor.open("/clusters/globex-prod/revoke")
    page.get_by_label("Type the name").fill("globex-prod")
    page.get_by_role("button", name="Revoke").click()
    visitor.at("/clusters/globex-prod")
    page.get_by_role("link", name="Restore…").click()
    page.get_by_role("button", name="Restore").click()
    visitor.at("/clusters/globex-prod")
    with house.client() as client:
        [region] = client.get_status("globex-prod").regions
    assert region.state is keyfold.State.ENABLED


def test_who_may_only_read_is_offered_nothing_else(visit: Visitors) -> None:
    """An auditor sees all pages, and each action is off and says which role it needs."""
    page = visit("reader").open("/clusters/acme-prod")
    for label in ("Test a key", "Rotate", "Revoke"):
        expect(page.get_by_role("button", name=f"{label} is not allowed")).to_be_disabled()
    expect(page.get_by_role("button", name="Recheck")).to_be_enabled()


def test_a_token_that_has_expired(house: House, visit: Visitors) -> None:
    """It leads to the form, says why, and a new one leads back to the very page."""
    ended = house.provider.token("operator", lasts=-3_600)
    visitor = visit(token=ended)
    page = visitor.open("/events?cluster=acme-prod")
    visitor.at("/sign-in")
    expect(page.get_by_role("alert")).to_contain_text("no longer accepted")
    page.get_by_label("Token").fill(ended)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").last).to_contain_text("expired")
    page.get_by_label("Token").fill(house.provider.token("operator"))
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{house.console.url}/events?cluster=acme-prod")
    page.get_by_role("button", name="Sign out").click()
    visitor.at("/sign-in")
    visitor.open("/events")
    visitor.at("/sign-in")
    assert ended not in house.console.log()


def test_a_customer_connects_a_key(house: House, visit: Visitors) -> None:
    """Without a ticket: name it, see what to attach, watch the test turn green, and link it."""
    house.server.dev_keys("disable", "acme-next")
    visitor = visit("ann", org="acme")
    page = visitor.open("/")
    visitor.at("/organizations/acme")
    page.get_by_role("main").get_by_role("link", name="Connect a key").click()
    page.get_by_role("link", name="Local file").click()
    page.get_by_label("Name of the key").fill("local:acme-next")
    page.get_by_label("Region of your vendor").fill("us")
    page.get_by_role("button", name="Show what to attach").click()
    expect(page.get_by_role("heading", name="2. Attach the policy")).to_be_visible()
    assert browser.barriers(page) == []
    page.get_by_role("button", name="Test the key").click()
    expect(page.locator(".steps > li.bad").first).to_be_visible()
    assert browser.barriers(page) == []

    house.server.dev_keys("enable", "acme-next")
    expect(page.get_by_role("heading", name="4. Link it")).to_be_visible(timeout=30_000)
    expect(page.locator(".steps > li.bad")).to_have_count(0)
    page.get_by_label("Name of the link").fill("acme-us")
    page.get_by_role("button", name="Link this key").click()
    visitor.at("/organizations/acme/links/acme-us")
    expect(page.get_by_text("Available: no cluster uses this key yet.")).to_be_visible()
    page.get_by_role("button", name="Use this key for acme-stage in us").click()
    expect(page.get_by_role("table", name="Who uses it")).to_contain_text("acme-stage")


def test_a_customer_revokes_and_restores(house: House, visit: Visitors) -> None:
    """A customer stops all use of a cluster's keys without the vendor, and takes that back."""
    visitor = visit("ann", org="acme", size=PHONE)
    page = visitor.open("/organizations/acme/clusters/acme-own")
    page.get_by_label("Type the name").fill("acme-own")
    page.get_by_role("button", name="Revoke acme-own").click()
    expect(page.get_by_role("heading", name="Every server has confirmed")).to_be_visible()
    with house.client() as client, pytest.raises(keyfold.RevokedError):
        client.generate_data_key("acme-own", "eu")
    assert browser.barriers(page) == []
    visitor.open("/organizations/acme")
    expect(page.get_by_role("main")).to_contain_text("Revoked")
    page.get_by_role("link", name="acme-own").first.click()
    page.get_by_role("button", name="Restore acme-own").click()
    expect(page.get_by_role("button", name="Revoke acme-own")).to_be_visible()
    page.get_by_role("button", name="Check the keys now").click()
    expect(page.get_by_role("status").first).to_contain_text("the key decrypts and encrypts")
    with house.client() as client:
        assert client.generate_data_key("acme-own", "eu").generation == 1


def test_a_customer_sees_nothing_of_another(visit: Visitors) -> None:
    """Another customer's pages look like those of one that does not exist."""
    page = visit("bob", org="globex").open("/organizations/acme")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing of this name")
    page = visit("bob", org="globex").open("/organizations/globex")
    expect(page.get_by_role("main")).to_contain_text("globex-sick")
    expect(page.get_by_role("main")).to_contain_text("Key disabled")
    expect(page.get_by_role("main")).not_to_contain_text("acme")


def test_news_come_by_themselves(house: House, visit: Visitors) -> None:
    """A page that is open shows what another person did, without being loaded again."""
    visitor = visit()
    page = visitor.open("/clusters/acme-prod")
    page.evaluate("window.stayed = true")
    expect(page.locator("main")).not_to_contain_text("somebody else")
    with house.client() as client:
        client.revoke("acme-prod", regions=["us"], reason="somebody else")
    expect(page.locator("main")).to_contain_text("somebody else", timeout=20_000)
    expect(page.get_by_role("heading", name="us: revoked")).to_be_visible()
    with house.client() as client:
        client.restore("acme-prod", regions=["us"])
    expect(page.get_by_role("heading", name="us: revoked")).to_have_count(0, timeout=20_000)
    assert page.evaluate("window.stayed")


def test_a_dead_server(house: House, visit: Visitors) -> None:
    """An open page says that it is old; a new one says that no server answers, and comes back."""
    visitor = visit()
    page = visitor.open("/clusters")
    overview = visit()
    overview.open("/")
    house.server.kill()
    try:
        expect(overview.page.locator("#stale")).to_be_visible(timeout=30_000)
        expect(overview.page.get_by_role("heading", level=1)).to_have_text("Overview")
        answer = page.goto(f"{house.console.url}/clusters")
        assert answer is not None
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        expect(page.get_by_role("heading", level=1)).to_have_text("Keyfold cannot be reached")
        assert browser.barriers(page) == []
    finally:
        house.server.restart()
    expect(page.get_by_role("heading", level=1)).to_have_text("Clusters", timeout=30_000)
    expect(overview.page.locator("#stale")).to_be_hidden(timeout=30_000)
