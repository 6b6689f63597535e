"""The benchmark computes its figures right, and counts no run in which calls failed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import bulk, committed, cpu, curves, figures, goals, kms, load, pictures, stock
from bench.kms_provider import BenchProvider
from bench.processes import ServerError, cpu_seconds, memory

import postgres
from builders import applied
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import ThrottledError, UnreachableError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import migrate_store, open_store

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
WRAP_ANSWER = 131
CALLS = 3_000


def test_h2load_output_is_read() -> None:
    """The report has the calls, their outcome, the bytes of DATA and the rate."""
    assert load.parse(OUTPUT) == load.Report(CALLS, CALLS, CALLS, CALLS, 393_000, 4734.49)


def test_output_of_another_form_is_refused() -> None:
    """A release of h2load that prints another form must not give figures."""
    with pytest.raises(load.LoadError, match="unexpected"):
        load.parse(OUTPUT.replace("traffic:", "bytes:"))


def test_right_answers_are_believed() -> None:
    """The bodies of all answers have as many bytes as that many right ones."""
    load.check(load.parse(OUTPUT), CALLS, WRAP_ANSWER)


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
        load.check(load.parse(OUTPUT.replace(printed, instead)), CALLS, WRAP_ANSWER)


def test_run_of_other_size_is_refused() -> None:
    """A run must have as many calls as h2load was to make."""
    with pytest.raises(load.LoadError):
        load.check(load.parse(OUTPUT), CALLS + 1, WRAP_ANSWER)


def test_frame_is_grpcs() -> None:
    """A frame begins with a flag for no compression and the length in four bytes, big-endian."""
    assert load.frame(b"") == bytes(5)
    assert load.frame(b"x" * 258) == b"\x00\x00\x00\x01\x02" + b"x" * 258


def test_cpu_per_call() -> None:
    """CPU seconds before and after a run become microseconds per call."""
    assert figures.per_call(10.0, 12.0, 8_000) == pytest.approx(250)


def test_cpu_of_a_process() -> None:
    """The CPU seconds come from the process's own clock; a process that is gone is an error."""
    before = sum(os.times()[:2])
    measured = cpu_seconds(os.getpid())
    assert before - 0.02 <= measured <= sum(os.times()[:2]) + 0.02
    with pytest.raises(ServerError):
        cpu_seconds(2**22 + 1)


def samples(*cpu: tuple[float, float]) -> list[dict[str, figures.Sample]]:
    """Returns rounds of two contenders by the CPU of each."""
    return [
        {"one": figures.Sample(one, 1.0, 1.0), "other": figures.Sample(other, 2.0, 1.0)}
        for one, other in cpu
    ]


def test_a_ratio_is_taken_within_each_round() -> None:
    """A machine that halves its speed for one round does not move the ratio."""
    rounds = samples((110, 100), (240, 200), (120, 100), (115, 100), (125, 100))
    found = figures.ratio("one / other", rounds, "one", "other", goal=1.2)
    assert found.value == pytest.approx(1.2)
    assert found.middle_half == pytest.approx((1.15, 1.2))
    assert found.met == "yes"
    assert replace(found, goal=1.19).met == "NO"
    assert figures.ratio("p99", rounds, "one", "other", "p99").value == 0.5


def test_a_single_round() -> None:
    """Even a single round has all figures."""
    found = figures.ratio("one / other", samples((150, 120)), "one", "other")
    assert (found.value, found.middle_half, found.met) == (1.25, (1.25, 1.25), "")
    assert found.as_json()["rounds"] == 1


def test_ratios_stand_beside_the_committed_ones() -> None:
    """Each ratio has the committed one of its name beside it, and a new one has none."""
    rounds = samples((150, 120))
    ratios = [figures.ratio(name, rounds, "one", "other", goal=1.2) for name in ("old", "new")]
    head, old, new = figures.ratio_table(ratios, {"old": 1.1, "gone": 3.0})
    assert (head[-1], old[-1], new[-1]) == ("committed", "1.10 x", "")
    assert old[1:6] == ["1.25 x", "1.25-1.25", "1", "<= 1.20", "NO"]
    assert figures.ratio_table(ratios)[0][-1] == "met"


def test_waiting_times_compare_only_with_as_many_calls_under_way() -> None:
    """Over HTTP/1.1 a connection has one call under way, so p99 needs OpenBao's 64 connections."""
    sample = figures.Sample(100.0, 10.0, 1.0)
    names = (cpu.GRPC, cpu.ASGI, cpu.ECHO, cpu.ASGI_ECHO, cpu.BAO)
    few = dict.fromkeys(names, sample)
    many = few | {cpu.BAO_AS_MANY: sample._replace(cpu=200.0, p99=40.0)}
    for rounds, p99 in (([few], 1.0), ([many], 0.25)):
        found = {each.what: each.value for each in cpu.ratios({"Wrap, 4 x 16, plain": rounds})}
        [(_, value)] = [each for each in found.items() if "p99" in each[0]]
        assert value == p99
        assert found[f"Wrap, 4 x 16, plain: {cpu.ASGI} / {cpu.BAO}"] == 1.0


def test_costs_are_medians_of_all_rounds() -> None:
    """The table of costs has a line for each contender of a row."""
    table = figures.cost_table({"Wrap": samples((100, 50), (300, 60), (110, 70))})
    assert table[1:] == [
        ["Wrap", "one", "110.0", "1.0", "1"],
        ["Wrap", "other", "60.0", "2.0", "1"],
    ]
    assert len(figures.markdown(table).splitlines()) == 4


def test_only_the_place_of_a_case_is_replaced() -> None:
    """The tool rewrites what lies between the marks; a page without them is an error."""
    page = "a\n<!-- cpu: from figures.json -->\nold\n<!-- cpu: end -->\nb\n"
    once = committed.replaced(page, "cpu", "new")
    assert once.startswith("a\n<!--")
    assert "\nnew\n" in once
    assert "old" not in once
    assert once.endswith("<!-- cpu: end -->\nb\n")
    assert committed.replaced(once, "cpu", "new") == once
    with pytest.raises(ValueError, match="no place"):
        committed.replaced(page, "lag", "new")


def test_latencies_come_from_the_log() -> None:
    """h2load's log has a call's microseconds at the end of each line."""
    assert load.latencies("1700000000000000\t200\t1500\n1700000000000001\t200\t30\n") == [
        0.0015,
        0.00003,
    ]


def test_percentile_is_one_of_the_values() -> None:
    """A percentile is one of the values, and that part of the values is not above it."""
    values = [float(value) for value in range(1, 201)]
    random.shuffle(values)
    assert goals.percentile(values, 0.50) == 100
    assert goals.percentile(values, 0.99) == 198
    assert goals.percentile(values, 1.0) == 200
    assert goals.percentile([7.0], 0.99) == 7
    assert goals.percentile([float(value) for value in range(1, 101)], 0.07) == 7


def test_pairwise_is_the_median_of_the_pairs_ratios() -> None:
    """A machine that is slow in one pair of windows does not move the figure."""
    without = [[10.0] * 100, [200.0] * 100, [10.0] * 100]
    beside = [[11.0] * 100, [220.0] * 100, [90.0] * 100]
    assert goals.pairwise(without, beside) == pytest.approx(1.1)


def test_pairwise_needs_pairs() -> None:
    """A window without a counterpart must not count."""
    with pytest.raises(ValueError, match="shorter"):
        goals.pairwise([[1.0], [1.0]], [[1.0]])


def test_a_goal_is_met_or_not() -> None:
    """A value at the goal meets it, and a value beyond does not; a figure may have no goal."""
    figure = goals.Figure("cold", "KMS calls", 1, "", 8, goal=1)
    assert figure.met is True
    assert replace(figure, value=1.01).met is False
    least = replace(figure, at_least=True)
    assert least.met is True
    assert replace(least, value=0.99).met is False
    assert replace(figure, goal=None).met is None
    assert figure.as_json()["met"] is True


def test_table_of_figures_shows_value_samples_goal_and_whether_it_is_met() -> None:
    """A missed goal stands out, and a figure without a goal shows none."""
    met = goals.Figure("scale", "start", 1.234, "s", 5, goal=5)
    missed = goals.Figure("scale", "status", 12_345, "ms", 2_000, goal=5)
    head, first, second, third = goals.table([met, missed, replace(met, goal=None)]).splitlines()
    assert head.split() == ["figure", "value", "samples", "goal", "met"]
    assert first.split() == ["start", "1.23", "s", "5", "<=", "5", "s", "yes"]
    assert second.split() == ["status", "12,345", "ms", "2,000", "<=", "5", "ms", "NO"]
    assert third.split() == ["start", "1.23", "s", "5"]


def test_memory_of_a_process() -> None:
    """Memory is in MiB, now and at its peak; a process that has ended gives an error."""
    own = memory(Path("/proc/self/status").read_text(encoding="utf-8"))
    assert 1 < own.now <= own.peak
    text = "Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\nRssAnon:\t 1 kB\n"
    assert memory(text) == (2, 4)
    with pytest.raises(ServerError):
        memory("Name:\tx\nState:\tZ (zombie)\n")


async def test_kms_answers_and_misbehaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """One account's KMS can hang or throttle while another's answers, and it heals."""
    binding = Binding("acme", "eu", bytes(16), None)
    sick, well = RootKey("BENCH", "bench:sick.key"), RootKey("BENCH", "bench:well.key")
    async with kms.serving() as service:
        monkeypatch.setenv("BENCH_KMS_PORT", str(service.port))
        provider = BenchProvider()
        assert provider.account(sick) == "sick"

        async def opened(key: RootKey, budget: float) -> bytes:
            wrapped = await asyncio.to_thread(provider.wrap, key, b"k", binding, budget=budget)
            unwrapped = await asyncio.to_thread(
                provider.unwrap, key, "1", wrapped.ciphertext, binding, budget=budget
            )
            return bytes(unwrapped.plaintext)

        service.hang("sick")
        with pytest.raises(UnreachableError):
            await opened(sick, 0.05)
        assert await opened(well, 10.0) == b"k"
        service.heal()
        service.throttle("sick")
        with pytest.raises(ThrottledError):
            await opened(sick, 10.0)
        service.heal()
        assert await opened(sick, 10.0) == b"k"


@pytest.fixture
def _loggers_as_they_were() -> Iterator[None]:
    """Restores a logger, which `stock` sets to quiet for good."""
    logger = logging.getLogger("keyfold_server.providers")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("_loggers_as_they_were")
def test_stock_is_a_store_that_a_server_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stock is made once, every row of it is authentic, and each use gets its own copy."""
    monkeypatch.setenv("KEYFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stock, "ROOT_KEYS", 2)
    for copy in ("one", "two"):
        folder = tmp_path / copy
        stock.stocked(folder, 3)
        store = open_store(f"sqlite:///{folder / 'keyfold.db'}", None, clock=SystemClock())
        found = store.clusters(ClusterFilter(), "", 10)
        store.close()
        assert [cluster.name for cluster in found if not isinstance(cluster, Exception)] == [
            "tenant-000000",
            "tenant-000001",
            "tenant-000002",
        ]
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.usefixtures("_loggers_as_they_were")
def test_stock_in_bulk_is_as_one_that_the_store_has_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is authentic, the log is one chain, and the store goes on from there."""
    monkeypatch.setenv("KEYFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bulk, "_CHUNK", 2)
    stock.stocked(tmp_path, 5, root_keys=2, in_bulk=True)
    key = tmp_path / "keyfold.db.service-key"
    server = postgres.shared("15")
    url = server.url(server.create())
    migrate_store(url, password_file=server.password_file)
    copy = open_store(url, key, clock=SystemClock(), password_file=server.password_file)
    bulk.copied(tmp_path / "keyfold.db", server, url.rpartition("/")[2])
    first = open_store(f"sqlite:///{tmp_path / 'keyfold.db'}", None, clock=SystemClock())
    for store in (first, copy):
        with closing(store):
            made = stock.enabling(LocalProvider(tmp_path / "root-keys.json"), 5, root_keys=2)
            applied(store, made)
            found = store.clusters(ClusterFilter(), "", 10)
            assert [c.name for c in found if isinstance(c, Cluster)] == [
                stock.cluster(number) for number in range(6)
            ]
            check = store.check_log(None, 100)
            assert (check.broken, check.complete, check.newest) == (None, True, 6)
            assert store.census(0) == {("ENABLED", "HEALTHY"): 6}


def test_a_picture_has_every_point_and_is_xml() -> None:
    """The SVG parses, shows each point of each line, and escapes what it is given."""
    lines = {"Wrap <1>": [(1.0, 10.0), (10.0, 20.0), (100.0, 40.0)], "Unwrap": [(1.0, 5.0)] * 3}
    made = ET.fromstring(pictures.curve("A & B", "regions", "µs", lines))
    circles = made.findall(".//{http://www.w3.org/2000/svg}circle")
    across = [float(circle.attrib["cx"]) for circle in circles[:3]]
    down = [float(circle.attrib["cy"]) for circle in circles[:3]]
    assert len(circles) == 6
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert down[0] > down[1] > down[2]


def test_curves_measure_calls_that_work() -> None:
    """At its smallest size, each curve's Wrap and Unwrap answer."""
    for _, sizes, make in curves.CURVES.values():
        works = make(sizes[0])
        assert works["Wrap"]()
        assert works["Unwrap"]()
