"""Commands that renew the keys of a cluster's regions."""

# ruff: noqa: PLR0913  options of the command line, one argument each

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.cli import region_specs
from keyfold.cli.failures import InputError, one_line
from keyfold.cli.options import (
    AutoRotate,
    CacheTtl,
    Cluster,
    File,
    OutageGrace,
    Reason,
    RequestId,
    RotatedRegion,
    Yes,
)
from keyfold.cli.outcomes import show_change, show_confirmed, show_pending
from keyfold.cli.region_specs import NO_CHANGE, PolicyChange
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import last_use, show_plan
from keyfold.models.specs import RegionSpec
from keyfold.models.status import ClusterStatus, Generation

_RECENT: Final = timedelta(days=1)
"""A generation that was used within this time is likely to be used again."""


_NEWEST: Final = ", or for the newest version of their keys --region NAME or --all-regions"


def rotate(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: RotatedRegion = None,
    all_regions: Annotated[
        bool, typer.Option("--all-regions", help="Every region, for its key's newest version.")
    ] = False,
    new_generation: Annotated[
        bool, typer.Option("--new-generation", help="Also make a new key encryption key.")
    ] = False,
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "--validate-only",
            help="Prove the keys, show what would be, and store nothing.",
        ),
    ] = False,
    request_id: RequestId = None,
) -> None:
    """Move regions to their key's newest version, or to another key.

    Wrapped keys stay valid. The old key is needed until this is done, and not after. What
    --cache-ttl, --outage-grace and --auto-rotate do not name of a region's policy is kept.
    """
    if all_regions and (file or region):
        raise InputError("give --all-regions, or name the regions, not both")
    policy = region_specs.policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    before: ClusterStatus | None = None
    if all_regions or policy != NO_CHANGE or (dry_run and not session.json):
        status, _ = session.ask(calls.get_status(cluster))
        before = status
    specs = (
        [RegionSpec(one.region) for one in before.regions]
        if before and all_regions
        else region_specs.read(file, region or (), also=_NEWEST).specs
    )
    answer, message = session.ask(
        calls.rotate(
            cluster,
            [_with_policy(one, policy, before) for one in specs],
            new_generation=new_generation,
            request_id=request_id or None,
            validate_only=dry_run,
        )
    )
    if session.json:
        typer.echo(json_of(message))
    elif before and dry_run:
        typer.echo("valid; nothing was stored, and this is what would be")
        show_plan(before, answer.status, {one.region for one in specs})
    else:
        show_change(answer, "rotated")
        show_pending(answer.pending, "will have applied it")


def _with_policy(
    spec: RegionSpec, policy: PolicyChange, before: ClusterStatus | None
) -> RegionSpec:
    """Returns a spec with the policy that it shall have.

    Rotate replaces a policy as a whole, so what options leave out is taken from the region's.
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
        int, typer.Option(min=1, help="Its number; not the newest one.", show_default=False)
    ],
    bring_back: Annotated[
        bool, typer.Option("--bring-back", help="Take it back into use instead.")
    ] = False,
    reason: Reason = "",
    yes: Yes = False,
    request_id: RequestId = None,
) -> None:
    """Take an old generation out of use: what is wrapped under it opens no more.

    Asks first, and shows when the generation was last used, unless there is no terminal.
    Rewrap moves wrapped keys to the newest generation; --bring-back takes a retired one back.
    """
    if not (yes or bring_back) and sys.stdin.isatty():
        status, _ = session.ask(calls.get_status(cluster))
        for line in _before_retiring(status, region, generation):
            typer.echo(line, err=True)
        question = f"Retire generation {generation} of region {region} of {cluster}?"
        typer.confirm(one_line(question), abort=True, err=True)
    answer, message = session.ask(
        calls.retire_generation(
            cluster,
            region,
            generation,
            bring_back=bring_back,
            reason=reason,
            request_id=request_id or None,
        )
    )
    if session.json:
        typer.echo(json_of(message))
    elif bring_back:
        show_change(answer, f"brought back generation {generation}")
        show_pending(answer.pending, "will have applied it")
    else:
        show_change(answer, f"retired generation {generation}")
        show_confirmed(answer.confirmed, answer.pending)


def _before_retiring(status: ClusterStatus, region: str, number: int) -> Iterator[str]:
    """Yields what a person should know who is about to retire a generation."""
    found: Generation | None = None
    for one in status.regions:
        if one.region == region:
            found = next((it for it in one.generations if it.generation == number), None)
    if found is None:
        # The server says what is wrong with the name or the number.
        return
    yield f"generation {number} of region {one_line(region)} was last used: {last_use(found)}"
    if found.last_use_time and datetime.now(UTC) - found.last_use_time < _RECENT:
        yield "warning: that is within the last day; rewrap what is under it first"
