"""The regions of the Keyfold in memory: how one is made, rotated, found and used."""

from __future__ import annotations

import time

import grpc

from fake_failures import Failure
from keyfold.v1 import resources_pb2 as resources

BEGAN = 1_800_000_000
"""Seconds of Unix time at which everything was made."""


def region_of(
    status: resources.ClusterStatus, name: str, *, revoked: bool = False
) -> resources.RegionStatus:
    """Returns a region; a revoked one only to those who may have it."""
    region = next((one for one in status.regions if one.region == name), None)
    where = {"cluster": status.cluster, "region": name, "source": "keyfold"}
    if region is None:
        raise Failure(grpc.StatusCode.NOT_FOUND, "REGION_NOT_FOUND", f"no region {name}", where)
    if region.state == resources.STATE_REVOKED and not revoked:
        raise Failure(grpc.StatusCode.FAILED_PRECONDITION, "REVOKED", f"{name} is revoked", where)
    return region


def used(generation: resources.Generation) -> None:
    """Notes that a generation wraps or unwraps; refuses a retired one."""
    if generation.HasField("retire_time"):
        raise Failure(
            grpc.StatusCode.FAILED_PRECONDITION,
            "GENERATION_RETIRED",
            f"generation {generation.generation} was taken out of use",
        )
    generation.last_use_time.FromSeconds(int(time.time()))


def copied(status: resources.ClusterStatus) -> resources.ClusterStatus:
    """Returns a cluster that can be changed without the store."""
    copy = resources.ClusterStatus()
    copy.CopyFrom(status)
    return copy


def local_spec(region: str, uri: str) -> resources.RegionSpec:
    """Returns a region spec with a key of the type LOCAL."""
    key_spec = resources.KeySpec(type="LOCAL", uri=uri)
    return resources.RegionSpec(region=region, key_spec=key_spec)


def specs_of(status: resources.ClusterStatus) -> list[resources.RegionSpec]:
    """Returns the regions of a cluster with their keys."""
    return [
        resources.RegionSpec(region=one.region, key_spec=one.key_spec) for one in status.regions
    ]


def resolved(
    spec: resources.RegionSpec, index: int, known: list[resources.RegionSpec]
) -> resources.RegionSpec:
    """Returns a spec with its key: its own, or the replica of another region's."""
    if spec.HasField("key_spec"):
        return spec
    if not spec.replica_of:
        raise Failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "KEY_SPEC_MISSING",
            f"region {spec.region} has no key spec",
            {"region": spec.region, "source": "keyfold"},
            {f"region_specs[{index}].key_spec": "is missing"},
        )
    origin = next((one for one in known if one.region == spec.replica_of), None)
    if origin is None or "key/mrk-" not in origin.key_spec.uri:
        raise Failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_KEY_SPEC",
            f"the key of region {spec.replica_of} has no replicas",
            {"region": spec.region, "source": "keyfold"},
            {f"region_specs[{index}].replica_of": "is no multi-Region key"},
        )
    parts = origin.key_spec.uri.split(":")
    found = resources.RegionSpec(
        region=spec.region,
        key_spec=origin.key_spec,
        policy=spec.policy if spec.HasField("policy") else None,
    )
    found.key_spec.uri = ":".join([*parts[:3], spec.region, *parts[4:]])
    return found


def region_status(spec: resources.RegionSpec) -> resources.RegionStatus:
    """Returns a region as it is once it is enabled."""
    status = resources.RegionStatus(
        region=spec.region,
        key_spec=spec.key_spec,
        policy=spec.policy,
        state=resources.STATE_ENABLED,
        health=resources.HEALTH_HEALTHY,
        key_version="1",
        can_wrap=True,
        can_unwrap=True,
        key_owner=resources.KEY_OWNER_CLUSTER,
    )
    rewrap(status, fresh=True)
    for stamp in (status.last_check_time, status.state_time):
        stamp.FromSeconds(BEGAN)
    return status


def rewrap(region: resources.RegionStatus, *, fresh: bool) -> None:
    """Wraps every generation under the region's key, with a new one if that is wanted."""
    if fresh:
        number = len(region.generations) + 1
        made = region.generations.add(generation=number, kek_id=bytes(15) + bytes([number]))
        made.create_time.FromSeconds(BEGAN)
    key = region.key_spec
    for generation in region.generations:
        if generation.wraps:
            generation.wraps[-1].supersede_time.FromSeconds(BEGAN)
        wrap = generation.wraps.add(type=key.type, uri=key.uri, key_version=region.key_version)
        wrap.create_time.FromSeconds(BEGAN)
