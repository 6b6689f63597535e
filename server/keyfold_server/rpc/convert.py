"""Between the contract's messages and plain values; the only file that knows both."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.cluster import Generation, Wrap
from keyfold_server.domain.errors import InvalidInputError, InvalidPageError
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionPolicy, RegionSpec
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.service.changes import Pending
from keyfold_server.service.clusters import Enabling
from keyfold_server.service.probes import Outcome, Step, Tried, Trying
from keyfold_server.service.revocation import Naming
from keyfold_server.service.rotation import Rotating
from keyfold_server.service.status import RegionReport, Report

_STATES: Final = {
    State.ENABLED: res.STATE_ENABLED,
    State.REVOKED: res.STATE_REVOKED,
}
_HEALTH: Final = {health: res.Health.Value(f"HEALTH_{health.value}") for health in Health}
_STEPS: Final = {step: pb.TestStep.Value(f"TEST_STEP_{step.name}") for step in Step}
_OUTCOMES: Final = {o: pb.TestOutcome.Value(f"TEST_OUTCOME_{o.name}") for o in Outcome}

_FROM_STATE: Final = {number: state for state, number in _STATES.items()}
_FROM_HEALTH: Final = {number: health for health, number in _HEALTH.items()}


# From the wire


def key_spec(message: res.KeySpec) -> KeySpec:
    """Returns a key spec; an empty one is refused."""
    return KeySpec.of(message.type, message.uri, message.auth_principal, message.options)


def region_specs(messages: list[res.RegionSpec]) -> tuple[RegionSpec, ...]:
    """Returns region specs; an error names the index."""
    specs = []
    for index, message in enumerate(messages):
        try:
            specs.append(
                RegionSpec(
                    message.region,
                    key_spec(message.key_spec) if message.HasField("key_spec") else None,
                    _policy(message.policy) if message.HasField("policy") else None,
                )
            )
        except InvalidInputError as error:
            raise error.at(region=message.region, field=f"region_specs[{index}]") from None
    return tuple(specs)


def placed(error: InvalidInputError, asked: Message) -> InvalidInputError:
    """Returns an error about a region's key spec with the path of that region's spec.

    Only its provider sees that a key spec is wrong, and no provider knows where it stood.
    """
    if error.field is not None and error.field.startswith("key_spec"):
        for index, message in enumerate(getattr(asked, "region_specs", ())):
            if message.region == error.region:
                return error.at(field=f"region_specs[{index}]")
    return error


def _policy(message: res.RegionPolicy) -> RegionPolicy:
    return RegionPolicy(
        _seconds(message.cache_ttl) if message.HasField("cache_ttl") else None,
        _seconds(message.outage_grace) if message.HasField("outage_grace") else None,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def enabling(message: pb.EnableRequest | pb.AddRegionsRequest) -> Enabling:
    """Returns the request of Enable or AddRegions."""
    return Enabling(
        message.cluster,
        message.organization or None,
        tuple(message.regions),
        region_specs(list(message.region_specs)),
        message.validate_only,
    )


def rotating(message: pb.RotateRequest) -> Rotating:
    """Returns the request of Rotate."""
    return Rotating(
        message.cluster,
        region_specs(list(message.region_specs)),
        message.new_generation,
        message.validate_only,
    )


def naming(message: pb.RevokeRequest | pb.RestoreRequest) -> Naming:
    """Returns the request of Revoke or Restore."""
    return Naming(message.cluster, tuple(message.regions), message.reason)


def trying(message: pb.TestKeyRequest) -> Trying:
    """Returns the request of TestKey."""
    return Trying(
        key_spec(message.key_spec), message.cluster, message.region, message.organization or None
    )


def cluster_filter(message: pb.ListClustersRequest) -> ClusterFilter:
    """Returns the filter of ListClusters; an enum number that is not known is refused."""
    if message.state and message.state not in _FROM_STATE:
        raise InvalidPageError("state is none that the contract lists; leave it out", field="state")
    if message.health and message.health not in _FROM_HEALTH:
        raise InvalidPageError(
            "health is none that the contract lists; leave it out", field="health"
        )
    return ClusterFilter(
        organization=message.organization or None,
        state=_FROM_STATE.get(message.state),
        health=_FROM_HEALTH.get(message.health),
        key_uri=message.key_uri or None,
    )


# To the wire


def cluster_status(report: Report) -> res.ClusterStatus:
    """Returns what is known of a cluster."""
    cluster = report.cluster
    return res.ClusterStatus(
        cluster=cluster.name,
        organization=cluster.organization or "",
        regions=[_region_status(region) for region in report.regions],
        create_time=_time(cluster.created_at),
        update_time=_time(cluster.updated_at),
    )


def _region_status(report: RegionReport) -> res.RegionStatus:
    region = report.region
    spec, policy = region.key_spec, region.policy
    platform = spec.type == PLATFORM
    status = res.RegionStatus(
        region=region.name,
        key_spec=res.KeySpec(
            type=spec.type,
            uri=spec.uri,
            auth_principal=spec.principal,
            options=dict(spec.options),
        ),
        policy=res.RegionPolicy(
            cache_ttl=_span(policy.cache_ttl), outage_grace=_span(policy.outage_grace)
        ),
        state=_STATES[region.state],
        state_time=_time(region.state_since),
        health=res.HEALTH_UNKNOWN,
        key_version=region.newest.current.key_version,
        generations=[_generation(generation) for generation in region.generations],
        key_owner=res.KEY_OWNER_PLATFORM if platform else res.KEY_OWNER_CLUSTER,
    )
    if report.seen is not None:
        _add_seen(status, report.seen, revoked=region.state is not State.ENABLED)
    return status


def _add_seen(status: res.RegionStatus, seen: Observation, *, revoked: bool) -> None:
    status.health = _HEALTH[seen.health]
    status.health_time.CopyFrom(_time(seen.since))
    status.last_check_time.CopyFrom(_time(seen.last_check))
    if seen.last_success is not None:
        status.last_success_time.CopyFrom(_time(seen.last_success))
    if seen.message:
        reason = "" if seen.health is Health.HEALTHY else seen.health.value
        status.last_error.CopyFrom(
            res.KmsError(reason=reason, message=seen.message, request_id=seen.request_id)
        )
    if not revoked:
        if seen.can_wrap is not None:
            status.can_wrap = seen.can_wrap
        if seen.can_unwrap is not None:
            status.can_unwrap = seen.can_unwrap


def _generation(generation: Generation) -> res.Generation:
    return res.Generation(
        generation=generation.number,
        kek_id=generation.kek_id,
        create_time=_time(generation.created_at),
        wraps=[_wrap(wrap) for wrap in generation.wraps],
    )


def _wrap(wrap: Wrap) -> res.GenerationWrap:
    return res.GenerationWrap(
        type=wrap.root.type,
        uri=wrap.root.uri,
        key_version=wrap.key_version,
        create_time=_time(wrap.created_at),
        supersede_time=None if wrap.superseded_at is None else _time(wrap.superseded_at),
    )


def pending_replica(pending: Pending, now: float) -> res.PendingReplica:
    """Returns a replica that has not confirmed; `now` is Unix time in seconds."""
    return res.PendingReplica(
        replica=pending.replica,
        stops_by=_time(int((now + pending.stops_within) * 1000)),
        stops_within=_span(pending.stops_within),
    )


def test_step(tried: Tried) -> pb.TestKeyStep:
    """Returns one step of TestKey."""
    error = tried.error
    return pb.TestKeyStep(
        step=_STEPS[tried.step],
        outcome=_OUTCOMES[tried.outcome],
        reason="" if error is None else error.reason,
        message=tried.message,
        missing_permission="" if error is None else error.missing_permission or "",
        latency=_span(tried.latency),
        request_id=tried.request_id,
    )


def _time(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp


def _span(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    span = Duration()
    span.FromMicroseconds(round(seconds * 1_000_000))
    return span
