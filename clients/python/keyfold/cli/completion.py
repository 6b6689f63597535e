"""Shell completion of names that the server knows: clusters, regions, providers, organizations.

A shell waits for it at every key, so the server gets 200 ms, and whatever goes wrong completes
nothing and says nothing: a line of error text in the middle of a prompt helps nobody.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, get_args

import typer

from keyfold.calls import Call, organizations, pages
from keyfold.calls.pages import ClusterFilter
from keyfold.cli.session import Session
from keyfold.models.status import ClusterStatus

WAIT: Final = 0.2
"""Seconds that the server may take for the names."""

_CLUSTERS: Final = 1_000
"""Most names of clusters or organizations that are offered: one page."""

_LOOKED_AT: Final = 100
"""Clusters whose regions and providers are offered where the line names no cluster."""

_PROVIDERS: Final = (
    "AWS_KMS",
    "AZURE_KEY_VAULT",
    "GCP_CLOUD_KMS",
    "LOCAL",
    "PLATFORM",
    "VAULT_TRANSIT",
)
"""The providers of this release. A server may have others, and clusters show them."""

Open = Callable[[typer.Context], Session]
"""Opens a session with the common options of a command that is being typed."""

_Names = Callable[[Open, typer.Context, str], list[str]]


def completing(parameter: inspect.Parameter, open_: Open) -> inspect.Parameter:
    """Returns a command's parameter with the completion for names of its kind, if it has one."""
    complete = _KINDS.get(parameter.name)
    if complete is None or not get_args(parameter.annotation):
        return parameter
    kind, info = get_args(parameter.annotation)
    if info.autocompletion is not None:
        return parameter
    info = copy.copy(info)

    # Typer tells what it passes by the types of the parameters.
    def names(ctx: typer.Context, incomplete: str) -> list[str]:
        with suppress(Exception):
            return complete(open_, ctx, incomplete)
        return []

    info.autocompletion = names
    return parameter.replace(annotation=Annotated[kind, info])


def _clusters(open_: Open, parsed: typer.Context, incomplete: str) -> list[str]:
    """Returns the names of clusters that begin with what is typed, without those on the line."""
    given = [parsed.params.get(name) or () for name in ("cluster", "clusters")]
    found = _listed(open_, parsed, ClusterFilter(name_prefix=incomplete), _CLUSTERS)
    return [one.cluster for one in found if not any(one.cluster in each for each in given)]


def _regions(open_: Open, parsed: typer.Context, incomplete: str) -> list[str]:
    """Returns the regions of the cluster on the line, or of others; after `=`, providers."""
    region, equals, provider = incomplete.partition("=")
    if equals:
        return [f"{region}={one}," for one in _providers(open_, parsed, provider)]
    found = _those_meant(open_, parsed)
    return _beginning(incomplete, (name for one in found for name in _regions_of(one)))


def _providers(open_: Open, parsed: typer.Context, incomplete: str) -> list[str]:
    """Returns the providers of this release, and those that clusters use."""
    keys = (each.key_spec for one in _those_meant(open_, parsed) for each in one.regions)
    return _beginning(incomplete, [*_PROVIDERS, *(key.type for key in keys)])


def _organizations(open_: Open, parsed: typer.Context, incomplete: str) -> list[str]:
    found = _asked(open_, parsed, organizations.first_organizations(_CLUSTERS))
    return _beginning(incomplete, (one.organization for one in found))


_KINDS: Final[Mapping[str, _Names]] = {
    "cluster": _clusters,
    "clusters": _clusters,
    "key_type": _providers,
    "provider": _providers,
    "organization": _organizations,
    "region": _regions,
    "replica_of": _regions,
}
"""What completes the parameters of a name."""


def _those_meant(open_: Open, parsed: typer.Context) -> Iterable[ClusterStatus]:
    """Returns the cluster on the line if it exists, else some clusters."""
    # Behind an option that still lacks its value, the parser leaves the arguments unparsed.
    named = parsed.params.get("cluster") or next(iter(parsed.args), "")
    if isinstance(named, str) and named:
        found = _listed(open_, parsed, ClusterFilter(name_prefix=named), 1)
        if found and found[0].cluster == named:
            return found
    return _listed(open_, parsed, ClusterFilter(), _LOOKED_AT)


def _regions_of(cluster: ClusterStatus) -> Iterable[str]:
    return (*(one.region for one in cluster.regions), *cluster.declared_regions)


def _listed(
    open_: Open, parsed: typer.Context, which: ClusterFilter, size: int
) -> tuple[ClusterStatus, ...]:
    return _asked(open_, parsed, pages.first_page(which, size))


def _asked(open_: Open, parsed: typer.Context, call: Call[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    """Returns what a call reads; nothing, if the server does not answer in time, or refuses."""
    with suppress(Exception):
        session = open_(parsed)
        with session.client:
            return session.ask(call, timeout=WAIT)[0]
    return ()


def _beginning(prefix: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(prefix)})
