"""What holds for every test: it stalls no server's event loop, unless its mark says so.

No test of many examples fails because a busy machine took long over one.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import built_commands
import compiled_statements
import stalls


def pytest_configure() -> None:
    """Lets programs that tests start end by Ctrl-C, also where a shell runs pytest with `&`.

    Such a shell has its children ignore SIGINT, and they would hand that on. Commands are built
    once, and statements compiled once. Hypothesis measures no time.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    found = settings.get_profile(settings.get_current_profile_name())
    slowly = {*found.suppress_health_check, HealthCheck.too_slow}
    settings.register_profile("busy", found, deadline=None, suppress_health_check=list(slowly))
    settings.load_profile("busy")
    built_commands.keep()
    compiled_statements.keep()


def pytest_collection_finish() -> None:
    """Keeps what the tests imported from the garbage collector, as a server does with its own."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_stall(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test in which a server of this process computed for too long without a pause."""
    with stalls.watched() as found:
        yield
    if request.node.get_closest_marker("stalls") is None:
        stalls.check(found)
