"""Clears PostgreSQL's files of erased rows, as far as that goes (protocol D4).

VACUUM lets the server use the room of the rows again, and leaves their bytes until something else
is written there. What else has them, and for how long, is in docs/operations.md.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from keyfold_server.store.database import faults

if TYPE_CHECKING:
    from keyfold_server.store.postgresql.session import BoundedSession

_MOST: Final = 60.0
"""Seconds that a vacuum may take. It holds nobody up, so it need not end sooner."""


def clear(driver: BoundedSession, _most: float) -> bool:
    """Vacuums the table of the wrapped KEKs. Where the user may not, the server only warns.

    Raises:
        StoreUnavailableError: The server did not do it.
    """
    from psycopg import Error

    driver.ends = time.monotonic() + _MOST
    try:
        driver.execute("VACUUM wraps")
    except Error as error:
        raise faults.failed(error) from error
    return True
