"""Streams: whoever cuts, changes or mixes them gets an error, and what came before was right."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keyfold
import stream_oracle as oracle
from envelope_fakes import FakeDataPlane
from keyfold.envelope import message as form
from keyfold.envelope import streams
from keyfold.envelope.client.keeper import Keeper
from keyfold.envelope.header import framed, read_header
from keyfold.envelope.keys import OpeningKey, SealingKey
from wrapped_key_oracle import Vector, text_of

VECTORS = json.loads(oracle.FILE.read_text(encoding="utf-8"))["vectors"]
FIRST, OTHERS, SEGMENT = oracle.FIRST, oracle.OTHERS, oracle.SEGMENT
PATTERN = bytes(range(256))

contexts = st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9), max_size=4)


def data_of(size: int) -> bytes:
    """Returns data in which each place differs from its neighbours."""
    return (PATTERN * (size // 256 + 1))[:size]


def envelope_of(client: FakeDataPlane | None = None, **bounds: Any) -> keyfold.Envelope:
    """Returns an envelope of the table cards."""
    return keyfold.Envelope(
        client or FakeDataPlane(), "acme", "eu", context={"table": "cards"}, **bounds
    )


def sealed(envelope: keyfold.Envelope, data: bytes, context: dict[str, str] | None = None) -> bytes:
    """Returns data as a stream."""
    target = io.BytesIO()
    with envelope.seal_stream(target, context) as stream:
        assert stream.write(data) == len(data)
    return target.getvalue()


def opened(
    envelope: keyfold.Envelope, stream: bytes, context: dict[str, str] | None = None
) -> bytes:
    """Returns the data of a stream."""
    with envelope.open_stream(io.BytesIO(stream), context) as reader:
        return reader.read()


def parts_of(stream: bytes) -> list[bytes]:
    """Returns a stream's header and segments."""
    at = 7 + int.from_bytes(stream[5:7], "big")
    places = [*range(at + SEGMENT, len(stream), SEGMENT), len(stream)]
    starts = [at, *places[:-1]]
    return [stream[:at], *(stream[a:b] for a, b in zip(starts, places, strict=True))]


def came_before(envelope: keyfold.Envelope, stream: bytes) -> bytes:
    """Returns what comes out of a stream that does not open, up to the error."""
    source, data = io.BytesIO(stream), bytearray()
    with (  # noqa: PT012
        pytest.raises(keyfold.MessageCorruptError) as raised,
        envelope.open_stream(source) as reader,
    ):
        while part := reader.read1(1 << 16):
            data += part
    assert f"after {len(data):,} bytes" in raised.value.message
    return bytes(data)


# --- the format ---


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: Vector) -> None:
    """A stream of any release opens, or fails with the reason of the vectors."""
    client = FakeDataPlane()
    whole = bytes.fromhex(vector["stream"]) if "stream" in vector else oracle.stream(vector)
    if "stream" not in vector:
        assert hashlib.sha256(whole).hexdigest() == vector["stream_sha256"]
    plaintext = bytes.fromhex(vector["data_key"])
    for context in (vector["key_context"], {}, {"table": "cards"}):
        client.add(vector["cluster"], bytes.fromhex(vector["wrapped_key"]), context, plaintext)
    envelope = keyfold.Envelope(client, vector["cluster"], "eu")
    if vector["expect"] == "opens":
        assert opened(envelope, whole) == oracle.data_of(vector)
        everything = {**vector["key_context"], **vector["context"]}
        assert opened(envelope, whole, everything) == oracle.data_of(vector)
        return
    with pytest.raises(keyfold.MessageInvalidError) as raised:
        opened(envelope, whole)
    assert raised.value.reason == vector["expect"]
    assert raised.value.code == "INVALID_ARGUMENT"


def test_vectors_are_those_of_the_oracle() -> None:
    """The file is what its program writes; a change of it breaks what callers have stored."""
    assert oracle.FILE.read_text(encoding="utf-8") == text_of(oracle.stream_file())


def assert_is_what_the_oracle_makes(
    data: bytes, key_context: dict[str, str], context: dict[str, str]
) -> None:
    """Seals data as a stream, and compares it with the oracle's."""
    client = FakeDataPlane()
    envelope = keyfold.Envelope(client, "acme", "eu", context=key_context)
    stream = sealed(envelope, data, context)
    header, tink = parts_of(stream)[0], stream[len(parts_of(stream)[0]) :]
    parts = form.parse(form.STREAM, read_header(io.BytesIO(header)))
    key = envelope._unsealed(parts, None)
    vector = {
        "cluster": "acme",
        "key_context": key_context,
        "context": context,
        "data_key": client.unwrap("acme", parts.wrapped_key, context=key_context).plaintext.hex(),
        "nonce": parts.nonce.hex(),
        "stream_key": key.hex(),
        "salt": tink[1:33].hex(),
        "nonce_prefix": tink[33:40].hex(),
        "data": data.hex(),
        "wrapped_key": parts.wrapped_key.hex(),
    }
    assert stream == oracle.stream(vector)
    assert opened(envelope, stream, context) == data


@settings(max_examples=50)
@given(st.binary(max_size=100), contexts, contexts)
def test_stream_is_what_the_oracle_makes(
    data: bytes, key_context: dict[str, str], context: dict[str, str]
) -> None:
    """A second implementation, without Tink, makes the same bytes, whatever the input."""
    own = {name: value for name, value in context.items() if name not in key_context}
    assert_is_what_the_oracle_makes(data, key_context, own)


@pytest.mark.parametrize(
    "size", [0, FIRST - 1, FIRST, FIRST + 1, FIRST + OTHERS, FIRST + OTHERS + 1]
)
def test_segments_are_what_the_oracle_makes(size: int) -> None:
    """The same at the edges of segments."""
    assert_is_what_the_oracle_makes(data_of(size), {"table": "cards"}, {"row": "17"})


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(b"KFS\x01\x01".__add__)))
def test_header_parser_takes_any_bytes(blob: bytes) -> None:
    """Whatever the bytes, the parser reads a header or says that there is none."""
    source = io.BytesIO(blob)
    try:
        header = read_header(source)
        form.parse(form.STREAM, header)
    except (keyfold.NotAMessageError, keyfold.UnsupportedMessageError):
        return
    assert framed(header) + source.read() == blob


@given(st.data())
def test_header_parser_takes_changed_headers(data: st.DataObject) -> None:
    """The same for bytes that come close to a header, with lengths that lie."""
    blob = bytearray(bytes.fromhex(VECTORS[0]["stream"]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(blob)))
        end = data.draw(st.integers(start, len(blob)))
        blob[start:end] = data.draw(st.binary(max_size=6))
    source = io.BytesIO(bytes(blob))
    try:
        header = read_header(source)
        parts = form.parse(form.STREAM, header)
    except keyfold.MessageInvalidError:
        return
    assert form.head(form.STREAM, parts.wrapped_key) + bytes(parts.rest) == header
    assert framed(header) + source.read() == blob


def test_huge_lengths_cost_nothing() -> None:
    """A header's length bounds what is read of it, and nothing is asked of the server."""
    client = FakeDataPlane()
    source = io.BytesIO(b"KFS\x01\x01" + b"\xff" * 1_000_000)
    with pytest.raises(keyfold.NotAMessageError):
        envelope_of(client).open_stream(source)
    assert source.tell() == 7 + 65_535
    assert client.opened == 0


# --- attacks ---


def test_every_flipped_bit_is_refused() -> None:
    """No bit of a stream can change without an error."""
    envelope = envelope_of()
    stream = sealed(envelope, b"4111", {"row": "17"})
    for bit in range(len(stream) * 8):
        changed = bytearray(stream)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(keyfold.InvalidInputError):
            opened(envelope, bytes(changed))


def test_every_cut_and_extension_is_refused() -> None:
    """A stream opens whole, with nothing before or behind it."""
    envelope = envelope_of()
    stream = sealed(envelope, b"4111", {"row": "17"})
    wrong = [stream[:size] for size in range(len(stream))]
    wrong += [stream[size:] for size in range(1, len(stream))]
    wrong += [stream + b"\x00", stream + stream, b"\x00" + stream]
    for bad in wrong:
        with pytest.raises(keyfold.InvalidInputError):
            opened(envelope, bad)


def test_cuts_at_segments_are_refused() -> None:
    """What comes before a cut is right, and a cut between two segments is no end, either."""
    envelope = envelope_of()
    data = data_of(2 * SEGMENT + 1_000)
    stream = sealed(envelope, data)
    at = len(parts_of(stream)[0])
    for cut in (0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1):
        found = came_before(envelope, stream[: at + cut])
        assert data.startswith(found)
        assert len(found) <= cut // SEGMENT * SEGMENT


def test_segments_in_another_order_are_refused() -> None:
    """Segments have one order, and each of them is needed once."""
    envelope = envelope_of()
    data = data_of(3 * SEGMENT)
    header, *segments = parts_of(sealed(envelope, data))
    assert len(segments) == 4
    orders = [*permutations(segments), *(segments[:n] + segments[n + 1 :] for n in range(4))]
    orders += [segments[: n + 1] + segments[n:] for n in range(4)]
    for order in orders:
        if order == tuple(segments):
            continue
        assert data.startswith(came_before(envelope, header + b"".join(order)))


@pytest.mark.parametrize("one_key", [True, False])
def test_halves_of_two_streams_are_refused(one_key: bool) -> None:  # noqa: FBT001
    """Streams cannot be put together from two, with one data key or two, at any segment."""
    envelope = envelope_of(max_messages=2 if one_key else 1)
    data = data_of(2 * SEGMENT)
    first, second = (parts_of(sealed(envelope, data)) for _ in range(2))
    for cut in range(1, len(first)):
        mixed = b"".join([*first[:cut], *second[cut:]])
        assert data.startswith(came_before(envelope, mixed))


def test_a_message_is_no_header() -> None:
    """Whoever may choose the data of a message cannot choose the key of a stream by it."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    message = envelope.seal(bytes(32), {"row": "17"})
    disguised = framed(b"KFS" + message[3:])
    with pytest.raises(keyfold.MessageCorruptError):
        envelope.open_stream(io.BytesIO(disguised))
    stream = sealed(envelope, b"", {"row": "17"})
    header = read_header(io.BytesIO(stream))
    with pytest.raises(keyfold.MessageCorruptError):
        envelope.open(b"KFM" + header[3:])
    for wrong in (stream, header):
        with pytest.raises(keyfold.NotAMessageError):
            envelope.open(wrong)
    with pytest.raises(keyfold.NotAMessageError):
        envelope.open_stream(io.BytesIO(message))


def test_another_cluster_does_not_open() -> None:
    """A stream is bound to its cluster itself, wherever somebody wraps its data key."""
    client = FakeDataPlane()
    stream = sealed(envelope_of(client), b"4111")
    parts = form.parse(form.STREAM, read_header(io.BytesIO(stream)))
    key = client.unwrap("acme", parts.wrapped_key, context={"table": "cards"}).plaintext
    client.add("other", parts.wrapped_key, {"table": "cards"}, key)
    with pytest.raises(keyfold.MessageCorruptError, match="another cluster's"):
        keyfold.Envelope(client, "other", "eu").open_stream(io.BytesIO(stream))


def test_contexts() -> None:
    """A stream has the contexts of a message, and both are demanded as there."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    stream = sealed(envelope, b"4111", {"row": "17"})
    assert opened(envelope, stream, {"row": "17", "table": "cards"}) == b"4111"
    with pytest.raises(keyfold.MessageContextError, match="the stream does not have the pair"):
        opened(envelope, stream, {"row": "18"})
    orders = keyfold.Envelope(client, "acme", "eu", context={"table": "orders"})
    for call in (orders.open_stream, orders.rekey_header):
        with pytest.raises(keyfold.MessageContextError):
            call(io.BytesIO(stream))
    with pytest.raises(keyfold.InvalidContextError):
        envelope.seal_stream(io.BytesIO(), {"table": "orders"})


# --- an end, or none ---


def assert_has_no_end(envelope: keyfold.Envelope, stream: bytes, data: bytes = b"") -> None:
    """Checks that a stream does not pass for complete."""
    assert data.startswith(came_before(envelope, stream))


def test_a_block_that_raises_leaves_no_end() -> None:
    """What a program wrote before it failed is not taken for all of it."""
    envelope, target = envelope_of(), io.BytesIO()
    with pytest.raises(KeyError), envelope.seal_stream(target) as stream:  # noqa: PT012
        stream.write(b"4111")
        raise KeyError
    gc.collect()
    assert stream.closed
    assert_has_no_end(envelope, target.getvalue())


def test_a_forgotten_stream_gets_no_end() -> None:
    """Nor does the garbage collection complete what nobody closed, also in a cycle."""
    envelope, targets = envelope_of(), [io.BytesIO() for _ in range(3)]
    stream = envelope.seal_stream(targets[0])
    stream.write(data_of(SEGMENT))
    del stream
    cycle: list[Any] = [envelope.seal_stream(targets[1])]
    cycle[0].write(b"4111")
    cycle.append(cycle)
    del cycle
    gc.collect()
    aborted = envelope.seal_stream(targets[2])
    aborted.write(b"4111")
    aborted.abort()
    aborted.close()
    with pytest.raises(keyfold.ClosedError, match="closed"):
        aborted.write(b"x")
    for target in targets:
        assert not target.closed
        assert_has_no_end(envelope, target.getvalue(), data_of(SEGMENT))


class Full(io.BytesIO):
    """A disk that becomes full."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("room", [0, 300, SEGMENT, 2 * SEGMENT])
def test_a_full_disk_is_the_callers_own_error(room: int) -> None:
    """What the target raises comes through as it is, and the stream gets no end."""
    envelope, target = envelope_of(), Full(room)
    with (  # noqa: PT012
        pytest.raises(OSError, match="No space left") as raised,
        envelope.seal_stream(target) as stream,
    ):
        for _ in range(4):
            stream.write(data_of(SEGMENT))
    assert raised.value.errno == errno.ENOSPC
    target.room = 1 << 30
    if room:
        stream.close()
        assert_has_no_end(envelope, target.getvalue(), data_of(SEGMENT) * 4)


def test_a_full_disk_at_the_end_is_told() -> None:
    """Closing raises if the end does not fit: nobody takes the stream for complete."""
    envelope, target = envelope_of(), Full(300)
    stream = envelope.seal_stream(target)
    stream.write(b"4111" * 100)
    with pytest.raises(OSError, match="No space left"):
        stream.close()
    assert stream.closed
    target.room = 1 << 30
    assert_has_no_end(envelope, target.getvalue())


class Failing(io.BytesIO):
    """A source that fails after some bytes."""

    def __init__(self, data: bytes, after: int, error: BaseException) -> None:
        super().__init__(data)
        self._after, self._error = after, error

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._after - self.tell()
        if left <= 0:
            raise self._error
        return super().read(min(size or 0, left))


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "broken"), EOFError("cut"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("after", [3, 300, SEGMENT + 400])
def test_an_error_of_the_source_is_the_callers_own(error: BaseException, after: int) -> None:
    """What the source raises comes through as it is, and again at each later read."""
    envelope = envelope_of()
    source = Failing(sealed(envelope, data_of(3 * SEGMENT)), after, error)
    with (  # noqa: PT012
        pytest.raises(type(error)) as raised,
        envelope.open_stream(source) as reader,
    ):
        try:
            reader.read()
        finally:
            with pytest.raises(type(error)):
                reader.read(1)
    assert raised.value is error


def test_an_end_of_the_source_that_is_an_error_is_one() -> None:
    """A decompressor that finds its own end missing is heard, although the stream is whole."""
    envelope = envelope_of()
    stream = sealed(envelope, b"4111")
    with (
        pytest.raises(EOFError),
        envelope.open_stream(Failing(stream, len(stream), EOFError("no trailer"))) as reader,
    ):
        reader.read()


def test_ctrl_c_in_tinks_own_code() -> None:
    """Ctrl-C is not told as a stream that was changed."""
    error = Exception("UNKNOWN: KeyboardInterrupt: \n\nAt:\n  _file_object_adapter.py(68): read")
    with pytest.raises(KeyboardInterrupt):
        streams._raise_interrupt(error)
    streams._raise_interrupt(Exception("INTERNAL: Authentication failed"))


def test_reading_on_after_an_error_fails_again() -> None:
    """No later read of a stream that does not open looks like its end."""
    envelope = envelope_of()
    reader = envelope.open_stream(io.BytesIO(sealed(envelope, b"4111")[:-1]))
    for _ in range(3):
        with pytest.raises(keyfold.MessageCorruptError):
            reader.read(10)


# --- what they read from and write to ---


class Slow(io.RawIOBase):
    """Gives and takes a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self.data.read(min(size, 7_919))

    def write(self, data: Any, /) -> int:
        return self.data.write(data[:7_919])


class Deaf(io.RawIOBase):
    """Does not wait: a non-blocking pipe that is full or empty."""

    def read(self, size: int = -1, /) -> None:
        return None

    def write(self, data: Any, /) -> None:
        return None


class Quiet:
    """A target that returns nothing, such as a web framework's response."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Any, /) -> None:
        self.data += data


def test_parts_are_read_and_written_whole() -> None:
    """A pipe that gives and takes a part at a time loses nothing."""
    envelope, target = envelope_of(), Slow()
    data = data_of(SEGMENT + 5)
    with envelope.seal_stream(target) as stream:
        stream.write(data)
    stream_bytes = target.data.getvalue()
    with envelope.open_stream(Slow(stream_bytes)) as reader:
        assert reader.read() == data
    assert opened(envelope, stream_bytes) == data


def test_a_pipe_that_does_not_wait_is_refused() -> None:
    """A non-blocking pipe gets an error, and no stream with holes."""
    with pytest.raises(BlockingIOError):
        envelope_of().seal_stream(Deaf())
    with pytest.raises(BlockingIOError):
        envelope_of().open_stream(Deaf())


def test_a_target_may_return_nothing() -> None:
    """Whatever has a `write` can be a target."""
    envelope, target = envelope_of(), Quiet()
    with envelope.seal_stream(target) as stream:
        stream.write(b"4111")
    assert opened(envelope, target.data) == b"4111"


def test_nothing_before_or_behind_a_header_is_read() -> None:
    """The header can be moved alone, and what is behind it is read from the same source."""
    envelope = envelope_of()
    stream = sealed(envelope, b"4111")
    source = io.BytesIO(b"before" + stream)
    source.read(6)
    header = read_header(source)
    assert source.tell() == 6 + len(parts_of(stream)[0])
    assert framed(header) + source.read() == stream


def test_files_stay_open() -> None:
    """Source and target are the caller's, also when the stream is closed."""
    envelope, target = envelope_of(), io.BytesIO()
    with envelope.seal_stream(target) as stream:
        stream.write(bytearray(b"41"))
        stream.write(memoryview(b"11"))
        assert stream.writable()
        assert not stream.readable()
    target.seek(0)
    with envelope.open_stream(target) as reader:
        assert reader.read() == b"4111"
    assert not target.closed
    with pytest.raises(keyfold.ClosedError, match="closed"):
        stream.write(b"")


@pytest.mark.parametrize("wrong", ["path", None, 7, b"stream"])
def test_wrong_types_are_named(wrong: Any) -> None:
    """A path or the bytes themselves are refused by name, before any call."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    with pytest.raises(
        keyfold.ArgumentTypeError, match=r": target must be a file to write to, not"
    ):
        envelope.seal_stream(wrong)
    for method in (envelope.open_stream, envelope.rekey_header):
        with pytest.raises(
            keyfold.ArgumentTypeError, match=r": source must be a file to read from"
        ):
            method(wrong)
    assert client.made == 0


def test_text_and_archives() -> None:
    """What writes to files, and reads them, writes to streams and reads them."""
    envelope, target = envelope_of(), io.BytesIO()
    with envelope.seal_stream(target) as stream, io.TextIOWrapper(stream, "utf-8") as text:  # type: ignore[type-var]
        text.write("eins\nzwei\n")
    with io.TextIOWrapper(envelope.open_stream(io.BytesIO(target.getvalue()))) as lines:
        assert [*lines] == ["eins\n", "zwei\n"]
    target = io.BytesIO()
    with envelope.seal_stream(target) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    with (
        envelope.open_stream(io.BytesIO(target.getvalue())) as reader,
        tarfile.open(fileobj=reader, mode="r|") as tar,
    ):
        assert tar.getnames() == ["empty"]


# --- keys ---


def test_one_data_key_serves_many_streams() -> None:
    """Each stream has a key of its own, which the envelope's data key seals as a message."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    made = [sealed(envelope, b"4111") for _ in range(20)]
    assert client.made == 1
    assert len({stream[-20:] for stream in made}) == 20
    assert {opened(envelope, stream) for stream in made} == {b"4111"}


class Lending(Keeper):
    """Counts the keys that are lent at the moment."""

    lent = 0

    @contextmanager
    def sealing_key(self, *arguments: Any, **options: Any) -> Iterator[SealingKey]:
        with super().sealing_key(*arguments, **options) as key:
            self.lent += 1
            yield key
            self.lent -= 1

    @contextmanager
    def opening_key(self, *arguments: Any, **options: Any) -> Iterator[OpeningKey]:
        with super().opening_key(*arguments, **options) as key:
            self.lent += 1
            yield key
            self.lent -= 1


def test_a_data_key_is_lent_for_the_header_only() -> None:
    """A stream of hours keeps no data key of a cache from being wiped."""
    client, target = FakeDataPlane(), io.BytesIO()
    keys = Lending(client)
    envelope = envelope_of(client, cache=keys)
    with envelope.seal_stream(target) as stream:
        assert keys.lent == 0
        stream.write(b"4111")
    target.seek(0)
    with envelope.open_stream(target) as reader:
        assert keys.lent == 0
        assert reader.read() == b"4111"


def test_streams_count_against_the_bounds() -> None:
    """A stream is a message of 32 bytes to its data key."""
    client = FakeDataPlane()
    envelope = envelope_of(client, max_bytes=64)
    for _ in range(4):
        sealed(envelope, bytes(1_000))
    assert client.made == 2


def test_no_key_is_shown() -> None:
    """What streams print holds no key."""
    envelope, target = envelope_of(), io.BytesIO()
    stream = envelope.seal_stream(target)
    header = form.parse(form.STREAM, read_header(io.BytesIO(target.getvalue())))
    key = envelope._unsealed(header, None)
    for shown in (repr(stream), repr(envelope.open_stream(io.BytesIO(sealed(envelope, b""))))):
        assert key.hex() not in shown
        assert repr(key) not in shown
    stream.abort()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Tink one line says what to install, before any call; moving a key needs no Tink."""
    client = FakeDataPlane()
    envelope = envelope_of(client)
    stream = sealed(envelope, b"")
    streams.tink.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "tink"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tink", None)
    calls: list[Callable[[], Any]] = [
        lambda: envelope.seal_stream(io.BytesIO()),
        lambda: envelope.open_stream(io.BytesIO(stream)),
    ]
    try:
        for call in calls:
            with pytest.raises(keyfold.ExtraMissingError) as raised:
                call()
            assert raised.value.message == (
                "streams need the package tink, which is missing: install keyfold[files]"
            )
    finally:
        streams.tink.cache_clear()
    assert (client.made, client.opened) == (1, 0)


GROWTH = """
import sys
sys.path.insert(0, sys.argv[1])
import io, shutil
import keyfold
from envelope_fakes import FakeDataPlane

class Zeros(io.RawIOBase):
    def __init__(self, size): self.left = size
    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10

def through(size):
    with open(sys.argv[2], "wb") as target, envelope.seal_stream(target) as stream:
        shutil.copyfileobj(Zeros(size), stream, 1 << 20)
    with open(sys.argv[2], "rb") as source, envelope.open_stream(source) as reader:
        return sum(len(part) for part in iter(lambda: reader.read(1 << 20), b""))

envelope = keyfold.Envelope(FakeDataPlane(), "acme", "eu")
assert through(1 << 10) == 1 << 10
before = peak()
assert through(512 << 20) == 512 << 20
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_constant(tmp_path: Path) -> None:
    """Half a GiB goes through a stream, both ways, within 64 MiB of memory."""
    tests = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH, tests, tmp_path / "stream"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(ran.stdout) < 64 << 20
