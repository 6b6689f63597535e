"""The demo exits with 0 if every promise held and with 1 if one did not, and leaves no traces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from contract.counterparts import NotInstalledError, without
from e2e.server import BIN, ROOT, clean_environment

DEMO: Final = ROOT / "examples" / "demo.py"
TIMEOUT: Final = 90.0

pytestmark = pytest.mark.timeout(2 * TIMEOUT)

PROMISED: Final = (
    "✓ local:eu: version 1 enabled",
    "✓ ready on 127.0.0.1:",
    "$ keyfold enable acme --file examples/cmek_config.json",
    "✓ Plaintext(<32 bytes>), wrapped: 0101",
    "✓ the same bytes",
    "✓ local:eu: version 1 enabled, version 2 enabled",
    "✓ eu ENABLED, generation 2 under version 2",
    "✓ local:eu: version 1 disabled, version 2 enabled",
    "✓ Plaintext(<32 bytes>) of generation 1",
    "✓ generation 2: 0101",
    "✓ refused, WRAPPED_KEY_CORRUPT: ",
    "✓ eu REVOKED, ",
    "✓ refused, REVOKED: ",
    "$ keyfold restore acme",
    "✓ Plaintext(<32 bytes>) of generation 2",
    "REGION   STATE     HEALTH",
    "Every step came out as promised.",
)
"""The lines that a successful demo prints, in this order."""


ON_A_SERVICE: Final = (
    "it is not the real service, and no account is used",
    "$ keyfold enable acme --file cmek_config.json",
    "✓ Plaintext(<32 bytes>), wrapped: 0101",
    "✓ the same bytes",
    "the customer rotates the key of region eu",
    "✓ eu ENABLED, generation 2 under version",
    "$ keyfold rotate acme --file next.json",
    "the customer disables the first key of region eu",
    "✓ Plaintext(<32 bytes>) of generation 1",
    "✓ refused, WRAPPED_KEY_CORRUPT: ",
    "✓ refused, REVOKED: ",
    "$ keyfold restore acme",
    "the customer disables the key of region eu",
    "✓ refused, KEY_DISABLED: ",
    "the customer enables the key of region eu",
    "✓ Plaintext(<32 bytes>) of generation 2",
    "REGION   STATE     HEALTH",
    "Every step came out as promised.",
)
"""The same for a demo on a provider's counterpart."""


@dataclass
class Demo:
    """A running demo, with a temporary folder of its own that it must leave empty."""

    process: subprocess.Popen[str]
    temporary: Path
    output: str = ""

    def end(self) -> int:
        """Waits for the end and returns the exit code."""
        self.output, _ = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode

    def left_behind(self) -> list[str]:
        """Returns the files and processes that the demo should not have left."""
        left = [str(path) for path in self.temporary.iterdir()]
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = str(self.temporary).encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if ours:
                left.append((folder / "cmdline").read_text(errors="replace"))
        return left


class Demos:
    """Starts demos; ends those that a test leaves running."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Demo] = []

    def start(
        self, file: Path | None = None, programs: Path | None = None, provider: str | None = None
    ) -> Demo:
        """Starts `make demo`, or the program itself on a file or with other programs."""
        temporary = self._folder / f"tmp{len(self._started)}"
        temporary.mkdir()
        environment = clean_environment(TMPDIR=str(temporary))
        for name in ("FILE", "PROVIDER"):
            environment.pop(name, None)
        if file is not None:
            environment["FILE"] = str(file)
        command: list[str | Path] = [sys.executable, DEMO]
        folder = self._folder
        if file is None and programs is None:
            # As README.md shows it, except that make must not renew the tests' own environment.
            for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
                environment.pop(name, None)
            command = ["make", "--no-print-directory", "--old-file=.venv/installed", "demo"]
            if provider is not None:
                command.append(f"PROVIDER={provider}")
            folder = ROOT
        if programs is not None:
            start = (
                "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import demo; "
                "demo.programs = pathlib.Path(sys.argv[2]); sys.exit(demo.main())"
            )
            command = [sys.executable, "-c", start, DEMO.parent, programs]
        demo = Demo(
            subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ),
            temporary,
        )
        self._started.append(demo)
        return demo

    def end(self) -> None:
        """Ends the demos that still run, so that each can stop its server."""
        for demo in self._started:
            if demo.process.poll() is None:
                demo.process.terminate()
                demo.end()


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[Demos]:
    """Starts demos."""
    started = Demos(tmp_path)
    try:
        yield started
    finally:
        started.end()


def stand_in(folder: Path, name: str, script: str) -> None:
    """Writes a program into a folder of programs."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def missing_in(output: str, promised: tuple[str, ...] = PROMISED) -> list[str]:
    """Returns the promised lines that the output lacks where they should be."""
    missing = []
    for line in promised:
        _, found, rest = output.partition(line)
        if found:
            output = rest
        else:
            missing.append(line)
    return missing


def test_every_kind_of_file_comes_back(demos: Demos, tmp_path: Path) -> None:
    """A README, three random megabytes under a name with spaces and an empty file come back."""
    binary = tmp_path / "three random megabytes.bin"
    binary.write_bytes(os.urandom(3 * 1024 * 1024 + 7))
    empty = tmp_path / "empty"
    empty.touch()
    running = [demos.start(), demos.start(binary), demos.start(empty)]
    for demo in running:
        assert demo.end() == 0, demo.output
        assert missing_in(demo.output) == []
        assert demo.left_behind() == []
    on_readme, on_binary, on_empty = (demo.output for demo in running)
    assert "on README.md (" in on_readme
    assert "on three random megabytes.bin (3,145,735 bytes)" in on_binary
    assert "0 bytes encrypted" in on_empty
    assert "\x1b" not in on_readme  # no colours without a terminal


@pytest.mark.parametrize(
    ("provider", "says"),
    [("vault", "✓ a real OpenBao server"), ("gcp", "✓ this project's own stand-in for Cloud KMS")],
)
def test_the_same_on_a_providers_counterpart(demos: Demos, provider: str, says: str) -> None:
    """`make demo PROVIDER=…` starts the counterpart, says what it is, and ends it again."""
    demo = demos.start(provider=provider)
    code = demo.end()
    _, lacking, why = demo.output.partition("this machine cannot run the counterpart: ")
    if lacking:
        without(NotInstalledError(why.splitlines()[0]))
    assert code == 0, demo.output
    assert missing_in(demo.output, (*ON_A_SERVICE[:1], says, *ON_A_SERVICE[1:])) == []
    assert demo.left_behind() == []


def test_a_provider_that_there_is_not_is_said_at_once(demos: Demos) -> None:
    """A wrong PROVIDER gets one clear line that lists the right ones."""
    demo = demos.start(provider="ibm")
    assert demo.end() == 2
    assert "give one of aws, azure, gcp, vault" in demo.output
    assert "Traceback" not in demo.output
    assert demo.left_behind() == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing file", "there is no file"), (".", "is not a file")],
)
def test_a_file_that_is_none_is_said_at_once(
    demos: Demos, tmp_path: Path, name: str, said: str
) -> None:
    """A wrong FILE gets one clear line before anything starts."""
    demo = demos.start(tmp_path / name)
    assert demo.end() == 2
    assert said in demo.output
    assert "Traceback" not in demo.output
    assert demo.left_behind() == []


def test_a_server_that_does_not_start_ends_the_demo(demos: Demos, tmp_path: Path) -> None:
    """If the server does not start, the demo exits with 1 and shows the server's own words."""
    programs = tmp_path / "programs"
    programs.mkdir()
    stand_in(
        programs,
        "keyfold-server",
        f'[ $# -gt 0 ] && exec "{BIN}/keyfold-server" "$@"\necho "no luck today" >&2; exit 3',
    )
    demo = demos.start(programs=programs)
    assert demo.end() == 1
    assert "exit code 3" in demo.output
    assert "no luck today" in demo.output
    assert "Traceback" not in demo.output
    assert demo.left_behind() == []


def test_a_missing_program_ends_the_demo(demos: Demos, tmp_path: Path) -> None:
    """Without a keyfold-server, the demo exits with 1 and says so."""
    demo = demos.start(programs=tmp_path)
    assert demo.end() == 1
    assert "keyfold-server does not start" in demo.output
    assert demo.left_behind() == []


def test_a_promise_that_is_not_kept_ends_the_demo(demos: Demos, tmp_path: Path) -> None:
    """The demo notices a rotation that only claims success, and exits with 1."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "keyfold-server").symlink_to(BIN / "keyfold-server")
    stand_in(
        programs,
        "keyfold",
        f'[ "$1" = rotate ] && exec "{BIN}/keyfold" status acme --json\nexec "{BIN}/keyfold" "$@"',
    )
    demo = demos.start(programs=programs)
    assert demo.end() == 1
    assert "✗ eu ENABLED, generation 1 under version 1" in demo.output
    assert "that is not what was promised" in demo.output
    assert "Every step" not in demo.output
    assert demo.left_behind() == []


def test_an_interruption_leaves_nothing_behind(demos: Demos) -> None:
    """Ctrl-C, which make repeats, stops the server and removes the folder."""
    demo = demos.start(DEMO)
    until = time.monotonic() + TIMEOUT
    while not list(demo.temporary.glob("*/store.db")):
        assert demo.process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    demo.process.send_signal(signal.SIGINT)
    demo.process.send_signal(signal.SIGTERM)
    assert demo.end() == 130
    assert "interrupted" in demo.output
    assert "Traceback" not in demo.output
    assert demo.left_behind() == []
