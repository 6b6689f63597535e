"""Converts the contract's request messages to plain values; `replies` goes the other way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.cluster import MAX_REGIONS
from keyfold_server.domain.errors import (
    InvalidInputError,
    InvalidKeySpecError,
    InvalidPageError,
    InvalidWaitingPeriodError,
    KeyfoldError,
    MalformedRequestError,
    TooManyRegionsError,
)
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.health import Health
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.service.life.clusters import AddRegionsRequest, EnableRequest
from keyfold_server.service.life.deletion import DeleteClusterRequest, UndeleteClusterRequest
from keyfold_server.service.life.rechecks import RecheckRequest
from keyfold_server.service.life.restoration import RestoreRequest
from keyfold_server.service.life.revocation import RetireGenerationRequest, RevokeRequest
from keyfold_server.service.life.rotation import RotateRequest
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest

_MOST_NAMES: Final = 2_000
"""Most names of regions in one request. A cluster has fewer, but up to so many a request gets an
error that says which of them are wrong."""

_NANOS: Final = 1_000_000_000
"""Nanoseconds in a second."""

_STATES: Final = {res.State.Value(f"STATE_{state.name}"): state for state in State}
_HEALTH: Final = {res.Health.Value(f"HEALTH_{health.value}"): health for health in Health}

_M = TypeVar("_M", bound=Message)


def decode(kind: type[_M], data: bytes) -> _M:
    """Returns the request message in some bytes.

    Raises:
        MalformedRequestError: The bytes are not a message of this kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise MalformedRequestError(
            f"the request is not a {name}; build it with the stubs of this contract"
        ) from None


def sought(text: str, field: str) -> str | None:
    """Returns a text that a request looks for, or None if it is empty.

    Raises:
        MalformedRequestError: The text holds a NUL. No name has one, and not every database can
            look for it.
    """
    if "\0" in text:
        raise MalformedRequestError(
            f"{field} holds the character NUL, which no name has; take it out", field=field
        )
    return text or None


def key_spec(message: res.KeySpec) -> KeySpec:
    """Returns a key spec.

    Raises:
        InvalidKeySpecError: The spec is empty or malformed.
    """
    return KeySpec.of(message.type, message.uri, message.auth_principal, message.options)


def region_specs(messages: Collection[res.RegionSpec], geos: Geos) -> tuple[RegionSpec, ...]:
    """Returns region specs; one of a geo stands for one of each of its regions.

    Raises:
        TooManyRegionsError: There are more than any cluster may have.
        UnknownGeoError: The settings have no such geo.
        InvalidInputError: A spec is malformed; `field` has its index.
    """
    # Before the first is looked at: a request may hold 130,000 empty ones (protocol W5).
    _check_count(len(messages), MAX_REGIONS, "region_specs")
    specs: list[RegionSpec] = []
    for index, message in enumerate(messages):
        try:
            spec = RegionSpec(
                message.region,
                key_spec(message.key_spec) if message.HasField("key_spec") else None,
                policy(message.policy) if message.HasField("policy") else None,
                message.replica_of,
                message.geo,
                message.key_link,
            )
            specs += _each(spec, geos) if spec.geo else (spec,)
        except InvalidInputError as error:
            raise error.at(region=message.region, field=f"region_specs[{index}]") from None
        _check_count(len(specs), MAX_REGIONS, "region_specs")
    return tuple(specs)


def _each(spec: RegionSpec, geos: Geos) -> list[RegionSpec]:
    """Returns the specs of a geo's regions, each with the key that the geo's spec names."""
    if spec.region or spec.replica_of:
        other = "a region" if spec.region else "replica_of"
        raise InvalidKeySpecError(
            f"the spec has both a geo and {other}; give one of them", field="geo"
        )
    return [replace(spec, region=region) for region in geos.regions(spec.geo)]


def placed(error: KeyfoldError, asked: Message) -> KeyfoldError:
    """Returns an error about a region's key spec with the path of that spec in the request.

    A provider sees that a key spec is wrong, and the residency check sees that its key is in
    another region, but neither knows the index of the spec.
    """
    if error.field is not None and error.field.startswith("key_spec"):
        for index, message in enumerate(getattr(asked, "region_specs", ())):
            if message.region == error.region or message.geo:
                return error.at(field=f"region_specs[{index}]")
    return error


def _regions(names: Collection[str]) -> tuple[str, ...]:
    _check_count(len(names), _MOST_NAMES, "regions")
    return tuple(names)


def _check_count(count: int, most: int, field: str) -> None:
    if count > most:
        raise TooManyRegionsError(
            f"a cluster has at most {MAX_REGIONS} regions, not {count:,}", field=field
        )


def policy(message: res.RegionPolicy) -> RegionPolicy:
    """Returns a policy."""
    return RegionPolicy(
        seconds(message.cache_ttl) if message.HasField("cache_ttl") else None,
        seconds(message.outage_grace) if message.HasField("outage_grace") else None,
        message.auto_rotate,
    )


def seconds(duration: Duration) -> float:
    """Returns the seconds of a duration."""
    return duration.seconds + duration.nanos / 1e9


def enable_request(message: pb.EnableRequest, geos: Geos) -> EnableRequest:
    """Returns the request of Enable."""
    return EnableRequest(
        message.cluster,
        message.organization or None,
        _regions(message.regions),
        region_specs(message.region_specs, geos),
        message.validate_only,
    )


def add_regions_request(message: pb.AddRegionsRequest, geos: Geos) -> AddRegionsRequest:
    """Returns the request of AddRegions."""
    return AddRegionsRequest(
        message.cluster,
        message.organization or None,
        _regions(message.regions),
        region_specs(message.region_specs, geos),
        message.validate_only,
        message.into_revoked,
    )


def rotate_request(message: pb.RotateRequest, geos: Geos) -> RotateRequest:
    """Returns the request of Rotate."""
    return RotateRequest(
        message.cluster,
        region_specs(message.region_specs, geos),
        message.new_generation,
        message.validate_only,
        message.only_named_regions,
    )


def revoke_request(message: pb.RevokeRequest) -> RevokeRequest:
    """Returns the request of Revoke."""
    return RevokeRequest(message.cluster, _regions(message.regions), message.reason)


def restore_request(message: pb.RestoreRequest) -> RestoreRequest:
    """Returns the request of Restore."""
    return RestoreRequest(message.cluster, _regions(message.regions), message.reason)


def delete_cluster_request(message: pb.DeleteClusterRequest) -> DeleteClusterRequest:
    """Returns the request of DeleteCluster.

    Raises:
        InvalidWaitingPeriodError: The waiting period is not a span of time.
    """
    waiting = message.waiting_period if message.HasField("waiting_period") else None
    return DeleteClusterRequest(
        message.cluster,
        _regions(message.regions),
        message.all_regions,
        None if waiting is None else _milliseconds(waiting),
        message.reason,
        message.validate_only,
    )


def _milliseconds(waiting: Duration) -> int:
    nanos = waiting.nanos
    if abs(nanos) >= _NANOS or waiting.seconds * nanos < 0:
        raise InvalidWaitingPeriodError(
            "waiting_period is not a valid Duration: its nanos must be less than a second, and "
            "have the sign of its seconds",
            field="waiting_period",
        )
    return (waiting.seconds * _NANOS + nanos) // 1_000_000


def undelete_cluster_request(message: pb.UndeleteClusterRequest) -> UndeleteClusterRequest:
    """Returns the request of UndeleteCluster."""
    return UndeleteClusterRequest(message.cluster, _regions(message.regions), message.reason)


def retire_generation_request(message: pb.RetireGenerationRequest) -> RetireGenerationRequest:
    """Returns the request of RetireGeneration."""
    return RetireGenerationRequest(
        message.cluster, message.region, message.generation, message.bring_back, message.reason
    )


def test_key_request(message: pb.TestKeyRequest) -> TestKeyRequest:
    """Returns the request of TestKey.

    Raises:
        InvalidKeySpecError: It has both a region and a geo.
    """
    if message.geo and message.region:
        raise InvalidKeySpecError(
            "the request has both a region and a geo; give one of them", field="geo"
        )
    return TestKeyRequest(key_spec(message.key_spec), _scope(message), message.geo)


def access_policy_request(message: pb.GetAccessPolicyRequest) -> AccessPolicyRequest:
    """Returns the request of GetAccessPolicy."""
    return AccessPolicyRequest(key_spec(message.key_spec), _scope(message), message.seats)


def _scope(message: pb.TestKeyRequest | pb.GetAccessPolicyRequest) -> Scope:
    return Scope(message.cluster, message.region, message.organization or None)


def recheck_request(message: pb.RecheckRequest) -> RecheckRequest:
    """Returns the request of Recheck."""
    key_uri = sought(message.key_uri, "key_uri") or ""
    return RecheckRequest(message.cluster, tuple(message.regions), key_uri)


def cluster_filter(message: pb.ListClustersRequest) -> ClusterFilter:
    """Returns the filter of ListClusters.

    Raises:
        InvalidPageError: The state or health is a number that the contract does not list.
        MalformedRequestError: A text holds a NUL.
    """
    if message.state and message.state not in _STATES:
        raise InvalidPageError("the contract does not list this state; leave it out", field="state")
    if message.health and message.health not in _HEALTH:
        raise InvalidPageError(
            "the contract does not list this health; leave it out", field="health"
        )
    return ClusterFilter(
        organization=sought(message.organization, "organization"),
        state=_STATES.get(message.state),
        health=_HEALTH.get(message.health),
        key_uri=sought(message.key_uri, "key_uri"),
        can_wrap=message.can_wrap if message.HasField("can_wrap") else None,
        name_prefix=sought(message.name_prefix, "name_prefix"),
    )
