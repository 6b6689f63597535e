"""The server as a test uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from keyfold.client import Client
from keyfold.errors import ClosedError, ForkedError
from keyfold.models.specs import KeySpec, RegionPolicy, RegionSpec

if TYPE_CHECKING:
    from keyfold.testing.running import Running

MISSING = "keyfold.testing runs the server, which is an extra: pip install 'keyfold[server]'"


class Server:
    """A Keyfold server on a free port of 127.0.0.1, for as long as its block.

    It works in a thread of this process and ends with the block, or else with the process. Any
    number of servers may run side by side; each has a store and root keys of its own. It logs
    nothing below an error.

    Each cluster has one root key, `local:` and the cluster's name, as if it were a customer's.

    Raises:
        ImportError: The extra `server` is not installed.

    Example:
        >>> with keyfold.testing.Server() as server:
        ...     _ = server.enable("prod", "eu")
        ...     key = server.client.generate_data_key("prod", "eu")
        ...     _ = server.revoke("prod")
        ...     try:
        ...         server.client.unwrap("prod", key.wrapped_key)
        ...     except keyfold.RevokedError as error:
        ...         print(error.reason)
        REVOKED
    """

    def __init__(self) -> None:
        self._running: Running | None = None
        self._client: Client | None = None
        self._process = os.getpid()

    def __enter__(self) -> Self:
        try:
            from keyfold.testing.running import Running  # the server is an extra
        except ImportError as error:
            raise ImportError(MISSING) from error
        self._process = os.getpid()
        self._running = Running()
        self._client = Client(self._running.target)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, running = self._client, self._running
        self._client = self._running = None
        if client is not None:
            client.close()
        if running is not None and self._process == os.getpid():  # or else it is the parent's
            running.stop()

    @property
    def target(self) -> str:
        """The address, such as `127.0.0.1:41234`, for the application's own client."""
        return self._here.target

    @property
    def client(self) -> Client:
        """A client of the server, which may do everything. The block's end closes it."""
        if self._client is None:
            raise _closed()
        return self._client

    def enable(self, cluster: str, *regions: str, policy: RegionPolicy | None = None) -> None:
        """Makes a cluster with these regions, and its root key.

        Args:
            cluster: The cluster's name.
            regions: The names of its regions.
            policy: How long the server uses keys without asking the KMS. With
                `RegionPolicy(timedelta(0), timedelta(0))` it asks each time, so that an outage is
                felt at once; by default keys serve on through an outage, as in production.
        """
        self._here.make_key(cluster)
        key = KeySpec("LOCAL", f"local:{cluster}")
        specs = [RegionSpec(region, key, policy) for region in regions]
        self.client.enable(cluster, specs)

    def revoke(self, cluster: str, *regions: str) -> None:
        """Revokes regions of a cluster, or all of them, as the vendor's operator does."""
        self.client.revoke(cluster, regions=regions)

    def restore(self, cluster: str, *regions: str) -> None:
        """Restores regions of a cluster, or all of them."""
        self.client.restore(cluster, regions=regions)

    @contextmanager
    def refusal(self, cluster: str) -> Iterator[None]:
        """Has the customer disable the cluster's root key at the KMS, for the block.

        The server hears of it at once, as when somebody calls `recheck`, and again at the end.
        """
        self._here.disable_key(cluster)
        self.client.recheck(cluster)
        try:
            yield
        finally:
            self._here.enable_key(cluster)
            self.client.recheck(cluster)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Keeps the server from reaching any KMS, for the block.

        That is no revocation: keys in memory serve on, within the region's policy. A call that
        needs the KMS raises `CouldNotTellError`.
        """
        kms = self._here.kms
        kms.away = True
        try:
            yield
        finally:
            kms.away = False

    @property
    def _here(self) -> Running:
        if self._process != os.getpid():
            raise ForkedError(
                "this server runs in the process that was forked; start one after the fork, or "
                "pass its target to the child",
                code="FAILED_PRECONDITION",
            )
        if self._running is None:
            raise _closed()
        return self._running


def _closed() -> ClosedError:
    return ClosedError(
        "this server does not run: use it in the block of a `with`", code="FAILED_PRECONDITION"
    )
