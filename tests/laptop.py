"""deploy/compose for tests: the file as Docker reads it, and its services as local processes.

Each service runs in a layer over this machine's root file system, where its secrets, configs and
volumes are mounted as the file says. All of them share a network that is loopback and nothing else;
the services' names lead there. What an image would bring is in `images`.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from counterparts.processes import installed
from images import IMAGES, POSTGRES
from machine import Machine

ROOT: Final = Path(__file__).resolve().parents[1]
USER: Final = "1000:1000"
"""Whoever owns this laptop."""

_READY: Final = 90.0
"""Seconds in which a service must be healthy."""

Model = dict[str, Any]


def prepared(folder: Path) -> Path:
    """Copies deploy/ into a folder of the laptop's owner, makes the secrets, returns the place."""
    folder.mkdir()
    for name in ("compose", "prometheus"):
        ignored = shutil.ignore_patterns("secrets", ".env")
        shutil.copytree(ROOT / "deploy" / name, folder / "deploy" / name, ignore=ignored)
    shutil.copy(ROOT / "Dockerfile", folder)
    uid, gid = map(int, USER.split(":"))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid)
    place = folder / "deploy" / "compose"
    subprocess.run(
        [place / "secrets.sh"], user=uid, group=gid, extra_groups=[], check=True, timeout=30
    )
    return place


def model(place: Path, file: str = "compose.yaml") -> Model:
    """Returns what the Compose file says, in its long form, as Docker interpolates it."""
    done = subprocess.run(
        [installed("compose.sh"), "--no-interpolation", "--format", "json", file],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode:
        raise ValueError(done.stderr)
    given = dict(
        line.split("=", 1) for line in (place / ".env").read_text().splitlines() if "=" in line
    )

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        if not isinstance(value, str):
            return value
        variable = r"\$\$|\$\{(\w+)(?::\?[^}]*)?\}"
        return re.sub(variable, lambda m: "$" if m[0] == "$$" else given[m[1]], value)

    made: Model = filled(json.loads(done.stdout))
    return made


class Service:
    """One service, whose command, variables and files are those of the file."""

    def __init__(self, machine: Machine, folder: Path, name: str, laptop: Model) -> None:
        """Makes its layer; `start` starts it."""
        self.name = name
        self.spec: Model = laptop["services"][name]
        repository, _, self.tag = self.spec["image"].rpartition(":")
        self._image = IMAGES[repository]
        self.user = self.spec.get("user", self._image.user)
        self.log = folder / f"{name}.log"
        self._layer = machine.layer(name)
        self._process: subprocess.Popen[bytes] | None = None
        self._mount(laptop, folder)
        paths = [str(path) for path in self._image.programs()]
        self._open(*paths)
        self._layer.environment = {
            **dict(self._image.environment),
            "PATH": ":".join([*paths, "/usr/local/bin", "/usr/bin", "/bin"]),
            **{key: str(value) for key, value in self.spec.get("environment", {}).items()},
        }
        if self.spec.get("read_only"):
            machine.run("mount", "-o", "remount,ro", str(self._layer.root))

    def _open(self, *paths: str) -> None:
        # In the layer alone: this machine may keep its programs in somebody's home.
        for path in (*paths, str(ROOT), sys.base_prefix):
            for folder in (*Path(path).parents, Path(path)):
                self._layer.machine.run("chmod", "o+rx", f"{self._layer.root}{folder}")

    def _mount(self, laptop: Model, folder: Path) -> None:
        run, root = self._layer.machine.run, self._layer.root
        hosts = folder / "hosts"
        names = ("localhost", *laptop["services"], *laptop.get("names", ()))
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        run("mount", "--bind", str(hosts), f"{root}/etc/hosts")
        for kind in ("secrets", "configs"):
            for one in self.spec.get(kind, ()):
                target = f"{root}{one['target']}"
                run("mkdir", "-p", str(Path(target).parent))
                run("touch", target)
                run("mount", "--bind", laptop[kind][one["source"]]["file"], target)
        for one in self.spec.get("volumes", ()):
            kept = folder / "volumes" / one["source"]
            if not kept.exists():
                kept.mkdir(parents=True)
                shutil.chown(kept, _numbered(self._image.owner))
            run("mkdir", "-p", f"{root}{one['target']}")
            run("mount", "--bind", str(kept), f"{root}{one['target']}")
        for one in self.spec.get("tmpfs", ()):
            path, _, options = one.partition(":")
            run("mkdir", "-p", f"{root}{path}")
            run("mount", "-t", "tmpfs", "-o", options or "mode=1777", "tmpfs", f"{root}{path}")
            for hidden in (ROOT, Path(sys.base_prefix)):
                # What an image would bring may be in such a folder of this machine.
                if hidden.is_relative_to(path):
                    run("mkdir", "-p", f"{root}{hidden}")
                    run("mount", "--bind", str(hidden), f"{root}{hidden}")

    def command(self, words: Sequence[str], **environment: str) -> list[str]:
        """Returns the command line of a program of this service, in its layer, as its user."""
        return self._layer.command(words, user=self.user, **environment)

    def main(self, *arguments: str) -> list[str]:
        """Returns the command line of the service itself, or with other arguments."""
        entrypoint = self.spec.get("entrypoint") or self._image.entrypoint
        if not entrypoint:
            owner = _numbered(self._image.owner)
            return self._layer.command(["sh", "-euc", POSTGRES], user=f"{owner}:{owner}")
        return self.command([*entrypoint, *(arguments or self.spec.get("command", ()))])

    def start(self) -> None:
        """Starts it, and waits until its own health check finds it healthy."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.main(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        ends = time.monotonic() + _READY
        while not self.healthy():
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < ends, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def healthy(self) -> bool:
        """Runs the health check of the file once."""
        kind, *test = self.spec["healthcheck"]["test"]
        words = ["sh", "-c", test[0]] if kind == "CMD-SHELL" else test
        done = subprocess.run(
            self.command(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=10,
        )
        return done.returncode == 0

    def stop(self) -> int:
        """Ends it as Docker does, by its image's signal; returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(self._image.stop)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(10)


def _numbered(owner: str) -> int:
    if owner.isdecimal():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        return pwd.getpwnam("nobody").pw_uid


class Laptop:
    """All services of the file, on a machine of their own."""

    def __init__(self, folder: Path, place: Path) -> None:
        """Makes every layer; `start` starts what the file starts."""
        self.model = model(place)
        self.place = place
        self._started: list[Service] = []
        layers = folder / "layers"
        layers.mkdir()
        self.machine = Machine(layers, network=True)
        try:
            self.services = {
                name: Service(self.machine, folder, name, self.model)
                for name in self.model["services"]
            }
        except BaseException:
            self.machine.close()
            raise

    def start(self) -> None:
        """Starts every service without a profile, after those on which it depends."""
        waiting = [s for s in self.services.values() if not s.spec.get("profiles")]
        while waiting:
            started = {service.name for service in self._started}
            ready = [s for s in waiting if set(s.spec.get("depends_on", ())) <= started]
            assert ready, "services wait for one another"
            for service in ready:
                self._started.append(service)
                waiting.remove(service)
                service.start()

    def close(self) -> None:
        """Ends every service, and then the machine."""
        for service in reversed(self._started):
            service.stop()
        self.machine.close()

    def inside(self, *words: str) -> str:
        """Runs a program of this machine in the services' network, and returns its output."""
        return self.machine.run(*words)

    def docker(self, folder: Path) -> Path:
        """Makes a program `docker` that reaches the services; returns its folder.

        It knows `compose run`, `compose exec` and `compose logs`.
        """
        cases = []
        for name, service in self.services.items():
            run = (
                shlex.join(service.main("--"))[: -len(" --")]
                if service.spec.get("profiles")
                else ""
            )
            cases += [f'run:{name}) exec {run} "$@" ;;'] if run else []
            cases += [f'exec:{name}) exec {shlex.join(service.command([]))} "$@" ;;']
            cases += [f"logs:{name}) exec cat {shlex.quote(str(service.log))} ;;"]
        folder.mkdir()
        program = folder / "docker"
        program.write_text(
            "#!/bin/bash\n"
            '[ "$1" = compose ] || exit 9\nverb=$2\nshift 2\n'
            "while [[ ${1:-} = -* ]]; do shift; done\nservice=$1\nshift\n"
            'case "$verb:$service" in\n'
            + "\n".join(cases)
            + '\n*) echo "no $verb $service" >&2; exit 9 ;;\n'
            "esac\n"
        )
        program.chmod(0o755)
        return folder
