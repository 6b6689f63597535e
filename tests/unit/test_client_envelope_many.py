"""Many messages at a time: few calls, a result for each, and the same refusals as one by one."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import keyfold
from envelope_fakes import FakeDataPlane
from served import KEY, Served, served

CARDS = {"table": "cards"}
Messages = list[tuple[bytes, dict[str, str] | None]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


@pytest.fixture
def envelope(client: keyfold.Client) -> keyfold.Envelope:
    """An envelope that seals each message under a data key of its own."""
    return keyfold.Envelope(client, "prod", "eu", context=CARDS, max_messages=1)


class Counting(keyfold.Client):
    """A client of the server itself, which counts what it asks.

    Attributes:
        asked: How many keys each call asked for.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.asked: list[int] = []

    def unwrap(self, *args: Any, **options: Any) -> keyfold.Unwrapped:
        self.asked.append(1)
        return super().unwrap(*args, **options)

    def batch_unwrap(
        self, cluster: str, items: Any, **options: Any
    ) -> list[keyfold.Unwrapped | keyfold.KeyfoldError]:
        self.asked.append(len(items))
        return super().batch_unwrap(cluster, items, **options)


@pytest.fixture
def counting(server: Served) -> Iterator[Counting]:
    """A client that watches: the relay does not hand watches on."""
    with Counting(server.keyfold.target) as connected:
        yield connected


def rows(envelope: keyfold.Envelope, count: int) -> Messages:
    """Returns so many messages, each with the pairs of its row."""
    names: list[dict[str, str]] = [{"row": str(row)} for row in range(count)]
    return [(envelope.seal(f"data {row['row']}".encode(), row), row) for row in names]


def data(count: int) -> list[bytes]:
    """Returns what those messages hold."""
    return [f"data {row}".encode() for row in range(count)]


def calls(server: Served) -> dict[str, int]:
    """Returns how many calls of each method the server has had."""
    return {name: len(of) for name, of in server.requests.items() if of}


def test_a_page_of_rows_takes_one_call(server: Served, envelope: keyfold.Envelope) -> None:
    """Messages under as many data keys open with one call, in their order."""
    messages = rows(envelope, 40)
    server.requests.clear()
    assert envelope.open_many(messages) == data(40)
    assert calls(server) == {"BatchUnwrap": 1}


def test_messages_of_one_data_key_ask_for_it_once(server: Served, client: keyfold.Client) -> None:
    """A data key goes over the wire once, however many messages it has sealed."""
    envelope = keyfold.Envelope(client, "prod", "eu", context=CARDS)
    messages = rows(envelope, 40)
    server.requests.clear()
    assert envelope.open_many(messages) == data(40)
    (request,) = server.requests["BatchUnwrap"]
    assert len(request.items) == 1


def test_a_cache_answers_for_what_it_holds(counting: Counting) -> None:
    """Only keys that are not in memory are asked for."""
    alone = keyfold.Envelope(counting, "prod", "eu", context=CARDS, max_messages=1)
    messages = rows(alone, 20)
    with keyfold.KeyCache(counting) as cache:
        envelope = keyfold.Envelope(counting, "prod", "eu", context=CARDS, cache=cache)
        asked: list[int] = []
        # The watch may take its time on a busy machine; until then each key is asked for.
        while asked != [1]:
            asked = counting.asked
            assert envelope.open_many(messages) == data(20)
            messages[0] = (alone.seal(b"data 0", {"row": "0"}), {"row": "0"})
            asked.clear()
            assert envelope.open_many(messages) == data(20)


def test_where_nothing_may_be_kept_each_page_asks(counting: Counting) -> None:
    """With a `cache_ttl` of 0 the cache keeps nothing, and a page is still one call."""
    policy = keyfold.RegionPolicy(cache_ttl=timedelta())
    counting.enable("strict", [keyfold.RegionSpec("eu", KEY, policy)])
    with keyfold.KeyCache(counting) as cache:
        envelope = keyfold.Envelope(counting, "strict", "eu", cache=cache)
        messages = rows(envelope, 5)
        for _ in range(2):
            assert envelope.open_many(messages) == data(5)
        assert counting.asked == [5, 5]
        assert len(cache) == 0


def test_each_message_has_a_result_of_its_own(
    client: keyfold.Client, envelope: keyfold.Envelope
) -> None:
    """One that is cut, another row's, another cluster's or not to be had spoils no other."""
    client.enable("other", [keyfold.RegionSpec("eu", KEY)])
    good, row = rows(envelope, 1)[0]
    foreign = keyfold.Envelope(client, "other", "eu", context=CARDS).seal(b"foreign")
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    results = envelope.open_many(
        [
            (good, row),
            (good[:20], None),
            (good, {"row": "18"}),
            (foreign, None),
            (flipped, row),
            (good, None),
        ]
    )
    reasons = [getattr(result, "reason", result) for result in results]
    assert reasons == [
        b"data 0",
        "NOT_A_MESSAGE",
        "MESSAGE_CONTEXT_MISMATCH",
        "WRONG_CLUSTER",
        "MESSAGE_CORRUPT",
        b"data 0",
    ]
    assert envelope.open_many([(good[:20], None)])[0].reason == "NOT_A_MESSAGE"  # type: ignore[union-attr]
    assert envelope.open_many([]) == []


def test_a_revocation_refuses_each(counting: Counting) -> None:
    """Nothing of a revoked cluster opens, with a cache or without; each result says so."""
    alone = keyfold.Envelope(counting, "prod", "eu", context=CARDS, max_messages=1)
    messages = rows(alone, 3)
    with keyfold.KeyCache(counting) as cache:
        warm = keyfold.Envelope(counting, "prod", "eu", context=CARDS, cache=cache)
        while not len(cache):
            assert warm.open_many(messages) == data(3)
        counting.revoke("prod")
        while len(cache):
            time.sleep(0.01)
        for envelope in (alone, warm):
            results = envelope.open_many(messages)
            assert [type(result) for result in results] == [keyfold.RevokedError] * 3


def test_rekey_many_moves_as_rekey_does(
    server: Served, client: keyfold.Client, envelope: keyfold.Envelope
) -> None:
    """After a rotation one call moves a page of messages; the data stays as it is."""
    messages = rows(envelope, 30)
    client.rotate("prod", [keyfold.RegionSpec("eu", KEY)], new_generation=True)
    server.requests.clear()
    moved = envelope.rekey_many([message for message, _ in messages] + [b"no message"])
    assert calls(server) == {"BatchRewrap": 1}
    bad = moved.pop()
    assert isinstance(bad, keyfold.NotAMessageError)
    for (old, row), new in zip(messages, moved, strict=True):
        assert isinstance(new, bytes)
        assert new != old
        assert new[-60:] == old[-60:]
        assert envelope.open(new, row) == envelope.open(old, row)
    again = envelope.rekey_many([new for new in moved if isinstance(new, bytes)])
    assert again == moved


async def test_the_envelope_for_asyncio_does_the_same(
    server: Served, envelope: keyfold.Envelope
) -> None:
    """The same results and as few calls on an event loop."""
    messages = rows(envelope, 10)
    server.requests.clear()
    async with keyfold.AsyncClient(server.target) as client, keyfold.AsyncKeyCache(client) as cache:
        for keys in (None, cache):
            twin = keyfold.AsyncEnvelope(client, "prod", "eu", context=CARDS, cache=keys)
            assert await twin.open_many(messages) == data(10)
            moved = await twin.rekey_many([message for message, _ in messages])
            assert moved == [message for message, _ in messages]
    assert calls(server) == {"BatchUnwrap": 2, "BatchRewrap": 2}


# --- errors ---


def test_errors_name_the_cluster() -> None:
    """An error that an envelope finds itself names the cluster, as one of the server's does."""
    envelope = keyfold.Envelope(FakeDataPlane(), "acme", "eu", context=CARDS)
    message = envelope.seal(b"4111", {"row": "17"})
    corrupt = message[:-1] + bytes([message[-1] ^ 1])
    stream = io.BytesIO()
    with envelope.seal_stream(stream) as writer:
        writer.write(b"4111")
    cut = stream.getvalue()[:-1]
    failing: list[Callable[[], Any]] = [
        lambda: envelope.seal("text"),  # type: ignore[arg-type]
        lambda: envelope.seal(b"", {"table": "orders"}),
        lambda: envelope.open(b"junk"),
        lambda: envelope.open(message, {"row": "18"}),
        lambda: envelope.open(corrupt),
        lambda: envelope.open_many(message),  # type: ignore[arg-type]
        lambda: envelope.rekey(b"junk"),
        lambda: envelope.rekey_many(None),  # type: ignore[arg-type]
        lambda: envelope.seal_stream(None),  # type: ignore[arg-type]
        lambda: envelope.open_stream(io.BytesIO(b"junk")),
        lambda: envelope.open_stream(io.BytesIO(cut)).read(),
        lambda: envelope.rekey_header(io.BytesIO(b"junk")),
    ]
    raised = []
    for fail in failing:
        with pytest.raises(keyfold.KeyfoldError) as failure:
            fail()
        raised.append(failure.value)
    results = [*envelope.open_many([(b"junk", None), (corrupt, None)]), *envelope.rekey_many([b""])]
    for error in [*raised, *results]:
        assert isinstance(error, keyfold.KeyfoldError)
        assert error.cluster == "acme"
        assert str(error).startswith("cluster acme: ")


async def test_errors_name_the_cluster_on_an_event_loop() -> None:
    """It is the same for `AsyncEnvelope`."""
    async with keyfold.AsyncClient("127.0.0.1:1") as client:
        envelope = keyfold.AsyncEnvelope(client, "acme", "eu")
        with pytest.raises(keyfold.NotAMessageError) as failure:
            await envelope.open(b"junk")
        [result] = await envelope.open_many([(b"junk", None)])
    assert isinstance(result, keyfold.NotAMessageError)
    assert failure.value.cluster == result.cluster == "acme"
