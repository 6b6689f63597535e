"""The light client: installed from the wheel into an empty environment, and used from there."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from e2e.server import Server, make
from released import Release, installed, run, versions

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ("client", "cli")

BASE: Final = {
    "cryptography",
    "googleapis-common-protos",
    "grpcio",
    "grpcio-status",
    "protobuf",
}
"""The packages that `pip install keyfold` asks for."""

COMMAND_LINE: Final = {"pydantic", "rich", "typer"}
"""The packages of the command line that an application must not be made to install."""

INTEGRATIONS: Final = {"django", "pyarrow", "sqlalchemy"}
"""Extras of `keyfold.integrations`: the application has the package, the image does not."""

NOT_THE_CLIENTS: Final = re.compile(
    r"alembic|azure|django|boto|botocore|google-(auth|cloud)|grpcio-(health|reflection)|"
    r"hvac|mako|opentelemetry|prometheus|psycopg|pyarrow|pydantic-settings|sqlalchemy|structlog|tink|uvloop"
)
"""Packages that serve, store, or speak to clouds."""

# A machine that has not built helm yet needs minutes for it, and a release contains the chart.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(name="python", scope="module")
def python_fixture(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the base alone."""
    return installed(release, "client", tmp_path_factory.mktemp("client"))


@pytest.fixture(name="python_with_cli", scope="module")
def python_with_cli_fixture(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the extra `cli`."""
    return installed(release, "cli", tmp_path_factory.mktemp("cli"), "[cli]")


@pytest.fixture(name="server", scope="module")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in the environment of the tests."""
    server = make(tmp_path_factory.mktemp("server"), ("eu",), {})
    server.start()
    yield server
    server.kill()


def _names(python: Path) -> set[str]:
    """Returns the names of the packages that an environment has."""
    listing = "from importlib.metadata import distributions as d\nfor x in d(): print(x.name)"
    return {re.sub(r"[-_.]+", "-", n).lower() for n in run([python, "-c", listing]).split()}


def test_the_base_is_what_an_application_needs() -> None:
    """The project asks for these five packages, and `all` for what its own programs can use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split(r"[<>=]", one)[0] for one in project["dependencies"]} == BASE
    extras = set(project["optional-dependencies"]) - {"all"} - INTEGRATIONS
    assert project["optional-dependencies"]["all"] == [f"keyfold[{','.join(sorted(extras))}]"]


def test_it_brings_in_no_server(python: Path) -> None:
    """Whoever installs the client gets no server, no SQL, no cloud, no telemetry."""
    names = _names(python)
    assert names >= BASE | {"keyfold"}
    assert {name for name in names if NOT_THE_CLIENTS.match(name)} == set()
    assert names - {"keyfold"} <= versions("client").keys()


def test_it_brings_in_no_command_line(python: Path) -> None:
    """An application gets no typer, rich or pydantic, and makes a client without them."""
    assert _names(python) & COMMAND_LINE == set()
    script = "import keyfold; keyfold.Client('127.0.0.1:1').close(); print('made')"
    assert run([python, "-c", script]) == "made\n"


def test_programs_name_their_extra(python: Path) -> None:
    """Without its extra, a program says in one line what to install, and fails."""
    for program, extra in (("keyfold", "cli"), ("keyfold-server", "server")):
        for arguments in ([], ["--help"], ["migrate"]):
            said = run([python.with_name(program), *arguments], code=1)
            assert said == f"{program}: typer is missing; install keyfold[{extra}]\n"


def test_it_is_typed(python: Path) -> None:
    """The installed package carries its types, and its stubs' types."""
    script = (
        "import pathlib, keyfold, keyfold.v1\n"
        "print((pathlib.Path(keyfold.__file__).parent / 'py.typed').exists())\n"
        "print(len(list(pathlib.Path(keyfold.v1.__file__).parent.glob('*.pyi'))) > 0)"
    )
    assert run([python, "-c", script]).split() == ["True", "True"]


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
    assert json.loads(run([python, "-c", script])) == ["CONTEXT_MISMATCH", []]


def test_the_command_line_works_with_its_extra(python_with_cli: Path, server: Server) -> None:
    """With the extra `cli`, the command needs nothing more, and nothing of the server."""
    names = _names(python_with_cli)
    assert {name for name in names if NOT_THE_CLIENTS.match(name)} == set()
    assert names - {"keyfold"} <= versions("cli").keys()
    program = python_with_cli.with_name("keyfold")
    shown = run([program, "clusters", "--json"], given={"KEYFOLD_TARGET": server.target})
    assert isinstance(json.loads(shown), dict | list)
    assert "Wrap data keys" in run([program, "--help"])


@pytest.mark.parametrize("lock", LOCKS)
def test_its_lock_is_what_the_tests_run_on(lock: str) -> None:
    """The packages of the lock are those of the tests' own environment, to the hash."""
    assert _packages(lock) <= _packages("dev")


def _packages(lock: str) -> set[tuple[str, str, frozenset[str]]]:
    """Returns each package of a lock with its version and hashes."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    found = re.findall(r"(?m)^([a-z0-9._-]+)==([^ \\]+)((?:.*\n    --hash)*.*)", text)
    return {
        (name, version, frozenset(re.findall(r"sha256:\w+", more))) for name, version, more in found
    }
