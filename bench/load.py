"""h2load: how it is called for gRPC, and what it says it did.

It knows HTTP/2 and nothing of gRPC, whose status stands in the trailers: an answer that is an
error is a success to it. What it does count is bytes of DATA, and an error has none. So a run is
believed only if the answers have, to the byte, the size of that many right ones.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = "h2load"

_TIMEOUT: Final = 60.0
"""Seconds for one run, which takes about two."""

_REQUESTS: Final = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, "
    r"(\d+) failed, (\d+) errored, (\d+) timeout$",
    re.MULTILINE,
)
_STATUS: Final = re.compile(r"^status codes: (\d+) 2xx, ", re.MULTILINE)
_TRAFFIC: Final = re.compile(r"^traffic: .*, \S+ \((\d+)\) data$", re.MULTILINE)
_FINISHED: Final = re.compile(r"^finished in \S+, ([\d.]+) req/s, ", re.MULTILINE)


class LoadError(Exception):
    """A run that must not be counted."""


@dataclass(frozen=True, slots=True)
class Load:
    """What h2load is to do.

    Attributes:
        calls: In one run.
        connections: Side by side.
        streams: Calls under way on each connection.
    """

    calls: int
    connections: int
    streams: int


@dataclass(frozen=True, slots=True)
class Report:
    """What h2load says of one run.

    Attributes:
        total: Calls that it was to make.
        done: Calls that ended, in whatever way.
        succeeded: Calls answered with HTTP status 2xx.
        ok: The same by status code.
        data: Bytes of DATA frames received.
        rate: Calls per second.
    """

    total: int
    done: int
    succeeded: int
    ok: int
    data: int
    rate: float


def installed() -> bool:
    """Says whether h2load is there."""
    return shutil.which(PROGRAM) is not None


def frame(message: bytes) -> bytes:
    """Returns a message as gRPC sends it: not compressed, and its length before it."""
    return struct.pack(">BI", 0, len(message)) + message


def command(address: str, path: str, body: Path, load: Load) -> list[str]:
    """Returns the command line of one run."""
    return [
        PROGRAM,
        f"--requests={load.calls}",
        f"--clients={load.connections}",
        f"--max-concurrent-streams={load.streams}",
        f"--data={body}",
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        f"http://{address}{path}",
    ]


def parse(output: str) -> Report:
    """Returns what h2load printed.

    Raises:
        LoadError: It is not what this knows how to read.
    """
    requests, status = _REQUESTS.search(output), _STATUS.search(output)
    traffic, finished = _TRAFFIC.search(output), _FINISHED.search(output)
    if requests is None or status is None or traffic is None or finished is None:
        raise LoadError(f"{PROGRAM} printed something unexpected:\n{output}")
    return Report(
        total=int(requests[1]),
        done=int(requests[3]),
        succeeded=int(requests[4]),
        ok=int(status[1]),
        data=int(traffic[1]),
        rate=float(finished[1]),
    )


def check(report: Report, calls: int, answer_size: int) -> None:
    """Refuses a run in which not every call got its right answer.

    Args:
        report: Of the run.
        calls: How many were asked for.
        answer_size: Bytes of one right answer, without gRPC's prefix.

    Raises:
        LoadError: Calls are missing, or the answers' sizes do not add up.
    """
    counted = {report.total, report.done, report.succeeded, report.ok}
    if counted != {calls}:
        raise LoadError(f"not all of {calls} calls were answered: {report}")
    expected = calls * len(frame(bytes(answer_size)))
    if report.data != expected:
        raise LoadError(
            f"the answers have {report.data} bytes, and {calls} right ones have {expected}: "
            "some calls failed"
        )


def run(address: str, path: str, body: Path, load: Load, answer_size: int) -> Report:
    """Runs h2load once and checks what came back.

    Raises:
        LoadError: The run must not be counted.
    """
    done = subprocess.run(
        command(address, path, body, load),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise LoadError(f"{PROGRAM} ended with {done.returncode}: {done.stderr.strip()}")
    report = parse(done.stdout)
    check(report, load.calls, answer_size)
    return report
