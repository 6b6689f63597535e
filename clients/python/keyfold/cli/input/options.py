"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Cluster = Annotated[
    str, typer.Argument(metavar="CLUSTER", help="The cluster's name.", show_default=False)
]
File = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='JSON with the region specs: {"region_specs": […]}, the list alone, or '
        '{"dedicated": {"region_nodes": {…}, "cmek_region_specs": […]}}; lines that begin with # '
        "or // are comments; - is stdin.",
    ),
]
Geo = Annotated[
    list[str] | None,
    typer.Option(
        "--geo",
        metavar="GEO=TYPE,URI[,PRINCIPAL]",
        help="A geo of the server's settings and a multi-Region key, whose replica each of its "
        "regions uses; repeat it for more geos.",
    ),
]
Region = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME[=TYPE,URI[,PRINCIPAL]]",
        help="A region and its root key; repeat it for more regions. Without a key, the region "
        "gets what its organization says: an error, its key link, or the vendor's key.",
    ),
]
RotatedRegion = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME[=TYPE,URI[,PRINCIPAL]]",
        help="A region to move to its root key's newest version, or to another root key; "
        "repeat it for more regions.",
    ),
]
NamedRegion = Annotated[
    list[str] | None,
    typer.Option("--region", metavar="NAME", help="Only this region; repeat it for more regions."),
]
Organization = Annotated[
    str, typer.Option(help="The organization that the cluster belongs to.", show_default=False)
]
CacheTtl = Annotated[
    str | None,
    typer.Option(
        help="How long Keyfold may use a key before it asks the KMS again: 0s to 15m; 0s asks "
        "for every call."
    ),
]
OutageGrace = Annotated[
    str | None,
    typer.Option(
        help="How much longer Keyfold may use it while the KMS is unreachable: 0s to 24h."
    ),
]
AutoRotate = Annotated[
    bool | None,
    typer.Option(
        "--auto-rotate/--no-auto-rotate",
        help="Whether Keyfold rotates by itself when the root key gets a new version.",
    ),
]
ReplicaOf = Annotated[
    str | None,
    typer.Option(
        metavar="REGION",
        help="For regions named without a key: use the replica of this region's multi-Region key.",
    ),
]
IntoRevoked = Annotated[
    bool,
    typer.Option("--into-revoked", help="Add the regions even if all others are revoked."),
]
ValidateOnly = Annotated[
    bool, typer.Option("--validate-only", help="Try the keys, but store nothing.")
]
ValidateChange = Annotated[
    bool, typer.Option("--validate-only", help="Check the change, but store nothing.")
]
Etag = Annotated[
    str,
    typer.Option(
        help="Change it only if it still has this etag, as an earlier command showed it.",
        show_default=False,
    ),
]
Limit = Annotated[int, typer.Option(min=0, help="The most to show; 0 shows all.")]
KeyLinkName = Annotated[
    str | None,
    typer.Option(
        "--key-link",
        metavar="LINK",
        help="For regions named without a key: use the key of this key link of the organization.",
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option(help="The id of an earlier attempt, to repeat its change safely."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Principal = Annotated[
    str,
    typer.Option(
        help="The role or identity as which Keyfold calls the KMS, or seat; its own if not given.",
        show_default=False,
    ),
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="A provider-specific option of the key; repeat it for more options.",
    ),
]
KeyType = Annotated[
    str,
    typer.Argument(
        metavar="TYPE",
        help="The root key's provider, such as AWS_KMS or LOCAL.",
        show_default=False,
    ),
]
KeyUri = Annotated[
    str,
    typer.Argument(
        metavar="URI",
        help="The root key's name at its provider, such as an ARN.",
        show_default=False,
    ),
]
WaitingPeriod = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How long `undelete` can take a deletion back: 0s to 90d, 7d if not given.",
        show_default=False,
    ),
]
Reason = Annotated[
    str, typer.Option(help="The reason, which the audit trail records.", show_default=False)
]
