"""The commands that handle data keys: `wrap`, `unwrap`, `generate-data-key`, `rewrap`."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.cli.commands import batch as lines
from keyfold.cli.commands.rewrapping import batch as rewrapping
from keyfold.cli.commands.rewrapping.line import Defaults, Move
from keyfold.cli.errors import InputError
from keyfold.cli.input.options import Cluster
from keyfold.cli.input.streams import (
    STDIO,
    note,
    open_output,
    read_key,
    read_wrapped_key,
    write_key,
)
from keyfold.cli.input.values import pairs
from keyfold.cli.output.forms import Form
from keyfold.cli.session import Session, json_of
from keyfold.models.specs import Destination

Context = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="NAME=VALUE",
        help="An entry of the context that is bound to the wrapped key; repeat it for more.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option("--in", metavar="FILE", help="Read from this file; without it or with -, stdin."),
]
Output = Annotated[
    str | None,
    typer.Option("--out", metavar="FILE", help="Write to this file; without it or with -, stdout."),
]
AsBase64 = Annotated[bool, typer.Option("--base64", help="Write base64 to files and pipes, too.")]
Batch = Annotated[
    bool, typer.Option("--batch", help="Read lines of JSON, and write a line of JSON for each.")
]
PlaintextOutput = Annotated[
    str | None,
    typer.Option(
        "--plaintext-out", metavar="FILE", help="Write the plaintext to this file; - is stdout."
    ),
]
ToContext = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An entry of the new context; repeat it for more."),
]

_CONCURRENCY: Final = 4
"""Calls of `rewrap --batch` under way: enough to keep a server and this command busy."""


def wrap(
    session: Session,
    cluster: Cluster,
    *,
    region: Annotated[
        str, typer.Option(help="The region whose key wraps.", show_default=False)
    ] = "",
    context: Context = None,
    source: Source = None,
    output: Output = None,
    as_base64: AsBase64 = False,
    in_base64: Annotated[bool, typer.Option("--in-base64", help="Read the key as base64.")] = False,
    batch: Batch = False,
) -> None:
    """Wrap a key of 1 to 4,096 bytes.

    The key comes from a file or stdin. If stdin is a terminal, the command prompts for it in
    base64 and does not show it.

    A line of --batch is {"plaintext": base64, "region": …, "context": {…}}. Without a region or
    a context, the line uses --region and --context. `unwrap --batch` reads the lines that come
    out; give it the same --context.
    """
    bound = pairs(context or (), "--context")
    if batch:
        lines.wrap(session, cluster, region, bound, source=source, target=output)
        return
    if not region:
        raise InputError("wrap needs --region")
    plaintext = read_key(source, "Plaintext key", is_base64=in_base64)
    result, message = session.ask(calls.wrap(cluster, region, plaintext, bound))
    if session.form is Form.JSON:
        _write_json(json_of(message), output, secret=False)
        return
    write_key(result.wrapped_key, output, as_base64=as_base64, secret=False)
    note(f"wrapped under generation {result.generation} of {region}")


def unwrap(
    session: Session,
    cluster: Cluster,
    *,
    context: Context = None,
    source: Source = None,
    output: Output = None,
    as_base64: AsBase64 = False,
    batch: Batch = False,
) -> None:
    """Unwrap a wrapped key.

    It needs the context that the key was wrapped with. The wrapped key may be raw or base64. The
    plaintext goes to stdout, or to a file that only you may read.

    A line of --batch is {"wrapped_key": base64, "cluster": …, "context": {…}}. Without a cluster
    or a context, the line uses CLUSTER and --context. Its other fields stay as they are.
    """
    bound = pairs(context or (), "--context")
    if batch:
        lines.unwrap(session, cluster, bound, source=source, target=output)
        return
    result, message = session.ask(calls.unwrap(cluster, read_wrapped_key(source), bound))
    if session.form is Form.JSON:
        _write_json(json_of(message), output, secret=True)
        return
    write_key(result.plaintext, output, as_base64=as_base64, secret=True)
    note(f"wrapped under generation {result.generation} of {result.region}")


def generate_data_key(
    session: Session,
    cluster: Cluster,
    *,
    region: Annotated[str, typer.Option(help="The region whose key wraps.", show_default=False)],
    size: Annotated[int, typer.Option(help="Size of the key in bytes: 16, 24, 32 or 64.")] = 32,
    context: Context = None,
    output: Output = None,
    plaintext_output: PlaintextOutput = None,
    wrapped_only: Annotated[
        bool, typer.Option("--wrapped-only", help="Return the wrapped form only.")
    ] = False,
    as_base64: AsBase64 = False,
) -> None:
    """Make a new data key, as plaintext and wrapped.

    The wrapped key goes to --out. The plaintext goes to --plaintext-out, a file that only you may
    read. With --json, --out takes both.
    """
    if session.form is not Form.JSON and not wrapped_only:
        if plaintext_output is None:
            raise InputError("give --plaintext-out FILE for the plaintext, or --wrapped-only")
        if plaintext_output == STDIO and output in (None, STDIO):
            raise InputError("stdout cannot take two keys: give --out FILE, or --json")
    if plaintext_output is not None and (wrapped_only or session.form is Form.JSON):
        raise InputError("--plaintext-out cannot be combined with --wrapped-only or --json")
    bound = pairs(context or (), "--context")
    call = calls.generate_data_key(cluster, region, size, bound, wrapped_only=wrapped_only)
    result, message = session.ask(call)
    if session.form is Form.JSON:
        _write_json(json_of(message), output, secret=True)
        return
    if not wrapped_only:
        write_key(result.plaintext, plaintext_output, as_base64=as_base64, secret=True)
    write_key(result.wrapped_key, output, as_base64=as_base64, secret=False)
    note(f"wrapped under generation {result.generation} of {region}")


def rewrap(
    session: Session,
    cluster: Annotated[
        str,
        typer.Argument(
            metavar="[CLUSTER]",
            help="The cluster's name; with --batch that of lines without one of their own.",
            show_default=False,
        ),
    ] = "",
    *,
    context: Context = None,
    source: Source = None,
    output: Output = None,
    to_cluster: Annotated[str, typer.Option(help="The new cluster.", show_default=False)] = "",
    to_region: Annotated[str, typer.Option(help="The new region.", show_default=False)] = "",
    to_context: ToContext = None,
    no_context: Annotated[
        bool, typer.Option("--to-no-context", help="Remove the context.")
    ] = False,
    as_base64: AsBase64 = False,
    batch: Batch = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of a --batch: write to --out at once, and keep in this file how far it is. The "
            "same command then goes on from there.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, max=32, help="Of a --batch: most calls at once [default: 4].", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Of a --batch: count keys, generations and calls; move nothing."
        ),
    ] = False,
) -> None:
    """Move a wrapped key to the newest generation.

    The --to options move it to another cluster, region or context; whatever they do not name
    stays the same. The plaintext never leaves the server.

    A line of --batch is {"wrapped_key": base64, "cluster": …, "context": {…}, "destination":
    {"cluster": …, "region": …, "context": {…}}}, of which only the first is required. It comes out
    with its new wrapped_key and generation, or with an error, in the same place; its other fields
    stay as they are, and so does the line of a key that is current. A line's own destination
    replaces all --to options. On stderr the command says at the end what has moved, and when the
    old generations may retire.
    """
    bound = pairs(context or (), "--context")
    if to_context and no_context:
        raise InputError("--to-context cannot be combined with --to-no-context")
    new_context = pairs(to_context or (), "--to-context") or ({} if no_context else None)
    moves = bool(to_cluster or to_region) or new_context is not None
    move = Move(to_cluster, to_region, new_context) if moves else None
    if batch:
        defaults = Defaults(cluster, bound, move)
        if dry_run:
            rewrapping.census(session, defaults, source)
        else:
            files = rewrapping.Files(source, output, checkpoint)
            rewrapping.rewrap(session, defaults, files, concurrency or _CONCURRENCY)
        return
    if checkpoint or concurrency or dry_run:
        raise InputError("--checkpoint, --concurrency and --dry-run are for --batch")
    if not cluster:
        raise InputError("name the cluster; only lines of --batch can name their own")
    destination: Destination | None = move.of(bound) if move else None
    wrapped_key = read_wrapped_key(source)
    result, message = session.ask(calls.rewrap(cluster, wrapped_key, bound, destination))
    if session.form is Form.JSON:
        _write_json(json_of(message), output, secret=False)
        return
    write_key(result.wrapped_key, output, as_base64=as_base64, secret=False)
    done = "already under" if result.already_current else "now under"
    note(f"{done} generation {result.generation}")


def _write_json(text: str, target: str | None, *, secret: bool) -> None:
    with open_output(target, secret=secret) as file:
        file.write(text.encode() + b"\n")
