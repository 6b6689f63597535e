"""The recovery page keeps its promise: its code opens what Keyfold wrapped.

The code blocks of docs/wrapped-key.md are run as they stand there, in the page's order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pages
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.envelope import Kek, encode_context

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "wrapped-key.md").read_text(encoding="utf-8")
VECTORS = ROOT / "tests" / "vectors"
WRAPPED = json.loads((VECTORS / "wrapped-key.json").read_text(encoding="utf-8"))["vectors"]
BINDINGS = json.loads((VECTORS / "binding.json").read_text(encoding="utf-8"))["vectors"]

Page = dict[str, Any]


@pytest.fixture(name="page", scope="module")
def page_fixture() -> Page:
    """The names that the page's code defines."""
    defined: Page = {}
    blocks = pages.fenced(PAGE, "python")
    exec(compile("".join(blocks), "docs/wrapped-key.md", "exec"), defined)
    return defined


@pytest.mark.parametrize("vector", WRAPPED, ids=lambda vector: vector["name"])
def test_page_opens_and_refuses_what_the_vectors_say(page: Page, vector: Page) -> None:
    """Someone without Keyfold opens every good blob, and learns why a bad one does not open."""
    kek = (bytes.fromhex(vector["key"]), vector["cluster"], vector["region"])
    keks = {bytes.fromhex(vector["kek_id"]): kek}
    blob = bytes.fromhex(vector["wrapped_key"])
    if vector["expect"] == "opens":
        assert page["unwrap"](blob, keks, vector["context"]).hex() == vector["plaintext"]
    else:
        with pytest.raises(ValueError, match=rf"^{vector['expect']}$"):
            page["unwrap"](blob, keks, vector["context"])


@pytest.mark.parametrize("vector", BINDINGS, ids=lambda vector: vector["name"])
def test_page_checks_the_payload_of_a_stored_kek(page: Page, vector: Page) -> None:
    """Someone without Keyfold takes the KEK from a payload, and sees when it is another's."""
    kek_id, payload = bytes.fromhex(vector["kek_id"]), bytes.fromhex(vector["payload"])
    names = (vector["cluster"], vector["region"], kek_id, vector["organization"])
    bound = page["binding"](*names)
    assert bound.hex() == vector["canonical"]
    assert page["kek_of"](payload, bound).hex() == vector["key"]
    for bad, other in ((payload, bound + b"\x00"), (payload[:-1], bound), (b"\x02" * 65, bound)):
        with pytest.raises(ValueError, match=r"^KEK_MISMATCH$"):
            page["kek_of"](bad, other)


def test_page_goes_all_the_way_from_payload_to_data_key(page: Page) -> None:
    """The numbered steps together open what the server's own code wrapped."""
    bound = Binding("orders", "eu", bytes(range(16)), "acme")
    payload = bytes(bound.payload(bytes(range(32))))
    context = {"table": "customers", "column": "iban"}
    kek = Kek(bound.kek_id, "orders", "eu", 1, bytearray(range(32)))
    blobs = kek.seal_batch([(b"first", encode_context(context)), (b"second", encode_context({}))])

    key = page["kek_of"](payload, page["binding"]("orders", "eu", bound.kek_id, "acme"))
    keks = {bound.kek_id: (key, "orders", "eu")}
    assert page["unwrap"](blobs[0], keks, context) == b"first"
    assert page["unwrap"](blobs[1], keks, {}) == b"second"


def test_page_explains_every_reason_of_the_vectors() -> None:
    """Every reason that a blob can be refused for stands in the page's table."""
    for reason in {vector["expect"] for vector in WRAPPED} - {"opens"}:
        assert f"| `{reason}` |" in PAGE
