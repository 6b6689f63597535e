"""Trials of a geo's key: the key in its own region, and its replica in each of the others.

A replica has a policy and a state of its own, so each is tried by itself, bound to its region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.errors import AccessDeniedError, KeyNotFoundError, KeyNotGrantedError
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.rights import Caller
from keyfold_server.service.root_keys.geo_keys import GeoKeys
from keyfold_server.service.root_keys.replica_of import OWN_POLICY, replica_error
from keyfold_server.service.root_keys.trial_results import TestKeyResult
from keyfold_server.service.root_keys.trials import TestKeyRequest, Trials

_RPC: Final = "TestKey"


@dataclass(frozen=True, slots=True)
class ReplicaTrial:
    """The trial of a geo's key in one region.

    Attributes:
        region: The region's name.
        key_spec: The key of this region.
        replica_of: The region whose key it is a replica of; empty for the key itself.
        result: How the trial ended.
    """

    region: str
    key_spec: KeySpec
    replica_of: str
    result: TestKeyResult

    @property
    def reason(self) -> str:
        """The reason of the step that makes the key useless here; empty if it is of use."""
        failure = self.result.failure
        if failure is None:
            return ""
        return "KEY_INVALID" if failure.error is None else failure.error.reason

    @property
    def summary(self) -> str:
        """The outcome and what to do about it, in one sentence for a person."""
        failure = self.result.failure
        if self.replica_of and failure and isinstance(failure.error, KeyNotFoundError):
            return (
                f"there is no replica of region {self.replica_of}'s key at "
                f"{self.key_spec.uri}; replicate the key there first"
            )
        if self.replica_of and failure and isinstance(failure.error, AccessDeniedError):
            return f"{self.result.summary}; {OWN_POLICY}"
        return self.result.summary


@dataclass(frozen=True, slots=True)
class GeoTrialResult:
    """The trials of a geo's key in each of its regions, in the order of the regions' names.

    Attributes:
        geo: The geo's name.
        replicas: The trials.
    """

    geo: str
    replicas: tuple[ReplicaTrial, ...]

    @property
    def accessible(self) -> bool:
        """Whether Keyfold can use the key in every region of the geo."""
        return all(each.result.accessible for each in self.replicas)

    @property
    def own(self) -> TestKeyResult:
        """How the trial of the key itself ended."""
        return next(each.result for each in self.replicas if not each.replica_of)

    @property
    def summary(self) -> str:
        """The outcome and what to do about it, in one sentence for a person."""
        failed = [each for each in self.replicas if not each.result.accessible]
        if not failed:
            names = ", ".join(each.region for each in self.replicas)
            return f"Keyfold can use this key in every region of geo {self.geo}: {names}"
        why = "; ".join(f"region {each.region}: {each.summary}" for each in failed)
        return f"Keyfold cannot use this key for geo {self.geo}; {why}"


class GeoTrials:
    """Tries the keys of geos."""

    def __init__(self, geo_keys: GeoKeys, trials: Trials) -> None:
        """Takes what works out a geo's keys, and what tries a key."""
        self._geo_keys = geo_keys
        self._trials = trials

    async def test(self, caller: Caller, request: TestKeyRequest) -> GeoTrialResult:
        """Tries a key in every region of the request's geo; stores nothing.

        The caller must be allowed to try every one of the keys before any is tried (protocol C1).

        Raises:
            UnknownGeoError: The settings have no such geo.
            InvalidKeySpecError: The key is in no region of the geo, or cannot have a replica in
                one of them.
            KeyfoldError: As `Trials.test` says.
        """
        caller.rights.check(_RPC)
        specs = await self._geo_keys.keys(request.key_spec, request.geo)
        keys = [(spec, spec.key_spec) for spec in specs if spec.key_spec is not None]
        wanted = [
            TestKeyRequest(key, replace(request.scope, region=spec.region)) for spec, key in keys
        ]
        try:
            results = await self._trials.test_each(caller, wanted)
        except KeyNotGrantedError as error:
            named = (spec for spec in specs if spec.region == error.region)
            raise next((replica_error(spec, error) for spec in named), error) from None
        return GeoTrialResult(
            request.geo,
            tuple(
                ReplicaTrial(spec.region, key, spec.replica_of, done)
                for (spec, key), done in zip(keys, results, strict=True)
            ),
        )
