"""docs/envelope.md keeps its promise: its code opens messages without Keyfold.

The page's code is run as it stands there, alone and with that of docs/wrapped-key.md.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import envelope_oracle as oracle
import keyfold
from envelope_fakes import FakeDataPlane
from keyfold.errors import messages
from pages import fenced
from wrapped_key_oracle import BASE, text_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "envelope.md").read_text(encoding="utf-8")
VECTORS = json.loads(oracle.FILE.read_text(encoding="utf-8"))["vectors"]

Page = dict[str, Any]


def defined(name: str) -> Page:
    """Returns the names that a page's code defines."""
    names: Page = {}
    code = "".join(fenced((DOCS / name).read_text(encoding="utf-8"), "python"))
    exec(compile(code, f"docs/{name}", "exec"), names)
    return names


@pytest.fixture(name="page", scope="module")
def page_fixture() -> Page:
    """The names that the page's code defines."""
    return defined("envelope.md")


def test_the_code_is_forty_lines() -> None:
    """Whoever must open a message without Keyfold has little to read."""
    code = "".join(fenced(PAGE, "python"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_page_opens_and_refuses_what_the_vectors_say(page: Page, vector: Page) -> None:
    """Someone without Keyfold opens every good message, and no other."""

    def unwrap(wrapped_key: bytes, context: dict[str, str]) -> bytes:
        if wrapped_key.hex() != vector["wrapped_key"]:
            raise ValueError("NOT_A_WRAPPED_KEY")
        return bytes.fromhex(vector["data_key"])

    message, cluster = bytes.fromhex(vector["message"]), vector["cluster"]
    if vector["expect"] == "opens":
        data, key_context, context = page["open_message"](message, cluster, unwrap)
        assert data.hex() == vector["data"]
        assert key_context == vector["key_context"]
        assert context == vector["context"]
    else:
        # The page's code does not look whether a context is encoded as an envelope does it; the
        # tag fails then.
        lax = None if vector["expect"] == "NOT_A_MESSAGE" else rf"^{vector['expect']}$"
        with pytest.raises(ValueError, match=lax):
            page["open_message"](message, cluster, unwrap)


@pytest.mark.parametrize("vector", VECTORS[:12], ids=lambda vector: vector["name"])
def test_two_pages_go_all_the_way_from_kek_to_data(page: Page, vector: Page) -> None:
    """With docs/wrapped-key.md, a KEK alone opens a message: nothing of Keyfold is needed."""
    wrapping = defined("wrapped-key.md")
    kek = (bytes.fromhex(BASE["key"]), vector["cluster"], BASE["region"])
    keks = {bytes.fromhex(BASE["kek_id"]): kek}

    def unwrap(wrapped_key: bytes, context: dict[str, str]) -> bytes:
        opened: bytes = wrapping["unwrap"](wrapped_key, keks, context)
        return opened

    message = bytes.fromhex(vector["message"])
    data, *_ = page["open_message"](message, vector["cluster"], unwrap)
    assert data.hex() == vector["data"]


def test_page_opens_what_an_envelope_seals(page: Page) -> None:
    """The page is about the messages of this release."""
    client = FakeDataPlane()
    envelope = keyfold.Envelope(client, "acme", "eu", context={"table": "cards"})
    message = envelope.seal(b"4111", {"row": "17"})

    def unwrap(wrapped_key: bytes, context: dict[str, str]) -> bytes:
        return client.unwrap("acme", wrapped_key, context=context).plaintext

    opened = page["open_message"](message, "acme", unwrap)
    assert opened == (b"4111", {"table": "cards"}, {"row": "17"})


def test_page_explains_every_reason() -> None:
    """Whoever gets one of the client's own reasons finds it in the page's table."""
    found = [cls for cls in vars(keyfold).values() if isinstance(cls, type)]
    leaves = [cls for cls in found if cls.__module__ == messages.__name__]
    reasons = {cls.reason for cls in leaves if issubclass(cls, keyfold.KeyfoldError)}
    reasons.remove(keyfold.MessageInvalidError.reason)
    assert len(reasons) == 5
    for reason in reasons:
        assert f"| `{reason}` |" in PAGE


def test_page_has_the_bounds_of_the_code() -> None:
    """Whoever reads how long a data key serves reads what it does."""
    given = inspect.signature(keyfold.Envelope).parameters
    assert f"{given['max_messages'].default:,} messages (`max_messages`)" in PAGE
    assert f"{given['max_bytes'].default >> 30} GiB (`max_bytes`)" in PAGE
    assert f"{given['max_age'].default:.0f} seconds (`max_age`" in PAGE


def test_vectors_are_those_of_the_oracle() -> None:
    """The file is what its program writes; a change of it breaks what callers have stored."""
    assert oracle.FILE.read_text(encoding="utf-8") == text_of(oracle.envelope_file())
