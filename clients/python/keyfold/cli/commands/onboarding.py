"""The command `onboard`: from a customer's root key to a cluster that uses it."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

import typer
from google.protobuf.message import Message

from keyfold import calls
from keyfold.cli.commands.access_policy import show_access_policy
from keyfold.cli.commands.trials import RegionSetup, call_limit, try_until, try_with_person
from keyfold.cli.errors import InputError
from keyfold.cli.input import region_specs
from keyfold.cli.input.options import (
    Cluster,
    File,
    KeyOption,
    Organization,
    Principal,
    RequestId,
    Yes,
)
from keyfold.cli.input.values import pairs, seconds
from keyfold.cli.output.changes import show_change
from keyfold.cli.output.tables import key_text
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.errors import NotFoundError
from keyfold.models.results import Change
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus

_PATIENCE: Final = 30 * 60.0
"""Seconds for which --wait goes on testing without --timeout."""

OnboardedRegion = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME[=TYPE,URI[,PRINCIPAL]]",
        help="A region, with a root key of its own or with that of --type and --uri; repeat it "
        "for more regions.",
    ),
]


def onboard(
    session: Session,
    cluster: Cluster,
    *,
    region: OnboardedRegion = None,
    provider: Annotated[
        str,
        typer.Option(
            "--type", help="The root key's provider, such as AWS_KMS or LOCAL.", show_default=False
        ),
    ] = "",
    uri: Annotated[
        str, typer.Option(help="The root key's name at its provider.", show_default=False)
    ] = "",
    principal: Principal = "",
    option: KeyOption = None,
    file: File = None,
    organization: Organization = "",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Test until the key works, for at most --timeout [default: 30m]."
        ),
    ] = False,
    interval: Annotated[str, typer.Option(help="Time between two tests of --wait.")] = "5s",
    yes: Yes = False,
    request_id: RequestId = None,
) -> None:
    """Bring a customer's root key into use, step by step.

    The command shows what the customer has to put in place, tests the key until it works, and
    then enables the cluster, or adds the regions to a cluster that exists. On a terminal it asks
    before each step; without one it needs --wait. If you give up, the exit code is that of the
    last test.
    """
    every = seconds(interval, "--interval")
    if every <= 0:
        raise InputError("--interval must be more than 0")
    if not wait and (session.for_programs or not sys.stdin.isatty()):
        raise InputError(
            "stdin is not a terminal, so nobody can answer: give --wait to test until the key "
            "works, or use access-policy, test-key and enable one after the other"
        )
    regions = region_specs.read(file, region or ())
    key = KeySpec(provider, uri, principal, pairs(option or (), "--option"))
    specs = _with_key(regions.specs, key)
    existing = _existing(session, cluster)
    if existing is not None:
        # The external id and the bound context belong to the cluster's organization, even if
        # the command line does not name it again.
        organization = organization or existing.organization
    ends = time.monotonic() + (session.timeout or _PATIENCE)
    for spec in specs:
        setup = RegionSetup(session, cluster, organization, spec.region, spec.key_spec or key)
        _introduce(setup)
        if wait:
            try_until(setup, ends, every)
        else:
            try_with_person(setup)
    if not yes and not session.for_programs and sys.stdin.isatty():
        name, names = one_line(cluster), one_line(", ".join(spec.region for spec in specs))
        question = f"Add {names} to {name}?" if existing else f"Enable {name} in {names}?"
        typer.confirm(question, abort=True, err=True)
    ready = replace(regions, specs=specs)
    _put_in_use(session, cluster, ready, organization, request_id, existing)


def _with_key(specs: Sequence[RegionSpec], key: KeySpec) -> list[RegionSpec]:
    """Gives the options' key to the region specs without a key of their own.

    Raises:
        InputError: A region has no key, or the options' key has no region.
    """
    for spec in specs:
        if spec.replica_of:
            raise InputError(f"{spec.region}: add replicas with add-regions --replica-of")
        if spec.geo:
            raise InputError(f"geo {spec.geo}: give a geo its key with enable --geo")
        if spec.key_spec is None and not key.type:
            raise InputError(f"region {spec.region} has no key: give --type and --uri")
    if key != KeySpec("") and all(spec.key_spec for spec in specs):
        raise InputError("--type and --uri: every region has a key of its own")
    return [spec if spec.key_spec else replace(spec, key_spec=key) for spec in specs]


def _introduce(setup: RegionSetup) -> None:
    """Shows what the customer has to put in place; Keyfold issues the external id for it."""
    call = calls.get_access_policy(setup.key, setup.cluster, setup.region, setup.organization)
    policy, _ = setup.session.ask(call, timeout=call_limit(setup))
    if setup.session.for_programs:
        return
    typer.echo(f"region {one_line(setup.region)}: {key_text(setup.key)}")
    show_access_policy(policy)
    typer.echo()


def _put_in_use(
    session: Session,
    cluster: str,
    regions: region_specs.Regions,
    organization: str,
    request_id: str | None,
    existing: ClusterStatus | None,
) -> None:
    if existing is None:
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
            into_revoked=False,
        )
        known = {one.region for one in existing.regions}
        new = any(one.region not in known for one in regions.specs)
        done = "regions added" if new else "nothing to add: the cluster has these regions and keys"
        _show(session, *session.ask(add), done)


def _show(session: Session, result: Change, message: Message, done: str) -> None:
    if not session.printed(message):
        show_change(result, done)


def _existing(session: Session, cluster: str) -> ClusterStatus | None:
    try:
        status, _ = session.ask(calls.get_status(cluster))
    except NotFoundError:
        return None
    return status
