"""The log and the history of wraps, read as an export reads them."""

from __future__ import annotations

import io

from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.transfer import export


def verified_events(store: SqlStore, cluster: str | None) -> int:
    """Exports a cluster, or all for None, which verifies their rows and the whole log.

    Returns:
        The number of the cluster's entries in the log, or of all entries.

    Raises:
        RowNotAuthenticError: A row was changed, removed or added.
        ClusterNotFoundError: The cluster does not exist.
    """
    with export.opened(store) as snapshot:
        return export.write(snapshot, io.BytesIO(), cluster=cluster, now=0).entries
