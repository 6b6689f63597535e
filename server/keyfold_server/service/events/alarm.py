"""The alarm about a log that is not as Keyfold wrote it: a line in the server's log and a metric.

Whoever can write the store can break the log, and cannot mend it so that nobody notices. So a
server that meets a broken link says so, whoever asked it to look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from keyfold_server import telemetry
from keyfold_server.domain.errors import RowNotAuthenticError

log = logging.getLogger(__name__)


class LogAlarm:
    """Tells of broken links, each once.

    Attributes:
        broken: The number of the first entry that was found broken; 0 while none was.
    """

    def __init__(self) -> None:
        """Begins with a log of which nothing is known."""
        self.broken = 0

    def met(self, number: int) -> None:
        """Tells of an entry that is missing, or is not the one that Keyfold wrote."""
        # Whatever comes after the first broken link says nothing new.
        if 0 < self.broken <= number:
            return
        log.error(
            "entry %d of the log is missing, or is not the one that Keyfold wrote: somebody else "
            "wrote the store; find out who did (keyfold events verify)",
            number,
        )
        self.broken = number
        telemetry.LOG_BROKEN.set(number)

    def clear(self) -> None:
        """Ends the alarm: the whole log has been verified."""
        if self.broken:
            log.info("the log is whole again: every entry of it is the one that Keyfold wrote")
        self.broken = 0
        telemetry.LOG_BROKEN.set(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Surrounds a read of the log; tells of the broken link at which it fails."""
        try:
            yield
        except RowNotAuthenticError as error:
            if error.entry is not None:
                self.met(error.entry)
            raise
