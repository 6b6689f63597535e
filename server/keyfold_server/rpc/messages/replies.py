"""Converts plain values to the contract's response messages; `requests` goes the other way."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.cluster import Generation, Region, SupersededWrap, Wrap
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RegionPolicy
from keyfold_server.domain.lifecycle import State
from keyfold_server.rpc.messages.status import to_status
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.life.deletion import DeleteResult
from keyfold_server.service.life.rechecks import Rechecked
from keyfold_server.service.life.reports import ClusterReport, RegionReport
from keyfold_server.service.root_keys.access_policies import AccessPolicyResult
from keyfold_server.service.root_keys.geo_trials import GeoTrialResult
from keyfold_server.service.root_keys.trial_results import Outcome, Step, StepResult, TestKeyResult

STATES: Final = {state: res.State.Value(f"STATE_{state.name}") for state in State}
HEALTH: Final = {health: res.Health.Value(f"HEALTH_{health.value}") for health in Health}
_STEPS: Final = {step: pb.TestStep.Value(f"TEST_STEP_{step.name}") for step in Step}
_OUTCOMES: Final = {o: pb.TestOutcome.Value(f"TEST_OUTCOME_{o.name}") for o in Outcome}


def cluster_status(report: ClusterReport) -> res.ClusterStatus:
    """Returns a cluster's status."""
    cluster = report.cluster
    return res.ClusterStatus(
        cluster=cluster.name,
        organization=cluster.organization or "",
        regions=[_region_status(region) for region in report.regions],
        create_time=time_of(cluster.created_at),
        update_time=time_of(cluster.updated_at),
        declared_regions=report.declared,
        geos=[
            res.GeoStatus(geo=geo, missing_regions=missing) for geo, missing in report.geos.items()
        ],
    )


def _region_status(report: RegionReport) -> res.RegionStatus:
    region = report.region
    spec, policy = region.key_spec, region.policy
    status = res.RegionStatus(
        region=region.name,
        key_spec=key_spec(spec),
        policy=region_policy(policy),
        state=STATES[region.state],
        state_time=time_of(region.state_since),
        health=res.HEALTH_UNKNOWN,
        key_version=region.newest.current.key_version,
        generations=[_generation(g, report) for g in region.generations],
        key_owner=_owner(region),
        key_region=report.key_region,
        notices=report.notices,
        purge_time=time_if(region.purge_time),
        final_after=time_if(report.final_after),
        replica_of=report.replica_of,
        geo=region.geo,
        key_link=region.link,
    )
    if report.described is not None:
        status.can_describe = report.described.health is Health.HEALTHY
    if report.seen is not None:
        _add_seen(status, report.seen, revoked=not region.in_service)
    return status


def _owner(region: Region) -> res.KeyOwner.ValueType:
    """Returns whose root key a region uses."""
    if region.link:
        return res.KEY_OWNER_ORGANIZATION
    return res.KEY_OWNER_PLATFORM if region.key_spec.type == PLATFORM else res.KEY_OWNER_CLUSTER


def _add_seen(status: res.RegionStatus, seen: Observation, *, revoked: bool) -> None:
    status.health = HEALTH[seen.health]
    status.health_time.CopyFrom(time_of(seen.since))
    status.last_check_time.CopyFrom(time_of(seen.last_check))
    if seen.last_success is not None:
        status.last_success_time.CopyFrom(time_of(seen.last_success))
    if seen.message:
        status.last_error.CopyFrom(
            res.KmsError(
                # An observation by an earlier release has no reason.
                reason=seen.reason or ("" if seen.health is Health.HEALTHY else seen.health.value),
                message=seen.message,
                request_id=seen.request_id,
                missing_permission=seen.missing_permission,
            )
        )
    if not revoked:
        if seen.can_wrap is not None:
            status.can_wrap = seen.can_wrap
        if seen.can_unwrap is not None:
            status.can_unwrap = seen.can_unwrap


def _generation(generation: Generation, report: RegionReport) -> res.Generation:
    old = [_wrap(w, w.superseded_at) for w in report.superseded if w.kek_id == generation.kek_id]
    return res.Generation(
        generation=generation.number,
        kek_id=generation.kek_id,
        create_time=time_of(generation.created_at),
        wraps=[*old, _wrap(generation.current, None)],
        retire_time=time_if(generation.retired_at),
        last_use_time=time_if(report.last_uses.get(generation.kek_id)),
    )


def _wrap(wrap: Wrap | SupersededWrap, superseded_at: int | None) -> res.GenerationWrap:
    return res.GenerationWrap(
        type=wrap.root.type,
        uri=wrap.root.uri,
        key_version=wrap.key_version,
        create_time=time_of(wrap.created_at),
        supersede_time=time_if(superseded_at),
    )


def pending_replica(pending: PendingReplica, now: float) -> res.PendingReplica:
    """Returns a replica that has not confirmed yet; `now` is Unix time in seconds."""
    return res.PendingReplica(
        replica=pending.replica,
        stops_by=time_of(int((now + pending.stops_within) * 1000)),
        stops_within=span(pending.stops_within),
    )


def deleted(done: DeleteResult) -> pb.DeleteClusterResponse:
    """Returns the response of DeleteCluster, all but the pending replicas."""
    return pb.DeleteClusterResponse(
        status=None if done.report is None else cluster_status(done.report),
        losses=[
            pb.UnreadableGeneration(
                region=loss.region,
                generation=loss.generation.number,
                kek_id=loss.generation.kek_id,
                create_time=time_of(loss.generation.created_at),
                last_use_time=time_if(loss.last_use),
                recent_uses=loss.recent_uses,
            )
            for loss in done.losses
        ],
        purge_time=time_if(done.purge_time),
        final_after=time_if(done.final_after),
        erased=done.erased,
        confirmed=done.confirmed,
        replayed=done.mutation.replayed,
        superseded=done.mutation.superseded,
    )


def tested(trial: TestKeyResult) -> pb.TestKeyResponse:
    """Returns the response of TestKey."""
    return pb.TestKeyResponse(
        accessible=trial.accessible,
        steps=[_test_step(tried) for tried in trial.steps],
        key_version=trial.key_version,
        summary=trial.summary,
        key_region=trial.place.key_region,
        notices=trial.place.notices,
    )


def tested_in_geo(trials: GeoTrialResult) -> pb.TestKeyResponse:
    """Returns the response of TestKey for a geo."""
    reply = tested(trials.own)
    reply.accessible, reply.summary = trials.accessible, trials.summary
    del reply.notices[:]
    for each in trials.replicas:
        region = each.region
        reply.notices.extend(f"region {region}: {line}" for line in each.result.place.notices)
        reply.replicas.append(
            pb.TestKeyReplica(
                region=region,
                key_spec=key_spec(each.key_spec),
                accessible=each.result.accessible,
                reason=each.reason,
                summary=each.summary,
                steps=[_test_step(tried) for tried in each.result.steps],
            )
        )
    return reply


def region_policy(policy: RegionPolicy) -> res.RegionPolicy:
    """Returns a policy as the contract has it."""
    return res.RegionPolicy(
        cache_ttl=_span_of(policy.cache_ttl),
        outage_grace=_span_of(policy.outage_grace),
        auto_rotate=policy.auto_rotate,
    )


def key_spec(spec: KeySpec) -> res.KeySpec:
    """Returns a key spec as the contract has it."""
    return res.KeySpec(
        type=spec.type,
        uri=spec.uri,
        auth_principal=spec.principal,
        options=dict(spec.options),
    )


def rechecked(done: Rechecked) -> pb.RecheckResult:
    """Returns what a KMS answered about the root key of a region."""
    reply = pb.RecheckResult(
        cluster=done.cluster,
        region=done.region,
        health=HEALTH[done.health],
        can_unwrap=done.can_unwrap,
        can_wrap=done.can_wrap,
    )
    if done.generation is not None:
        wrap = done.generation.current
        reply.type, reply.uri, reply.key_version = wrap.root.type, wrap.root.uri, wrap.key_version
    error = done.error or done.wrap_error
    if error is not None:
        reply.error.CopyFrom(to_status(error))
    return reply


def access_policy(described: AccessPolicyResult) -> pb.GetAccessPolicyResponse:
    """Returns the response of GetAccessPolicy."""
    policy = described.policy
    return pb.GetAccessPolicyResponse(
        principal=policy.principal,
        external_id=described.external_id,
        bound_context=policy.bound_context,
        statements=[
            pb.AccessStatement(
                title=statement.title,
                attach_to=statement.attach_to,
                language=statement.language,
                text=statement.text,
                permissions=statement.permissions,
                by_vendor=statement.by_vendor,
            )
            for statement in policy.statements
        ],
        notices=policy.notices,
        seats=described.seats,
    )


def _test_step(tried: StepResult) -> pb.TestKeyStep:
    error = tried.error
    return pb.TestKeyStep(
        step=_STEPS[tried.step],
        outcome=_OUTCOMES[tried.outcome],
        reason="" if error is None else error.reason,
        message=tried.message,
        missing_permission="" if error is None else error.missing_permission or "",
        latency=span(tried.latency),
        request_id=tried.request_id,
    )


def time_of(milliseconds: int) -> Timestamp:
    """Returns a time that is in milliseconds of Unix time."""
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp


def time_if(milliseconds: int | None) -> Timestamp | None:
    """Returns a time as the contract has it, or None."""
    return None if milliseconds is None else time_of(milliseconds)


def _span_of(seconds: float | None) -> Duration | None:
    return None if seconds is None else span(seconds)


def span(seconds: float) -> Duration:
    """Returns a span of time as the contract has it."""
    span = Duration()
    span.FromMicroseconds(round(seconds * 1_000_000))
    return span
