"""Runs h2load with gRPC calls, and reads its report.

h2load knows HTTP/2 but not gRPC, whose status is in the trailers, so it counts a gRPC error as a
success. It does count bytes of DATA, and an error has none. So a run counts only if the answers
have exactly the size of that many right answers.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = "h2load"

_TIMEOUT: Final = 60.0
"""Seconds that one run may take; it usually takes about two."""

_REQUESTS: Final = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, "
    r"(\d+) failed, (\d+) errored, (\d+) timeout$",
    re.MULTILINE,
)
_STATUS: Final = re.compile(r"^status codes: (\d+) 2xx, ", re.MULTILINE)
_TRAFFIC: Final = re.compile(r"^traffic: .*, \S+ \((\d+)\) data$", re.MULTILINE)
_FINISHED: Final = re.compile(r"^finished in \S+, ([\d.]+) req/s, ", re.MULTILINE)


class LoadError(Exception):
    """A run failed, and must not count."""


@dataclass(frozen=True, slots=True)
class Load:
    """The calls of one run.

    Attributes:
        calls: Number of calls.
        connections: Number of connections.
        streams: Number of calls under way on each connection.
    """

    calls: int
    connections: int
    streams: int


@dataclass(frozen=True, slots=True)
class Target:
    """One call, as h2load makes it again and again.

    Attributes:
        url: The URL.
        body: The request's body.
        headers: The request's headers.
        http1: Whether to make it over HTTP/1.1.
    """

    url: str
    body: bytes
    headers: Mapping[str, str]
    http1: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """h2load's report of one run.

    Attributes:
        total: Number of calls in the run.
        done: Number of calls that ended, in whatever way.
        succeeded: Number of calls that h2load counts as successes.
        ok: Number of answers with HTTP status 2xx.
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
    """Says whether h2load is installed."""
    return shutil.which(PROGRAM) is not None


def frame(message: bytes) -> bytes:
    """Returns a message as gRPC sends it uncompressed, with its length in front."""
    return struct.pack(">BI", 0, len(message)) + message


def command(target: Target, body: Path, load: Load, log: Path) -> list[str]:
    """Returns the command line of one run."""
    return [
        PROGRAM,
        *(["--h1"] if target.http1 else []),
        f"--requests={load.calls}",
        f"--clients={load.connections}",
        f"--max-concurrent-streams={load.streams}",
        f"--data={body}",
        f"--log-file={log}",
        *(f"--header={name}: {value}" for name, value in target.headers.items()),
        target.url,
    ]


def parse(output: str) -> Report:
    """Reads h2load's output.

    Raises:
        LoadError: The output has another form than this function knows.
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
    """Checks that every call of a run got its right answer.

    Args:
        report: The run's report.
        calls: Number of calls that the run should make.
        answer_size: Bytes of the body of one right answer.

    Raises:
        LoadError: Calls are missing, or the answers' sizes do not add up.
    """
    counted = {report.total, report.done, report.succeeded, report.ok}
    if counted != {calls}:
        raise LoadError(f"h2load got no answer to some of {calls} calls: {report}")
    expected = calls * answer_size
    if report.data != expected:
        raise LoadError(
            f"the answers have {report.data} bytes, but {calls} right answers have {expected}: "
            "some calls failed"
        )


def latencies(log: str) -> list[float]:
    """Reads the seconds of each call from h2load's log.

    Each line has the time of the call's start, its HTTP status, and its microseconds.
    """
    return [int(line.rpartition("\t")[2]) / 1e6 for line in log.splitlines()]


def run(target: Target, load: Load, answer_size: int, folder: Path) -> tuple[Report, list[float]]:
    """Runs h2load once, and checks the answers.

    Args:
        target: The call.
        load: How many calls, and on which connections.
        answer_size: Bytes of the body of one right answer.
        folder: A folder for the request and the log of this run.

    Returns:
        The report, and the seconds that each call took.

    Raises:
        LoadError: The run failed, and must not count.
    """
    body, log = folder / "request", folder / "log"
    body.write_bytes(target.body)
    log.unlink(missing_ok=True)  # h2load appends to it.
    done = subprocess.run(
        command(target, body, load, log),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise LoadError(f"{PROGRAM} ended with {done.returncode}: {done.stderr.strip()}")
    report = parse(done.stdout)
    check(report, load.calls, answer_size)
    return report, latencies(log.read_text())
