"""The caller's token and name in the operator's commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from cli_runner import Cli
from keyfold.cli.app import app
from served import Served, served
from wire_errors import WireError

TOKEN = "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"
REFUSED_TOKEN = WireError(grpc.StatusCode.UNAUTHENTICATED, "CALLER_CREDENTIAL_INVALID")


@pytest.fixture(name="shared", scope="module")
def shared_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the cluster prod, which no test here changes."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(shared: Served) -> Iterator[Served]:
    """That server, behind a relay of the test's own."""
    with shared.beside() as relay:
        yield relay


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def test_token_and_name(server: Served, token_file: Path) -> None:
    """A command sends the token of a file, and the name of the person it is run for."""
    cli = Cli(server.target)
    assert cli("status", "prod", "--token-file", token_file, "--on-behalf-of", "alice").code == 0
    [metadata] = server.metadata["GetStatus"]
    assert metadata["authorization"] == f"Bearer {TOKEN}"
    assert metadata["on-behalf-of"] == "alice"


def test_token_from_the_environment(server: Served, token_file: Path) -> None:
    """Without an option, KEYFOLD_TOKEN_FILE names the file, also for batches."""
    environment = {"KEYFOLD_TARGET": server.target, "KEYFOLD_TOKEN_FILE": str(token_file)}
    line = '{"region": "eu", "plaintext": "AAAA"}\n'
    ran = CliRunner().invoke(app, ["wrap", "prod", "--batch"], input=line, env=environment)
    assert ran.exit_code == 0
    [metadata] = server.metadata["BatchWrap"]
    assert metadata["authorization"] == f"Bearer {TOKEN}"


def test_a_token_does_not_leave_in_plain(token_file: Path) -> None:
    """A command does not send a token over plain text to another machine, and says what to do."""
    ran = Cli("keyfold.example:7443")("status", "prod", "--token-file", token_file)
    assert ran.code == 2
    assert ran.err.endswith("use TLS\n")
    assert TOKEN not in ran.err


@pytest.mark.parametrize("text", [None, "", "two tokens"])
def test_no_token_in_the_file(server: Served, token_file: Path, text: str | None) -> None:
    """A missing file, or one without a token, is invalid input, and the command makes no call."""
    token_file.unlink() if text is None else token_file.write_text(text)
    ran = Cli(server.target)("status", "prod", "--token-file", token_file)
    assert ran.code == 2
    assert str(token_file) in ran.err
    assert not server.requests


def test_a_name_that_cannot_be_sent(server: Served) -> None:
    """A name that no server accepts is invalid input."""
    ran = Cli(server.target)("status", "prod", "--on-behalf-of", "")
    assert ran.code == 2
    assert "on_behalf_of must be" in ran.err


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_refused_token_is_not_shown(
    server: Served, token_file: Path, form: tuple[str, ...]
) -> None:
    """The error about a refused token does not contain it, neither as text nor as JSON."""
    server.fail(
        "GetStatus", WireError(grpc.StatusCode.UNAUTHENTICATED, "CALLER_CREDENTIAL_INVALID")
    )
    ran = Cli(server.target)("status", "prod", "--token-file", token_file, *form)
    assert ran.code == 8
    assert "CALLER_CREDENTIAL_INVALID" in ran.err
    assert TOKEN not in ran.err + ran.out.decode()
