"""Photographs the console for README.md and docs/: `make pictures`.

What the pictures show is in picture_house.py. Chromium comes from scripts/browser.sh. They show the
time, so they differ each time: make them anew when the pages have changed.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from picture_house import ACME_US, GLOBEX_NEXT, house, token_for
from playwright.async_api import Browser, Page, async_playwright

ROOT: Final = Path(__file__).resolve().parents[1]

FOLDER: Final = ROOT / "docs" / "pictures"

Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: The name of its file.
        path: The page.
        subject: Who visits it.
        org: The organization of the visitor's token; empty: none.
        scheme: Light or dark.
        size: The width and the height.
    """

    name: str
    path: str
    subject: str = "ada@vendor.example"
    org: str = ""
    scheme: Scheme = "light"
    size: tuple[int, int] = (1_280, 860)


_PHONE: Final = (390, 844)

_CONNECT: Final = "/organizations/globex/connect?type=GCP_CLOUD_KMS"

PICTURES: Final = (
    Picture("overview", "/"),
    Picture("overview-dark", "/", scheme="dark"),
    Picture("cluster", "/clusters/initech-orders"),
    Picture("keys", f"/keys?uri={ACME_US.uri}&what_if=DISABLE"),
    Picture("customer", "/organizations/acme", "sam@acme.example", "acme"),
    Picture("connect", _CONNECT, "lee@globex.example", "globex", size=(1_280, 1_060)),
    Picture("test", _CONNECT, "lee@globex.example", "globex", size=(1_280, 1_060)),
    Picture(
        "phone", "/organizations/initech", "kim@initech.example", "initech", "dark", size=_PHONE
    ),
)


async def main(chromium: str) -> None:
    """Makes all pictures with a browser."""
    logging.disable(logging.WARNING)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with house(Path(folder)) as here, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium)
            for picture in PICTURES:
                await _photograph(browser, here.url, picture)
            await browser.close()


async def _photograph(browser: Browser, url: str, picture: Picture) -> None:
    width, height = picture.size
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=picture.scheme,
        reduced_motion="reduce",
        locale="en-GB",
    )
    token = token_for(picture.subject, picture.org)
    await context.add_cookies([{"name": "keyfold", "value": token, "url": url}])
    page = await context.new_page()
    await page.goto(f"{url}{picture.path}")
    if picture.path == _CONNECT:
        await _connect(page)
    if picture.name == "test":
        await page.get_by_role("button", name="Link this key").scroll_into_view_if_needed()
    file = FOLDER / f"console-{picture.name}.png"
    await page.screenshot(path=file)
    await context.close()
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")


async def _connect(page: Page) -> None:
    """Names a key in Google Cloud, and tests it."""
    await page.get_by_label("Resource name of the key").fill(GLOBEX_NEXT.uri)
    await page.get_by_label("Service account").fill(GLOBEX_NEXT.auth_principal)
    await page.get_by_label("Region of your vendor").fill("ap-southeast-1")
    await page.get_by_role("button", name="Show what to attach").click()
    await page.get_by_role("button", name="Test the key").click()
    await page.get_by_role("heading", name="4. Link it").wait_for()


_SCRIPT: Final = (ROOT / "scripts" / "browser.sh", "chromium")
_FOUND: Final = subprocess.run(_SCRIPT, check=True, stdout=subprocess.PIPE, text=True)
asyncio.run(main(_FOUND.stdout.strip()))
