"""The steps to the clusters that a document declares.

A cluster that exists is never replaced: a region with another key or policy is rotated in place, a
further region is added, and what the document does not name stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from keyfold import calls
from keyfold.cli.commands.documents import actual
from keyfold.cli.commands.documents.asked import asked_of
from keyfold.cli.commands.documents.planned_keys import PlannedKeys, Trial
from keyfold.cli.commands.documents.step import Step
from keyfold.cli.input.documents import Cluster, Document, Entry
from keyfold.cli.output.documents import cluster_form
from keyfold.cli.output.plan import Action, FieldChange, difference
from keyfold.cli.session import Session
from keyfold.errors import (
    ClusterNameNotAllowedError,
    KeyDeletedError,
    KeyfoldError,
    NotAllowedError,
    TooManyClustersError,
)
from keyfold.models.results import Change as Changed
from keyfold.models.specs import RegionSpec
from keyfold.models.status import ClusterStatus, RegionStatus, State

_RULES: Final[tuple[type[KeyfoldError], ...]] = (
    ClusterNameNotAllowedError,
    NotAllowedError,
    TooManyClustersError,
)
"""The errors of a new cluster that a change of its organization may be the remedy for. What it will
be held to then, `limits` has checked."""


def cluster_name(name: str) -> str:
    """Returns the name of a cluster in plans."""
    return f"cluster/{name}"


def region_name(cluster: str, region: str) -> str:
    """Returns the name of a region in plans."""
    return f"region/{cluster}/{region}"


@dataclass(slots=True)
class _Work:
    """What a cluster needs.

    Attributes:
        rotate: The specs of regions with another key or policy.
        add: The specs of further regions.
        declare: Whether its regions have to be declared.
    """

    rotate: list[RegionSpec] = field(default_factory=list)
    add: list[RegionSpec] = field(default_factory=list)
    declare: bool = False


def cluster_steps(
    document: Document, entry: Entry[Cluster], found: ClusterStatus | None, keys: PlannedKeys
) -> Iterator[Step]:
    """Yields the steps to one cluster.

    Raises:
        InputError: It belongs to another organization.
        KeyDeletedError: A region that the document names is deleted.
    """
    if found is None:
        yield _enable(entry.value, keys)
        return
    wanted = entry.value
    if wanted.organization not in ("", found.organization):
        raise document.wrong(
            entry,
            f"cluster {wanted.cluster} does not belong to organization {wanted.organization}; a "
            "cluster's organization never changes",
        )
    work = _work(wanted, found)
    rotated = {spec.region for spec in work.rotate}
    added = {spec.region for spec in work.add}
    add_first = any(spec.replica_of in added for spec in work.rotate)
    rests = any(spec.replica_of in rotated for spec in work.add)
    steps = []
    if work.rotate:
        steps.append(_rotate(wanted, found, work.rotate, keys, rests=add_first))
    if work.add or work.declare:
        steps.append(_add(wanted, found, work.add, keys, rests=rests and not add_first))
    yield from reversed(steps) if add_first else steps


def _work(wanted: Cluster, found: ClusterStatus) -> _Work:
    work = _Work()
    there = {one.region: one for one in found.regions}
    for spec in wanted.specs:
        if spec.geo:
            _sort_geo(spec, found, work)
        elif (region := there.get(spec.region)) is None:
            work.add.append(spec)
        elif region.state is State.DELETED:
            raise KeyDeletedError(
                f"cluster {wanted.cluster}: region {spec.region} is deleted; take it back with "
                "keyfold undelete, or out of the file",
                metadata={"cluster": wanted.cluster, "region": spec.region},
            )
        elif (changed := _changed(spec, region)) is not None:
            work.rotate.append(changed)
    moving = {spec.region for spec in work.rotate if spec.key_spec or spec.key_link}
    sources = {spec.region: spec.replica_of for spec in wanted.specs}
    # A replica that is named without a key, while its source moves, would stop being one.
    work.rotate = [
        replace(spec, replica_of=sources[spec.region])
        if sources.get(spec.region) in moving
        else spec
        for spec in work.rotate
    ]
    work.declare = bool({*wanted.regions} - {*found.declared_regions})
    return work


def _changed(spec: RegionSpec, region: RegionStatus) -> RegionSpec | None:
    """Returns the spec that rotates a region to what the document says; None: it is so."""
    policy = None if spec.policy in (None, region.policy) else spec.policy
    same_key = (
        region.key_link == spec.key_link
        if spec.key_link
        else region.replica_of == spec.replica_of
        if spec.replica_of
        else spec.key_spec is None
        or (spec.key_spec == region.key_spec and not (region.key_link or region.replica_of))
    )
    if same_key:
        return None if policy is None else RegionSpec(spec.region, policy=policy)
    return replace(spec, policy=policy)


def _sort_geo(spec: RegionSpec, found: ClusterStatus, work: _Work) -> None:
    """Adds what a geo's regions need.

    The region that has the geo's key itself is the source of the others, which are its replicas.
    """
    source = next((one for one in found.regions if one.geo == spec.geo), None)
    lacks = next((one.missing_regions for one in found.geos if one.geo == spec.geo), ())
    if source is None or lacks:
        work.add.append(spec)
    if source is None:
        return
    regions = [one for one in found.regions if source.region in (one.region, one.replica_of)]
    key = (
        all(one.key_link == spec.key_link for one in regions)
        if spec.key_link
        else spec.key_spec is None or any(one.key_spec == spec.key_spec for one in regions)
    )
    if not key or any(spec.policy not in (None, one.policy) for one in regions):
        work.rotate.append(spec)


def _enable(wanted: Cluster, keys: PlannedKeys) -> Step:
    def call(specs: list[RegionSpec], *, validate: bool) -> Any:
        return calls.enable(
            wanted.cluster,
            specs,
            organization=wanted.organization,
            regions=wanted.regions,
            request_id=None,
            validate_only=validate,
        )

    # A region that is only declared has no spec whose key could be tried.
    declared = [*wanted.specs]
    if not any(spec.geo for spec in wanted.specs):
        named = {spec.region for spec in wanted.specs}
        declared += (RegionSpec(each) for each in wanted.regions if each not in named)
    trial = keys.trial(wanted.organization, declared)
    return Step(
        cluster_name(wanted.cluster),
        Action.CREATE,
        asked_of(wanted, {}, declared),
        call([*wanted.specs], validate=False),
        None if trial.specs is None else call(trial.specs, validate=True),
        _reader(trial),
        lambda session: cluster_now(session, wanted.cluster),
        None,
        excused=_RULES if keys.changes_rules(wanted.organization) else (),
    )


def _rotate(
    wanted: Cluster,
    found: ClusterStatus,
    specs: list[RegionSpec],
    keys: PlannedKeys,
    *,
    rests: bool,
) -> Step:
    def call(chosen: list[RegionSpec], *, validate: bool) -> Any:
        return calls.rotate(
            wanted.cluster,
            chosen,
            new_generation=False,
            request_id=None,
            validate_only=validate,
            only_named_regions=False,
        )

    # A spec without a key stays with the key that the region has.
    trial = keys.trial(found.organization, [spec for spec in specs if spec.key_link])
    tried = None
    if trial.specs is not None and not rests:
        named = iter(trial.specs)
        tried = call([next(named) if spec.key_link else spec for spec in specs], validate=True)
    return Step(
        cluster_name(wanted.cluster),
        Action.ROTATE,
        asked_of(wanted, cluster_form(found), specs),
        call(specs, validate=False),
        tried,
        _reader(trial),
        lambda session: cluster_now(session, wanted.cluster),
        cluster_form(found),
        seen(found),
    )


def _add(
    wanted: Cluster,
    found: ClusterStatus,
    specs: list[RegionSpec],
    keys: PlannedKeys,
    *,
    rests: bool,
) -> Step:
    def call(chosen: list[RegionSpec], *, validate: bool) -> Any:
        return calls.add_regions(
            wanted.cluster,
            chosen,
            organization=wanted.organization,
            regions=wanted.regions,
            request_id=None,
            validate_only=validate,
            into_revoked=False,
        )

    known = {one.region for one in found.regions} | {spec.region for spec in specs}
    named = [*specs]
    if not any(spec.geo for spec in wanted.specs):
        named += (RegionSpec(each) for each in wanted.regions if each not in known)
    trial = keys.trial(found.organization, named)
    return Step(
        cluster_name(wanted.cluster),
        Action.ADD_REGIONS,
        asked_of(wanted, cluster_form(found), named),
        call(specs, validate=False),
        None if rests or trial.specs is None else call(trial.specs, validate=True),
        _reader(trial),
        lambda session: cluster_now(session, wanted.cluster),
        cluster_form(found),
        seen(found),
    )


def _reader(trial: Trial) -> Any:
    def changed(result: Changed, before: dict[str, Any]) -> tuple[FieldChange, ...]:
        return difference(before, cluster_form(trial.as_it_will_be(result.status)))

    return changed


def cluster_now(session: Session, name: str) -> tuple[dict[str, Any] | None, str]:
    """Reads the form of a cluster, and what else tells that somebody changed it."""
    found = actual.cluster(session, name)
    return (None, "") if found is None else (cluster_form(found), seen(found))


def seen(found: ClusterStatus) -> str:
    """Returns what tells that somebody changed a cluster, beside its form."""
    states = ", ".join(f"{one.region} {one.state.value}" for one in found.regions)
    return f"{found.update_time} {states}"
