"""What a call about a cluster asks for, as the fields of a plan, where nobody can try it yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyfold.cli.input.documents import Cluster
from keyfold.cli.output.documents import key_form, policy_form
from keyfold.cli.output.plan import FieldChange, difference
from keyfold.models.specs import RegionSpec


def asked_of(
    wanted: Cluster, before: dict[str, Any], specs: Iterable[RegionSpec]
) -> tuple[FieldChange, ...]:
    """Returns what a call asks for.

    Args:
        wanted: The cluster as the document declares it.
        before: The form of the cluster; empty: it does not exist.
        specs: The specs of the call.
    """
    old = {one["region"]: one for one in before.get("region_specs", ())}
    new = {spec.region or f"geo {spec.geo}": _spec_form(spec) for spec in specs}
    after = before | {
        "cluster": wanted.cluster,
        **({"organization": wanted.organization} if wanted.organization else {}),
        **({"regions": sorted(wanted.regions)} if wanted.regions else {}),
        "region_specs": [
            *(value for name, value in old.items() if name not in new),
            *(_over(old.get(name), value) for name, value in new.items()),
        ],
    }
    return difference(before, after)


def _over(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Returns a region's form after a spec, which leaves alone what it does not name."""
    keys = {"key_spec", "key_link", "replica_of"}
    kept = old or {}
    if not keys.isdisjoint(new):
        kept = {name: value for name, value in kept.items() if name not in keys}
    return kept | new


def _spec_form(spec: RegionSpec) -> dict[str, Any]:
    form: dict[str, Any] = {"geo": spec.geo} if spec.geo else {"region": spec.region}
    if spec.key_spec is not None:
        form["key_spec"] = key_form(spec.key_spec)
    named = {"replica_of": spec.replica_of, "key_link": spec.key_link}
    form |= {name: value for name, value in named.items() if value}
    return form if spec.policy is None else form | {"policy": policy_form(spec.policy)}
