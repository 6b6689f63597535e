"""The client alone: installed from the wheel in an environment of its own, and used from there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from e2e.server import Server, make

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "requirements" / "client.lock"

NOT_THE_CLIENTS: Final = re.compile(
    r"alembic|azure|boto|botocore|cryptography|google-(auth|cloud)|grpcio-(health|reflection)|"
    r"hvac|mako|opentelemetry|prometheus|psycopg|pydantic-settings|sqlalchemy|structlog|uvloop"
)
"""What serves, stores, or speaks to clouds."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(name="python", scope="module")
def python_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment that has the client alone."""
    folder = tmp_path_factory.mktemp("client")
    pip: list[str | Path] = [sys.executable, "-m", "pip"]
    _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT])
    (wheel,) = folder.glob("keyfold-*.whl")
    _run([sys.executable, "-m", "venv", "--without-pip", folder / "env"])
    python = folder / "env" / "bin" / "python"
    install = [*pip, "--python", python, "install", "--no-deps"]
    _run([*install, "--require-hashes", "--only-binary=:all:", "-r", LOCK])
    _run([*install, "--no-index", wheel])
    return python


@pytest.fixture(name="server", scope="module")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in the environment of the tests."""
    server = make(tmp_path_factory.mktemp("server"), ("eu",), {})
    server.start()
    yield server
    server.kill()


def _run(command: Sequence[str | Path], **more: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEYFOLD_", "PYTHON"))}
    done = subprocess.run(
        command,
        cwd="/",
        env=kept | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_it_brings_in_no_server(python: Path) -> None:
    """Who installs the client gets its base alone: no server, no SQL, no cloud, no telemetry."""
    listing = "from importlib.metadata import distributions as d\nfor x in d(): print(x.name)"
    names = {re.sub(r"[-_.]+", "-", n).lower() for n in _run([python, "-c", listing]).split()}
    assert "keyfold" in names
    assert {name for name in names if NOT_THE_CLIENTS.match(name)} == set()
    locked = set(re.findall(r"^([a-z0-9._-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    assert names - {"keyfold"} <= locked


def test_it_is_typed(python: Path) -> None:
    """The installed package carries its types, and its stubs' types."""
    script = (
        "import pathlib, keyfold, keyfold.v1\n"
        "print((pathlib.Path(keyfold.__file__).parent / 'py.typed').exists())\n"
        "print(len(list(pathlib.Path(keyfold.v1.__file__).parent.glob('*.pyi'))) > 0)"
    )
    assert _run([python, "-c", script]).split() == ["True", "True"]


def test_it_works_against_a_server_elsewhere(python: Path, server: Server) -> None:
    """The library does its work there, and loads nothing of the server, which is in the wheel."""
    script = f"""
import json, sys, keyfold
with keyfold.Client({server.target!r}) as client:
    client.enable("prod", [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:eu"))])
    wrapped = client.wrap("prod", "eu", b"0123456789abcdef", context={{"table": "orders"}})
    opened = client.unwrap("prod", wrapped.wrapped_key, context={{"table": "orders"}})
    assert opened.plaintext == b"0123456789abcdef"
    try:
        client.unwrap("prod", wrapped.wrapped_key)
    except keyfold.ContextMismatchError as error:
        reason = error.reason
print(json.dumps([reason, [name for name in sys.modules if name.startswith("keyfold_server")]]))
"""
    assert json.loads(_run([python, "-c", script])) == ["CONTEXT_MISMATCH", []]


def test_its_command_line_works_there(python: Path, server: Server) -> None:
    """The command `keyfold` is installed with it, and needs nothing more."""
    program = python.with_name("keyfold")
    shown = _run([program, "clusters", "--json"], KEYFOLD_TARGET=server.target)
    assert isinstance(json.loads(shown), dict | list)


def test_its_lock_is_what_the_tests_run_on() -> None:
    """The versions of the lock are those of the tests' own environment."""
    pattern = re.compile(r"^([a-z0-9._-]+)==([^ \\]+)", re.MULTILINE)
    tested = (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    locked = dict(pattern.findall(LOCK.read_text(encoding="utf-8")))
    assert locked
    assert locked.items() <= dict(pattern.findall(tested)).items()
