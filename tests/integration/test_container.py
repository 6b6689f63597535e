"""The container's promises, kept without a container engine.

The Dockerfile is read and each instruction carried out as it stands there, on this machine in
place of the base image: in a mount namespace of its own, where a layer over the root file system
takes all that is written. So the paths are the real ones, and nothing here is left behind.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from e2e.server import make
from machine import Layer, Machine, lacking

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VOLUME: Final = "/var/lib/keyfold"
BUILDS: Final = 600
"""Seconds that installing may take, with nothing in pip's cache or on a busy machine."""

pytestmark = pytest.mark.timeout(BUILDS)


# The file


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, and the rest of its line."""

    word: str
    rest: str

    @property
    def command(self) -> list[str]:
        """The exec form; a shell form raises ValueError."""
        return [str(part) for part in json.loads(self.rest[self.rest.index("[") :])]


@dataclass
class Stage:
    """One stage: its name, what it is made from, and its instructions."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[Instruction]:
        """Returns the instructions of one kind."""
        return [one for one in self.instructions if one.word == word]

    def last(self, word: str) -> Instruction:
        """Returns the instruction that counts where there are several."""
        return self.all(word)[-1]


def _parse(text: str) -> tuple[list[Instruction], list[Stage]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    before: list[Instruction] = []
    stages: list[Stage] = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, *name = re.split(r"\s+AS\s+", rest)
            stages.append(Stage(name[0] if name else "", base))
        else:
            (stages[-1].instructions if stages else before).append(Instruction(word, rest))
    return before, stages


def _filled(text: str, values: dict[str, str]) -> str:
    """Replaces variables by their values from ARG and ENV, as an engine does."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match["name"], "")
        return _filled(match["then"], values) if match["then"] and found else found

    plain = r"\$\{(?P<name>\w+)(?::\+(?P<then>(?:[^{}]|\$\{\w+\})*))?\}"
    return re.sub(plain, value, text)


BEFORE, STAGES = _parse(DOCKERFILE)
FINAL = STAGES[-1]
DEFAULTS = dict(one.rest.split("=", 1) for one in BEFORE)


@pytest.mark.parametrize(
    ("given", "base"),
    [({}, "python:3.11-slim"), ({"DIGEST": "sha256:0f"}, "python:3.11-slim@sha256:0f")],
)
def test_the_base_can_be_pinned(given: dict[str, str], base: str) -> None:
    """One argument pins the base of every stage to one image; no registry is written down."""
    assert {_filled(stage.base, DEFAULTS | given) for stage in STAGES} == {base}
    assert "/" not in DEFAULTS["BASE"]


def test_it_runs_as_nobody_in_particular() -> None:
    """The user is a number that is not root's, which an orchestrator can check."""
    user, _, group = FINAL.last("USER").rest.partition(":")
    assert int(user) > 0
    assert int(group) > 0
    after = FINAL.instructions[FINAL.instructions.index(FINAL.last("USER")) :]
    assert {"RUN", "COPY", "ADD"}.isdisjoint(one.word for one in after)


def test_it_needs_no_shell() -> None:
    """Every command is in exec form; PID 1 is the server, which gets the stop signal itself."""
    runs = [one for stage in STAGES for one in stage.all("RUN")]
    for instruction in (*runs, FINAL.last("ENTRYPOINT"), FINAL.last("HEALTHCHECK")):
        assert instruction.command[0] not in ("sh", "bash", "/bin/sh")
    assert FINAL.last("STOPSIGNAL").rest == "SIGTERM"


def test_it_says_what_it_is() -> None:
    """Title, licence and version stand in labels that tools know; version is the package's."""
    labels = dict(part.split("=", 1) for part in shlex.split(FINAL.last("LABEL").rest))
    names = {name.removeprefix("org.opencontainers.image.") for name in labels}
    assert {"title", "description", "licenses", "version", "revision"} <= names
    arguments = dict(one.rest.partition("=")[::2] for one in FINAL.all("ARG"))
    assert arguments["VERSION"] == PROJECT["version"]


def test_every_choice_of_extras_has_its_lock() -> None:
    """Every choice of extras has its lock, at the versions that the tests run on."""
    tested = _versions("dev")
    for name in ("server", "all"):
        locked = _versions(name)
        assert locked.items() <= tested.items(), name
    assert _versions("server").items() <= _versions("all").items()
    assert _versions("build").items() <= tested.items()


def _versions(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", text, re.MULTILINE))


def test_the_health_command(tmp_path: Path) -> None:
    """Exit code 0 and SERVING from a server that serves, 1 from an address without one."""
    server = make(tmp_path, (), {})
    server.start()
    try:
        assert server.command("health", "--target", server.target) == "SERVING\n"
        server.settings["KEYFOLD_LISTEN"] = server.target
        assert server.command("health") == "SERVING\n"
    finally:
        server.stop()
    assert "UNAVAILABLE" in server.command("health", "--timeout", "1", code=1)


# What it builds and runs


def _build(machine: Machine, context: Path) -> Layer:
    """Carries out every stage; returns the last one's layer."""
    layers: dict[str, Layer] = {}
    layer: Layer | None = None
    for number, stage in enumerate(STAGES):
        layer = layers[stage.name] = machine.layer(str(number))
        folder = "/"
        for one in stage.instructions:
            rest = _filled(one.rest, layer.environment | layer.arguments)
            if one.word == "ARG":
                name, _, value = rest.partition("=")
                layer.arguments[name] = value
            elif one.word == "ENV":
                layer.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
            elif one.word == "WORKDIR":
                folder = rest
                machine.run("mkdir", "-p", f"{layer.root}{folder}")
            elif one.word == "COPY":
                *sources, target = shlex.split(rest)
                whence = str(context)
                if sources[0].startswith("--from="):
                    whence = str(layers[sources.pop(0).removeprefix("--from=")].root)
                for source in sources:
                    layer.copy(f"{whence}/{source.lstrip('/')}", target)
            elif one.word == "RUN":
                layer.run(Instruction("RUN", rest).command, folder=folder)
    assert layer is not None
    return layer


def _context(target: Path) -> None:
    """Copies what .dockerignore lets through: the last line that fits a path decides."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    def ignored(path: str) -> bool:
        parts = PurePosixPath(path).parts
        paths = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        verdict = False
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            anywhere = "**/" in rule
            names = parts if anywhere else paths
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                verdict = not rule.startswith("!")
        return verdict

    for top in ("LICENSE", "pyproject.toml", "README.md", "requirements", "clients", "server"):
        found = [ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*")
        for path in found:
            name = path.relative_to(ROOT)
            if path.is_file() and not ignored(str(name)):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / name)


@pytest.fixture(name="image", scope="module")
def image_fixture() -> Iterator[Layer]:
    """The last stage, built; its root file system is read-only but for the volume."""
    if why := lacking():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="keyfold-container-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        context = folder / "context"
        layers = folder / "layers"
        layers.mkdir()
        _context(context)
        machine = Machine(layers)
        try:
            image = _build(machine, context)
            owner, mode = machine.run("stat", "--format=%u:%g %a", f"{image.root}{VOLUME}").split()
            assert owner == FINAL.last("USER").rest
            assert mode == "700"
            uid, _, gid = owner.partition(":")
            machine.run("mount", "-o", "remount,ro", str(image.root))
            volume = f"uid={uid},gid={gid},mode=0{mode}"
            machine.run("mount", "-t", "tmpfs", "-o", volume, "tmpfs", f"{image.root}{VOLUME}")
            yield image
        finally:
            machine.close()


def _as_user(image: Layer, command: Sequence[str], code: int = 0) -> str:
    folder = FINAL.last("WORKDIR").rest
    return image.run(command, user=FINAL.last("USER").rest, folder=folder, code=code)


def test_the_last_stage_has_no_build_tools(image: Layer) -> None:
    """Neither the environment nor the image's own Python has pip, setuptools or hatchling."""
    for python in ("/opt/keyfold/bin/python", "python"):
        for module in ("pip", "setuptools", "hatchling"):
            found = f"import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)"
            image.run([python, "-c", found], code=1)


def test_it_has_every_program(image: Layer) -> None:
    """The image has each of the project's programs, with all that they import."""
    for program in PROJECT["scripts"]:
        said = _as_user(image, [f"/opt/keyfold/bin/{program}", "--version"])
        assert said.split()[-1] == PROJECT["version"]


def test_it_has_what_the_lock_names(image: Layer) -> None:
    """The image has the lock's packages, version by version, this project, and nothing else."""
    listing = (
        "from importlib.metadata import distributions as d\nfor x in d(): print(x.name, x.version)"
    )
    lines = image.run(["/opt/keyfold/bin/python", "-c", listing]).splitlines()
    found = {re.sub(r"[-_.]+", "-", n).lower(): v for n, v in (line.split() for line in lines)}
    assert found.pop("keyfold") == PROJECT["version"]
    locked = {re.sub(r"[-_.]+", "-", n): v for n, v in _versions("all").items()}
    assert found.items() <= locked.items()
    # The rest of the lock is for other systems.
    assert set(locked) - set(found) <= {"colorama", "tzdata"}


def test_it_serves_on_a_read_only_root(image: Layer, tmp_path: Path) -> None:
    """As its user, with one writable folder, it starts, is healthy, serves, drains and ends."""
    user, folder = FINAL.last("USER").rest, FINAL.last("WORKDIR").rest
    health = FINAL.last("HEALTHCHECK").command
    entrypoint = FINAL.last("ENTRYPOINT").command
    keys = {"KEYFOLD_LOCAL_KEYS": f"{VOLUME}/keys.json"}

    for place in ("/", "/opt/keyfold", "/tmp", "/var/lib"):
        _as_user(image, ["touch", f"{place}/written"], code=1)
    assert "UNAVAILABLE" in _as_user(image, health, code=1)
    _as_user(image, [*entrypoint, "dev-keys", "create", "eu", "--file", f"{VOLUME}/keys.json"])

    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        server = subprocess.Popen(
            image.command(entrypoint, user=user, folder=folder, **keys),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + 20
        while not out.read_text().endswith("\n"):
            assert server.poll() is None, err.read_text()
            assert time.monotonic() < deadline, err.read_text()
            time.sleep(0.05)
        assert out.read_text() == f"keyfold-server ready on unix:{VOLUME}/keyfold.sock\n"
        status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
        uid = user.partition(":")[0]
        assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)

        assert _as_user(image, health) == "SERVING\n"
        _as_user(image, ["/opt/keyfold/bin/python", "-c", _TOUR])

        number = getattr(signal, FINAL.last("STOPSIGNAL").rest)
        server.send_signal(number)
        assert server.wait(20) == 0, err.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait(10)
    assert "draining" in err.read_text()
    assert "UNAVAILABLE" in _as_user(image, health, code=1)
    left = set(_as_user(image, ["ls", "-A", VOLUME]).split())
    assert "keyfold.db" in left
    assert "keyfold.sock" not in left


_TOUR = f"""
import keyfold
with keyfold.Client("unix:{VOLUME}/keyfold.sock") as client:
    client.enable("prod", [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:eu"))])
    wrapped = client.wrap("prod", "eu", b"0123456789abcdef")
    opened = client.unwrap("prod", wrapped.wrapped_key)
    assert opened.plaintext == b"0123456789abcdef"
"""


def test_a_health_check_needs_good_settings(image: Layer) -> None:
    """A setting that cannot be used is unhealthy, code 1, and not a code that engines reserve."""
    command = FINAL.last("HEALTHCHECK").command
    wrong = ["env", "KEYFOLD_LISTEN=0.0.0.0:7443", *command]
    assert "without TLS" in _as_user(image, wrong, code=1)
