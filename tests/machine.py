"""A machine within this one, for what would run in containers: its own mounts, and no image.

Each layer takes what is written to it, over this machine's own root file system. So the paths are
the real ones, and nothing is left behind. It needs root on Linux.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

TOOLS: Final = ("unshare", "nsenter", "mount", "chroot", "setpriv", "env")


class Machine:
    """A mount namespace that lasts as long as this object, with layers over the root file system.

    Attributes:
        folder: A folder outside, where the layers are.
    """

    def __init__(self, folder: Path, *, network: bool = False) -> None:
        """Makes the namespaces.

        Args:
            folder: An empty folder.
            network: Whether it also has a network of its own, which is loopback and nothing else.
        """
        self.folder = folder
        own_network = ["--net"] if network else []
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *own_network, "--propagation", "private", "sleep", "infinity"]
        )
        spaces = Path(f"/proc/{self._holder.pid}/ns")
        self.enter = ["nsenter", f"--mount={spaces / 'mnt'}"]
        if network:
            self.enter.append(f"--net={spaces / 'net'}")
        own = Path("/proc/self/ns/mnt").readlink()
        deadline = time.monotonic() + 5
        while (spaces / "mnt").readlink() == own:
            assert self._holder.poll() is None, "no mount namespace can be made here"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(folder))
        if network:
            self.run("ip", "link", "set", "lo", "up")

    def run(self, *command: str) -> str:
        """Runs a command beside the layers; returns its output."""
        done = subprocess.run(
            [*self.enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}"
        return done.stdout

    def layer(self, name: str) -> Layer:
        """Makes a layer over this machine's own root file system."""
        merged, upper, work = (self.folder / name / part for part in ("root", "upper", "work"))
        self.run("mkdir", "-p", str(merged), str(upper), str(work))
        options = f"lowerdir=/,upperdir={upper},workdir={work}"
        self.run("mount", "-t", "overlay", "-o", options, "overlay", str(merged))
        for folder in ("dev", "proc"):
            self.run("mount", "--rbind", f"/{folder}", str(merged / folder))
        layer = Layer(self, merged)
        layer.adopt()
        return layer

    def close(self) -> None:
        """Ends the namespace, and with it every mount."""
        self._holder.kill()
        self._holder.wait(10)


@dataclass
class Layer:
    """A root file system that is this machine's, with changes of its own.

    Attributes:
        root: The layer's path in the machine's namespace.
        environment: The variables that ENV has set so far.
        arguments: The values of ARG so far.
    """

    machine: Machine
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)

    def adopt(self) -> None:
        """Gives the layer a `python` that everyone may run, as the base image has it."""
        prefix = Path(sys.base_prefix)
        for folder in (*prefix.parents, prefix):
            self.machine.run("chmod", "o+rx", str(self.root) + str(folder))
        programs = f"{self.root}{prefix}/bin"
        self.machine.run("ln", "-sfn", "python3", f"{programs}/python")
        cache = Path.home() / ".cache" / "pip"
        if cache.is_dir():
            self.machine.run("mount", "--bind", str(cache), f"{self.root}{cache}")
        self.environment = {"PATH": f"{prefix}/bin:/usr/bin:/bin:/usr/sbin:/sbin"}

    def command(
        self, command: Sequence[str], *, user: str = "", folder: str = "/", **more: str
    ) -> list[str]:
        """Returns the command line that runs a command in the layer, as the process itself."""
        kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}
        kept |= {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
        # Compiling every SDK takes longer than the tests, which import few.
        kept["PIP_NO_COMPILE"] = "1"
        home = {"HOME": str(Path.home())} if not user else {}
        environment = ({} if user else kept) | home | self.environment | more
        drop = []
        if user:
            uid, _, gid = user.partition(":")
            drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
            drop += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
            # A server ends with the tests, however they end.
            drop += ["--pdeathsig=TERM"]
        return [
            *(*self.machine.enter, "chroot", str(self.root), *drop),
            *("env", "--ignore-environment", f"--chdir={folder}"),
            *(f"{name}={value}" for name, value in environment.items()),
            *command,
        ]

    def run(
        self, command: Sequence[str], *, user: str = "", folder: str = "/", code: int = 0
    ) -> str:
        """Runs a command in the layer; returns its output."""
        done = subprocess.run(
            self.command(command, user=user, folder=folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{shlex.join(command)}: {done.returncode} {done.stdout}"
        return done.stdout

    def copy(self, source: str, target: str) -> None:
        """Copies a file, or a folder's contents, as COPY does."""
        place = f"{self.root}{target}"
        if self.machine.run("find", source, "-maxdepth", "0", "-type", "d"):
            self.machine.run("mkdir", "-p", place)
            self.machine.run("cp", "-a", f"{source}/.", place)
        else:
            folder = place if target.endswith("/") else str(Path(place).parent)
            self.machine.run("mkdir", "-p", folder)
            self.machine.run("cp", "-a", source, place)


def lacking() -> str:
    """Returns why there can be no machine here, or an empty string."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to mount and to become another user"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    trial = (
        'mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir u w m && '
        "mount -t overlay -o lowerdir=/,upperdir=u,workdir=w overlay m"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", trial, "sh", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    return "" if done.returncode == 0 else "needs mount namespaces and overlay mounts"
