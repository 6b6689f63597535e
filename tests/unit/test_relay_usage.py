"""The relay's counts of use: each span once it is over, none left out while the relay runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import cloudevents
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.config import ConfigError, load
from keyfold_relay.delivery import UsageDelivery
from keyfold_relay.delivery.usage import BACK, SETTLED
from keyfold_relay.meters import Meters
from keyfold_relay.source import NotNowError, Usage
from keyfold_relay.targets import Limits, NotTakenError, Shared
from relay_fakes import STORE, FakeTarget
from replicas import until

HOUR = 3_600


class Turning:
    """A clock that each wait turns on, by just as long.

    Attributes:
        ahead: Seconds by which the store's clock is ahead of it.
    """

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.ahead = 0.0

    def now(self) -> float:
        raise AssertionError("what the machine's own clock shows has to do with no span")

    async def wait(self, _: asyncio.Event, seconds: float) -> bool:
        await asyncio.sleep(0)
        self.time += seconds
        return False


class Counts:
    """A source in which cluster `prod` is used in every span.

    Attributes:
        asked: The beginnings of the spans that were read.
        uses: How often the cluster is used in a span that is read from now on.
        heard: Called once so many spans were read.
    """

    def __init__(self) -> None:
        self.clock = Turning()
        self.began = self.clock.time
        self.asked: list[int] = []
        self.fault: Callable[[], Exception | None] = lambda: None
        self.uses = 3
        self.heard: dict[int, Callable[[], None]] = {}

    async def time(self) -> float:
        return self.clock.time + self.clock.ahead

    async def usage(self, start: int, span: int, wanted: Usage) -> list[CloudEvent]:
        assert await self.time() >= start + span + SETTLED
        self.asked.append(start)
        if (fault := self.fault()) is not None:
            raise fault
        assert wanted == Usage("prod")
        count = pb.UsageCount(
            cluster="prod", region="eu", caller="me", method="Wrap", outcome="OK", count=self.uses
        )
        self.heard.get(len(self.asked), lambda: None)()
        return [cloudevents.usage([count], start, span, STORE)]


class Kept(FakeTarget):
    """A target that keeps the ids of what it takes, and the last count of each."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.ids: list[str] = []
        self.counts: dict[str, int] = {}

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        await super().send(batch)
        self.ids += [each.id for each in batch]
        for each in batch:
            [count] = json.loads(each.body)["data"]["counts"]
            self.counts[each.id] = int(count["count"])


@asynccontextmanager
async def delivering(source: Counts, target: FakeTarget) -> AsyncIterator[None]:
    """Delivers for as long as the block runs."""
    delivery = UsageDelivery(
        "siem",
        HOUR,
        Usage("prod"),
        target,
        source=source,
        meters=Meters(),
        clock=source.clock,  # type: ignore[arg-type]
    )
    task = asyncio.create_task(delivery.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_span_comes_once_it_is_over() -> None:
    """A start sends the last day's spans; then each span follows in order once it has settled."""
    source, target = Counts(), Kept()
    async with delivering(source, target):
        await until(lambda: len(target.ids) >= 2 * BACK / HOUR)
    assert source.asked[0] == source.began - BACK
    assert source.asked == list(range(source.asked[0], source.asked[-1] + 1, HOUR))
    assert len(set(target.ids)) == len(target.ids)


async def test_a_span_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A target or a Keyfold that is away delays counts, and leaves none out."""
    source, target = Counts(), Kept()
    faults = [NotNowError("away", "UNAVAILABLE"), RuntimeError("a defect")]
    source.fault = lambda: faults.pop() if faults else None
    refusals = [NotTakenError("it answered 500", retry_after=1.0)]

    def answer(_: Sequence[CloudEvent]) -> None:
        if refusals:
            raise refusals.pop()

    target.answer = answer
    async with delivering(source, target):
        await until(lambda: len(target.ids) >= BACK / HOUR)
    spans = len(target.ids)
    assert source.asked.count(source.asked[0]) == 4
    assert sorted(set(source.asked))[:spans] == [source.asked[0] + n * HOUR for n in range(spans)]
    assert len(set(target.ids)) == spans
    assert "a defect" in caplog.text


def set_store(source: Counts, ahead: float, uses: int) -> None:
    """Sets the store's clock, and how often keys are used from then on."""
    source.clock.ahead, source.uses = ahead, uses


async def test_a_store_whose_clock_was_set_on_and_back_loses_no_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Spans that were sent while the clock was hours ahead come again once they are over."""
    source, target, day = Counts(), Kept(), int(BACK / HOUR)
    source.heard[day] = partial(set_store, source, 3 * HOUR, 1)
    # Then it is put right, and keys are used in the hours that were sent already.
    source.heard[day + 3] = partial(set_store, source, 0.0, 5)
    async with delivering(source, target):
        await until(lambda: len(target.ids) >= day + 8)
    ahead = [int(source.began) + n * HOUR for n in range(3)]
    assert source.asked[day : day + 7] == [*ahead, *ahead, ahead[-1] + HOUR]
    assert target.ids[day : day + 3] == target.ids[day + 3 : day + 6]
    assert {target.counts[each] for each in target.ids[day:]} == {5}
    assert caplog.text.count("the store's clock was set back") == 1


async def test_a_store_whose_clock_was_set_back_and_on_loses_no_count() -> None:
    """The hours in which a clock that is behind counts on come again, and then what follows."""
    source, target, day = Counts(), Kept(), int(BACK / HOUR)
    source.heard[day] = partial(set_store, source, -2 * HOUR, 5)
    source.heard[day + 1] = partial(set_store, source, 0.0, 7)
    async with delivering(source, target):
        await until(lambda: len(target.ids) >= day + 4)
    behind = [int(source.began) + n * HOUR for n in (-2, -1, 0, 1)]
    assert source.asked[day : day + 4] == behind
    assert [target.counts[each] for each in target.ids[day : day + 4]] == [5, 7, 7, 7]


def test_the_event_names_its_span_for_ever() -> None:
    """The same counts of a span become the same event, which says whose and how many."""
    count = pb.UsageCount(
        cluster="prod",
        organization="acme",
        caller="me",
        method="Unwrap",
        outcome="REVOKED",
        count=7,
    )
    one, two = (cloudevents.usage([count], 1_800_000_000, HOUR, STORE) for _ in range(2))
    assert one == two
    content = json.loads(one.body)
    assert content["id"] == f"{STORE}/usage/20270115T0800Z/3600/prod"
    assert (content["type"], content["subject"]) == ("com.keyfold.usage", "prod")
    assert content["time"] == "2027-01-15T09:00:00Z"
    assert "sequence" not in content
    assert content["data"]["counts"] == [
        {"region": "", "caller": "me", "method": "Unwrap", "outcome": "REVOKED", "count": "7"}
    ]


async def test_events_and_counts_take_turns() -> None:
    """A target gets one batch at a time, whoever sends it."""
    target = FakeTarget()
    target.gate = asyncio.Event()
    shared = Shared(target)
    event = cloudevents.usage([pb.UsageCount(cluster="prod")], 0, HOUR, STORE)
    sends = [asyncio.create_task(shared.send([event])) for _ in range(2)]
    await asyncio.sleep(0)
    assert target.batches == []
    target.gate.set()
    await asyncio.gather(*sends)
    assert target.batches == [1, 1]


@pytest.mark.parametrize("wrong", ["30s", "90s", "2d", "0m"])
def test_a_span_is_whole_minutes(wrong: str, tmp_path: Path) -> None:
    """A span that no server adds up is named with its key."""
    text = f'[keyfold]\ntarget = "127.0.0.1:1"\n[targets.a]\nkind = "stdout"\nusage = "{wrong}"\n'
    file = tmp_path / "relay.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="usage"):
        load(file)
