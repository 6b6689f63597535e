"""Commands that look and change nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from keyfold import calls
from keyfold.calls import ClusterFilter
from keyfold.cli.failures import exit_code
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import show_clusters, show_key_test, show_status
from keyfold.cli.values import choice, names, pairs
from keyfold.errors import KeyfoldError
from keyfold.reasons import BY_REASON
from keyfold.specs import KeySpec
from keyfold.status import Health, State
from keyfold.v1 import key_management_service_pb2 as api


def status(
    session: Session,
    cluster: Annotated[
        str, typer.Argument(metavar="CLUSTER", help="The cluster's name.", show_default=False)
    ],
) -> None:
    """Show what is known of a cluster's keys."""
    answer, message = session.ask(calls.get_status(cluster))
    if session.json:
        typer.echo(json_of(message))
    else:
        show_status(answer)


def clusters(
    session: Session,
    *,
    organization: Annotated[
        str, typer.Option(help="Only this organization's.", show_default=False)
    ] = "",
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help=f"Only with a region in this state: {', '.join(names(State))}.",
            autocompletion=lambda: names(State),
        ),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            metavar="HEALTH",
            help=f"Only with a region of this health: {', '.join(names(Health))}.",
            autocompletion=lambda: names(Health),
        ),
    ] = None,
    key_uri: Annotated[
        str, typer.Option(help="Only with a region under this root key.", show_default=False)
    ] = "",
) -> None:
    """List clusters and their regions, with what was last recorded of their keys."""
    narrow = ClusterFilter(
        organization, choice(State, state, "--state"), choice(Health, health, "--health"), key_uri
    )
    whole = api.ListClustersResponse()
    page: calls.Page | None = calls.list_clusters(narrow, page_size=0)
    while page is not None:
        response = session.client.send(page)
        whole.clusters.extend(response.clusters)
        whole.not_authentic.extend(response.not_authentic)
        page = calls.next_page(page, response)
    if session.json:
        typer.echo(json_of(whole))
    else:
        show_clusters(calls.clusters_of(whole))
    calls.check_authentic(whole.not_authentic)


def key_test(
    session: Session,
    *,
    provider: Annotated[
        str, typer.Argument(metavar="TYPE", help="Such as AWS_KMS or LOCAL.", show_default=False)
    ],
    uri: Annotated[
        str,
        typer.Argument(metavar="URI", help="What the provider calls the key.", show_default=False),
    ] = "",
    principal: Annotated[
        str, typer.Option(help="As whom Keyfold calls the provider.", show_default=False)
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A provider's option; may be repeated."),
    ] = None,
    cluster: Annotated[str, typer.Option(help="Bind the trial to it.", show_default=False)] = "",
    region: Annotated[str, typer.Option(help="Needed for PLATFORM.", show_default=False)] = "",
    organization: Annotated[
        str, typer.Option(help="Bind the trial to it.", show_default=False)
    ] = "",
) -> None:
    """Try a root key step by step, and store nothing.

    Ends with an error's exit code where the key is not accessible.
    """
    spec = KeySpec(provider, uri, principal, pairs(option or (), "--option"))
    answer, message = session.ask(calls.test_key(spec, cluster, region, organization))
    if session.json:
        typer.echo(json_of(message))
    else:
        show_key_test(answer)
    if not answer.accessible:
        failed = next((one.reason for one in answer.steps if one.outcome == "FAILED"), "")
        raise typer.Exit(exit_code(BY_REASON.get(failed, KeyfoldError)))
