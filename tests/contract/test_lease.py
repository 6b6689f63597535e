"""Sessions: what every provider that logs in promises about renewing them.

`unit/test_lease.py` tests the rules of `Lease` in detail, without a provider.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from contract.counterparts import BUDGET, Ability, Bench
from keyfold_server.domain.errors import UnreachableError
from lateness import in_time

pytestmark = pytest.mark.needs(Ability.SESSIONS)

_DUE: Final = 9.5 * 60.0
"""Seconds after which every session is due for renewal, but still good."""

_OVER: Final = 10 * 60.0
"""Seconds after which no session may be used."""

_CALLERS: Final = 16
_SHORT: Final = 2.0
"""Seconds of a call that should end in time although its login drips."""


def test_a_login_that_drips_fails_no_call_whose_session_is_good(bench: Bench) -> None:
    """Renewing ahead of time leaves a call the time that it needs itself (C4)."""
    wrapped = bench.wrap()
    bench.there.clock.advance(_DUE)
    with bench.there.dripping_logins():
        assert bench.unwrap(wrapped, budget=_SHORT) == bench.payload
        with in_time(_SHORT / 2):
            assert bench.unwrap(wrapped, budget=_SHORT) == bench.payload


def test_a_login_that_drips_ends_with_the_call(bench: Bench) -> None:
    """No session serves beyond ten minutes, and a call that waits for the next one ends in time."""
    wrapped = bench.wrap()
    bench.there.clock.advance(_OVER)
    with bench.there.dripping_logins(), in_time(_SHORT), pytest.raises(UnreachableError):
        bench.unwrap(wrapped, budget=_SHORT / 2)
    assert bench.unwrap(wrapped) == bench.payload


@pytest.mark.parametrize("passed", [0.0, _DUE, _OVER])
def test_calls_that_come_together_log_in_once(bench: Bench, passed: float) -> None:
    """One of the callers renews a session, whether it is missing, due or over (F2a)."""
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
    """If the KMS ends a session early, the calls that notice share one login (F2a)."""
    wrapped = bench.wrap()
    bench.there.expire_sessions()
    together = threading.Barrier(_CALLERS)

    def call(_: int) -> bytes:
        together.wait(BUDGET)
        return bench.unwrap(wrapped, budget=4 * BUDGET)

    with bench.there.slow_logins(0.2) as logins, ThreadPoolExecutor(_CALLERS) as pool:
        assert set(pool.map(call, range(_CALLERS))) == {bench.payload}
    assert len(logins) == 1
