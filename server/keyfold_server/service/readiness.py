"""Readiness: whether this server serves now, and if not, why (protocol S3, W4).

All who ask get one answer: gRPC's health service, `/readyz`, the metric and the log. Invariant: it
is read when it is asked, never remembered, so that no probe sees a state that has passed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.supervisor import Supervisor

log = logging.getLogger(__name__)

STARTING = "STARTING: the server has not opened its store and its address yet"
DRAINING = "DRAINING: the server is stopping; it finishes calls under way and takes no others"
TASK_FAILING = "TASK_FAILING: the task {} has failed for a minute; the log says why"


class Readiness:
    """Says whether the server serves. Any thread may ask; the event loop's thread does the rest."""

    def __init__(self) -> None:
        """Begins with a server that starts."""
        self._check: Callable[[], None] | None = None
        self._supervisor: Supervisor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining = False
        self._logged = ""

    @property
    def obstacle(self) -> str:
        """Why the server does not serve: a reason, a colon and a text; empty if it serves."""
        if self._draining:
            return DRAINING
        if self._check is None:
            return STARTING
        try:
            self._check()
        except KeyfoldError as error:
            return f"{error.reason}: {error.message}"
        failing = "" if self._supervisor is None else self._supervisor.failing
        return failing and TASK_FAILING.format(failing)

    def started(self, check: Callable[[], None], supervisor: Supervisor | None = None) -> None:
        """Notes that the server has started; its event loop calls this.

        Args:
            check: Raises the KeyfoldError for which the server must not serve now.
            supervisor: Knows which of the server's own tasks keep failing.
        """
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._check = check

    def drain(self) -> None:
        """Notes that the server stops for good."""
        self._draining = True

    def look(self) -> bool:
        """Says whether the server serves, and logs it when service stops and when it returns."""
        obstacle = self.obstacle
        reason, before = obstacle.partition(":")[0], self._logged.partition(":")[0]
        if obstacle and reason != before:
            level = logging.INFO if self._draining else logging.ERROR
            log.log(level, "this server does not serve from now on: %s", obstacle)
        elif before and not obstacle:
            log.warning("this server serves again; it did not because of %s", before)
        self._logged = obstacle
        return not obstacle

    def responds(self, within: float) -> bool:
        """Says whether the event loop takes its turn; other threads call this.

        Args:
            within: Seconds to wait for that turn.
        """
        # Before the start there is no loop to ask: a migration may take long, and is no hang.
        if self._loop is None:
            return True
        turn = threading.Event()
        try:
            self._loop.call_soon_threadsafe(turn.set)
        except RuntimeError:
            return True  # The loop has ended in order, and the process is about to.
        return turn.wait(within)
