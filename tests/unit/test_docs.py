"""The pages that are made from the code: whole, unambiguous, and those of this code."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

import pages
from e2e.server import Server, make
from in_process import grpc_alone, serving
from keyfold_server import settings
from keyfold_server.domain import errors
from keyfold_server.domain.bounds import Bounds
from keyfold_server.rpc import server as rpc_server
from keyfold_server.rpc.messages.status import CODES, code_of

ROOT = Path(__file__).parents[2]
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

MIB = 1024 * 1024
SERVICE = "/keyfold.v1.KeyManagementService"
WATCH = "/grpc.health.v1.Health/Watch"

TREE = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, errors.KeyfoldError) and error.__module__ == errors.__name__
]
LEAVES = [error for error in TREE if "reason" in vars(error)]
WIRED = [error for error in LEAVES if error is not errors.SetupError]


def _script() -> ModuleType:
    """Loads scripts/docs.py, which is a program and in no package."""
    spec = spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


DOCS = _script()


def _rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_pages_are_those_of_the_code() -> None:
    """Whoever reads a page reads what the server does; `make docs` brings it up to date."""
    assert DOCS.stale() == ""


@pytest.mark.parametrize("error", WIRED, ids=lambda error: error.reason)
def test_every_reason_stands_on_the_page_once(error: type[errors.KeyfoldError]) -> None:
    """A caller who gets a reason finds it, with its code, whose answer it is and a remedy."""
    found = [row for row in _rows(ERRORS) if row[0] == f"`{error.reason}`"]
    assert len(found) == 1
    assert found[0][1:3] == [code_of(error).name, error.source]
    assert found[0][5] == error.remedy


def test_the_page_has_no_other_reasons() -> None:
    """A reason that left the code has left the page."""
    listed = {match[1] for row in _rows(ERRORS) if (match := re.fullmatch(r"`([A-Z_]+)`", row[0]))}
    assert listed == {error.reason for error in WIRED}
    assert ERRORS.count(f"\n## {errors.SetupError.reason}\n") == 1


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.reason)
def test_every_leaf_explains_itself(error: type[errors.KeyfoldError]) -> None:
    """Each reason is a word for programs, and has a meaning and a remedy for people."""
    assert re.fullmatch(r"[A-Z][A-Z_]*[A-Z]", error.reason)
    assert vars(error)["remedy"].endswith((".", "?"))
    assert (vars(error).get("__doc__") or "").rstrip().endswith(".")


def test_reasons_are_unique() -> None:
    """A reason means one thing; only what never reaches a caller shares one."""
    reasons = [error.reason for error in WIRED]
    assert len(set(reasons)) == len(reasons)
    assert errors.SetupError.reason not in reasons
    assert "INTERNAL" not in reasons


def test_every_branch_has_a_code() -> None:
    """No error of the tree is answered as INTERNAL: each leaf's branch is in the table."""
    assert {error for error in WIRED if code_of(error) is grpc.StatusCode.INTERNAL} == set()
    assert {error for error in CODES if error not in TREE} == set()


def test_errors_that_name_a_pause_are_marked() -> None:
    """The page's word on RetryInfo is right wherever the server makes an error with a pause."""
    named = {
        call.func.id
        for path in (ROOT / "server").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and any(keyword.arg == "retry_after" for keyword in call.keywords)
    }
    made = {getattr(errors, name) for name in named if hasattr(errors, name)}
    assert made
    assert {error for error in made if DOCS.retry(error) == "no"} == set()


@pytest.mark.parametrize("name", settings.Settings.model_fields)
def test_every_setting_stands_on_the_page(name: str) -> None:
    """An operator finds each setting under both of its names, with what it means."""
    (row,) = [row for row in _rows(CONFIGURATION) if row[0] == f"`KEYFOLD_{name.upper()}`"]
    assert row[1] == f"`{name}`"
    assert row[4]


def test_the_sample_file_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample file can be copied as it stands; it has every setting, at its default if any."""
    (sample,) = pages.fenced(CONFIGURATION, "toml")
    file = tmp_path / "keyfold.toml"
    file.write_text(sample, encoding="utf-8")
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"KEYFOLD_{name.upper()}", raising=False)
    monkeypatch.setenv("KEYFOLD_CONFIG", str(file))
    loaded = settings.load()
    assert loaded.model_fields_set == set(settings.Settings.model_fields)
    for name, field in settings.Settings.model_fields.items():
        if isinstance(field.default, str | int | float):
            assert getattr(loaded, name) == field.default


def test_the_clients_variables_stand_on_the_page() -> None:
    """A user finds each variable that the command line reads."""
    listed = {row[0] for row in _rows(CONFIGURATION)}
    assert {f"`KEYFOLD_{name}`" for name in ("TARGET", "CA", "CERT", "KEY", "TOKEN_FILE")} <= listed


# What gRPC itself answers


@pytest.fixture(name="server", scope="module")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes one call at once."""
    folder = tmp_path_factory.mktemp("server")
    server = make(
        folder,
        (),
        {
            "KEYFOLD_MAX_CONCURRENT_CALLS": "1",
            "KEYFOLD_MAX_STREAMS_PER_CALLER": "9999",
            "KEYFOLD_MAX_CALLS_PER_CONNECTION": "9999",
        },
    )
    server.start()
    yield server
    server.kill()


@pytest.fixture(name="channel")
def channel_fixture(server: Server) -> Iterator[Any]:
    """A channel that sends messages and metadata of any size."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MIB),
        ("grpc.absolute_max_metadata_size", MIB),
    ]
    with grpc.insecure_channel(server.target, options=options) as channel:
        yield channel


def _on_the_page(error: Any) -> bool:
    """Says whether the page lists an error that carries no details."""
    assert rpc_status.from_call(error) is None
    tail = ERRORS.partition("## What gRPC itself answers")[2]
    return any(
        row[0] == error.code().name
        and all(part.strip() in (error.details() or "") for part in row[1].split("…"))
        for row in _rows(tail)
        if row[1]
    )


@pytest.mark.parametrize(
    ("method", "size", "header", "compression", "code"),
    [
        ("/Nope", 0, 0, None, grpc.StatusCode.UNIMPLEMENTED),
        pytest.param(
            *("/BatchWrap", 5 * MIB + 1, 0, None, grpc.StatusCode.RESOURCE_EXHAUSTED),
            marks=grpc_alone,
        ),
        pytest.param(
            *("/BatchWrap", 6 * MIB, 0, grpc.Compression.Gzip, grpc.StatusCode.RESOURCE_EXHAUSTED),
            marks=grpc_alone,
        ),
        pytest.param(
            *("/GetStatus", 0, 21 * 1024, None, grpc.StatusCode.RESOURCE_EXHAUSTED),
            marks=grpc_alone,
        ),
    ],
)
def test_what_grpc_itself_answers(
    channel: Any,
    method: str,
    size: int,
    header: int,
    compression: grpc.Compression | None,
    code: grpc.StatusCode,
) -> None:
    """A call that never reaches Keyfold gets the answer of gRPC that the page lists."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SERVICE + method)(
            bytes(size),
            timeout=10.0,
            metadata=[("x-long", "v" * header)],
            compression=compression,
        )
    assert caught.value.code() is code
    assert _on_the_page(caught.value)


def test_what_grpc_answers_when_time_is_up(channel: Any) -> None:
    """A client's deadline ends a call as the page says, whatever the server does."""
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(WATCH)(b"", timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert _on_the_page(caught.value)


def test_what_grpc_answers_to_a_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far beyond the limit gRPC turns calls away as the page says, without details."""
    # Keyfold itself refuses calls before that, and leaves thousands of places for Revoke and Check.
    bounds = ("PLACES", "WATCHES", "CHECKS", "_TURNED_AWAY")
    for name, value in (("_BEYOND", 10), *((bound, 0) for bound in bounds)):
        monkeypatch.setattr(rpc_server, name, value)
    with (
        serving(tmp_path, bounds=Bounds(calls=1)) as few,
        grpc.insecure_channel(few.target) as channel,
        ExitStack() as held,
    ):

        def flood() -> None:
            follow: Any = channel.unary_stream(WATCH)
            for _ in range(2_000):
                watch = follow(b"", timeout=30.0)
                held.callback(watch.cancel)
                next(watch)

        with pytest.raises(grpc.RpcError) as caught:
            flood()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _on_the_page(caught.value)


def test_what_grpc_answers_for_a_server_that_is_gone(server: Server) -> None:
    """Without a server the client's own library answers as the page says."""
    server.stop()
    began = time.monotonic()
    with grpc.insecure_channel(server.target) as channel:
        ask: Any = channel.unary_unary(f"{SERVICE}/GetStatus")
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=10.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < 10.0
    assert _on_the_page(caught.value)
