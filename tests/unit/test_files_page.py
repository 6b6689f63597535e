"""docs/files.md keeps its promise: its code opens streams with Tink, and without Keyfold.

The page's code is run as it stands there, behind that of docs/envelope.md.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import keyfold
import stream_oracle as oracle
from envelope_fakes import FakeDataPlane
from keyfold.errors import messages
from pages import fenced

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "files.md").read_text(encoding="utf-8")
VECTORS = json.loads(oracle.FILE.read_text(encoding="utf-8"))["vectors"]

Page = dict[str, Any]


@pytest.fixture(name="page", scope="module")
def page_fixture() -> Page:
    """The names that the code of both pages defines."""
    names: Page = {}
    for name in ("envelope.md", "files.md"):
        code = "".join(fenced((DOCS / name).read_text(encoding="utf-8"), "python"))
        exec(compile(code, f"docs/{name}", "exec"), names)
    return names


def test_the_code_knows_no_keyfold(page: Page) -> None:
    """Whoever opens a stream by hand needs Tink, cryptography and this page."""
    modules = {value.__name__ for value in page.values() if type(value).__name__ == "module"}
    modules |= {getattr(value, "__module__", "") or "" for value in page.values()}
    assert "tink" in {name.split(".")[0] for name in modules}
    assert not [name for name in modules if name.startswith("keyfold")]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_page_opens_and_refuses_what_the_vectors_say(page: Page, vector: Page) -> None:
    """Someone without Keyfold opens every good stream, and no other."""

    def unwrap(wrapped_key: bytes, context: dict[str, str]) -> bytes:
        if wrapped_key.hex() != vector["wrapped_key"]:
            raise ValueError("NOT_A_WRAPPED_KEY")
        return bytes.fromhex(vector["data_key"])

    whole = bytes.fromhex(vector["stream"]) if "stream" in vector else oracle.stream(vector)
    if vector["expect"] == "opens":
        stream, key_context, own = page["open_stream"](io.BytesIO(whole), vector["cluster"], unwrap)
        assert stream.read() == oracle.data_of(vector)
        assert (key_context, own) == (vector["key_context"], vector["context"])
        return
    with pytest.raises((ValueError, page["tink"].TinkError)):
        page["open_stream"](io.BytesIO(whole), vector["cluster"], unwrap)[0].read()


def test_page_opens_what_an_envelope_seals(page: Page) -> None:
    """The page is about the streams of this release."""
    client, target = FakeDataPlane(), io.BytesIO()
    envelope = keyfold.Envelope(client, "acme", "eu", context={"table": "cards"})
    with envelope.seal_stream(target, {"file": "a"}) as sealing:
        sealing.write(b"4111" * 1_000_000)

    def unwrap(wrapped_key: bytes, context: dict[str, str]) -> bytes:
        return client.unwrap("acme", wrapped_key, context=context).plaintext

    source = io.BytesIO(target.getvalue())
    stream, key_context, own = page["open_stream"](source, "acme", unwrap)
    assert stream.read() == b"4111" * 1_000_000
    assert (key_context, own) == ({"table": "cards"}, {"file": "a"})


def test_page_explains_every_reason() -> None:
    """Whoever gets one of the client's own reasons finds it in the page's table."""
    leaves = [one for one in vars(messages).values() if isinstance(one, type)]
    wrong = [one.reason for one in leaves if issubclass(one, keyfold.MessageInvalidError)]
    reasons = {*wrong, keyfold.ExtraMissingError.reason} - {keyfold.MessageInvalidError.reason}
    assert len(reasons) == 5
    for reason in reasons:
        assert f"| `{reason}` |" in PAGE
