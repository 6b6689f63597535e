"""Free texts: what a reason, a description or a name for people may hold."""

from __future__ import annotations

from unicodedata import bidirectional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyfold_server.domain.errors import InvalidReasonError
from keyfold_server.domain.texts import MAX_REASON, check_reason, fault_of_text

_TURNS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
"""The bidirectional classes of Unicode's characters that turn the text around them."""


@given(st.text(max_size=50))
@example("a\u0085b")
@example("a\u2028b")
@example("a\u200fb")
@example("a\ufeffb")
def test_an_accepted_text_is_one_line_and_turns_nothing(text: str) -> None:
    """What is accepted prints as one line, moves no cursor, and changes no direction of text."""
    if fault_of_text(text, 50) is not None:
        return
    assert len(text.splitlines()) <= 1
    assert all(ord(one) >= 0x20 and not 0x7F <= ord(one) < 0xA0 for one in text)
    assert not _TURNS & {bidirectional(one) for one in text}
    assert not set(text) & set("\u061c\u200e\u200f\ufeff\u2060")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "contract ended: ticket 4711",
        "Schlüssel zurückgezogen: «ja»",
        "契約終了\u3000至急",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d💻 said so",
        "a\u00a0b",
        "עברית and English",
    ],
)
def test_what_people_write_is_accepted(text: str) -> None:
    """Every script may be written, with its own spaces and joiners, and so may emoji."""
    assert fault_of_text(text, 100) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb", r"U\+000A as character 2"),
        ("\x1b[2J", r"U\+001B as character 1"),
        ("paid \u202eton", r"U\+202E as character 6"),
        ("x" * 1_025, "1,025 characters; use at most 1,024"),
    ],
)
def test_the_message_says_which_character_and_where(text: str, said: str) -> None:
    """A character that nobody sees is named, so that its writer finds it."""
    with pytest.raises(InvalidReasonError, match=said) as caught:
        check_reason(text)
    assert caught.value.field == "reason"
    check_reason("x" * MAX_REASON)
