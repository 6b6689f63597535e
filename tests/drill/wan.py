"""A wide-area network on one machine: a network namespace for each region, a delay between them.

Each region has one address, on a TUN device of its namespace. A relay takes what a region sends to
another one, keeps it for the delay, and hands it over. A fault of the way between two regions loses
packets or delays them further, in one direction, and all of them or those of some TCP ports. What
stays within a region never leaves the kernel. The kernel's own way to do this, netem, is not in
every kernel. Only root may make namespaces.

Run as a program, this module is the relay: `python wan.py DELAY NAMESPACE…`.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_MOST: Final = 65_536
_DEVICE: Final = "wan0"


def address(number: int) -> str:
    """Returns the address of a region; they count from 1."""
    return f"10.77.{number}.1"


def require() -> None:
    """Skips the test where nobody may make namespaces; in CI it fails."""
    if os.geteuid() == 0 and Path("/dev/net/tun").exists() and shutil.which("ip"):
        return
    why = "regions need network namespaces: root, /dev/net/tun, and iproute2"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong on the way from one region to another, in this direction alone.

    Attributes:
        sender: The region that sends.
        receiver: The region to which the packets go.
        ports: The TCP ports of which a packet must have one, as sender or receiver; empty: all
            packets.
        lost: Share of the packets that are lost: 1 cuts the way.
        late: Seconds that packets take beyond the usual delay.
    """

    sender: int
    receiver: int
    ports: tuple[int, ...] = ()
    lost: float = 1.0
    late: float = 0.0


class Wan:
    """A network of regions, which lasts for a `with`.

    Attributes:
        regions: How many regions there are.
    """

    def __init__(self, regions: int, delay: float) -> None:
        """Makes nothing yet.

        Args:
            regions: How many regions there are.
            delay: Seconds that a packet takes from one region to another.
        """
        self.regions = regions
        self._delay = delay
        self._names = [f"keyfold-{os.getpid()}-{n}" for n in range(1, regions + 1)]
        self._relay: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        require()
        try:
            for name in self._names:
                _ip("netns", "add", name)
            self._relay = subprocess.Popen(
                [sys.executable, __file__, str(self._delay), *self._names],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._relay.stdout is not None
            assert self._relay.stdout.readline() == "ready\n"
            for number, name in enumerate(self._names, 1):
                _ip("-n", name, "address", "add", f"{address(number)}/16", "dev", _DEVICE)
                for device in ("lo", _DEVICE):
                    _ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.communicate()
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def inside(self, region: int, command: Sequence[str | Path]) -> list[str]:
        """Returns the command that runs a command within a region, and ends with this process."""
        enter = ["ip", "netns", "exec", self._names[region - 1]]
        return [*enter, "setpriv", "--pdeathsig", "TERM", *map(str, command)]

    def cut_off(self, region: int) -> None:
        """Cuts a region off from all others. What is on its way arrives."""
        self.suffer(self.around(region))

    def cut(self, one: int, other: int) -> None:
        """Cuts the way between two regions, in both directions. What is on its way arrives."""
        self.suffer((Fault(one, other), Fault(other, one)))

    def around(
        self, region: int, ports: tuple[int, ...] = (), lost: float = 1.0, late: float = 0.0
    ) -> list[Fault]:
        """Returns the same fault for both directions of all ways of a region."""
        return [
            Fault(*way, ports, lost, late)
            for other in range(1, self.regions + 1)
            if other != region
            for way in ((region, other), (other, region))
        ]

    def suffer(self, faults: Iterable[Fault]) -> None:
        """Adds faults, until `mend`."""
        self._tell([asdict(fault) for fault in faults])

    def mend(self) -> None:
        """Mends every way."""
        self._tell([])

    def _tell(self, faults: list[dict[str, object]]) -> None:
        assert self._relay is not None
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        self._relay.stdin.write(json.dumps(faults) + "\n")
        self._relay.stdin.flush()
        assert self._relay.stdout.readline() == "done\n"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _tun(namespace: str) -> int:
    """Makes the device of a namespace, and returns the file of what it sends and receives."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open("rb") as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    asked = struct.pack("16sH", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(file, _TUNSETIFF, asked)
    return file


def _read(packet: bytes) -> tuple[int, set[int]]:
    """Returns the region that a packet goes to, 0 if it is none, and its TCP ports."""
    if packet[0] >> 4 != 4:
        return 0, set()  # IPv6, of which the kernel sends some to nobody here
    tcp, header = packet[9] == 6, 4 * (packet[0] & 15)
    # The third byte of 10.77.N.1.
    return packet[18], set(struct.unpack_from(">HH", packet, header)) if tcp else set()


def _lateness(faults: list[Fault], sender: int, receiver: int, ports: set[int]) -> float | None:
    """Returns the seconds that faults hold a packet up; None if it is lost."""
    late = 0.0
    for fault in faults:
        here = (fault.sender, fault.receiver) == (sender, receiver)
        if here and (not fault.ports or ports & set(fault.ports)):
            if random.random() < fault.lost:
                return None
            late += fault.late
    return late


def _relay(delay: float, namespaces: Sequence[str]) -> None:
    files = {number: _tun(name) for number, name in enumerate(namespaces, 1)}
    regions = {file: number for number, file in files.items()}
    order = itertools.count()
    under_way: list[tuple[float, int, int, bytes]] = []
    faults: list[Fault] = []
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([0, *regions], [], [], wait)
        for file in ready:
            if file == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                told = [
                    Fault(**each | {"ports": tuple(each["ports"])}) for each in json.loads(line)
                ]
                faults = faults + told if told else []
                sys.stdout.write("done\n")
                sys.stdout.flush()
                continue
            packet = os.read(file, _MOST)
            to, ports = _read(packet)
            if to in files:
                late = _lateness(faults, regions[file], to, ports) if faults else 0.0
                if late is not None:
                    due = time.monotonic() + delay + late
                    heapq.heappush(under_way, (due, next(order), to, packet))
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            *_, to, packet = heapq.heappop(under_way)
            try:
                os.write(files[to], packet)
            except OSError:  # the device is full or down: the packet is lost, as on any network
                continue


if __name__ == "__main__":
    _relay(float(sys.argv[1]), sys.argv[2:])
