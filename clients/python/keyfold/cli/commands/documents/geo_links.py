"""Geos whose keys a key link gives: the regions that stand behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keyfold.cli.input.documents import Cluster
from keyfold.models.organizations import KeyLink
from keyfold.models.specs import RegionSpec


def with_link_regions(wanted: Cluster, links: Mapping[str, KeyLink]) -> Cluster:
    """Returns a cluster in which each region of a geo's key link stands by itself.

    The server makes of such a geo what regions would be that each name the link, and a status says
    no more of the geo.

    Args:
        wanted: The cluster as the file declares it.
        links: The key links that its organization has, by name. Of another one only the server can
            tell the regions.
    """
    specs: list[RegionSpec] = []
    for spec in wanted.specs:
        link = links.get(spec.key_link)
        if link is not None and spec.geo and spec.geo == link.geo:
            specs += (replace(spec, geo="", region=one.region) for one in link.replicas)
        else:
            specs.append(spec)
    return replace(wanted, specs=tuple(specs))
