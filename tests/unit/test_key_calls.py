"""Calls about one key: what they know before their request is built."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyfold
from keyfold import calls
from keyfold.calls.key_calls import KeyCall
from keyfold.v1 import key_management_service_pb2 as api

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
contexts = st.dictionaries(names, names, max_size=16)
keys = st.binary(max_size=300) | st.binary(min_size=4_000, max_size=4_200)


@given(names, names, keys, contexts, st.none() | st.tuples(names, names, contexts))
def test_a_call_takes_no_more_of_a_batch_than_it_says(
    cluster: str,
    region: str,
    key: bytes,
    context: dict[str, str],
    to: tuple[str, str, dict[str, str]] | None,
) -> None:
    """A batch is as large as its calls say, so none of them may be larger."""
    destination = None if to is None else keyfold.Destination(to[0], to[1], to[2])
    made: list[KeyCall[Any, Any]] = [
        calls.wrap(cluster, region, key, context),
        calls.unwrap(cluster, key, context),
        calls.rewrap(cluster, key, context, destination),
    ]
    for call in made:
        assert call.size >= call.request.ByteSize()


def test_the_request_is_what_the_call_was_made_with() -> None:
    """A caller may change a context while its call waits; the call keeps what it was given."""
    context = {"table": "users"}
    call = calls.wrap("prod", "eu", b"key", context)
    context["table"] = "orders"
    assert call.context == {"table": "users"}
    assert call.request == api.WrapRequest(
        cluster="prod", region="eu", plaintext=b"key", context={"table": "users"}
    )
    assert call.request is call.request


@pytest.mark.parametrize(
    ("cluster", "context", "where"),
    [
        ("\ud800", None, "cluster"),
        ("prod", {"\ud800": "v"}, "context"),
        ("prod", {"k": "\ud800"}, "k"),
    ],
)
def test_half_a_character_is_refused_before_anybody_waits(
    cluster: str, context: dict[str, str] | None, where: str
) -> None:
    """What protobuf does not take fails its own call, and no batch."""
    with pytest.raises(keyfold.ArgumentValueError, match="surrogate") as raised:
        calls.unwrap(cluster, b"wrapped", context)
    assert where in raised.value.message
