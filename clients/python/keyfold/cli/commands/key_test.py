"""The command `test-key`."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

from typing import Annotated

import typer

from keyfold import calls
from keyfold.cli.errors import InputError, exit_code
from keyfold.cli.input.options import KeyOption, KeyType, KeyUri, Principal
from keyfold.cli.input.values import pairs
from keyfold.cli.output.key_test import show_key_test
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.errors.reasons import BY_REASON
from keyfold.models.key_test import KeyTest
from keyfold.models.specs import KeySpec


def key_test(
    session: Session,
    *,
    provider: KeyType,
    uri: KeyUri = "",
    principal: Principal = "",
    option: KeyOption = None,
    cluster: Annotated[
        str, typer.Option(help="The cluster that is to use the key.", show_default=False)
    ] = "",
    region: Annotated[
        str,
        typer.Option(
            help="The region that is to use the key; PLATFORM needs it.", show_default=False
        ),
    ] = "",
    organization: Annotated[
        str,
        typer.Option(help="The organization that the cluster belongs to.", show_default=False),
    ] = "",
    geo: Annotated[
        str,
        typer.Option(
            help="In place of a region: a geo of the server's settings, in each of whose regions "
            "the key's replica is tested.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Test whether Keyfold can use a root key.

    It tests step by step and stores nothing. The test is bound to the cluster, region and
    organization as real use would be. If Keyfold cannot use the key, the exit code is that of the
    first step that failed.
    """
    if geo and region:
        raise InputError("give --region or --geo, but not both")
    spec = KeySpec(provider, uri, principal, pairs(option or (), "--option"))
    result, message = session.ask(calls.test_key(spec, cluster, region, organization, geo))
    if not session.printed(message):
        show_key_test(result)
    if not result.accessible:
        raise typer.Exit(code_of(result))


def code_of(test: KeyTest) -> int:
    """Returns the exit code for a key that Keyfold cannot use: that of the first failed step."""
    reasons = [one.reason for one in test.steps if one.outcome == "FAILED"]
    reasons += [one.reason for one in test.replicas if one.reason]
    failed = next(iter(reasons), "")
    return exit_code(BY_REASON.get(failed, KeyfoldError))
