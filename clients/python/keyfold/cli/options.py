"""Options that several commands have."""

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
        help='Region specs as JSON: {"region_specs": […]}, the bare list, or '
        '{"dedicated": {"cmek_region_specs": […]}}; - is stdin.',
    ),
]
Region = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME=TYPE,URI[,PRINCIPAL]",
        help="A region and its root key; may be repeated.",
    ),
]
RotatedRegion = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME[=TYPE,URI[,PRINCIPAL]]",
        help="A region, for its key's newest version; or a region and its new root key.",
    ),
]
NamedRegion = Annotated[
    list[str] | None,
    typer.Option("--region", metavar="NAME", help="Only this region; may be repeated."),
]
Organization = Annotated[str, typer.Option(help="The customer's organization.", show_default=False)]
CacheTtl = Annotated[
    str | None,
    typer.Option(help="How long one use of the root key lasts, 0s to 15m; 0s asks each time."),
]
OutageGrace = Annotated[
    str | None, typer.Option(help="How much longer while the KMS is away, 0s to 24h.")
]
AutoRotate = Annotated[
    bool | None,
    typer.Option(
        "--auto-rotate/--no-auto-rotate",
        help="Re-wrap by itself when the root key has a newer version, or not.",
    ),
]
ReplicaOf = Annotated[
    str | None,
    typer.Option(
        metavar="REGION",
        help="Regions named without a key get the replica of this one's multi-Region key.",
    ),
]
ValidateOnly = Annotated[
    bool, typer.Option("--validate-only", help="Prove the keys, and store nothing.")
]
RequestId = Annotated[
    str | None, typer.Option(help="Repeat a change whose outcome is not known with its id.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Principal = Annotated[
    str, typer.Option(help="As whom Keyfold calls the provider.", show_default=False)
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="A provider's option; may be repeated."),
]
KeyType = Annotated[
    str, typer.Argument(metavar="TYPE", help="Such as AWS_KMS or LOCAL.", show_default=False)
]
KeyUri = Annotated[
    str,
    typer.Argument(metavar="URI", help="What the provider calls the key.", show_default=False),
]
Reason = Annotated[str, typer.Option(help="For the audit trail.", show_default=False)]
