"""The commands that change which key a cluster uses: `rotate`, `retire-generation`."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.cli.errors import InputError
from keyfold.cli.input import region_specs
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.options import (
    AutoRotate,
    CacheTtl,
    Cluster,
    File,
    Geo,
    KeyLinkName,
    OutageGrace,
    Reason,
    RequestId,
    RotatedRegion,
    Yes,
)
from keyfold.cli.input.region_specs import NO_CHANGE, PolicyChange
from keyfold.cli.output.changes import show_change, show_confirmed, show_pending
from keyfold.cli.output.status import last_use, show_plan
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.models.results import Rotated
from keyfold.models.specs import RegionSpec
from keyfold.models.status import ClusterStatus, Generation

_RECENT: Final = timedelta(days=1)
"""A generation that was used this recently is likely to be used again."""

_NEWEST: Final = ", or --region NAME or --all-regions for the newest version of their keys"


def rotate(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: RotatedRegion = None,
    geo: Geo = None,
    key_link: KeyLinkName = None,
    all_regions: Annotated[
        bool,
        typer.Option("--all-regions", help="Move every region to its key's newest version."),
    ] = False,
    new_generation: Annotated[
        bool,
        typer.Option(
            "--new-generation", help="Also make a new key encryption key for each region."
        ),
    ] = False,
    only_named_regions: Annotated[
        bool,
        typer.Option(
            "--only-named-regions",
            help="Leave replicas of these regions' keys behind, with the keys that they have.",
        ),
    ] = False,
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "--validate-only",
            help="Try the keys and show the change, but store nothing.",
        ),
    ] = False,
    request_id: RequestId = None,
) -> None:
    """Move regions to a new root key or key version.

    A region named without a key moves to the newest version of the root key that it has; with
    --key-link, to the key of that link. A region with a link leaves it when it gets a key. Wrapped
    keys stay valid. Replicas of a region's key move along, or the command fails and names those
    that cannot. Keyfold needs the old key or version until the command has succeeded, but not
    afterwards. Of a region's policy, only what --cache-ttl, --outage-grace and --auto-rotate set is
    changed.
    """
    if all_regions and (file or region or geo or key_link):
        raise InputError("give --all-regions or name the regions, but not both")
    policy = region_specs.policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    before: ClusterStatus | None = None
    if all_regions or policy != NO_CHANGE or (dry_run and not session.for_programs):
        status, _ = session.ask(calls.get_status(cluster))
        before = status
    specs = (
        [RegionSpec(one.region) for one in before.regions]
        if before and all_regions
        else region_specs.read(
            file, region or (), also=_NEWEST, geos=geo or (), key_link=key_link
        ).specs
    )
    result, message = session.ask(
        calls.rotate(
            cluster,
            [_with_policy(one, policy, before) for one in specs],
            new_generation=new_generation,
            request_id=request_id or None,
            validate_only=dry_run,
            only_named_regions=only_named_regions,
        )
    )
    if session.printed(message):
        return
    if before and dry_run:
        typer.echo("valid; nothing was stored, and the rotation would be:")
        show_plan(before, result.status, {one.region for one in specs} | _changed(before, result))
    else:
        show_change(result, "rotated")
        show_pending(result.pending)


def _changed(before: ClusterStatus, rotated: Rotated) -> set[str]:
    """Returns the regions with another key or generation than before: also those not named."""

    def of(status: ClusterStatus) -> dict[str, object]:
        return {
            one.region: (one.key_spec, one.key_version, len(one.generations))
            for one in status.regions
        }

    then, now = of(before), of(rotated.status)
    return {region for region in now if now[region] != then.get(region)}


def _with_policy(
    spec: RegionSpec, policy: PolicyChange, before: ClusterStatus | None
) -> RegionSpec:
    """Returns a spec with its policy after the rotation.

    Rotate replaces a policy as a whole, so values that no option sets come from the region.
    """
    if before and policy != NO_CHANGE and spec.policy is None:
        today = {one.region: one.policy for one in before.regions}
        spec = replace(spec, policy=today.get(spec.region))
    return policy.over(spec)


def retire_generation(
    session: Session,
    cluster: Cluster,
    *,
    region: Annotated[
        str, typer.Option(metavar="NAME", help="The region's name.", show_default=False)
    ],
    generation: Annotated[
        int, typer.Option(min=1, help="The generation's number.", show_default=False)
    ],
    bring_back: Annotated[
        bool, typer.Option("--bring-back", help="Take a retired generation back into use.")
    ] = False,
    reason: Reason = "",
    yes: Yes = False,
    request_id: RequestId = None,
) -> None:
    """Take an old generation of keys out of use.

    Keys that were wrapped under it no longer unwrap. Move the wrapped keys that you still need to
    the newest generation first, with rewrap. The newest generation itself cannot be retired. The
    command shows when the generation was last used, and asks for confirmation; without a terminal
    to ask at it needs --yes. --bring-back asks nothing.
    """
    if not (yes or bring_back):
        if sys.stdin.isatty():
            status, _ = session.ask(calls.get_status(cluster))
            for line in _before_retiring(status, region, generation):
                typer.echo(line, err=True)
        what = one_line(f"generation {generation} of region {region} of {cluster}")
        confirm(f"Retire {what}?", f"{what}: not retired", yes=yes)
    result, message = session.ask(
        calls.retire_generation(
            cluster,
            region,
            generation,
            bring_back=bring_back,
            reason=reason,
            request_id=request_id or None,
        )
    )
    if session.printed(message):
        return
    if bring_back:
        show_change(result, f"brought back generation {generation}")
        show_pending(result.pending)
    else:
        show_change(result, f"retired generation {generation}")
        show_confirmed(result.confirmed, result.pending, result.operation)


def _before_retiring(status: ClusterStatus, region: str, number: int) -> Iterator[str]:
    """Yields what a person should know before retiring a generation."""
    found: Generation | None = None
    for one in status.regions:
        if one.region == region:
            found = next((it for it in one.generations if it.generation == number), None)
    if found is None:
        # The server will say what is wrong with the name or the number.
        return
    yield f"generation {number} of region {one_line(region)} was last used: {last_use(found)}"
    if found.last_use_time and datetime.now(UTC) - found.last_use_time < _RECENT:
        yield "warning: that is within the last day; rewrap the keys under it first"
