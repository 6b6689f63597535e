"""`keyfold onboard`: from a customer's root key to a cluster that uses it, step by step."""

# ruff: noqa: PLR0913  options of the command line, one argument each

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

import typer
from google.protobuf.message import Message

from keyfold import calls
from keyfold.cli import region_specs
from keyfold.cli.access import show_access_policy
from keyfold.cli.failures import InputError, one_line
from keyfold.cli.options import (
    Cluster,
    File,
    KeyOption,
    Organization,
    Principal,
    RequestId,
    Yes,
)
from keyfold.cli.outcomes import show_change
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import key_text
from keyfold.cli.trials import Place, call_limit, try_until, try_with_person
from keyfold.cli.values import pairs, seconds
from keyfold.errors import NotFoundError
from keyfold.models.results import Change
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus

_PATIENCE: Final = 30 * 60.0
"""Seconds that --wait goes on where --timeout says nothing."""

OnboardedRegion = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME[=TYPE,URI[,PRINCIPAL]]",
        help="A region, for the key of --type and --uri or with its own; may be repeated.",
    ),
]


def onboard(
    session: Session,
    cluster: Cluster,
    *,
    region: OnboardedRegion = None,
    provider: Annotated[
        str, typer.Option("--type", help="Such as AWS_KMS or LOCAL.", show_default=False)
    ] = "",
    uri: Annotated[str, typer.Option(help="What the provider calls it.", show_default=False)] = "",
    principal: Principal = "",
    option: KeyOption = None,
    file: File = None,
    organization: Organization = "",
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Try until the key works, at most --timeout [default: 30m]."),
    ] = False,
    interval: Annotated[str, typer.Option(help="How often --wait tries.")] = "5s",
    yes: Yes = False,
    request_id: RequestId = None,
) -> None:
    """Walk through it: what the customer attaches, trials until the key works, and Enable.

    A cluster that exists gets the regions added. Without a terminal --wait is needed, and
    nobody is asked. Who gives up ends with the exit code of what the last trial said.
    """
    every = seconds(interval, "--interval")
    if every <= 0:
        raise InputError("--interval must be more than 0")
    if not wait and (session.json or not sys.stdin.isatty()):
        raise InputError(
            "there is nobody to ask: give --wait to try until the key works, or use "
            "access-policy, test-key and enable one after the other"
        )
    regions = region_specs.read(file, region or ())
    key = KeySpec(provider, uri, principal, pairs(option or (), "--option"))
    specs = _with_key(regions.specs, key)
    there = _existing(session, cluster)
    if there is not None:
        # What is issued and bound is the organization's, whether it is named again or not.
        organization = organization or there.organization
    ends = time.monotonic() + (session.timeout or _PATIENCE)
    for spec in specs:
        place = Place(session, cluster, organization, spec.region, spec.key_spec or key)
        _introduce(place)
        if wait:
            try_until(place, ends, every)
        else:
            try_with_person(place)
    if not yes and not session.json and sys.stdin.isatty():
        name, names = one_line(cluster), one_line(", ".join(spec.region for spec in specs))
        question = f"Add {names} to {name}?" if there else f"Enable {name} in {names}?"
        typer.confirm(question, abort=True, err=True)
    ready = replace(regions, specs=specs)
    _put_in_use(session, cluster, ready, organization, request_id, there)


def _with_key(specs: Sequence[RegionSpec], key: KeySpec) -> list[RegionSpec]:
    """Returns region specs that all have a key: their own, or that of the options.

    Raises:
        InputError: One has none, or the options' key is nobody's.
    """
    for spec in specs:
        if spec.replica_of:
            raise InputError(f"{spec.region}: add replicas with add-regions --replica-of")
        if spec.key_spec is None and not key.type:
            raise InputError(f"region {spec.region} has no key: give --type and --uri")
    if key != KeySpec("") and all(spec.key_spec for spec in specs):
        raise InputError("--type and --uri: every region has a key of its own")
    return [spec if spec.key_spec else replace(spec, key_spec=key) for spec in specs]


def _introduce(place: Place) -> None:
    """Shows what is to be put in place; for a key that takes an external id, it is issued."""
    call = calls.get_access_policy(place.key, place.cluster, place.region, place.organization)
    policy, _ = place.session.ask(call, timeout=call_limit(place))
    if place.session.json:
        return
    typer.echo(f"region {one_line(place.region)}: {key_text(place.key)}")
    show_access_policy(policy)
    typer.echo()


def _put_in_use(
    session: Session,
    cluster: str,
    regions: region_specs.Regions,
    organization: str,
    request_id: str | None,
    there: ClusterStatus | None,
) -> None:
    if there is None:
        enable = calls.enable(
            cluster,
            regions.specs,
            organization=organization,
            regions=regions.expected,
            request_id=request_id or None,
            validate_only=False,
        )
        _show(session, *session.ask(enable), "enabled")
    else:
        add = calls.add_regions(
            cluster,
            regions.specs,
            organization=organization,
            regions=regions.expected,
            request_id=request_id or None,
            validate_only=False,
        )
        known = {one.region for one in there.regions}
        new = any(one.region not in known for one in regions.specs)
        done = "regions added" if new else "nothing to add: the cluster has these regions and keys"
        _show(session, *session.ask(add), done)


def _show(session: Session, answer: Change, message: Message, done: str) -> None:
    if session.json:
        typer.echo(json_of(message))
    else:
        show_change(answer, done)


def _existing(session: Session, cluster: str) -> ClusterStatus | None:
    try:
        status, _ = session.ask(calls.get_status(cluster))
    except NotFoundError:
        return None
    return status
