"""Regions that are cut off from one another: `python -m drill.run` has all scenes, and figures.

One system serves all tests here. Patroni, etcd and PostgreSQL run in each region, with the settings
that docs/store.md recommends.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest

from drill.drill import Drill
from drill.regions import DELAY, REGIONS, World, opened
from drill.scenes import primarys_region_is_cut_off, revocations_reach_every_region
from drill.wan import Fault, Wan, address
from lateness import Lateness

pytestmark = pytest.mark.timeout(600, func_only=False)

_CALL: Final = """
import json, socket, sys, time
began = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 7), float(sys.argv[2]))
except ConnectionRefusedError:
    print(json.dumps(time.monotonic() - began))
except OSError:
    print(json.dumps(None))
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Three regions in which everything runs."""
    with opened() as world:
        yield world


def answered(wan: Wan, one: int, other: int, most: float = 20.0) -> float | None:
    """Returns the seconds in which a region answers another one; None if it does not."""
    command = [sys.executable, "-c", _CALL, address(other), str(most)]
    done = subprocess.run(wan.inside(one, command), capture_output=True, text=True, check=True)
    found: float | None = json.loads(done.stdout)
    return found


def test_the_network_delays_and_cuts() -> None:
    """What the drill relies on: each way takes its time, and a cut one lets nothing through."""
    with Lateness() as machine, Wan(len(REGIONS), DELAY) as wan:
        near, far = answered(wan, 1, 1), answered(wan, 1, 2)
        assert near is not None
        assert far is not None
        assert 2 * DELAY <= far <= 2 * DELAY + 1.0 + machine.late
        wan.cut_off(2)
        assert answered(wan, 1, 2, 1.0) is None
        assert answered(wan, 1, 3) is not None
        wan.mend()
        assert answered(wan, 2, 1) is not None
        wan.suffer([Fault(1, 2)])
        assert answered(wan, 1, 2, 1.0) is None
        wan.mend()
        wan.suffer([Fault(2, 1, ports=(7,), lost=0.0, late=0.2)])
        late = answered(wan, 1, 2)
        assert late is not None
        assert late >= 2 * DELAY + 0.2


def carried_out(world: World, scene: Callable[[Drill], object]) -> None:
    """Plays a scene, and checks the history that callers in all regions wrote."""
    seed = random.randrange(10**6)
    drill = Drill(world, seed)
    with drill.under_way():
        scene(drill)
    assert drill.violations() == [], (seed, world.logs())


def test_a_revocation_reaches_every_region(world: World) -> None:
    """R1 to R4 across 80 ms: nobody anywhere uses a key once its Revoke is answered."""
    carried_out(world, partial(revocations_reach_every_region, rounds=len(REGIONS)))


def test_the_primarys_region_is_cut_off(world: World) -> None:
    """Another region takes over, without a person: no warm call fails, and no change is lost.

    The servers of the region that is cut off stop at their bound (S3, R4), and hear of every change
    before they serve again.
    """
    carried_out(world, primarys_region_is_cut_off)
