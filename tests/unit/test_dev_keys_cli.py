"""`keyfold-server dev-keys`: clear lines, exit codes, and no key material."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyfold_server.admin import EXIT_DECLINED, EXIT_ERROR, app
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import KeyDisabledError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.local.provider import LocalProvider

_PROGRAM = "from keyfold_server.admin import app; app(prog_name='keyfold-server')"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a key file that is not there yet, set in the environment."""
    path = tmp_path / "keys" / "dev.json"
    monkeypatch.setenv("KEYFOLD_LOCAL_KEYS", str(path))
    return path


def _run(*words: str, answer: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["dev-keys", *words], input=answer)
    return result.exit_code, result.stdout, result.stderr


def _done(*words: str) -> str:
    code, out, err = _run(*words)
    assert (code, err) == (0, "")
    return out


def _materials(file: Path) -> list[str]:
    keys = json.loads(file.read_bytes())["keys"]
    return [v["material"] for versions in keys.values() for v in versions if "material" in v]


def test_the_life_of_a_key(file: Path) -> None:
    """Each command says in one line how the key stands; none shows material."""
    said = _done("create", "demo")
    assert said == "local:demo: version 1 enabled\n"
    assert file.stat().st_mode & 0o777 == 0o600
    materials = _materials(file)
    said += _done("rotate", "demo")
    assert _done("disable", "demo", "--version", "1") == (
        "local:demo: version 1 disabled, version 2 enabled\n"
    )
    said += _done("disable", "demo")
    said += _done("enable", "demo", "--version", "2")
    assert _done("enable", "demo") == "local:demo: version 1 enabled, version 2 enabled\n"
    assert _done("destroy", "demo", "--version", "1", "--yes") == (
        "local:demo: version 1 destroyed, version 2 enabled\n"
    )
    said += _done("list") + _done("list", "--json")
    assert not any(material in said for material in [*materials, *_materials(file)])


def test_list_is_readable_and_machine_readable(file: Path) -> None:
    """The table has a line for each version; the JSON has uri, version, state and time."""
    _done("create", "one")
    _done("create", "another-one")
    _done("rotate", "one")
    table = _done("list").splitlines()
    assert table[0].split() == ["KEY", "VERSION", "STATE", "CREATED"]
    assert [line.split()[:3] for line in table[1:]] == [
        ["local:another-one", "1", "enabled"],
        ["local:one", "1", "enabled"],
        ["local:one", "2", "enabled"],
    ]
    keys = json.loads(_done("list", "--json"))
    assert [(key["name"], key["uri"]) for key in keys] == [
        ("another-one", "local:another-one"),
        ("one", "local:one"),
    ]
    assert set(keys[0]["versions"][0]) == {"version", "state", "created"}


def test_the_option_wins_over_the_environment(file: Path, tmp_path: Path) -> None:
    """--file names another file than KEYFOLD_LOCAL_KEYS."""
    other = tmp_path / "other.json"
    _done("create", "demo", "--file", str(other))
    assert other.exists()
    assert not file.exists()


def test_errors_are_one_line_and_exit_2(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error is one line on stderr, with nothing on stdout."""
    failures = [_run("list"), _run("rotate", "demo")]
    _done("create", "demo")
    failures += [
        _run("create", "demo"),
        _run("create", "a b"),
        _run("rotate", "other"),
        _run("disable", "demo", "--version", "7"),
        _run("destroy", "other", "--yes"),
    ]
    file.chmod(0o644)
    failures.append(_run("list"))
    file.chmod(0o600)
    file.write_text("{")
    failures.append(_run("list"))
    monkeypatch.delenv("KEYFOLD_LOCAL_KEYS")
    failures.append(_run("list"))
    for code, out, err in failures:
        assert (code, out) == (EXIT_ERROR, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err


def test_destroy_without_a_terminal_needs_yes(file: Path) -> None:
    """A script that forgot --yes destroys nothing, whatever its input says."""
    _done("create", "demo")
    before = file.read_bytes()
    code, _, err = _run("destroy", "demo", answer="y\n")
    assert code == EXIT_ERROR
    assert "--yes" in err
    assert file.read_bytes() == before


@pytest.mark.parametrize(("answer", "code"), [("n\n", EXIT_DECLINED), ("y\n", 0)])
def test_destroy_asks_at_a_terminal(
    file: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    """At a terminal the command names the key and waits for a yes; nothing else destroys it."""
    _done("create", "demo")
    monkeypatch.setattr("keyfold_server.admin.terminal.has_terminal", lambda: True)
    assert _run("destroy", "demo", answer=answer)[0] == code
    state = json.loads(_done("list", "--json"))[0]["versions"][0]["state"]
    assert state == ("destroyed" if code == 0 else "enabled")


def test_a_running_provider_notices_at_once(file: Path) -> None:
    """A key that a command disables in another process is refused by the very next call."""
    _done("create", "demo")
    provider = LocalProvider(file)
    key, binding = RootKey("LOCAL", "local:demo"), Binding("cluster", "region", bytes(16))
    wrapped = provider.wrap(key, b"payload", binding, budget=5.0)
    for command, refused in (("disable", True), ("enable", False)):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, "dev-keys", command, "demo"],
            env={**os.environ, "KEYFOLD_LOCAL_KEYS": str(file)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        args = (key, wrapped.key_version, wrapped.ciphertext, binding)
        if refused:
            with pytest.raises(KeyDisabledError):
                provider.unwrap(*args, budget=5.0)
        else:
            assert provider.unwrap(*args, budget=5.0).plaintext == b"payload"
