"""The overview, and the stream that keeps pages up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import keyfold
from console_site import POLICY, Site, enable, site, token_of
from keyfold_console import live
from keyfold_console.refusals import kind_of
from keyfold_server.domain.served_regions import ServedRegions


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Site]:
    """A console that the vendor's administrator visits, and clusters of two customers."""
    async with site(tmp_path, POLICY) as found:
        await enable(found, "prod", "eu", "us", organization="acme")
        await enable(found, "theirs", "eu", organization="globex")
        found.visit(token_of("vendor"))
        yield found


async def test_all_is_well(console: Site) -> None:
    """With nothing wrong the overview says so, with the figures and what happened last."""
    text = (await console.get("/")).text
    for said in ("Clusters 2", "3 of 3", "All is well", "us 1 cluster", "all well", "Enable done"):
        assert said in text, said


async def test_a_server_of_one_region(tmp_path: Path) -> None:
    """Whoever visits the console of a region's servers sees which, and where others are served."""
    served = ServedRegions.of(["us"], {"eu": "eu.keyfold.example:7443"})
    async with site(tmp_path, served=served) as found:
        assert "serves us alone, saw its store" in (await found.get("/")).text
        with pytest.raises(keyfold.WrongRegionError) as caught:
            await enable(found, "prod", "eu")
    assert "call eu.keyfold.example:7443" in str(caught.value)
    assert kind_of(caught.value)[:2] == (409, "Another server does this")


async def test_a_region_that_nobody_serves(tmp_path: Path) -> None:
    """A console does not say that all is well while no replica serves a region."""
    async with site(tmp_path) as found:
        await enable(found, "prod", "eu", "us")
        assert "All is well" in (await found.get("/")).text
    async with site(tmp_path, served=ServedRegions.of(["us"], {})) as found:
        text = (await found.get("/")).text
    assert "All is well" not in text
    assert "eu , 1 cluster: no live replica serves this region" in text
    assert "us , 1 cluster" not in text


async def test_what_needs_a_person(console: Site) -> None:
    """Each fault is one line: which cluster and regions, whose, since when, and what to do."""
    console.server.provider.disable("fake:prod")
    await console.keyfold.recheck("prod")
    await console.keyfold.revoke("theirs", reason="asked for it")
    text = (await console.get("/")).text
    assert "Need a person 2" in text
    assert "✕" not in text  # the sign is the style sheet's; the word says the same
    assert "Key disabled prod eu, us, of acme" in text
    assert "Revoked theirs eu, of globex" in text
    assert "Ask the customer whether this was meant" in text
    assert "2 not well" in text
    assert "asked for it" in text


async def test_a_customer_is_led_to_its_own_page(console: Site) -> None:
    """Whoever comes with the token of one organization alone has no use for the operator's page."""
    console.visit(token_of("customer-admin", org="acme"))
    shown = await console.get("/")
    assert (shown.status, shown.location) == (303, "/organizations/acme")


async def test_a_visitor_without_a_grant(console: Site) -> None:
    """Whom no grant names reads under which name the server knows them, and what is missing."""
    console.visit(token_of("stranger"))
    text = (await console.get("/")).text
    assert "No grant holds for you" in text
    assert "jwt:https://issuer#stranger" in text


async def words(console: Site, path: str, count: int, act: object = None) -> list[str]:
    """Returns the first words of a stream; once it has begun, `act` is awaited."""
    found: list[str] = []
    async with asyncio.timeout(15), console.browser.get(path) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        async for line in answer.content:
            if line == b": alive\n" and act is not None:
                await act  # type: ignore[misc]
                act = None
            if line.startswith(b"event: "):
                found.append(line.decode().strip().removeprefix("event: "))
                if len(found) == count:
                    return found
    return found


async def test_a_change_is_told(console: Site) -> None:
    """A stream tells that something has changed, soon, and not what."""
    act = console.keyfold.revoke("prod")
    assert await words(console, "/live?cluster=prod", 1, act) == ["change"]


async def test_a_stream_shows_whether_the_server_answers(console: Site) -> None:
    """When the server goes away, whoever looks at an old page is told."""
    assert await words(console, "/live", 1, console.server.stop()) == ["away"]


async def test_a_console_that_ends_waits_for_no_stream(console: Site) -> None:
    """Open windows do not hold the end of the console up: their streams end with it."""
    async with console.browser.get("/live") as answer:
        await answer.content.readline()
        async with asyncio.timeout(5):
            await console.browser.server.close()


async def test_streams_are_the_visitors_and_bounded(
    console: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not watch gets no stream, and nobody gets more than their share."""
    console.visit(token_of("stranger"))
    assert (await console.get("/live")).status == 403
    console.visit(token_of("vendor"))
    monkeypatch.setattr(live, "_OF_A_VISITOR", 1)
    async with console.browser.get("/live") as answer:
        assert answer.status == 200
        assert (await console.get("/live")).status == 429
    async with asyncio.timeout(10):
        while (await console.get("/clusters")).status == 200:
            async with console.browser.get("/live") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.1)
