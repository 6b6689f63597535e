"""The probe: takes a cluster made for it through a revocation, to show that one works now.

It asks the live servers what a caller and an operator would ask them: wrap, open on every server,
revoke, be refused on every server, restore, and open again on every server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from keyfold.client import Client
from keyfold.errors import KeyfoldError
from keyfold.errors.reasons import RevokedError
from keyfold.models.status import State

PREFIX: Final = "keyfold-probe"
"""How the name of every cluster begins that a probe may revoke."""

_REASON: Final = "keyfold probe"

_AGAIN: Final = 0.02
"""Seconds between two looks at whether a server refuses, or serves again."""

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a probe.

    Attributes:
        step: `recover`, `wrap`, `unwrap`, `revoke`, `refused`, `restore` or `served`; `status` in
            the metrics of a probe whose first server did not give the cluster's status.
        server: The name of the server that was asked.
        seconds: How long the step took: for `refused` from the call of Revoke on, and for `served`
            from the call of Restore on.
        error: Why it failed; None: it did not, or a promise was broken.
        broken: The promise that was broken; empty: none was.
    """

    step: str
    server: str
    seconds: float
    error: KeyfoldError | None = None
    broken: str = ""

    @property
    def passed(self) -> bool:
        """Whether the step went well."""
        return self.error is None and not self.broken


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A key, and its wrapped form."""

    key: bytes
    wrapped: bytes


def probe(servers: Mapping[str, Client], cluster: str = PREFIX, within: float = 10.0) -> list[Step]:
    """Takes a cluster through wrap, revoke and restore; restores it whatever fails.

    Args:
        servers: A client of each server to check, by a name. The first one carries out the changes.
        cluster: The cluster. All its regions are revoked for a moment.
        within: Seconds in which every server must serve again after Restore.

    Returns:
        The steps that were taken, in their order.

    Raises:
        ValueError: The cluster's name does not begin with `PREFIX`, or there is no server.
        KeyfoldError: The server did not give the cluster's status.
    """
    if not cluster.startswith(PREFIX):
        raise ValueError(
            f"a probe revokes its cluster, so the name must begin with {PREFIX}; {cluster} does not"
        )
    if not servers:
        raise ValueError("a probe needs at least one server")
    run = _Probe(servers, cluster, within)
    run.run()
    return run.steps


class _Probe:
    """A probe under way."""

    def __init__(self, servers: Mapping[str, Client], cluster: str, within: float) -> None:
        self.steps: list[Step] = []
        self._servers = servers
        self._first, self._client = next(iter(servers.items()))
        self._cluster = cluster
        self._within = within

    def run(self) -> None:
        status = self._client.get_status(self._cluster)
        # An earlier probe may have ended between its Revoke and its Restore.
        left = any(region.state is State.REVOKED for region in status.regions)
        if left and not self._restored("recover"):
            return
        sealed = []
        for region in status.regions:
            key = os.urandom(32)
            wrapped = self._timed("wrap", partial(self._wrapped, region.region, key))
            if wrapped is None:
                return
            sealed.append(_Sealed(key, wrapped))
        for name, client in self._servers.items():
            self._opened(name, client, sealed)
        try:
            self._revoked(sealed)
        finally:
            began = time.monotonic()
            if self._restored("restore"):
                for name, client in self._servers.items():
                    self._served(name, client, sealed, began)

    def _timed(self, step: str, work: Callable[[], _R]) -> _R | None:
        """Carries out a step at the first server; returns None if it failed."""
        began = time.monotonic()
        try:
            done = work()
        except KeyfoldError as error:
            self._note(step, self._first, began, error)
            return None
        self._note(step, self._first, began)
        return done

    def _note(
        self,
        step: str,
        server: str,
        began: float,
        error: KeyfoldError | None = None,
        broken: str = "",
    ) -> None:
        self.steps.append(Step(step, server, time.monotonic() - began, error, broken))

    def _wrapped(self, region: str, key: bytes) -> bytes:
        return self._client.wrap(self._cluster, region, key).wrapped_key

    def _opened(self, name: str, client: Client, sealed: list[_Sealed]) -> None:
        """Opens every wrapped key at a server."""
        began = time.monotonic()
        try:
            right = all(self._opens(client, one) for one in sealed)
        except KeyfoldError as error:
            self._note("unwrap", name, began, error)
            return
        broken = "" if right else "a wrapped key opened to other bytes"
        self._note("unwrap", name, began, broken=broken)

    def _opens(self, client: Client, one: _Sealed) -> bool:
        return client.unwrap(self._cluster, one.wrapped).plaintext == one.key

    def _revoked(self, sealed: list[_Sealed]) -> None:
        """Revokes the cluster, and has every server asked whether it refuses."""
        began = time.monotonic()
        done = self._timed("revoke", lambda: self._client.revoke(self._cluster, reason=_REASON))
        if done is None:
            return
        # Where every replica has confirmed, the first look has to find the refusal.
        longest = max((one.stops_within.total_seconds() for one in done.pending), default=0.0)
        ends = time.monotonic() + longest
        for name, client in self._servers.items():
            self._refused(name, client, sealed, began, ends)

    def _refused(
        self, name: str, client: Client, sealed: list[_Sealed], began: float, ends: float
    ) -> None:
        """Waits until a server refuses every wrapped key, as Revoke's answer promised."""
        for one in sealed:
            while True:
                asked = time.monotonic()
                try:
                    client.unwrap(self._cluster, one.wrapped)
                except RevokedError:
                    break
                except KeyfoldError as error:
                    self._note("refused", name, began, error)
                    return
                if asked > ends:
                    broken = "a revoked key opened after the time that Revoke's answer had given"
                    self._note("refused", name, began, broken=broken)
                    return
                time.sleep(_AGAIN)
        self._note("refused", name, began)

    def _restored(self, step: str) -> bool:
        """Restores the cluster; returns whether all its regions are in service."""
        began = time.monotonic()
        try:
            done = self._client.restore(self._cluster, reason=_REASON)
        except KeyfoldError as error:
            self._note(step, self._first, began, error)
            return False
        left = done.not_restored[0].error if done.not_restored else None
        self._note(step, self._first, began, left)
        return left is None

    def _served(self, name: str, client: Client, sealed: list[_Sealed], began: float) -> None:
        """Waits until a server opens every wrapped key again."""
        for one in sealed:
            while True:
                try:
                    right = self._opens(client, one)
                except KeyfoldError as error:
                    if time.monotonic() < began + self._within:
                        time.sleep(_AGAIN)
                        continue
                    self._note("served", name, began, error)
                    return
                if not right:
                    self._note("served", name, began, broken="a key opened to other bytes")
                    return
                break
        self._note("served", name, began)
