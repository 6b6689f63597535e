"""The envelope against a real server: how long keys serve, rekeying, revocation, threads."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

import keyfold
from envelope_fakes import FakeDataPlane
from keyfold.calls import watch
from keyfold.envelope import message as form
from keyfold.envelope.client import envelope as module
from served import Served, served

CARDS = {"table": "cards"}


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
    """An envelope of prod."""
    return keyfold.Envelope(client, "prod", "eu", context=CARDS)


class Clocks:
    """Both clocks of the client, which stand until they are moved."""

    def __init__(self) -> None:
        self.monotonic = self.wall = 1_000.0

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks that the ages of data keys count by."""
    standing = Clocks()
    monkeypatch.setattr(watch, "clock", lambda: standing.monotonic)
    monkeypatch.setattr(watch, "wall", lambda: standing.wall)
    return standing


def calls(server: Served, method: str) -> int:
    """Returns how many calls of a method the server has had."""
    return len(server.requests[method])


# --- sealing and opening ---


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1_024, 300_000])
def test_data_comes_back(envelope: keyfold.Envelope, size: int) -> None:
    """Data of any size comes back as it was, and does not stand in the message."""
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    message = envelope.seal(data, {"row": "17"})
    assert envelope.open(message, {"row": "17"}) == data
    assert size < 15 or data not in message
    assert len(message) == size + 201 + 16 + 11  # and the two contexts


def test_buffers_are_taken(envelope: keyfold.Envelope) -> None:
    """Whatever is bytes-like can be sealed and opened, and `open` returns bytes."""
    message = envelope.seal(bytearray(b"4111"))
    assert envelope.open(memoryview(message)) == b"4111"
    assert type(envelope.open(bytearray(message))) is bytes


def test_64_mib(envelope: keyfold.Envelope) -> None:
    """A large message works like a small one, and one changed byte in it is noticed."""
    data = bytes(64 << 20)
    message = envelope.seal(data)
    assert envelope.open(message) == data
    changed = bytearray(message)
    changed[40_000_000] ^= 1
    with pytest.raises(keyfold.MessageCorruptError):
        envelope.open(changed)


def test_every_region_of_the_cluster_opens(
    client: keyfold.Client, envelope: keyfold.Envelope
) -> None:
    """An envelope opens what was sealed in another region of its cluster."""
    there = keyfold.Envelope(client, "prod", "us", context=CARDS)
    assert envelope.open(there.seal(b"4111")) == b"4111"


def test_every_changed_byte_is_refused(envelope: keyfold.Envelope) -> None:
    """Server and client together let no changed byte pass, also in the wrapped key."""
    message = envelope.seal(b"4111", {"row": "17"})
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 0x40
        with pytest.raises(keyfold.InvalidInputError):
            envelope.open(bytes(changed))


def test_another_context_of_the_key_is_the_servers_refusal(
    client: keyfold.Client, envelope: keyfold.Envelope
) -> None:
    """A message whose key context somebody has changed fails at the server already."""
    message = envelope.seal(b"4111", {"row": "17"})
    everyones = keyfold.Envelope(client, "prod", "eu")
    with pytest.raises(keyfold.ContextMismatchError):
        everyones.open(message.replace(b"cards", b"catgs"))


def test_another_cluster_does_not_open(client: keyfold.Client, envelope: keyfold.Envelope) -> None:
    """An envelope is no way around its cluster: not even for a data key that was moved there."""
    client.enable("other", [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))])
    message = envelope.seal(b"4111")
    other = keyfold.Envelope(client, "other", "eu", context=CARDS)
    with pytest.raises(keyfold.InvalidInputError):
        other.open(message)
    parts = form.parse(form.MESSAGE, message)
    moved = client.rewrap(
        "prod",
        parts.wrapped_key,
        context=CARDS,
        destination=keyfold.Destination(cluster="other", context=CARDS),
    )
    with pytest.raises(keyfold.MessageCorruptError, match="another cluster's"):
        other.open(form.head(form.MESSAGE, moved.wrapped_key) + bytes(parts.rest))


# --- how long a data key serves ---


def test_one_key_seals_many_messages(server: Served, envelope: keyfold.Envelope) -> None:
    """Sealing makes one call, whatever the messages' own contexts."""
    messages = [envelope.seal(b"4111", {"row": str(row)}) for row in range(100)]
    assert calls(server, "GenerateDataKey") == 1
    assert len({form.parse(form.MESSAGE, message).nonce for message in messages}) == 100
    assert len({form.parse(form.MESSAGE, message).wrapped_key for message in messages}) == 1


@pytest.mark.parametrize(
    ("bounds", "keys"),
    [
        ({"max_messages": 3}, 4),
        ({"max_messages": 1}, 10),
        ({"max_bytes": 40}, 3),
        ({"max_bytes": 9}, 10),
        ({"max_bytes": 0}, 10),
        ({"max_age": 0}, 10),
    ],
)
def test_bounds(
    server: Served, client: keyfold.Client, clocks: Clocks, bounds: dict[str, int], keys: int
) -> None:
    """A data key seals no more than its bounds say; a message beyond them has a key of its own."""
    envelope = keyfold.Envelope(client, "prod", "eu", **bounds)  # type: ignore[arg-type]
    messages = [envelope.seal(bytes(10)) for _ in range(10)]
    assert calls(server, "GenerateDataKey") == keys
    assert {envelope.open(message) for message in messages} == {bytes(10)}


def test_age(server: Served, envelope: keyfold.Envelope, clocks: Clocks) -> None:
    """A data key seals for 60 seconds from the call that made it."""
    envelope.seal(b"")
    clocks.advance(59.9)
    envelope.seal(b"")
    assert calls(server, "GenerateDataKey") == 1
    clocks.advance(0.1)
    envelope.seal(b"")
    assert calls(server, "GenerateDataKey") == 2


def test_age_counts_by_the_clock_that_shows_more(
    server: Served, envelope: keyfold.Envelope, clocks: Clocks
) -> None:
    """S3: a data key ages while a virtual machine is paused, and when the wall clock steps back."""
    envelope.seal(b"")
    clocks.wall += 60
    envelope.seal(b"")
    assert calls(server, "GenerateDataKey") == 2
    clocks.wall -= 3_600
    clocks.monotonic += 60
    envelope.seal(b"")
    assert calls(server, "GenerateDataKey") == 3


def test_cache_ttl_zero(server: Served, client: keyfold.Client, envelope: keyfold.Envelope) -> None:
    """F1: where every use must reach the customer's KMS, no data key seals twice."""
    policy = keyfold.RegionPolicy(cache_ttl=timedelta())
    client.rotate("prod", [keyfold.RegionSpec("eu", policy=policy)])
    messages = [envelope.seal(b"4111") for _ in range(3)]
    assert calls(server, "GenerateDataKey") == 3
    assert [envelope.open(message) for message in messages] == [b"4111"] * 3


def test_a_failed_call_leaves_the_envelope_usable(
    server: Served, envelope: keyfold.Envelope, clocks: Clocks
) -> None:
    """What the call for a new key raises comes through, and the next message tries again."""
    envelope.seal(b"")
    clocks.advance(61)
    server.local_keys.disable("acme")
    server.clock.advance(3_600)
    with pytest.raises(keyfold.RefusedError):
        envelope.seal(b"")
    server.local_keys.enable("acme")
    server.clock.advance(3_600)
    assert envelope.open(envelope.seal(b"x")) == b"x"


# --- revocation ---


def test_revocation(client: keyfold.Client, envelope: keyfold.Envelope, clocks: Clocks) -> None:
    """Opening ends with the revocation, sealing when the data key's age ends; both come back."""
    message = envelope.seal(b"4111")
    client.revoke("prod")
    with pytest.raises(keyfold.RevokedError):
        envelope.open(message)
    with pytest.raises(keyfold.RevokedError):
        envelope.rekey(message)
    envelope.seal(b"within the age")
    clocks.advance(60)
    with pytest.raises(keyfold.RevokedError):
        envelope.seal(b"4111")
    client.restore("prod")
    assert envelope.open(message) == b"4111"


# --- rekeying ---


def test_rekey(client: keyfold.Client, envelope: keyfold.Envelope) -> None:
    """A rekeyed message has the same data, and opens after its old generation is retired."""
    message = envelope.seal(b"4111", {"row": "17"})
    assert envelope.rekey(message) == message
    client.rotate("prod", [keyfold.RegionSpec("eu")], new_generation=True)
    moved = envelope.rekey(bytearray(message))
    assert moved != message
    assert form.parse(form.MESSAGE, moved).rest == form.parse(form.MESSAGE, message).rest
    assert envelope.rekey(moved) == moved
    assert envelope.open(message) == envelope.open(moved, {"row": "17"}) == b"4111"
    client.retire_generation("prod", "eu", 1)
    with pytest.raises(keyfold.GenerationRetiredError):
        envelope.open(message)
    assert envelope.open(moved) == b"4111"


def test_rekey_refuses_what_is_not_its_own(
    client: keyfold.Client, envelope: keyfold.Envelope
) -> None:
    """`rekey` moves only messages that `open` would look at."""
    orders = keyfold.Envelope(client, "prod", "eu", context={"table": "orders"})
    with pytest.raises(keyfold.MessageContextError):
        envelope.rekey(orders.seal(b""))
    with pytest.raises(keyfold.NotAMessageError):
        envelope.rekey(b"")


# --- threads ---


def test_threads_share_an_envelope() -> None:
    """Many threads seal and open with one data key at the same time, and each message is right."""
    client = FakeDataPlane()
    envelope = keyfold.Envelope(client, "acme", "eu", context=CARDS)
    envelope.seal(b"")
    begin = threading.Barrier(8)

    def run(thread: int) -> list[bytes]:
        begin.wait()
        messages = []
        for row in range(200):
            context = {"row": f"{thread}.{row}"}
            messages.append(envelope.seal(f"{thread}.{row}".encode(), context))
            assert envelope.open(messages[-1], context) == f"{thread}.{row}".encode()
        return messages

    with ThreadPoolExecutor(8) as pool:
        messages = [message for part in pool.map(run, range(8)) for message in part]
    assert client.made == 1
    assert len({form.parse(form.MESSAGE, message).nonce for message in messages}) == 8 * 200


def test_threads_keep_the_bounds() -> None:
    """However many threads seal, no data key seals more messages than its bound says."""
    client = FakeDataPlane()
    envelope = keyfold.Envelope(client, "acme", "eu", max_messages=7)
    with ThreadPoolExecutor(8) as pool:
        messages = list(pool.map(lambda _: envelope.seal(b"x"), range(500)))
    uses: dict[bytes, int] = {}
    for message in messages:
        key = form.parse(form.MESSAGE, message).wrapped_key
        uses[key] = uses.get(key, 0) + 1
    assert max(uses.values()) <= 7


# --- what it shows ---


def test_no_key_is_shown(envelope: keyfold.Envelope) -> None:
    """What an envelope and its parts print holds no key."""
    envelope.seal(b"4111")
    held = envelope._keys._held  # type: ignore[attr-defined]
    assert "redacted" in repr(held.key)
    assert "0x" in repr(envelope)


def test_examples(client: keyfold.Client) -> None:
    """The examples in the docstrings do what they show."""
    result = doctest.testmod(module, extraglobs={"client": client, "keyfold": keyfold})
    assert result.attempted > 0
    assert result.failed == 0
