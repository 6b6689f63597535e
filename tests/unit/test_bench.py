"""The benchmark's arithmetic, and that it believes no run in which calls failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import figures, load
from bench.processes import ServerError, cpu_seconds

OUTPUT = """\
starting benchmark...
spawning thread #0: 4 total client(s). 3000 total requests
Application protocol: h2c
progress: 100% done

finished in 633.65ms, 4734.49 req/s, 683.69KB/s
requests: 3000 total, 3000 started, 3000 done, 3000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 433.22KB (443621) total, 18.04KB (18473) headers (space savings 93.20%), \
383.79KB (393000) data
                     min         max         mean         sd        +/- sd
time for request:     3.03ms     23.35ms     13.36ms      1.89ms    86.17%
"""
WRAP_RESPONSE = 126
CALLS = 3_000


def test_h2load_output_is_read() -> None:
    """Calls, their outcome, bytes of DATA and the rate."""
    assert load.parse(OUTPUT) == load.Report(CALLS, CALLS, CALLS, CALLS, 393_000, 4734.49)


def test_output_of_another_form_is_refused() -> None:
    """A release of h2load that prints something else must not give figures."""
    with pytest.raises(load.LoadError, match="unexpected"):
        load.parse(OUTPUT.replace("traffic:", "bytes:"))


def test_right_answers_are_believed() -> None:
    """Each has its message and the five bytes before it."""
    load.check(load.parse(OUTPUT), CALLS, WRAP_RESPONSE)


@pytest.mark.parametrize(
    ("printed", "instead"),
    [
        ("3000 succeeded, 0 failed", "2999 succeeded, 1 failed"),
        ("3000 done", "2990 done"),
        ("3000 2xx", "2999 2xx"),
        # A gRPC error is an HTTP success without a message.
        ("(393000) data", "(392869) data"),
        ("(393000) data", "(0) data"),
    ],
)
def test_run_with_failed_calls_is_refused(printed: str, instead: str) -> None:
    """A server that answers with errors must not look fast."""
    assert printed in OUTPUT
    with pytest.raises(load.LoadError):
        load.check(load.parse(OUTPUT.replace(printed, instead)), CALLS, WRAP_RESPONSE)


def test_run_of_other_size_is_refused() -> None:
    """What h2load was asked for is what must have been done."""
    with pytest.raises(load.LoadError):
        load.check(load.parse(OUTPUT), CALLS + 1, WRAP_RESPONSE)


def test_frame_is_grpcs() -> None:
    """A flag for no compression, and the length in four bytes, big-endian."""
    assert load.frame(b"") == bytes(5)
    assert load.frame(b"x" * 258) == b"\x00\x00\x00\x01\x02" + b"x" * 258


def test_cpu_per_call() -> None:
    """CPU seconds around a run become microseconds per call."""
    assert figures.per_call(10.0, 12.0, 8_000) == pytest.approx(250)


def test_cpu_of_a_process() -> None:
    """It is the process's own CPU clock, and one that is gone has none."""
    before = sum(os.times()[:2])
    measured = cpu_seconds(os.getpid())
    assert before - 0.02 <= measured <= sum(os.times()[:2]) + 0.02
    with pytest.raises(ServerError):
        cpu_seconds(2**22 + 1)


def test_comparison() -> None:
    """A machine that halves its speed for one pair moves the medians, not the pairs' ratio."""
    pairs = [(110, 100), (240, 200), (120, 100), (115, 100), (125, 100)]
    c = figures.Comparison("BatchWrap of 10", 10, [figures.Pair(*pair) for pair in pairs])
    assert c.service == (110, 120, 240)
    assert c.echo == (100, 100, 200)
    assert c.ratio_of_medians == pytest.approx(1.2)
    assert c.ratio == pytest.approx(1.2)
    assert c.middle_half == pytest.approx((1.15, 1.2))
    assert c.above_echo == pytest.approx(2.0)


def test_single_pair() -> None:
    """One pair is little, and has its figures all the same."""
    c = figures.Comparison("Wrap", 1, [figures.Pair(150, 120)])
    assert c.middle_half == (1.25, 1.25)
    assert c.as_json()["pairs"] == [{"service": 150, "echo": 120}]


def test_table_shows_every_row() -> None:
    """One line for the head and one for each method, all of one length."""
    c = figures.Comparison("Wrap", 1, [figures.Pair(150, 120)] * 2)
    head, *lines = figures.table([c, c]).splitlines()
    assert lines[0] == lines[1]
    assert len(head) == len(lines[0])
    assert "1.250 x" in lines[0]
