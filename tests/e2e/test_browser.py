"""The browser of the tests, on pages of its own: axe finds barriers where there are some."""

from __future__ import annotations

import browser

_FRAME = (
    '<!doctype html><html lang="en"><head><title>A page</title></head><body><main>{}</main></body>'
)


def test_axe_finds_barriers() -> None:
    """Axe says what a person could not use, and is silent about a page that is whole."""
    with browser.chromium() as chromium:
        page = chromium.new_page()
        page.set_content(_FRAME.format("<h1>Keys</h1><label>Name <input></label>"))
        assert browser.barriers(page) == []
        page.set_content(_FRAME.format("<h1>Keys</h1><input>"))
        [barrier] = browser.barriers(page)
    assert ": label: " in barrier
