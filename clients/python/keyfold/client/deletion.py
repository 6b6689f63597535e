# Generated from aio/deletion.py by `make client`; never edited.

"""Deleting the keys of clusters for good, and taking a deletion back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from keyfold import calls
from keyfold.client.connection import Connection
from keyfold.models.deletion import Deleted, Undeleted


class Deletion(Connection):
    """The calls that end the life of a cluster's keys, for the role destroyer."""

    def delete_cluster(
        self,
        cluster: str,
        *,
        regions: Iterable[str] = (),
        all_regions: bool = False,
        waiting_period: timedelta | None = None,
        reason: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> Deleted:
        """Deletes the keys of revoked regions, so that nothing opens any more what they wrapped.

        Name the regions, or say `all_regions`, which ends the cluster. The server erases the keys
        after the waiting period, 0 to 90 days and by default 7; until then `undelete_cluster` takes
        the deletion back. Copies in backups end later, at `Deleted.final_after`. `validate_only`
        returns what would become unreadable, and stores nothing.

        Raises:
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            NotRevokedError: A region is not revoked.
            RegionsNotChosenError: The call names no region, and is not for all of them.
            InvalidWaitingPeriodError: The waiting period is out of bounds.
            ConcurrentChangeError: Another change of the cluster came first.

        Example:
            >>> _ = client.revoke("prod", regions=["us"])
            >>> deleted = client.delete_cluster("prod", regions=["us"])
            >>> [(one.region, one.generation) for one in deleted.losses]
            [('us', 1)]
            >>> undeleted = client.undelete_cluster("prod")
            >>> str(undeleted.status.regions[1].state)
            'REVOKED'
        """
        call = calls.delete_cluster(
            cluster,
            regions,
            all_regions=all_regions,
            waiting_period=waiting_period,
            reason=reason,
            request_id=request_id,
            validate_only=validate_only,
        )
        return self._ask(call, timeout)

    def undelete_cluster(
        self,
        cluster: str,
        *,
        regions: Iterable[str] = (),
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Undeleted:
        """Takes deletions back, of the named regions or of all; the regions are then revoked.

        It needs no KMS, and so it proves nothing about the keys: `restore` does. Once the server
        has erased the keys, it raises `ClusterNotFoundError` or `RegionNotFoundError`.

        Raises:
            NotFoundError: There is no such cluster or region, or it is erased.
            NotDeletedError: A region is not deleted.
            ConcurrentChangeError: Another change of the cluster came first.
        """
        return self._ask(calls.undelete_cluster(cluster, regions, reason, request_id), timeout)
