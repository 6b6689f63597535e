"""docs/events.md shows each kind of event as the API's JSON has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

import pages
from keyfold import EventKind
from keyfold.v1 import event_service_pb2 as pb

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")

SECTIONS = re.findall(r"(?ms)^### ([A-Z, and]+): .*?\n(.*?)(?=^##|\Z)", PAGE)

EXAMPLES: list[tuple[str, str, dict[str, Any]]] = [
    (kinds, text, shown) for kinds, text in SECTIONS for shown in pages.shown_json(text)
]
"""The kinds of the section, its text, and the example."""


def test_every_kind_has_an_example_in_its_section() -> None:
    """Whoever writes a rule for a kind sees one. Only UNKNOWN has none: no release writes it."""
    shown = {each.get("kind") for _, _, each in EXAMPLES}
    assert shown == {*pb.EventKind.keys()} - {"EVENT_KIND_UNSPECIFIED", "EVENT_KIND_UNKNOWN"}
    assert len(EXAMPLES) == len(pages.shown_json(PAGE))


def test_the_client_knows_every_kind() -> None:
    """An event of any kind of the contract has it in the client, and can be asked for."""
    known = {kind.to_message() for kind in EventKind}
    assert known == {*pb.EventKind.values()}


@pytest.mark.parametrize(
    ("kinds", "text", "shown"),
    EXAMPLES,
    ids=[f"{shown.get('kind')} {shown.get('action')}" for _, _, shown in EXAMPLES],
)
def test_an_example_is_an_event(kinds: str, text: str, shown: dict[str, Any]) -> None:
    """An example has only fields of the contract, by their own names, and an action of its kind."""
    message = ParseDict(shown, pb.Event())
    assert set(shown) <= set(pb.Event.DESCRIPTOR.fields_by_name)
    assert shown.get("detail", {}).keys() <= {"request", "decision"}
    assert message.number > 0
    assert shown["kind"].removeprefix("EVENT_KIND_") in re.findall(r"[A-Z]+", kinds)
    assert f"`{message.action}`" in text
    assert all(f"`{name}`" in PAGE for name in shown)
