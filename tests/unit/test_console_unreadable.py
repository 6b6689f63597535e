"""What the console answers to what it cannot read: nothing of it, and no fault of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from console_site import Site, site, token_of
from keyfold_console import unreadable
from keyfold_console.unreadable import answer_plainly

TOKEN: Final = token_of("vendor")

UNREADABLE: Final = {
    "a byte of no header": f"GET / HTTP/1.1\r\nHost: a\r\nCookie: keyfold={TOKEN}\x01\r\n\r\n",
    "no header": f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {TOKEN}\r\n\r\n",
    "a header that is too long": (
        f"GET / HTTP/1.1\r\nHost: a\r\nCookie: keyfold={TOKEN}; b={'b' * 20_000}\r\n\r\n"
    ),
    "no version": f"GET /{TOKEN} HTTP/9.x\r\nHost: a\r\n\r\n",
}

FORMS: Final = {
    "another content": ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n"),
    "json": ({"Content-Type": "application/json"}, b"{}"),
    "no content type": ({"Content-Type": ""}, b"token=a"),
    "an unknown charset": (
        {"Content-Type": "application/x-www-form-urlencoded; charset=b"},
        b"a=b",
    ),
    "bytes that are no text": ({}, b"token=\xff\xfe"),
    "bytes that are not packed": ({"Content-Encoding": "gzip"}, b"token=a"),
}


async def _sent(console: Site, request: str) -> str:
    assert console.browser.server.runner is not None
    assert console.browser.server.runner.server is not None
    answer_plainly(console.browser.server.runner.server)
    reader, writer = await asyncio.open_connection("127.0.0.1", console.browser.port)
    writer.write(request.encode("latin-1"))
    answer = await reader.read()
    writer.close()
    return answer.decode()


@pytest.mark.parametrize("what", UNREADABLE)
async def test_nothing_of_it_comes_back(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no request gets an answer without a word of it, and no line in the log."""
    async with site(tmp_path) as console:
        caplog.clear()
        answer = await _sent(console, UNREADABLE[what])
    assert answer.startswith("HTTP/1.0 400 ")
    assert answer.endswith("\r\n\r\nthis is not a request that can be read\n")
    assert TOKEN[:20] not in answer
    assert "aiohttp" not in answer
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


@pytest.mark.parametrize("what", FORMS)
async def test_a_form_that_is_none(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a fault of the request, and not one of the console."""
    headers, body = FORMS[what]
    given = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    async with site(tmp_path) as console:
        url = console.browser.make_url("/sign-in")
        sent = console.browser.session.post(url, data=body, headers=given | headers)
        async with sent as answer:
            assert answer.status == 400
    assert "a page failed" not in caplog.text


async def test_a_form_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends a form byte by byte takes no place from others for long."""
    monkeypatch.setattr(unreadable, "PATIENCE", 0.1)
    head = (
        "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n"
        "Connection: close\r\n\r\n"
    )
    async with site(tmp_path) as console:
        answer = await _sent(console, f"{head}token")
    assert answer.startswith("HTTP/1.1 408 ")
    assert "The form took too long to arrive" in answer


async def test_slow_forms_leave_room_for_others(tmp_path: Path) -> None:
    """One address can have few forms arrive at once, and pages are served meanwhile."""
    head = (
        "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
    )
    async with site(tmp_path) as console:
        slow = []
        for _ in range(unreadable.OF_ONE):
            reader, writer = await asyncio.open_connection("127.0.0.1", console.browser.port)
            writer.write(head.encode())
            slow.append((reader, writer))
        # Until the console has seen them all.
        while (shown := await console.post("/sign-in", token="a")).status != 503:
            assert shown.status == 400
        assert "too many forms" in shown.body
        assert (await console.get("/sign-in")).status == 200
        for _, writer in slow:
            writer.write(b"token=a.b")
        for reader, writer in slow:
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
            writer.close()
        assert (await console.post("/sign-in", token="a")).status == 400
