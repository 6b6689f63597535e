"""The command `recheck`."""

from __future__ import annotations

from typing import Annotated

import typer

from keyfold import calls
from keyfold.cli.errors import exit_code
from keyfold.cli.input.options import NamedRegion
from keyfold.cli.output.changes import show_confirmed
from keyfold.cli.output.recheck import show_recheck
from keyfold.cli.session import Session


def recheck(
    session: Session,
    cluster: Annotated[
        str, typer.Argument(metavar="[CLUSTER]", help="The cluster's name.", show_default=False)
    ] = "",
    *,
    region: NamedRegion = None,
    key_uri: Annotated[
        str, typer.Option(metavar="URI", help="A root key's uri, in place of a cluster.")
    ] = "",
) -> None:
    """Have the KMS prove root keys now, ahead of the regular check.

    If the KMS refuses a key, no replica uses it any more. The command revokes and restores nothing
    itself. If a key does not work, the exit code is that of its error.
    """
    if bool(cluster) == bool(key_uri):
        fault = "name a cluster, or give --key-uri" + (", and not both" if cluster else "")
        raise typer.BadParameter(fault, param_hint="CLUSTER")
    result, message = session.ask(calls.recheck(cluster, region or (), key_uri))
    if not session.printed(message):
        show_recheck(result)
        if result.confirmed or result.pending:
            show_confirmed(result.confirmed, result.pending)
    failed = next((one.error for one in result.results if one.error is not None), None)
    if failed is not None:
        raise typer.Exit(exit_code(type(failed)))
