"""A context has one encoding, and each encoding one context."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import wrapped_key_oracle as oracle
from keyfold.crypto.context import EMPTY, MAX_BYTES
from keyfold_server.domain.envelope import encode_context
from keyfold_server.domain.errors import InvalidContextError

contexts = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=20), max_size=16)


def decoded(encoding: bytes) -> dict[str, str]:
    """Reads a context's encoding back, which shows that no two contexts share one."""
    count, rest, pairs = int.from_bytes(encoding[:2], "big"), encoding[2:], {}
    for _ in range(count):
        texts = []
        for _ in range(2):
            size = int.from_bytes(rest[:2], "big")
            texts.append(rest[2 : 2 + size].decode())
            rest = rest[2 + size :]
        pairs[texts[0]] = texts[1]
    assert rest == b""
    return pairs


@given(contexts)
@example({"\U00010000": "1", "\uffff": "2"})
def test_context_encoding_is_that_of_the_oracle_and_can_be_read_back(
    context: dict[str, str],
) -> None:
    """One encoding for each context, one context for each encoding; keys in byte order."""
    encoding = encode_context(context)
    assert encoding == oracle.context_bytes(context)
    assert decoded(encoding) == context
    names = [name.encode() for name in decoded(encoding)]
    assert names == sorted(names)


@given(contexts, st.randoms())
def test_context_order_does_not_matter(context: dict[str, str], random: Any) -> None:
    """A map has no order: however a client sends it, the encoding is the same."""
    pairs = list(context.items())
    random.shuffle(pairs)
    assert encode_context(dict(pairs)) == encode_context(context)


def test_context_is_not_normalised() -> None:
    """Text is bound as it was sent, so no later Unicode version can lock a caller out."""
    assert encode_context({"\u00e9": ""}) != encode_context({"e\u0301": ""})


def test_empty_context_is_two_zero_bytes() -> None:
    """The empty context has the encoding `EMPTY`."""
    assert encode_context({}) == EMPTY == b"\x00\x00"


def test_largest_contexts_are_taken() -> None:
    """16 pairs and 4,096 bytes of UTF-8 are within the bounds."""
    assert encode_context({f"{index}": "" for index in range(16)})
    assert len(encode_context({"é": "ü" * 2_047})) == 2 + 4 + MAX_BYTES


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({f"{index}": "" for index in range(17)}, "has 17 pairs; send at most 16"),
        ({"k": "v" * 4_096}, "too large; keep keys and values within 4096 bytes together"),
        ({"k" * 4_097: ""}, "too large"),
        ({"é": "ü" * 2_048}, "too large"),
        ({"k": "v" * 100_000}, "too large"),
        ({"a": "v" * 4_000, "b": "v" * 100}, "too large"),
        ({"": "value"}, "empty key"),
        ({"": "", "key": "value"}, "empty key"),
        ({"\ud800": "value"}, "lone surrogate"),
        ({"key": "\udfff"}, "lone surrogate"),
    ],
)
def test_context_out_of_bounds_is_refused(context: dict[str, str], message: str) -> None:
    """The error names the fault and what to do, never the caller's values."""
    with pytest.raises(InvalidContextError, match=message) as caught:
        encode_context(context)
    assert caught.value.field == "context"
    assert caught.value.message[0].islower()
    assert not caught.value.message.endswith(".")
    assert "vvv" not in caught.value.message
