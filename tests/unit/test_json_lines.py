"""Lines of JSON of any size, and objects that keep what nobody changes."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfold.cli.errors import InputError
from keyfold.cli.input.json_lines import MAX_LINE, JsonObject, read_lines

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.text(), _JSON, max_size=5)


@given(_OBJECTS, st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}]))
def test_an_object_is_what_it_was(content: dict[str, Any], form: dict[str, Any]) -> None:
    """An object that nobody changes means what it meant, whatever its form."""
    text = json.dumps(content, **form)
    read = JsonObject(text)
    assert read.values == content
    assert json.loads(str(read)) == content


@given(_OBJECTS, st.text(), _JSON, st.text())
def test_changes_are_those_of_a_dict(
    content: dict[str, Any], name: str, value: Any, gone: str
) -> None:
    """A field is set in its place or at the end, and dropped, as in a dict."""
    read = JsonObject(json.dumps(content))
    read.set(name, value)
    read.drop(gone)
    expected = content | {name: value}
    expected.pop(gone, None)
    assert list(json.loads(str(read)).items()) == list(expected.items())


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """A text is read as Python's own parser reads it, or refused with one of two errors."""
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            JsonObject(text)
        return
    if isinstance(expected, dict):
        assert JsonObject(text).values == expected
    else:
        with pytest.raises(InputError):
            JsonObject(text)


@pytest.mark.parametrize(
    "text", ["{", '{"a"}', '{"a": 1,}', "{} x", "{1: 2}", '{"a": 1 "b": 2}', "", " ", '{"a": 1}}']
)
def test_half_an_object(text: str) -> None:
    """What is not quite an object is not JSON."""
    with pytest.raises(ValueError):
        JsonObject(text)


def test_a_field_given_twice_is_refused() -> None:
    """Parsers differ in which of two fields of one name counts, so neither does."""
    with pytest.raises(InputError, match="a: is given twice"):
        JsonObject('{"a": 1, "a": 2}')


def test_values_stay_as_they_were_written() -> None:
    """Numbers, escapes and white space inside values are not written anew."""
    text = '{ "n":1.10,"big": 1E400, "t" : "\\u00e9\\/", "l": [ 1,2 ]}\r\n'
    read = JsonObject(text)
    read.set("n", 2)
    assert str(read) == '{"n": 2, "big": 1E400, "t" : "\\u00e9\\/", "l": [ 1,2 ]}\r\n'


class _Narrow(io.BytesIO):
    """A file that notes the most that anybody asked for."""

    most = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0
        self.most = max(self.most, size)
        return super().readline(size)


@pytest.mark.parametrize("length", [MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE, 3 * MAX_LINE + 5])
def test_a_long_line_is_not_held(length: int) -> None:
    """Memory holds one line of at most the bound; a longer one is skipped up to its end."""
    content = b"a\n" + b"x" * (length - 1) + b"\n" + b"b"
    file, digest = _Narrow(content), hashlib.sha256()
    lines = list(read_lines(file, digest))
    assert [line.size for line in lines] == [2, length, 1]
    assert [line.number for line in lines] == [1, 2, 3]
    assert (lines[1].raw is None) == (length > MAX_LINE)
    assert file.most <= MAX_LINE + 1
    assert digest.digest() == hashlib.sha256(content).digest()
