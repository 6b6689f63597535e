"""The client against a real gRPC server: what it sends, how it repeats, what it returns."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import keyfold
from keyfold.calls.call import KEYS
from lateness import in_time
from served import Served, served
from wire_errors import UNAVAILABLE

SPEC = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))


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


# --- what each method does ---


def test_data_plane(client: keyfold.Client) -> None:
    """A key comes back as it was, and can be moved."""
    context = {"table": "users"}
    wrapped = client.wrap("prod", "eu", bytearray(b"k" * 32), context=context)
    opened = client.unwrap("prod", memoryview(wrapped.wrapped_key), context=context)
    minute = timedelta(minutes=1)
    assert opened == keyfold.Unwrapped(keyfold.Plaintext(b"k" * 32), "eu", 1, minute)
    again = client.rewrap("prod", wrapped.wrapped_key, context=context)
    assert again == keyfold.Rewrapped(wrapped.wrapped_key, 1, already_current=True)
    moved = client.rewrap(
        "prod",
        wrapped.wrapped_key,
        context=context,
        destination=keyfold.Destination(region="us", context={"table": "orders"}),
    )
    assert client.unwrap("prod", moved.wrapped_key, context={"table": "orders"}).region == "us"


def test_generate_data_key(client: keyfold.Client) -> None:
    """A fresh key comes with its wrapped form, or as that alone."""
    key = client.generate_data_key("prod", "eu", size=64)
    assert len(key.plaintext) == 64
    assert client.unwrap("prod", key.wrapped_key).plaintext == key.plaintext
    stored = client.generate_data_key("prod", "eu", wrapped_only=True)
    assert stored.plaintext == b""
    assert len(client.unwrap("prod", stored.wrapped_key).plaintext) == 32


@pytest.mark.parametrize("wrong", ["a key", 32, None])
def test_only_bytes_are_wrapped(client: keyfold.Client, wrong: object) -> None:
    """The client refuses text and numbers; it does not turn them into bytes."""
    with pytest.raises(TypeError, match="plaintext must be bytes"):
        client.wrap("prod", "eu", wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be bytes"):
        client.unwrap("prod", wrong)  # type: ignore[arg-type]


def test_regions_are_a_list(client: keyfold.Client) -> None:
    """The client refuses one region's name in place of a list: its letters are not regions."""
    with pytest.raises(TypeError, match="regions must be a list of str, not one str"):
        client.revoke("prod", regions="eu")


# --- repeating ---


def test_unavailable_is_repeated(client: keyfold.Client, server: Served) -> None:
    """A call that finds the server unavailable twice succeeds the third time."""
    server.fail("Wrap", UNAVAILABLE, UNAVAILABLE)
    client.wrap("prod", "eu", bytes(32))
    assert len(server.requests["Wrap"]) == 3


def test_change_is_repeated_with_its_id(client: keyfold.Client, server: Served) -> None:
    """A repeated change carries the same request_id, so the server makes it once."""
    server.fail("Rotate", UNAVAILABLE, UNAVAILABLE)
    client.rotate("prod", [keyfold.RegionSpec("eu")])
    ids = [request.request_id for request in server.requests["Rotate"]]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert uuid.UUID(ids[0]).version == 4


def test_each_change_has_an_id_of_its_own(client: keyfold.Client, server: Served) -> None:
    """Every change has an id of its own, and the client keeps the id that a caller passes."""
    client.revoke("prod")
    client.revoke("prod")
    client.revoke("prod", request_id="mine")
    first, second, third = (request.request_id for request in server.requests["Revoke"])
    assert len({first, second, third}) == 3
    assert third == "mine"


def test_no_change_without_an_id(client: keyfold.Client) -> None:
    """The client refuses an empty request_id: it could not repeat such a change safely."""
    with pytest.raises(ValueError, match="request_id"):
        client.revoke("prod", request_id="")


def test_repeating_ends(client: keyfold.Client, server: Served) -> None:
    """After four attempts the client raises the error, which holds the request_id."""
    server.fail("Revoke", *[UNAVAILABLE] * 9)
    with pytest.raises(keyfold.BusyError) as raised:
        client.revoke("prod")
    assert len(server.requests["Revoke"]) == 4
    assert raised.value.request_id == server.requests["Revoke"][0].request_id


def test_a_refusal_is_not_repeated(client: keyfold.Client, server: Served) -> None:
    """The client raises a refusal at once: only "not now" is worth repeating."""
    server.local_keys.disable("acme")
    with pytest.raises(keyfold.KeyDisabledError):
        client.wrap("prod", "eu", bytes(32))
    assert len(server.requests["Wrap"]) == 1


# --- deadlines ---


def test_deadline_of_a_call(client: keyfold.Client, server: Served) -> None:
    """A call takes no longer than its own timeout."""
    server.delays["Wrap"] = 0.3
    with in_time(0.25), pytest.raises(keyfold.DeadlineError):
        client.wrap("prod", "eu", bytes(32), timeout=0.05)


def test_deadlines_of_a_client(server: Served) -> None:
    """A client's deadlines apply to calls without their own, each to its plane."""
    server.delays.update({"Wrap": 0.15, "Revoke": 0.15})
    with keyfold.Client(server.target, timeout=0.05) as impatient:
        with pytest.raises(keyfold.DeadlineError):
            impatient.wrap("prod", "eu", bytes(32))
        impatient.revoke("prod")
    with keyfold.Client(server.target, control_timeout=0.05) as impatient:
        with pytest.raises(keyfold.DeadlineError) as raised:
            # An id of its own: on a busy machine the server may never see this call.
            impatient.revoke("prod", request_id="mine")
        assert raised.value.request_id == "mine"


def test_default_deadlines(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call has a deadline: 10 s for keys, 30 s for everything else."""
    given: dict[str, float] = {}

    class Spy:
        def __init__(self, method: str) -> None:
            self.method = method

        def __call__(self, request: object, timeout: float, metadata: object) -> object:
            given[self.method] = timeout
            return getattr(real, self.method)(request, timeout=timeout, metadata=metadata)

    class Stub:
        def __getattr__(self, method: str) -> Spy:
            return Spy(method)

    with keyfold.Client(server.target) as client:
        line = client.line()
        real = line.stubs[KEYS]
        monkeypatch.setattr(line, "stubs", {KEYS: Stub()})
        client.wrap("prod", "eu", bytes(32))
        client.batch_wrap("prod", [bytes(32)], region="eu")
        client.get_status("prod")
        client.enable("test", [SPEC])
    assert given == {"Wrap": 10.0, "BatchWrap": 10.0, "GetStatus": 30.0, "Enable": 30.0}


# --- the house's own promises ---


def test_public_names() -> None:
    """`__all__` lists every public name once, and every error class."""
    assert len(keyfold.__all__) == len(set(keyfold.__all__))
    assert all(hasattr(keyfold, name) for name in keyfold.__all__)
    tree = {name for name in vars(keyfold) if name.endswith("Error")}
    assert tree <= set(keyfold.__all__)


def test_the_library_is_light() -> None:
    """Importing the client brings in no server, no database, no command line."""
    program = (
        "import sys, keyfold; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {
        "keyfold_server",
        "sqlalchemy",
        "cryptography",
        "pydantic",
        "typer",
        "rich",
    }


def test_the_two_clients_have_one_shape() -> None:
    """Each method of one client is a method of the other, with the same arguments."""

    def shape(client: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert shape(keyfold.Client) == shape(keyfold.AsyncClient)


@pytest.mark.parametrize(
    "module",
    ["keyfold.models.plaintext", "keyfold.client", "keyfold.client.data_plane",
     "keyfold.client.lifecycle", "keyfold.client.deletion"],
)  # fmt: skip
def test_examples(module: str, server: Served, client: keyfold.Client) -> None:
    """The examples in the docstrings do what they show."""
    names = {"client": client, "keyfold": keyfold, "target": server.target}
    result = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0
