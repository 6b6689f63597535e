"""`clientcache`: how soon clients' caches of data keys forget, and what a use from memory costs.

For the first, 64 programs with a cache each (`cache_clients.py`, in eight processes) keep a key of
the cluster that is being revoked in memory, on eight replicas that share a PostgreSQL. For the
second, one cache and the AWS Encryption SDK's (`materials.py`) are measured in turns.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import keyfold
from bench import calls, servers
from bench.cases import CLUSTER, CONTEXT, REGION, ROOT_KEY, WrongAnswerError
from bench.goals import Figure, Plan, percentile
from contract.counterparts import NotInstalledError
from counterparts.processes import installed
from keyfold.envelope.keys import Bounds

REVOKED_WITHIN: Final = 1_000.0
"""Most milliseconds from Revoke to the refusal in every client, at the p99."""

HIT: Final = 5.0
"""Most microseconds of CPU for a use from memory."""

PUBLISHED: Final = 103.0
"""Microseconds for a round trip with leased keys, as the closest commercial client publishes it."""

_REPLICAS: Final = 8
_PROCESSES: Final = 8
_CACHES: Final = 8
"""Caches in each process."""

_REVOKED: Final = 100
_QUICK: Final = (2, 2, 4, 4)
"""Replicas, processes, caches in each, and revoked clusters at the small size."""

_ROUNDS: Final = 40
_ROUNDS_QUICK: Final = 5
_LONGEST: Final = timedelta(minutes=15)
"""The longest `cache_ttl`. No key must end during the run."""

_UNBOUNDED: Final = Bounds(max_messages=1 << 40, max_bytes=1 << 60, max_age=3_600.0)

_QUIET: Final = 200
"""Uses of each kind from memory, one after the other, after which no more news is expected."""

_USES: Final = 2_000
"""Uses of one measurement, about 10 ms. All kinds take turns, so others disturb them alike."""


class _Counting(keyfold.Client):
    """A client that counts its calls."""

    calls = 0

    def send(self, *args: Any, **options: Any) -> Any:
        """Sends a call."""
        self.calls += 1
        return super().send(*args, **options)


def measure(plan: Plan) -> list[Figure]:
    """Measures both, or raises SkippedError if PostgreSQL cannot be started."""
    for part in ("hits", "revocation"):
        (plan.folder / part).mkdir()
    return [
        *_hits(plan.folder / "hits", _ROUNDS_QUICK if plan.quick else _ROUNDS),
        *_revocations(plan),
    ]


def _figure(what: str, value: float, unit: str, samples: int, goal: float | None = None) -> Figure:
    return Figure("clientcache", what, value, unit, samples, goal)


# Revoke


class _Run(NamedTuple):
    """One revocation.

    Attributes:
        answered: Milliseconds from the call to its answer.
        refused: Milliseconds from the call until each client's uses were refused for good.
        pending: Number of replicas that the answer names as pending.
    """

    answered: float
    refused: list[float]
    pending: int


class _Programs:
    """A process of programs with a cache each."""

    def __init__(self, count: int, addresses: Sequence[str]) -> None:
        program = Path(__file__).with_name("cache_clients.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(count), ",".join(addresses)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, **command: str) -> None:
        """Sends a command."""
        assert self._process.stdin is not None  # noqa: S101  Popen makes both pipes
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Returns the next answer."""
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise WrongAnswerError("a process of cache_clients.py has failed; its error is above")
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=30)


def _revocations(plan: Plan) -> list[Figure]:
    sizes = _QUICK if plan.quick else (_REPLICAS, _PROCESSES, _CACHES, _REVOKED)
    count, processes, caches, revoked = sizes
    with servers.replicas(plan.folder / "revocation", count) as replicas, ExitStack() as stack:
        addresses = [replica.address for replica in replicas]
        programs = []
        for at in range(processes):
            first = at % count
            each = _Programs(caches, addresses[first:] + addresses[:first])
            stack.callback(each.end)
            programs.append(each)
        runs = asyncio.run(_runs(addresses, programs, revoked))
    last = [max(run.refused) for run in runs]
    every = [one for run in runs for one in run.refused]
    where = f"of {processes * caches} clients, {count} replicas"
    answered = [run.answered for run in runs]
    pending = sum(run.pending for run in runs)
    return [
        _figure(f"Revoke to the last refusal {where}, p50", percentile(last, 0.5), "ms", revoked),
        _figure(
            f"Revoke to the last refusal {where}, p99",
            percentile(last, 0.99),
            "ms",
            revoked,
            REVOKED_WITHIN,
        ),
        _figure(f"Revoke to the last refusal {where}, max", max(last), "ms", revoked),
        _figure("Revoke to a client's refusal, p50", percentile(every, 0.5), "ms", len(every)),
        _figure("Revoke to its answer, p50", percentile(answered, 0.5), "ms", revoked),
        _figure("Revoke to its answer, p99", percentile(answered, 0.99), "ms", revoked),
        _figure("unconfirmed replicas", pending, "", revoked, 0),
    ]


async def _runs(
    addresses: Sequence[str], programs: Sequence[_Programs], revoked: int
) -> list[_Run]:
    async with calls.client(addresses[0]) as first:
        keys = {}
        for number in range(revoked):
            name = f"tenant-{number:03}"
            await first.enable(name, calls.key_spec(f"local:{ROOT_KEY}"))
            keys[name] = await first.wrap(name)
    runs = []
    for turn, (name, key) in enumerate(keys.items()):
        for each in programs:
            each.say(warm=name, key=key.hex())
        for each in programs:
            each.hear()
        for each in programs:
            each.say(refused=name, key=key.hex())
        for each in programs:
            each.hear()
        async with calls.client(addresses[turn % len(addresses)]) as through:
            await through.status(name)  # It is connected.
            began = time.monotonic()
            reply = await through.revoke(name)
            answered = time.monotonic()
        refused = [(at - began) * 1e3 for each in programs for at in each.hear()]
        runs.append(_Run((answered - began) * 1e3, refused, len(reply.pending)))
    return runs


# Uses from memory


def _hits(folder: Path, rounds: int) -> list[Figure]:
    with (
        servers.one(folder) as server,
        _Counting(server.address) as client,
        keyfold.KeyCache(client, max_age=3_600.0, max_uses=1 << 40) as cache,
        _others() as theirs,
    ):
        key = keyfold.KeySpec("LOCAL", f"local:{ROOT_KEY}")
        policy = keyfold.RegionPolicy(cache_ttl=_LONGEST)
        client.enable(CLUSTER, [keyfold.RegionSpec(REGION, key, policy)])
        ours = _uses(client, cache)
        before = client.calls
        costs: dict[str, list[float]] = {name: [] for name in ours}
        ratios: dict[str, list[float]] = {"opening": [], "sealing": []}
        for _ in range(rounds):
            for name, use in ours.items():
                costs[name].append(_cost(use))
            if theirs is not None:
                encrypt, decrypt = theirs(_USES)
                ratios["sealing"].append(costs["sealing"][-1] / encrypt)
                ratios["opening"].append(costs["opening"][-1] / decrypt)
                costs.setdefault("encrypt", []).append(encrypt)
                costs.setdefault("decrypt", []).append(decrypt)
        if client.calls != before:
            raise WrongAnswerError("a use was not served from memory")
    return [
        _figure(
            "a key to open with, from memory: CPU", median(costs["opening"]), "µs", rounds, HIT
        ),
        _figure(
            "a key to seal with, from memory: CPU", median(costs["sealing"]), "µs", rounds, HIT
        ),
        *(
            _figure(
                f"AWS's caching materials manager, to {name}: CPU",
                median(costs[name]),
                "µs",
                rounds,
            )
            for name in ("decrypt", "encrypt")
            if name in costs
        ),
        *(
            _figure(f"{name}: the cache / AWS's, CPU", median(found), "x", rounds, 1.0)
            for name, found in ratios.items()
            if found
        ),
        _figure(
            "an envelope's seal and open of 100 bytes, from memory: CPU",
            median(costs["round trip"]),
            "µs",
            rounds,
            PUBLISHED,
        ),
    ]


def _uses(client: _Counting, cache: keyfold.KeyCache) -> dict[str, Callable[[], object]]:
    """Returns what uses keys from memory, once it does."""
    wrapped = client.wrap(CLUSTER, REGION, bytes(32), context=CONTEXT).wrapped_key
    envelope = keyfold.Envelope(
        client, CLUSTER, REGION, context=CONTEXT, cache=cache, max_messages=1 << 40, max_age=3_600.0
    )
    data = bytes(100)

    def opening() -> object:
        with cache.opening_key(CLUSTER, wrapped, CONTEXT) as key:
            return key.plaintext

    def sealing() -> object:
        with cache.sealing_key(CLUSTER, REGION, CONTEXT, size=100, bounds=_UNBOUNDED) as key:
            return key.plaintext

    def round_trip() -> object:
        return envelope.open(envelope.seal(data))

    uses = {"opening": opening, "sealing": sealing, "round trip": round_trip}
    quiet = 0
    # A cluster's first use is news of it, which drops its keys again.
    while quiet < _QUIET:
        before = client.calls
        for use in uses.values():
            use()
        quiet = quiet + 1 if client.calls == before else 0
        time.sleep(0.01)
    return uses


def _cost(use: Callable[[], object]) -> float:
    """Returns the microseconds of CPU that one use takes."""
    began = time.process_time()
    for _ in range(_USES):
        use()
    return (time.process_time() - began) / _USES * 1e6


@contextmanager
def _others() -> Iterator[Callable[[int], tuple[float, float]] | None]:
    """Runs the AWS Encryption SDK's cache; None: it cannot be installed.

    What it returns makes a number of lookups of each kind, and returns the microseconds of CPU that
    one to encrypt and one to decrypt took.
    """
    try:
        python = installed("awsencryption.sh")
    except NotInstalledError as missing:
        print(missing, file=sys.stderr)
        yield None
        return
    program = Path(__file__).with_name("materials.py")
    with subprocess.Popen(
        [python, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None  # noqa: S101  Popen makes both pipes
        assert process.stdout is not None  # noqa: S101
        said, heard = process.stdin, process.stdout

        def look(count: int) -> tuple[float, float]:
            said.write(f"{count}\n")
            said.flush()
            encrypt, decrypt = json.loads(heard.readline())
            return encrypt, decrypt

        yield look
        said.close()
