"""How a provider renews its sessions: what every provider that logs in promises.

What the rules of `Lease` are in detail, `unit/test_lease.py` shows without a provider.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from contract.counterparts import BUDGET, Ability, Bench
from keyfold_server.domain.errors import UnreachableError

pytestmark = pytest.mark.needs(Ability.SESSIONS)

_DUE: Final = 9.5 * 60.0
"""Seconds after which every session is due for renewal, and still good."""

_OVER: Final = 10 * 60.0
"""Seconds after which no session is used."""

_CALLERS: Final = 16
_SHORT: Final = 2.0
"""Seconds of a call that should end in time, though its login drips."""


def test_a_login_that_drips_fails_no_call_whose_session_is_good(bench: Bench) -> None:
    """Renewing ahead leaves a call the time that the call itself needs (C4)."""
    wrapped = bench.wrap()
    bench.there.clock.advance(_DUE)
    with bench.there.dripping_logins():
        assert bench.unwrap(wrapped, budget=_SHORT) == bench.payload
        began = time.monotonic()
        assert bench.unwrap(wrapped, budget=_SHORT) == bench.payload
        assert time.monotonic() - began < _SHORT / 2


def test_a_login_that_drips_ends_with_the_call(bench: Bench) -> None:
    """A session does not serve beyond ten minutes, and waiting for the next one ends in time."""
    wrapped = bench.wrap()
    bench.there.clock.advance(_OVER)
    with bench.there.dripping_logins():
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            bench.unwrap(wrapped, budget=_SHORT / 2)
        assert time.monotonic() - began < _SHORT
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.parametrize("passed", [0.0, _DUE, _OVER])
def test_calls_that_come_together_log_in_once(bench: Bench, passed: float) -> None:
    """Whether a session is missing, due or over, one of the callers renews it (F2a)."""
    if passed:
        wrapped = bench.wrap()
        bench.there.clock.advance(passed)
    together = threading.Barrier(_CALLERS)

    def call(_: int) -> None:
        together.wait(BUDGET)
        if passed:
            assert bench.unwrap(wrapped, budget=4 * BUDGET) == bench.payload
        else:
            bench.wrap(budget=4 * BUDGET)

    with bench.there.slow_logins(0.2) as logins, ThreadPoolExecutor(_CALLERS) as pool:
        list(pool.map(call, range(_CALLERS)))
    assert len(logins) == 1


def test_sessions_that_were_rejected_together_are_renewed_once(bench: Bench) -> None:
    """When a provider ends a session early, the calls that notice share one login (F2a)."""
    wrapped = bench.wrap()
    bench.there.expire_sessions()
    together = threading.Barrier(_CALLERS)

    def call(_: int) -> bytes:
        together.wait(BUDGET)
        return bench.unwrap(wrapped, budget=4 * BUDGET)

    with bench.there.slow_logins(0.2) as logins, ThreadPoolExecutor(_CALLERS) as pool:
        assert set(pool.map(call, range(_CALLERS))) == {bench.payload}
    assert len(logins) == 1
