"""Resources as documents: the fields that a caller sets, as `keyfold apply` takes them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

import yaml

from keyfold.models.organizations import DefaultKey, KeyLink, Organization
from keyfold.models.specs import KeySpec, RegionPolicy
from keyfold.models.status import ClusterStatus, RegionStatus, State
from keyfold.v1 import organization_service_pb2 as api

_DUMPER: Final[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[misc]
    """Writes lists below their names with an indent, and quotes what a terminal must not see."""


def _represent(dumper: Any, text: str) -> Any:
    if not text.isprintable():
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    return dumper.represent_str(text)


_Dumper.add_representer(str, _represent)


def as_yaml(document: Mapping[str, Any]) -> str:
    """Returns a document as YAML."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    # YAML takes some characters for printable that move a terminal's text, such as those that turn
    # its direction. They stand in double quotes, where an escape means the same.
    return "".join(
        one if one.isprintable() or one == "\n" else f"\\U{ord(one):08x}" for one in text
    )


def organization_form(one: Organization) -> dict[str, Any]:
    """Returns an organization's fields."""
    known = one.default_key is not DefaultKey.UNSPECIFIED
    return {
        "organization": one.organization,
        "display_name": one.display_name,
        **({"default_key": default_key_name(one.default_key)} if known else {}),
        "cluster_patterns": list(one.cluster_patterns),
        "max_clusters": one.max_clusters,
        "max_key_links": one.max_key_links,
    }


def default_key_name(rule: DefaultKey) -> str:
    """Returns the contract's name of a rule; that of the default for UNSPECIFIED."""
    default = DefaultKey.REQUIRE_OWN if rule is DefaultKey.UNSPECIFIED else rule
    return api.DefaultKey.Name(default.to_message())


def link_form(link: KeyLink) -> dict[str, Any]:
    """Returns a key link's fields."""
    return {
        "organization": link.organization,
        "key_link": link.key_link,
        "description": link.description,
        **({"geo": link.geo} if link.geo else {"region": link.region}),
        **({"key_spec": key_form(link.key_spec)} if link.key_spec else {}),
    }


def cluster_form(status: ClusterStatus) -> dict[str, Any]:
    """Returns a cluster's fields. Regions that are deleted are not among them."""
    regions = [one for one in status.regions if one.state is not State.DELETED]
    return {
        "cluster": status.cluster,
        **({"organization": status.organization} if status.organization else {}),
        **({"regions": list(status.declared_regions)} if status.declared_regions else {}),
        "region_specs": list(map(region_form, regions)),
    }


def region_form(region: RegionStatus) -> dict[str, Any]:
    """Returns a region's spec, in which a link or a source stands in place of the key."""
    key: dict[str, Any]
    if region.key_link:
        key = {"key_link": region.key_link}
    elif region.replica_of:
        key = {"replica_of": region.replica_of}
    else:
        key = {"key_spec": key_form(region.key_spec)}
    return {"region": region.region, **key, "policy": policy_form(region.policy)}


def key_form(key: KeySpec) -> dict[str, Any]:
    """Returns a key spec's fields, without those that are empty."""
    shown = {
        "type": key.type,
        "uri": key.uri,
        "auth_principal": key.auth_principal,
        "options": dict(sorted(key.options.items())),
    }
    return {name: value for name, value in shown.items() if value}


def policy_form(policy: RegionPolicy) -> dict[str, Any]:
    """Returns a policy's fields. Those that take the server's settings are not among them."""
    spans = {"cache_ttl": policy.cache_ttl, "outage_grace": policy.outage_grace}
    shown = {name: span_text(span) for name, span in spans.items() if span is not None}
    return {**shown, "auto_rotate": policy.auto_rotate}


def span_text(span: timedelta) -> str:
    """Returns a duration in the contract's JSON form, such as `60s`."""
    whole, rest = divmod(span // timedelta(microseconds=1), 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".") + "s"


def document_of(
    organizations: Iterable[Organization],
    key_links: Iterable[KeyLink],
    clusters: Iterable[ClusterStatus],
) -> dict[str, Any]:
    """Returns a document with these resources, under those names that have any."""
    shown = {
        "organizations": list(map(organization_form, organizations)),
        "key_links": list(map(link_form, key_links)),
        "clusters": list(map(cluster_form, clusters)),
    }
    return {name: value for name, value in shown.items() if value}
