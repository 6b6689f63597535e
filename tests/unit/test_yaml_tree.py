"""YAML as a tree: what is read, and what is refused of what others wrote."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keyfold.cli.errors import InputError
from keyfold.cli.input import yaml_tree
from keyfold.cli.input.yaml_tree import Fields, Items, Node, Text, documents
from keyfold.cli.output.documents import as_yaml

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if hasattr(yaml, "CSafeLoader") else [])]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(params=LOADERS, ids=lambda one: one.__name__, autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of PyYAML's parsers: an installation without libyaml has only the one in Python."""
    monkeypatch.setattr(yaml_tree, "_LOADER", request.param)


def plain(node: Node) -> Any:
    """Returns a tree without its lines."""
    if isinstance(node, Text):
        return None if node.is_null else node.text
    if isinstance(node, Items):
        return [plain(one) for one in node.items]
    return {name: plain(one) for name, one in node.fields.items()}


def test_words_stay_words() -> None:
    """A region may be called `no`: nothing becomes a truth value, a number, a date or a key."""
    [root] = documents(b"a: [no, 1e3, 2026-01-31, 0x1f, 'null', null, ~, ]\nyes: 'x: y'\n")
    assert plain(root) == {
        "a": ["no", "1e3", "2026-01-31", "0x1f", "null", None, None],
        "yes": "x: y",
    }
    assert isinstance(root, Fields)
    assert root.lines == {"a": 1, "yes": 2}


def test_several_documents() -> None:
    """Documents follow one another after ---; those without content do not count."""
    found = documents(b"---\n# nothing\n---\na: 1\n---\n- b\n...\n")
    assert [plain(one) for one in found] == [{"a": "1"}, ["b"]]
    assert documents(b'\xef\xbb\xbf{"a": ["b"]}')[0].line == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is empty"),
        (b"# only a remark\n---\n", "is empty"),
        (b"a: &x 1", "line 1: anchors (&x) are not supported"),
        (b"b:\n- *x", "line 2: aliases (*x) are not supported"),
        (BOMB.encode(), "line 1: anchors (&a) are not supported"),
        (b"a: !!python/object/apply:os.system [id]", "python/object/apply:os.system) are not"),
        (b"a: !x 1", "line 1: tags (!x) are not supported"),
        (b"%TAG ! tag:x,1:\n---\na: !y 1", "tags (tag:x,1:y) are not supported"),
        (b"a: 1\nb: 2\na: 3", "line 3: a stands there twice, first on line 1"),
        (b"<<: {a: b}", "line 1: `<<` merges are not supported"),
        (b"? [a]\n: b", "line 1: the name of a field must be text"),
        (b"{{a: b}: c}", "the name of a field must be text"),
        (b"a: b: c", "line 1: is not YAML: mapping values are not allowed"),
        (b"a: [b\n", "is not YAML"),
        (b'a: "b', "is not YAML"),
        (b"a:\n\t- b", "line 2: is not YAML"),
        (b"\x89PNG\r\n\x1a\n\x00", "is not YAML: it is not text in UTF-8"),
        ("a: b".encode("utf-16"), "is not YAML: it is not text in UTF-8"),
        (b"a: \x00", "is not YAML"),
        (b"- " * 200, "line 1: more than 16 levels inside one another"),
        (b"[" * 200, "line 1: more than 16 levels inside one another"),
        (b"{a: " * 200, "line 1: more than 16 levels inside one another"),
    ],
)
def test_what_is_more_than_a_tree(text: bytes, problem: str) -> None:
    """Tags, anchors, aliases, names that stand twice and trees without bottom are refused."""
    with pytest.raises(InputError) as caught:
        documents(text)
    assert problem in str(caught.value)


def test_bombs_take_no_room() -> None:
    """What a bomb would unfold to is never built, and a file has an end."""
    tracemalloc.start()
    try:
        for text in (BOMB.encode(), b"[" * 100_000, b"- " * 100_000):
            with pytest.raises(InputError):
                documents(text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 32 * 1024 * 1024
    with pytest.raises(InputError, match="is larger than 16 MiB"):
        documents(b"#" * (yaml_tree.MAX_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever a file holds, it is a tree or an error that says what is wrong."""
    found: object
    try:
        found = documents(data)
    except InputError as wrong:
        found = str(wrong)
    assert found


_TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff"), max_size=40
)


@given(st.lists(_TEXTS, max_size=5), st.dictionaries(_TEXTS, st.booleans(), max_size=3))
def test_what_is_written_reads_back(texts: list[str], names: dict[str, bool]) -> None:
    """A document has every text as it was, and shows a terminal no control character."""
    written = as_yaml({"texts": texts, "names": names})
    assert all(one.isprintable() or one == "\n" for one in written)
    [root] = documents(written.encode())
    assert plain(root) == {
        "texts": texts,
        "names": {name: str(value).lower() for name, value in names.items()},
    }
