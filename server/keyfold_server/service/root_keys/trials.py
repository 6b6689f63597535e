"""Trials: TestKey tries a root key step by step and stores nothing.

A step that fails is part of the answer, not an error of the call: the answer shows an operator
which of the customer's settings is wrong.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.seats import asks_for_seat
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.audit import DONE, Audit, Ending, Inquiry
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.holders import Holders
from keyfold_server.service.root_keys.key_trial import KeyTrial
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.scope import Scope, Scopes
from keyfold_server.service.root_keys.seats import Seats
from keyfold_server.service.root_keys.trial_results import TestKeyResult

_RPC: Final = "TestKey"


@dataclass(frozen=True, slots=True)
class TestKeyRequest:
    """The request of TestKey.

    Attributes:
        key_spec: The key to try.
        scope: The cluster, region and organization that authorize the trial and to which it is
            bound. Without a cluster the trial is bound to nothing. A PLATFORM key needs a region.
        geo: The geo in whose regions the key is to be tried (`geo_trials`); empty: in the scope's.
    """

    key_spec: KeySpec
    scope: Scope
    geo: str = ""


class Trials:
    """Tries keys."""

    def __init__(
        self,
        kms: KmsClient,
        scopes: Scopes,
        residency: Residency,
        identities: tuple[ExternalIds, Seats],
        holders: Holders,
        audit: Audit,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the trials to the KMS.

        Args:
            kms: Calls the providers.
            scopes: Authorizes the scope, and the key in it.
            residency: Knows where keys are.
            identities: The external ids and the seats of owners. A trial takes no seat.
            holders: Knows whose the accounts of keys are.
            audit: Records the trials.
            clock: Measures the steps.
            random: The source of trial payloads.
        """
        self._served = kms.served
        self._trial = KeyTrial(kms, clock, random)
        self._scopes = scopes
        self._residency = residency
        self._external_ids, self._seats = identities
        self._holders = holders
        self._audit = audit
        self._random = random

    async def test(self, caller: Caller, request: TestKeyRequest) -> TestKeyResult:
        """Tries a key. A step that fails is part of the result and raises nothing.

        Args:
            caller: The caller.
            request: The key, and the scope for which it is tried.

        Raises:
            ClusterNotFoundError: The caller may not see the cluster.
            ForbiddenError: The caller may not try this key there.
            InvalidInputError: The key spec cannot be right, whatever the KMS would say.
            WrongRegionError: This replica does not serve the region.
            KeyHeldByAnotherError: The key is in what another organization holds.
            ExternalIdNotIssuedError: The key needs an external id that Keyfold has not issued.
            SeatNotReservedError: The key spec asks for a seat, and none is reserved for the owner.
        """
        [result] = await self.test_each(caller, [request])
        return result

    async def test_each(
        self, caller: Caller, requests: Sequence[TestKeyRequest]
    ) -> list[TestKeyResult]:
        """Tries several keys as `test` does, once the caller is allowed to try all of them."""
        authorized = [
            await self._scopes.authorized(_RPC, caller.rights, each.scope, each.key_spec)
            for each in requests
        ]
        regions = [scope.region for scope, _ in authorized]
        if not all(regions):
            self._served.check_all("TestKey for no region")
        self._served.check_each(regions, authorized[0][0].cluster or None)
        return await asyncio.gather(
            *(
                self._audit.recorded(
                    Inquiry(caller, _RPC, each.key_spec, scope),
                    self._tried(each.key_spec.type, root, scope),
                    _ending,
                )
                for each, (scope, root) in zip(requests, authorized, strict=True)
            )
        )

    async def _tried(self, type_: str, root: RootKey, scope: Scope) -> TestKeyResult:
        await self._holders.claim(scope.organization, [(type_, root)])
        cluster, organization, region = scope.cluster or None, scope.organization, scope.region
        if not asks_for_seat(root.principal):
            root = await self._external_ids.added_to(root, cluster, organization, region)
            return await self._tried_as(root, scope)
        results = []
        for key in await self._seats.keys(root, cluster, organization, region, scope.current):
            results.append(await self._tried_as(key.root, scope))
            if results[-1].accessible:
                return results[-1]
        return results[0]

    async def _tried_as(self, root: RootKey, scope: Scope) -> TestKeyResult:
        bound = Binding(scope.cluster, scope.region, self._random(16), scope.organization)
        steps, key_version = await self._trial.run(root, bound)
        return TestKeyResult(steps, key_version, await self._residency.report(root, scope.region))


def _ending(result: TestKeyResult) -> Ending:
    """Returns what the log says of a trial: the step that makes the key useless, if one does."""
    failure = result.failure
    if failure is None:
        return DONE
    reason = "KEY_INVALID" if failure.error is None else failure.error.reason
    return Ending(reason, failure.message, failure.request_id)
