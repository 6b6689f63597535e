"""Commands that wrap and unwrap keys."""

# ruff: noqa: PLR0913  options of the command line, one argument each

from __future__ import annotations

from typing import Annotated

import typer

from keyfold import calls
from keyfold.cli import batch as lines
from keyfold.cli.failures import InputError
from keyfold.cli.session import Session, json_of
from keyfold.cli.streams import (
    STDIO,
    note,
    open_output,
    read_key,
    read_wrapped_key,
    write_key,
)
from keyfold.cli.values import pairs
from keyfold.models.specs import Destination

Cluster = Annotated[
    str, typer.Argument(metavar="CLUSTER", help="The cluster's name.", show_default=False)
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        "--context", metavar="NAME=VALUE", help="Bound to the wrapped key; may be repeated."
    ),
]
Source = Annotated[
    str | None,
    typer.Option("--in", metavar="FILE", help="Read from here; - or nothing is stdin."),
]
Output = Annotated[
    str | None,
    typer.Option("--out", metavar="FILE", help="Write here; - or nothing is stdout."),
]
AsBase64 = Annotated[
    bool, typer.Option("--base64", help="Write base64 even where it is not a terminal.")
]
Batch = Annotated[bool, typer.Option("--batch", help="Read lines of JSON, and write one for each.")]
PlaintextOutput = Annotated[
    str | None,
    typer.Option("--plaintext-out", metavar="FILE", help="Write the plaintext here; - is stdout."),
]
ToCluster = Annotated[str, typer.Option(help="Move to this cluster.", show_default=False)]
ToContext = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="The new context; may be repeated."),
]


def wrap(
    session: Session,
    cluster: Cluster,
    *,
    region: Annotated[str, typer.Option(help="The region's name.", show_default=False)] = "",
    context: Context = None,
    source: Source = None,
    output: Output = None,
    as_base64: AsBase64 = False,
    in_base64: Annotated[bool, typer.Option("--in-base64", help="The input is base64.")] = False,
    batch: Batch = False,
) -> None:
    """Wrap a key of 1 to 4,096 bytes under a region's key.

    The key comes from a file, from stdin, or on a terminal from a prompt that does not show it.

    A line of --batch is {"plaintext": base64, "region": …, "context": {…}}; what it leaves out
    is taken from --region and --context.
    """
    bound = pairs(context or (), "--context")
    if batch:
        lines.wrap(session, cluster, region, bound, source=source, target=output)
        return
    if not region:
        raise InputError("wrap needs --region")
    plaintext = read_key(source, "Plaintext key", is_base64=in_base64)
    answer, message = session.ask(calls.wrap(cluster, region, plaintext, bound))
    if session.json:
        _write_json(json_of(message), output, secret=False)
        return
    write_key(answer.wrapped_key, output, as_base64=as_base64, secret=False)
    note(f"wrapped under generation {answer.generation} of {region}")


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
    """Open a wrapped key, raw or in base64, with the context of its wrapping.

    The plaintext goes to a file that nobody else may read, or to stdout.

    A line of --batch is {"wrapped_key": base64, "context": {…}}.
    """
    bound = pairs(context or (), "--context")
    if batch:
        lines.unwrap(session, cluster, bound, source=source, target=output)
        return
    answer, message = session.ask(calls.unwrap(cluster, read_wrapped_key(source), bound))
    if session.json:
        _write_json(json_of(message), output, secret=True)
        return
    write_key(answer.plaintext, output, as_base64=as_base64, secret=True)
    note(f"was wrapped under generation {answer.generation} of {answer.region}")


def generate_data_key(
    session: Session,
    cluster: Cluster,
    *,
    region: Annotated[str, typer.Option(help="The region's name.", show_default=False)],
    size: Annotated[int, typer.Option(help="Bytes: 16, 24, 32 or 64.")] = 32,
    context: Context = None,
    output: Output = None,
    plaintext_output: PlaintextOutput = None,
    wrapped_only: Annotated[
        bool, typer.Option("--wrapped-only", help="Make no plaintext at all.")
    ] = False,
    as_base64: AsBase64 = False,
) -> None:
    """Make a fresh data key; --out takes its wrapped form.

    The plaintext goes to a file that nobody else may read, or to stdout. With --json both stand
    in what --out takes.
    """
    if not session.json and not wrapped_only:
        if plaintext_output is None:
            raise InputError("say where the plaintext goes: --plaintext-out FILE or --wrapped-only")
        if plaintext_output == STDIO and output in (None, STDIO):
            raise InputError("two keys do not go to one stdout: give --out FILE, or --json")
    if plaintext_output is not None and (wrapped_only or session.json):
        raise InputError("--plaintext-out goes with neither --wrapped-only nor --json")
    bound = pairs(context or (), "--context")
    call = calls.generate_data_key(cluster, region, size, bound, wrapped_only=wrapped_only)
    answer, message = session.ask(call)
    if session.json:
        _write_json(json_of(message), output, secret=True)
        return
    if not wrapped_only:
        write_key(answer.plaintext, plaintext_output, as_base64=as_base64, secret=True)
    write_key(answer.wrapped_key, output, as_base64=as_base64, secret=False)
    note(f"wrapped under generation {answer.generation} of {region}")


def rewrap(
    session: Session,
    cluster: Cluster,
    *,
    context: Context = None,
    source: Source = None,
    output: Output = None,
    to_cluster: ToCluster = "",
    to_region: Annotated[str, typer.Option(help="Move to this region.", show_default=False)] = "",
    to_context: ToContext = None,
    no_context: Annotated[bool, typer.Option("--to-no-context", help="Drop the context.")] = False,
    as_base64: AsBase64 = False,
    batch: Batch = False,
) -> None:
    """Move a wrapped key to the newest generation, or to another cluster, region or context.

    What no option changes is kept, the context, too. The plaintext never leaves the server.

    A line of --batch is {"wrapped_key": base64, "context": {…}, "destination": {"cluster": …,
    "region": …, "context": {…}}}; a line's destination is taken as it stands.
    """
    bound = pairs(context or (), "--context")
    if to_context and no_context:
        raise InputError("--to-context and --to-no-context exclude each other")
    new_context = pairs(to_context or (), "--to-context") or ({} if no_context else None)
    moves = bool(to_cluster or to_region) or new_context is not None
    move = lines.Move(to_cluster, to_region, new_context) if moves else None
    if batch:
        lines.rewrap(session, cluster, bound, move, source=source, target=output)
        return
    destination: Destination | None = move.of(bound) if move else None
    wrapped_key = read_wrapped_key(source)
    answer, message = session.ask(calls.rewrap(cluster, wrapped_key, bound, destination))
    if session.json:
        _write_json(json_of(message), output, secret=False)
        return
    write_key(answer.wrapped_key, output, as_base64=as_base64, secret=False)
    current = "was current already, " if answer.already_current else ""
    note(f"{current}generation {answer.generation}")


def _write_json(text: str, target: str | None, *, secret: bool) -> None:
    with open_output(target, secret=secret) as file:
        file.write(text.encode() + b"\n")
