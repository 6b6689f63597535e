"""People at a browser who visit the console, and what their browser says of its pages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.sync_api import Browser, BrowserContext, Page, expect

import browser
from e2e.console import House

PHONE: Final = (360, 740)
WIDE: Final = (1_440, 900)


@dataclass
class Visitor:
    """Somebody at a browser.

    Attributes:
        house: What they visit.
        context: Their browser.
        faults: What the browser complained of, such as a page that runs what it must not.
        asked: The addresses that the browser asked for.
        script: Whether it runs scripts.
    """

    house: House
    context: BrowserContext
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    script: bool = True

    def __post_init__(self) -> None:
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, message: Any) -> None:
        # The browser also reports statuses such as 404, which tests ask for themselves.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def complaints(self) -> list[str]:
        """Returns the faults, and the addresses elsewhere than at the console."""
        here = (f"{self.house.console.url}/", "about:", "data:")
        return [*self.faults, *(url for url in self.asked if not url.startswith(here))]

    def leave(self) -> None:
        """Closes what is open and forgets who it was, so that somebody else can sit down."""
        self.page.goto("about:blank")
        self.page.emulate_media(color_scheme="light")
        self.context.clear_cookies()
        self.faults.clear()
        self.asked.clear()

    def open(self, path: str) -> Page:
        """Opens a page."""
        self.page.goto(f"{self.house.console.url}{path}")
        return self.page

    def at(self, path: str) -> None:
        """Waits until the browser is at a path, whatever its query."""
        expect(self.page).to_have_url(
            re.compile(re.escape(self.house.console.url + path) + r"(\?|$)")
        )


@dataclass
class Visitors:
    """Lends browsers to visitors; use it as a function.

    A new window costs Chromium twice as much as a page with all that axe looks for in it. So a
    browser that one test no longer needs serves the next one, on an empty page and without cookies.
    """

    house: House
    chromium: Browser
    _lent: list[Visitor] = field(default_factory=list)
    _idle: list[Visitor] = field(default_factory=list)

    def __call__(
        self,
        subject: str | None = "operator",
        *,
        org: str = "",
        size: tuple[int, int] = WIDE,
        script: bool = True,
        token: str = "",
    ) -> Visitor:
        """Returns a visitor who has signed in.

        Args:
            subject: Who it is; None: nobody who has signed in.
            org: The organization that their token names; empty: none.
            size: The width and height of the window.
            script: Whether the browser runs scripts.
            token: Their token; empty: a new one.
        """
        visitor = self._lend(script=script)
        width, height = size
        visitor.page.set_viewport_size({"width": width, "height": height})
        if subject is not None:
            token = token or self.house.provider.token(subject, {"org": org} if org else None)
            url = self.house.console.url
            visitor.context.add_cookies([{"name": "keyfold", "value": token, "url": url}])
        return visitor

    def _lend(self, *, script: bool) -> Visitor:
        visitor = next((one for one in self._idle if one.script == script), None)
        if visitor is None:
            context = self.chromium.new_context(java_script_enabled=script, reduced_motion="reduce")
            visitor = Visitor(self.house, context, script=script)
        else:
            self._idle.remove(visitor)
        self._lent.append(visitor)
        return visitor

    def end(self) -> list[str]:
        """Takes all browsers back; returns what they had to complain of."""
        complaints = []
        while self._lent:
            visitor = self._lent.pop()
            complaints += visitor.complaints()
            visitor.leave()
            self._idle.append(visitor)
        return complaints

    def close(self) -> None:
        """Closes all browsers."""
        for visitor in (*self._lent, *self._idle):
            visitor.context.close()


def inspect(visitor: Visitor, path: str, status: int = 200) -> list[str]:
    """Opens a page in light and dark, at a desk and on a phone; returns what is wrong with it."""
    page = visitor.page
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    page.emulate_media(color_scheme="light")
    answer = page.goto(f"{visitor.house.console.url}{path}")
    assert answer is not None
    wrong = [] if answer.status == status else [f"{path}: {answer.status}"]
    wrong += [f"light: {each}" for each in browser.barriers(page)]
    page.emulate_media(color_scheme="dark")
    wrong += [f"dark: {each}" for each in browser.barriers(page, "color-contrast")]
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    beside = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if beside > 0:
        wrong.append(f"{path}: a phone must scroll sideways by {beside} pixels")
    return wrong


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until the field of this name has the focus."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == name:
            return
    raise AssertionError(f"Tab does not come to {name}")
