"""The generated parts of the client: up to date, and wholly synchronous."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import keyfold
from keyfold.errors.reasons import BY_REASON

ROOT = Path(__file__).parents[2]


def _loaded(name: str) -> ModuleType:
    """Loads a program of scripts/, which is outside every package."""
    spec = spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="script", scope="module")
def script_fixture() -> ModuleType:
    """scripts/client.py."""
    return _loaded("client")


def test_the_committed_files_are_the_generated_ones(script: ModuleType) -> None:
    """The client in the repository is what `make client` writes."""
    assert script.stale() == ""


def test_the_reasons_of_the_client_for_go_are_the_servers() -> None:
    """A reason that the server gains or loses, the client for Go gains or loses, too."""
    assert _loaded("go_client").stale() == ""


@pytest.mark.parametrize("line", ["import asyncio", "async_only = 1", "from grpc import aio"])
def test_nothing_asynchronous_is_left(script: ModuleType, line: str) -> None:
    """Asynchronous code that the program cannot translate stops it, with the place."""
    with pytest.raises(ValueError, match=r"client/data_plane\.py:2 .*asynchronous"):
        script.synchronous("client/data_plane.py", f"x = 1\n{line}\n")


def test_a_sentence_about_asyncio_that_changed_is_noticed(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence that the program would replace must still stand in the asyncio client."""
    monkeypatch.setattr(script, "SYNC_DOCS", {"No file says this.": "Nor this."})
    with pytest.raises(ValueError, match="No file says this"):
        script.sync_client()


def test_every_error_is_exported() -> None:
    """`import keyfold` has the class of every reason."""
    assert {error.__name__ for error in BY_REASON.values()} <= set(keyfold.__all__)
