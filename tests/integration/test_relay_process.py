"""Real keyfold-relay processes: killed, replaced, drained; the service is the tests' own."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import relay_process
from counterparts.processes import free_port
from relay_process import Process
from relay_receiver import SECRET, Receiver
from relay_service import Log, Replica
from replicas import until

KILLS = 9
CURSOR = "relay.siem"


class Site:
    """A service, a receiver, and the file of a relay between them."""

    def __init__(self, folder: Path, log: Log, replica: Replica, receiver: Receiver) -> None:
        self.folder = folder
        self.log = log
        self.replica = replica
        self.receiver = receiver
        self.monitoring = f"127.0.0.1:{free_port()}"
        (folder / "secret").write_text(SECRET)
        self.webhook: dict[str, Any] = {
            "kind": "webhook",
            "url": receiver.url,
            "secrets": [f"file:{folder / 'secret'}"],
            "ca": str(receiver.ca),
            "allow_addresses": ["127.0.0.1/32"],
        }

    def file(self, targets: dict[str, dict[str, Any]] | None = None, name: str = "relay") -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return relay_process.write(
            folder,
            {"target": self.replica.target},
            targets or {"siem": self.webhook},
            monitoring=self.monitoring,
            drain="5s",
        )

    async def page(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.monitoring}{path}") as response,
        ):
            return response.status, await response.text()

    async def shows(self, path: str, text: str) -> None:
        """Waits until a page has a text."""
        while text not in (await self.page(path))[1]:  # noqa: ASYNC110  a page has no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A service with an empty log, and a receiver that takes everything."""
    log = Log()
    replica = Replica(log)
    await replica.start()
    try:
        async with Receiver(tmp_path) as receiver:
            yield Site(tmp_path, log, replica, receiver)
    finally:
        await replica.stop()


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Process]:
    """Starts a relay, which ends with the block."""
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


def in_order(numbers: list[int], count: int) -> bool:
    """Says whether every number came, each for the first time after all smaller ones."""
    first = list(dict.fromkeys(numbers))
    return first == list(range(1, count + 1))


@pytest.mark.timeout(180)
async def test_no_kill_of_relay_or_replica_loses_or_reorders_an_event(site: Site) -> None:
    """At least once, in order, nothing lost, while relay and server are killed at random points."""
    draw, written = random.Random(20261130), 0
    relay = Process(site.file())
    writing = True

    async def write() -> None:
        nonlocal written
        while writing:
            count = draw.randint(1, 10)
            written += count
            await site.log.append(count)
            await asyncio.sleep(0.01)

    writer = asyncio.create_task(write())
    for kill in range(KILLS):
        await relay.start()
        # The kill comes after a number of requests, so that it hits a relay at work.
        after = len(site.receiver.requests) + draw.randint(1, 25)
        await until(lambda: len(site.receiver.requests) >= after)  # noqa: B023  within the round
        await asyncio.sleep(draw.random() * 0.02)
        if kill % 3 == 2:
            await site.replica.stop()
            await site.replica.start()
            await asyncio.sleep(draw.random() * 0.3)
        await relay.kill()
    writing = False
    await writer
    async with running(relay):
        await site.receiver.has(written)
        assert await relay.stop() == 0
    assert in_order(site.receiver.numbers, written)
    assert site.log.number(CURSOR) == written
    assert site.receiver.refused == 0


async def test_sigterm_ends_the_batch_in_flight(site: Site) -> None:
    """A drain waits for the receiver's answer and moves the cursor; the exit code is 0."""
    release, arrived = asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> None:
        arrived.set()
        await release.wait()

    site.receiver.answer = answer
    await site.log.append(3)
    async with running(Process(site.file())) as relay:
        await arrived.wait()
        relay.send(signal.SIGTERM)
        release.set()
        assert await relay.ended() == 0
    # How many events the batch had depends on how many had come when it began.
    assert site.receiver.numbers
    assert site.receiver.numbers == list(range(1, site.log.number(CURSOR) + 1))


async def test_a_receiver_that_hangs_does_not_hold_up_the_drain_or_another_target(
    site: Site,
) -> None:
    """The other target gets every event; the drain ends within its bound; nothing is lost."""

    async def answer(_: web.Request) -> None:
        await asyncio.Event().wait()

    site.receiver.answer = answer
    path = site.folder / "events.jsonl"
    targets = {"siem": site.webhook, "lines": {"kind": "file", "path": str(path)}}
    await site.log.append(100)
    async with running(Process(site.file(targets))) as relay:
        await until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 100)
        # The two targets do not wait for each other, in either direction.
        await until(lambda: bool(site.receiver.requests))
        assert await relay.stop() == 0
    assert site.log.number(CURSOR) == 0
    assert site.log.number("relay.lines") == 100


async def test_the_older_of_two_relays_gives_up(site: Site) -> None:
    """With one cursor, the relay that came first ends with exit code 3 and says why."""
    await site.log.append(10)
    async with running(Process(site.file(name="older"))) as older:
        await site.receiver.has(10)
        site.monitoring = f"127.0.0.1:{free_port()}"
        async with running(Process(site.file(name="newer"))) as newer:
            assert await older.ended() == 3
            await site.log.append(10)
            await site.receiver.has(20)
            assert await newer.stop() == 0
    [said] = [line for line in older.log if line["level"] == "error"]
    assert "another relay" in said["event"]
    assert said["target"] == "siem"
    assert in_order(site.receiver.numbers, 20)


async def test_an_expired_cursor_stops_its_target_alone(site: Site) -> None:
    """The other target goes on; /readyz names the stopped one; the exit code is 4."""
    site.log.expired.add(CURSOR)
    path = site.folder / "events.jsonl"
    targets = {"siem": site.webhook, "lines": {"kind": "file", "path": str(path)}}
    async with running(Process(site.file(targets))) as relay:
        await site.log.append(5)
        await until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 5)
        await site.shows("/readyz", "siem: stopped")
        assert (await site.page("/readyz"))[0] == 503
        assert (await site.page("/livez"))[0] == 200
        assert await relay.stop() == 4
    assert any(line["level"] == "critical" for line in relay.log)
    forget = Process(relay.file, "forget", str(relay.file), "siem", "--yes")
    site.log.cursors[CURSOR] = 0, ""
    async with running(forget):
        assert await forget.ended() == 0
    assert CURSOR not in site.log.cursors


async def test_metrics_show_deliveries_retries_and_lag(site: Site) -> None:
    """The metrics' page has each of the figures that an operator alerts on."""
    refusals = 2

    async def answer(_: web.Request) -> web.Response | None:
        nonlocal refusals
        refusals -= 1
        return web.Response(status=500) if refusals >= 0 else None

    site.receiver.answer = answer
    await site.log.append(30)
    async with running(Process(site.file())) as relay:
        await site.receiver.has(30)
        await site.shows("/metrics", 'delivered_total{target="siem"} 30.0')
        text = (await site.page("/metrics"))[1]
        assert 'keyfold_relay_retries_total{target="siem"} 2.0' in text
        assert 'keyfold_relay_lag_seconds{target="siem"} 0.0' in text
        assert 'keyfold_relay_target_state{state="delivering",target="siem"} 1.0' in text
        assert "keyfold_relay_lag_entries" in text
        assert await relay.stop() == 0
    assert all(line.keys() >= {"time", "level", "event"} for line in relay.log)
    assert SECRET not in relay.err


async def test_sighup_reopens_files(site: Site) -> None:
    """After SIGHUP the relay writes to the file that the path names now, and goes on."""
    path = site.folder / "events.jsonl"
    async with running(Process(site.file({"lines": {"kind": "file", "path": str(path)}}))) as relay:
        await site.log.append(1)
        await until(lambda: path.exists() and bool(path.read_bytes()))
        path.rename(path.with_suffix(".1"))
        relay.send(signal.SIGHUP)
        await site.log.append(1)
        await until(lambda: path.exists() and bool(path.read_bytes()))
        assert await relay.stop() == 0


async def test_events_go_to_stdout_and_the_log_to_stderr(site: Site) -> None:
    """Stdout has nothing but events, one line each."""
    await site.log.append(20)
    async with running(Process(site.file({"out": {"kind": "stdout"}}))) as relay:
        await until(lambda: relay.out.count("\n") >= 20)
        assert await relay.stop() == 0
    numbers = [int(json.loads(line)["data"]["number"]) for line in relay.out.splitlines()]
    assert numbers == list(range(1, 21))


async def test_check_tries_everything_and_prints_no_secret(site: Site) -> None:
    """`check` says of Keyfold and of each target whether it works, and its code tells it."""
    bad = site.webhook | {"allow_addresses": []}
    lines = {"kind": "file", "path": str(site.folder / "none" / "events.jsonl")}
    file = site.file({"siem": site.webhook, "bad": bad, "lines": lines})
    async with running(Process(file, "check", str(file))) as check:
        assert await check.ended() == 5
    said = check.out.splitlines()
    assert said[:2] == ["keyfold: ok", "targets.siem: ok"]
    assert "allow_addresses" in said[2]
    assert "No such file" in said[3]
    assert SECRET not in check.out + check.err
    assert [one["type"] for one in site.receiver.events] == ["com.keyfold.relay.check"]
    await site.replica.stop()
    async with running(Process(file, "check", str(file))) as again:
        assert await again.ended() == 5
    assert again.out.startswith("keyfold: ")
    assert not again.out.startswith("keyfold: ok")


async def test_replay_and_skip(site: Site) -> None:
    """`replay` sends what waits, or a range again; `skip` prints what it passes."""
    file = site.file()
    await site.log.append(250)

    async def command(*arguments: str, code: int = 0) -> Process:
        async with running(Process(file, *arguments)) as process:
            assert await process.ended() == code, process.err
        return process

    nothing = await command("skip", str(file), "siem", "--to", "50", code=5)
    assert "there is no cursor relay.siem" in nothing.err
    site.log.cursors[CURSOR] = 0, ""
    skipped = await command("skip", str(file), "siem", "--to", "50")
    assert len(skipped.out.splitlines()) == 50
    assert site.log.number(CURSOR) == 50
    await command("replay", str(file), "siem")
    assert site.receiver.numbers == list(range(51, 251))
    assert site.log.number(CURSOR) == 250
    await command("replay", str(file), "siem", "--first", "10", "--last", "130")
    assert site.receiver.numbers[200:] == list(range(10, 131))
    assert site.log.number(CURSOR) == 250
    unknown = await command("replay", str(file), "siam", code=2)
    assert "its targets are siem" in unknown.err


async def test_listen_verifies_what_run_sends(site: Site) -> None:
    """`listen` prints the events that `run` sends it, and refuses what is not signed."""
    address = f"127.0.0.1:{free_port()}"
    secret = f"file:{site.folder / 'secret'}"
    file = site.file({"siem": site.webhook | {"url": f"http://{address}/"}})
    listen = Process(
        site.folder / "listen.toml", "listen", "--secret", secret, "--address", address
    )
    async with running(listen), running(Process(file)):
        await site.log.append(3)
        await until(lambda: listen.out.count("\n") >= 3)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{address}/", data=b"[]") as response,
        ):
            assert response.status == 401
        assert await listen.stop() == 0
    assert json.loads(listen.out.splitlines()[0])["type"] == "com.keyfold.rpc.cluster.revoke"


async def test_a_fault_in_the_file_ends_the_start(site: Site) -> None:
    """A wrong file ends the program at once, with exit code 2 and one line for each fault."""
    file = site.file({"siem": site.webhook | {"url": "siem", "batch": 0}})
    async with running(Process(file)) as relay:
        assert await relay.ended() == 2
    assert [line.partition(": ")[0] for line in relay.err.splitlines()] == ["error", "error"]
