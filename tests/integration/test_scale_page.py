"""docs/scale.md: its formulas say what replicas do, and its bounds are those of the code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import pages
from keyfold_server import telemetry
from keyfold_server.domain.bounds import Rates
from keyfold_server.service.fleet import poll
from keyfold_server.service.upkeep import log_verification, sweep
from keyfold_server.service.upkeep.turns import SLOTS
from keyfold_server.store.postgresql import connections
from replicas import House, house_in

PAGE: Final = Path(__file__).parents[2] / "docs" / "scale.md"

STEPS: Final = 50
"""Uses of each root key in one TTL, so that a refresh comes almost when it is due."""

ASKED: Final = ("wrap", "unwrap", "describe")
"""What the sweep asks a root key, once each. This KMS's adapter does not check what it wraps."""


def formulas(**given: float) -> Any:
    """Computes what the page's program does, for other numbers than its example's."""
    [program, *_] = pages.fenced(PAGE.read_text(encoding="utf-8"), "python")
    numbers, found, sums = program.partition("\n\n")
    assert found
    values: dict[str, Any] = {}
    exec(numbers, values)
    assert given.keys() <= values.keys()
    values |= given
    exec(sums, values)
    return SimpleNamespace(**values)


@dataclass(frozen=True)
class Scene:
    """What runs for how long.

    Attributes:
        replicas: Replicas.
        used: Root keys that callers use, each of them in each step.
        idle: Root keys that nobody uses, each of them in two regions.
        keks: KEKs under each root key in use.
        ttl: Seconds of `cache_ttl`.
        interval: Seconds between two sweeps.
        sweeps: Sweeps until the end.
    """

    replicas: int
    used: int
    idle: int
    keks: int
    ttl: float
    interval: float
    sweeps: int

    @property
    def names(self) -> list[str]:
        """The clusters in use."""
        return [f"c-{root}-{kek}" for root in range(self.used) for kek in range(self.keks)]

    async def begin(self, house: House) -> None:
        """Starts the replicas, and has each use every cluster."""
        for _ in range(self.replicas):
            await house.replica(
                cache_ttl=self.ttl, sweep=self.interval, store_max_staleness=3_600.0
            )
        for name in [*self.names, *(f"idle-{root}-0" for root in range(self.idle))]:
            uri = f"customer-{name.rpartition('-')[0]}.key"
            if name.endswith("-0"):
                house.provider.create_key(uri)
            regions = ("eu", "us") if name.startswith("idle") else ("eu",)
            await house.members[0].enable(name, dict.fromkeys(regions, f"fake:{uri}"))
        # A cluster's first use is a change, which the other replicas apply before they go on.
        for _ in range(2):
            for member in house.members:
                for name in self.names:
                    await member.wrap(name)
            await house.after(0.0)

    async def use(self, house: House, step: int) -> int:
        """Uses another KEK of each root key on each replica; returns the calls to the KMS."""
        before = house.calls()
        for member in house.members:
            await member.look()
            for root in range(self.used):
                assert member.serves(f"c-{root}-{step % self.keks}")
        return house.calls() - before


async def swept(house: House) -> Counter[str]:
    """Runs a sweep on each replica; returns the calls to the KMS."""
    slots = [slot for slot in range(SLOTS) if house.store.samples(f"{slot:02x}")]
    before = Counter({operation: house.calls(operation) for operation in ASKED})
    await house.after(0.0)
    for member in house.members:
        for slot in slots:
            await member.replica.sweep.turn(slot)
        await member.settle()
    return Counter({operation: house.calls(operation) for operation in ASKED}) - before


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(Scene(1, 4, 2, 3, 60.0, 600.0, 2), id="the defaults"),
        pytest.param(Scene(3, 2, 1, 2, 60.0, 600.0, 1), id="three replicas"),
        pytest.param(Scene(1, 3, 0, 1, 15.0, 200.0, 2), id="a short TTL and a short interval"),
        pytest.param(Scene(1, 3, 1, 2, 300.0, 600.0, 3), id="a long TTL"),
        pytest.param(Scene(1, 2, 0, 2, 900.0, 600.0, 3), id="the sweep before the refresh"),
    ],
)
async def test_the_kms_gets_the_calls_of_the_formulas(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, F4, F5: refreshes follow the formula within a tenth, and the sweep follows it exactly."""
    # The sweep pauses between two KEKs of a root key, for real time; a pause is no call.
    monkeypatch.setattr(sweep, "_PAUSE", 0.0)
    step = scene.ttl / STEPS
    refreshes, sweeps, turns = 0, 0, Counter[str]()
    async with house_in(tmp_path) as house:
        await scene.begin(house)
        for number in range(1, round(scene.sweeps * scene.interval / step) + 1):
            house.clock.advance(step)
            refreshes += await scene.use(house, number)
            if number * step > (sweeps + 1) * scene.interval - step / 2:
                sweeps += 1
                turns += await swept(house)
    roots = scene.used + 2 * scene.idle
    expected = formulas(
        R=scene.replicas,
        K=scene.used,
        A=roots,
        E=len(scene.names),
        T=scene.ttl,
        S=scene.interval,
        c=len(ASKED),
    )
    hours = scene.sweeps * scene.interval / 3600
    assert turns["wrap"] == turns["describe"] == roots * scene.sweeps
    assert turns.total() == pytest.approx((expected.in_use + expected.all_keys) * hours)
    allowed = scene.used * scene.replicas / 2
    assert refreshes == pytest.approx(expected.proofs * hours, rel=0.1, abs=allowed)


async def test_a_ttl_of_zero_costs_a_call_for_each_use(tmp_path: Path) -> None:
    """F1: at TTL 0 nothing stays in memory, so the KMS gets a call per use and none in between."""
    async with house_in(tmp_path) as house:
        member = await house.replica(cache_ttl=0.0)
        await member.enable()
        before = house.calls()
        for uses in range(1, 6):
            await member.wrap()
            await house.after(60.0)
            await member.look()
            assert house.calls() - before == uses


def test_the_example_is_what_its_formulas_give() -> None:
    """The page shows what its program prints, and the table of prices follows the same sums."""
    page = PAGE.read_text(encoding="utf-8")
    default = formulas()
    [shown, *_] = pages.fenced(page, "text")
    assert shown.split() == [
        f"{round(default.per_hour):,}", "calls", "an", "hour,",
        f"{default.per_month:,.0f}", "a", "month:", f"{default.money:,.2f}", "dollars",
    ]  # fmt: skip
    rows = re.findall(r"^\| .* \| (\d) \| ([\d.]+) \| ([\d,.]+) \|$", page, re.MULTILINE)
    assert len(rows) >= 3
    for c, price, money in rows:
        computed = formulas(c=int(c), price=float(price)).money
        assert f"{computed:,.2f}" == money


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    """Each number that the page takes from the code is there, with the value that the code has."""
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    most = connections._POOL_SIZE + connections._OVERFLOW + 2
    entries = round(log_verification._SLICE / log_verification.EVERY)
    rates = Rates()
    for said in (
        f"up to {most} connections",
        f"{1 / poll._SPACING:.0f} polls a second",
        f"{1 / sweep._PAUSE:.0f} KEKs of a root key a second",
        f"{entries:,} entries a second",
        f"{rates.per_key:.0f} calls a second for a root key",
        f"{rates.per_account:.0f} for an account",
        f"{rates.per_provider:,.0f} for a provider",
    ):
        assert said in page


def test_what_the_page_tells_to_watch_exists() -> None:
    """An operator who looks for a metric or an alert of the page finds it."""
    page = PAGE.read_text(encoding="utf-8")
    rules = (PAGE.parents[1] / "deploy" / "prometheus" / "keyfold.rules.yaml").read_text()
    source = Path(telemetry.__file__).read_text(encoding="utf-8")
    metrics = set(re.findall(r"`(keyfold_\w+)`", page))
    alerts = set(re.findall(r"`(Keyfold[A-Z]\w+)`", page))
    assert len(metrics) > 3
    assert len(alerts) > 3
    assert [name for name in metrics if f'"{name}"' not in source] == []
    assert [name for name in alerts if f"alert: {name}\n" not in rules] == []
