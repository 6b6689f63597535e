"""A client that coalesces does for each call what one that does not coalesce does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import coalescing
import keyfold
from coalescing import Scene, Together, in_tasks, in_threads
from keyfold.transport import tracing
from served import KEY, Served, served
from wire_errors import KEY_DISABLED, UNAVAILABLE, WireError

CALLS = 4
"""Calls of each scene: one ahead, and three that travel together."""

Make = Callable[["Keys"], Scene]


class Keys:
    """Wrapped keys of the server, for the scenes."""

    def __init__(self, client: keyfold.Client) -> None:
        self.good = client.wrap("prod", "eu", b"k" * 32, context={"t": "u"}).wrapped_key
        self.plain = client.wrap("prod", "eu", b"p" * 32).wrapped_key
        client.enable("other", [keyfold.RegionSpec("eu", KEY)])
        self.others = client.wrap("other", "eu", bytes(32)).wrapped_key
        client.enable("old", [keyfold.RegionSpec("eu", KEY)])
        self.old = client.wrap("old", "eu", bytes(32)).wrapped_key
        client.rotate("old", [keyfold.RegionSpec("eu")], new_generation=True)
        client.retire_generation("old", "eu", 1)
        client.enable("gone", [keyfold.RegionSpec("eu", KEY)])
        self.gone = client.wrap("gone", "eu", bytes(32)).wrapped_key
        client.revoke("gone")

    def changed(self, place: int) -> bytes:
        """Returns a wrapped key with another byte at a place."""
        key = bytearray(self.good)
        key[place] ^= 1
        return bytes(key)


SCENES: dict[str, Make] = {
    # Wrap returns another key each time, so what is compared is what it opens to.
    "wrap": lambda _: _wrapped(lambda c: c.wrap("prod", "eu", b"w" * 32)),
    "wrap with a context": lambda _: _wrapped(
        lambda c: c.wrap("prod", "us", b"w", context={"a": "b"})
    ),
    "wrap nothing": lambda _: lambda c: c.wrap("prod", "eu", b""),
    "wrap too much": lambda _: lambda c: c.wrap("prod", "eu", bytes(4097)),
    "wrap far too much": lambda _: lambda c: c.wrap("prod", "eu", bytes(300_000)),
    "wrap for no region": lambda _: lambda c: c.wrap("prod", "", bytes(32)),
    "wrap for a bad region": lambda _: lambda c: c.wrap("prod", "-", bytes(32)),
    "wrap for an unknown region": lambda _: lambda c: c.wrap("prod", "ap", bytes(32)),
    "wrap for an unknown cluster": lambda _: lambda c: c.wrap("none", "eu", bytes(32)),
    "wrap for a bad cluster": lambda _: lambda c: c.wrap("-", "eu", bytes(32)),
    "wrap for a cluster with a long name": lambda _: lambda c: c.wrap("c" * 20_000, "eu", b"k"),
    "wrap with an empty key in the context": lambda _: (
        lambda c: c.wrap("prod", "eu", b"k", context={"": "x"})
    ),
    "wrap with too large a context": lambda _: (
        lambda c: c.wrap("prod", "eu", b"k", context={"x": "x" * 5_000})
    ),
    "wrap for a revoked cluster": lambda _: lambda c: c.wrap("gone", "eu", b"k"),
    "unwrap": lambda k: lambda c: c.unwrap("prod", k.good, context={"t": "u"}),
    "unwrap without a context": lambda k: lambda c: c.unwrap("prod", k.plain),
    "unwrap with another context": lambda k: lambda c: c.unwrap("prod", k.good),
    "unwrap nothing": lambda _: lambda c: c.unwrap("prod", b""),
    "unwrap what is cut": lambda k: lambda c: c.unwrap("prod", k.good[:50]),
    "unwrap what is far too long": lambda k: lambda c: c.unwrap("prod", k.good + bytes(300_000)),
    "unwrap another version": lambda k: lambda c: c.unwrap("prod", k.changed(0)),
    "unwrap an unknown KEK": lambda k: lambda c: c.unwrap("prod", k.changed(5)),
    "unwrap what was changed": lambda k: lambda c: c.unwrap("prod", k.changed(-1)),
    "unwrap another cluster's": lambda k: lambda c: c.unwrap("prod", k.others),
    "unwrap for an unknown cluster": lambda k: lambda c: c.unwrap("none", k.good),
    "unwrap a retired generation": lambda k: lambda c: c.unwrap("old", k.old),
    "unwrap for a revoked cluster": lambda k: lambda c: c.unwrap("gone", k.gone),
    "rewrap": lambda k: lambda c: c.rewrap("prod", k.good, context={"t": "u"}),
    "rewrap elsewhere": lambda k: _wrapped(
        lambda c: c.rewrap("prod", k.plain, destination=keyfold.Destination("other", "eu"))
    ),
    "rewrap with an empty destination": lambda k: _wrapped(
        lambda c: c.rewrap("prod", k.good, context={"t": "u"}, destination=keyfold.Destination())
    ),
    "rewrap to an unknown region": lambda k: (
        lambda c: c.rewrap("prod", k.plain, destination=keyfold.Destination(region="ap"))
    ),
    "rewrap to a bad context": lambda k: (
        lambda c: c.rewrap("prod", k.plain, destination=keyfold.Destination(context={"": "x"}))
    ),
    "rewrap with another context": lambda k: lambda c: c.rewrap("prod", k.good),
    "a wrong type": lambda _: lambda c: c.unwrap("prod", "a key"),
    "a data key": lambda _: _wrapped(lambda c: c.generate_data_key("prod", "eu")),
}
"""Calls that succeed or fail, each in its way."""

ALONE = {"wrap far too much", "unwrap what is far too long", "a wrong type", "a data key"}
ALONE |= {"wrap for a cluster with a long name"}
"""The scenes whose calls no batch can carry."""


def _wrapped(call: Scene) -> Scene:
    """Compares the length of a wrapped key, which is another each time."""

    def shown(result: Any) -> Any:
        return type(result), len(result.wrapped_key), result.generation

    async def awaited(result: Any) -> Any:
        return shown(await result)

    def make(client: Any) -> Any:
        result = call(client)
        return awaited(result) if isinstance(client, keyfold.AsyncClient) else shown(result)

    return make


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Keys]]:
    """A server for all scenes, and its keys."""
    with served(tmp_path_factory.mktemp("server")) as running, running.client() as client:
        yield running, Keys(client)


together = pytest.mark.parametrize("together", [in_threads, in_tasks], ids=["threads", "tasks"])


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    coalescing.be_patient(monkeypatch)


def _batches(server: Served) -> list[int]:
    """Returns the sizes of all batches."""
    return [
        len(one.items)
        for method in ("BatchWrap", "BatchUnwrap", "BatchRewrap")
        for one in server.requests[method]
    ]


@together
@pytest.mark.parametrize("scene", SCENES)
def test_each_call_ends_as_one_alone(
    lasting: tuple[Served, Keys], together: Together, scene: str
) -> None:
    """The result or the error, in every detail, is that of a client that does not coalesce."""
    running, keys = lasting
    call = SCENES[scene](keys)
    with running.beside() as server:
        [expected] = together(server, [call], coalesce=False)
        server.requests.clear()
        assert together(server, [call] * CALLS, coalesce=True) == [expected] * CALLS
        assert _batches(server) == ([] if scene in ALONE else [CALLS - 1])


@together
def test_one_bad_call_fails_alone(lasting: tuple[Served, Keys], together: Together) -> None:
    """Calls of one batch with contexts of their own each get their own result or error."""
    running, keys = lasting
    scenes = [
        lambda c: c.unwrap("prod", keys.plain),
        lambda c: c.unwrap("prod", keys.good, context={"t": "u"}),
        lambda c: c.unwrap("prod", keys.good, context={"t": "v"}),
        lambda c: c.unwrap("prod", keys.changed(-1), context={"t": "u"}),
        lambda c: c.unwrap("prod", keys.plain, context={"": "x"}),
        lambda c: c.unwrap("prod", keys.plain),
    ]
    with running.beside() as server:
        expected = together(server, scenes, coalesce=False)
        assert together(server, scenes, coalesce=True) == expected
        assert _batches(server) == [len(scenes) - 1]


@together
def test_a_shared_context_travels_once(lasting: tuple[Served, Keys], together: Together) -> None:
    """A context that all calls of a batch have stands in the batch, and in no item."""
    running, keys = lasting
    with running.beside() as server:
        together(
            server, [lambda c: c.unwrap("prod", keys.good, context={"t": "u"})] * 3, coalesce=True
        )
        [batch] = server.requests["BatchUnwrap"]
        assert dict(batch.context) == {"t": "u"}
        assert not any(one.context for one in batch.items)


@together
def test_keys_of_other_regions_do_not_wait(
    lasting: tuple[Served, Keys], together: Together
) -> None:
    """A call waits for one about the same key, and never for the KMS of another region."""
    running, keys = lasting
    with running.client() as client:
        us = client.wrap("prod", "us", bytes(32)).wrapped_key
    scenes = [
        lambda c: c.unwrap("prod", keys.plain),
        lambda c: c.unwrap("prod", us),
        lambda c: c.wrap("prod", "eu", b"k"),
        lambda c: c.wrap("prod", "us", b"k"),
        lambda c: c.rewrap("prod", keys.plain),
    ]
    with running.beside() as server:
        together(server, scenes, coalesce=True)
        assert _batches(server) == []


@together
def test_a_call_alone_is_no_batch(lasting: tuple[Served, Keys], together: Together) -> None:
    """Without another call under way a call goes at once; with nobody beside it, as itself."""
    running, keys = lasting
    with running.beside() as server:
        together(server, [lambda c: c.unwrap("prod", keys.plain)], coalesce=True)
        together(server, [lambda c: c.unwrap("prod", keys.plain)] * 2, coalesce=True)
        assert Counter({k: len(v) for k, v in server.requests.items()}) == {"Unwrap": 3}


@together
def test_callers_travel_apart(lasting: tuple[Served, Keys], together: Together) -> None:
    """A call that names another person, or brings another token, is in another batch."""
    running, keys = lasting
    names = iter(["ann", "ann", "bob", "ann", "bob", "cem"])
    with running.beside() as server:
        together(
            server,
            [lambda c: c.unwrap("prod", keys.plain)] * 6,
            coalesce=True,
            on_behalf_of=lambda: next(names),
        )
        sent = server.metadata["Unwrap"] + server.metadata["BatchUnwrap"]
        assert Counter(one["on-behalf-of"] for one in sent) == {"ann": 2, "bob": 2, "cem": 1}
        assert _batches(server) == [2]


# --- a batch that fails as a whole ---


@together
def test_an_unavailable_batch_is_repeated(lasting: tuple[Served, Keys], together: Together) -> None:
    """The client repeats the batch as it repeats a call, and then each call succeeds."""
    running, keys = lasting
    with running.beside() as server:
        server.fail("BatchUnwrap", UNAVAILABLE, UNAVAILABLE)
        ended = together(server, [lambda c: c.unwrap("prod", keys.plain)] * 4, coalesce=True)
        assert {type(one) for one in ended} == {keyfold.Unwrapped}
        assert _batches(server) == [3, 3, 3]


@together
@pytest.mark.parametrize(
    "error",
    [
        UNAVAILABLE,
        WireError(grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNKNOWN", "who are you"),
        WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", "slow down", retry_after=3),
        WireError(grpc.StatusCode.CANCELLED, message="stopping"),
    ],
    ids=lambda error: error.code.name,
)
def test_what_every_call_would_meet_is_each_calls_error(
    lasting: tuple[Served, Keys], together: Together, error: WireError
) -> None:
    """Each call raises an error of its own, that of a call which met it, after as many attempts."""
    running, keys = lasting
    call: Scene = lambda c: c.unwrap("prod", keys.plain)  # noqa: E731
    with running.beside() as server:
        server.fail("Unwrap", *[error] * 4)
        [expected] = together(server, [call], coalesce=False)
        attempts = len(server.requests["Unwrap"])
        server._errors.clear()
        server.fail("BatchUnwrap", *[error] * 4)
        ahead, *others = together(server, [call] * 4, coalesce=True)
        assert isinstance(ahead, keyfold.Unwrapped)
        assert others == [expected] * 3
        assert _batches(server) == [3] * attempts


@together
@pytest.mark.parametrize(
    "error",
    [
        WireError(grpc.StatusCode.INTERNAL, message="incident 7"),
        WireError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH", "no"),
        WireError(grpc.StatusCode.UNIMPLEMENTED, message="no such method"),
        WireError(grpc.StatusCode.PERMISSION_DENIED, message="a proxy's rules"),
        KEY_DISABLED,
    ],
    ids=lambda error: error.code.name,
)
def test_what_may_be_about_the_batch_sends_each_call_alone(
    lasting: tuple[Served, Keys], together: Together, error: WireError
) -> None:
    """A batch that one call spoils, or that somebody on the way refuses, spoils no other call."""
    running, keys = lasting
    with running.beside() as server:
        server.fail("BatchUnwrap", error)
        ended = together(server, [lambda c: c.unwrap("prod", keys.plain)] * 4, coalesce=True)
        assert {type(one) for one in ended} == {keyfold.Unwrapped}
        assert len(server.requests["Unwrap"]) == 4


# --- deadlines ---


@together
def test_each_call_has_its_own_deadline(lasting: tuple[Served, Keys], together: Together) -> None:
    """A call that has less time than the others of its batch ends alone, at its deadline."""
    running, keys = lasting
    with running.beside() as server:
        server.delays["BatchUnwrap"] = 1.0
        ended = together(
            server,
            [lambda c: c.unwrap("prod", keys.plain)] * 2
            + [lambda c: c.unwrap("prod", keys.plain, timeout=0.3)]
            + [lambda c: c.unwrap("prod", keys.plain)],
            coalesce=True,
        )
        assert [getattr(one, "region", one) for one in ended[:2]] == ["eu", "eu"]
        assert ended[2][0] is keyfold.DeadlineError
        assert ended[3].region == "eu"


@together
def test_a_deadline_that_passes_while_waiting(
    lasting: tuple[Served, Keys], together: Together
) -> None:
    """A call whose deadline passes before a batch leaves is in none, and its error is gRPC's."""
    running, keys = lasting
    with running.beside() as server:
        server.delays["Unwrap"] = 1.0
        scenes = [lambda c: c.unwrap("prod", keys.plain)]
        scenes += [lambda c: c.unwrap("prod", keys.plain, timeout=0.05)] * 2
        [_, expected, _] = together(server, scenes, coalesce=False)
        ended = together(server, scenes, coalesce=True)
        assert ended[1:] == [expected] * 2
        assert ended[0].region == "eu"
        assert _batches(server) == []


# --- the client's own life ---


def test_closing_in_threads(lasting: tuple[Served, Keys]) -> None:
    """Calls that are under way or wait when the client is closed fail alike, and none hangs."""
    running, keys = lasting
    with running.beside() as server:
        server.delays["Unwrap"] = 1.0
        client = keyfold.Client(server.target, coalesce=True)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(client.unwrap, "prod", keys.plain) for _ in range(4)]
            while coalescing.waiting(client) < 3:
                time.sleep(0.001)
            server.await_requests("Unwrap", 1)
            client.close()
            errors = [coalescing.facts(one.exception(20)) for one in calls]
        assert errors[0][0] is keyfold.CancelledError
        assert errors == [errors[0]] * 4


def test_closing_on_asyncio(lasting: tuple[Served, Keys]) -> None:
    """On asyncio, too, a call that waits ends as one that is under way."""
    running, keys = lasting

    async def run(server: Served) -> list[BaseException | keyfold.Unwrapped]:
        client = keyfold.AsyncClient(server.target, coalesce=True)
        calls = [asyncio.create_task(client.unwrap("prod", keys.plain)) for _ in range(4)]
        await asyncio.to_thread(server.await_requests, "Unwrap", 1)
        assert coalescing.waiting(client) == 3
        await client.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    with running.beside() as server:
        server.delays["Unwrap"] = 1.0
        ended = asyncio.run(run(server))
        assert [type(one) for one in ended] == [type(ended[0])] * 4
        assert isinstance(ended[0], BaseException)


FORKING = """
import os, sys, threading, time
import keyfold
client = keyfold.Client(sys.argv[1], coalesce=True)
unused = keyfold.Client(sys.argv[1], coalesce=True)
wrapped = bytes.fromhex(sys.argv[2])
def use():
    while going:
        client.unwrap("prod", wrapped)
going = True
threads = [threading.Thread(target=use) for _ in range(8)]
for one in threads:
    one.start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    try:
        client.unwrap("prod", wrapped)
    except keyfold.ForkedError as error:
        print(error.reason, flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
going = False
for one in threads:
    one.join()
print("parent", len(client.unwrap("prod", wrapped).plaintext), flush=True)
"""


def test_a_fork_in_the_middle(lasting: tuple[Served, Keys]) -> None:
    """A child is told to make a client of its own, whatever threads of the parent waited for."""
    running, keys = lasting
    command = [sys.executable, "-c", FORKING, running.keyfold.target, keys.plain.hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["FORKED", "parent 32"]


def test_a_revoke_in_the_middle_of_64_threads(server: Served) -> None:
    """A call that begins after Revoke has answered is refused, in every thread, and none hangs."""
    with keyfold.Client(server.target, coalesce=True) as client:
        wrapped = client.wrap("prod", "eu", b"k" * 32).wrapped_key
        revoked = threading.Event()
        uses = [0] * 64

        def use(place: int) -> None:
            while True:
                before = revoked.is_set()
                try:
                    opened = client.unwrap("prod", wrapped)
                except keyfold.RevokedError:
                    if before:
                        return
                else:
                    assert not before
                    assert opened.plaintext == b"k" * 32
                    uses[place] += 1

        with ThreadPoolExecutor(64) as pool:
            users = [pool.submit(use, place) for place in range(64)]
            while min(uses) < 3:
                time.sleep(0.001)
            with server.client() as operator:
                operator.revoke("prod")
            revoked.set()
            for one in users:
                one.result(30)
    assert max(_batches(server)) > 8


# --- traces ---


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that the client ends."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("keyfold"))
    return exporter


@together
def test_a_batchs_span_leads_to_its_calls(
    lasting: tuple[Served, Keys], together: Together, spans: InMemorySpanExporter
) -> None:
    """Each call has a span of its own; the batch's is in one call's trace, with links to others."""
    running, keys = lasting
    scenes: list[Scene] = [lambda c: c.unwrap("prod", keys.plain)] * 3
    scenes.append(lambda c: c.unwrap("prod", keys.plain, context={"": "x"}))
    with running.beside() as server:
        together(server, scenes, coalesce=True)
        [carried] = server.metadata["BatchUnwrap"]
    ended = spans.get_finished_spans()
    ours = {one.name.rpartition("/")[2] for one in ended}
    assert ours == {"Unwrap", "BatchUnwrap"}
    [batch] = [one for one in ended if one.name.endswith("BatchUnwrap")]
    [ahead] = [one for one in ended if one.kind is SpanKind.CLIENT and one is not batch]
    waited = [one for one in ended if one.kind is SpanKind.INTERNAL]
    assert (batch.kind, ahead.parent, len(waited)) == (SpanKind.CLIENT, None, 3)
    assert batch.parent is not None
    known = {one.context.span_id for one in waited}
    assert known == {batch.parent.span_id, *(link.context.span_id for link in batch.links)}
    assert len(batch.links) == 2
    assert str(carried["traceparent"]).split("-")[1:3] == [
        format(batch.context.trace_id, "032x"),
        format(batch.context.span_id, "016x"),
    ]
    reasons = Counter((one.attributes or {}).get("error.type") for one in waited)
    assert reasons == {None: 2, "INVALID_CONTEXT": 1}
