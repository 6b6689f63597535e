"""The command `access-policy`: prints what lets Keyfold use a root key, or writes it to files."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.cli.errors import InputError
from keyfold.cli.input.options import KeyOption, KeyType, KeyUri, Organization, Principal
from keyfold.cli.input.streams import open_output
from keyfold.cli.input.values import pairs
from keyfold.cli.output.text import one_line, whole_lines
from keyfold.cli.session import Session
from keyfold.models.access_policy import AccessPolicy, AccessStatement
from keyfold.models.specs import KeySpec

_ENDINGS: Final = {"json": ".json", "hcl": ".hcl", "shell": ".sh"}


def access_policy(
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
        str, typer.Option(help="The region that is to use the key.", show_default=False)
    ] = "",
    organization: Organization = "",
    seats: Annotated[
        int,
        typer.Option(
            help="How many seats to have reserved, with --principal seat; 1 if not given.",
            min=0,
            max=64,
            show_default=False,
        ),
    ] = 0,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Write each statement to a file in this folder."),
    ] = None,
) -> None:
    """Show the policies that let Keyfold use a root key.

    They permit what Keyfold needs and nothing else. The customer puts them in place before the key
    is used. Neither the key nor the cluster needs to exist yet. For an AWS role, Keyfold issues the
    external id that the role must demand. With --principal seat, Keyfold reserves a seat, the same
    one again until a region takes it.
    """
    spec = KeySpec(provider, uri, principal, pairs(option or (), "--option"))
    result, message = session.ask(
        calls.get_access_policy(spec, cluster, region, organization, seats)
    )
    files = () if out is None else _write(result.statements, Path(out))
    if not session.printed(message):
        show_access_policy(result, files)


def show_access_policy(policy: AccessPolicy, files: Sequence[Path] = ()) -> None:
    """Prints an access policy.

    Args:
        policy: The policy.
        files: The files that hold its statements; without them, it prints the statements.
    """
    bound = ", ".join(f"{name}={value}" for name, value in sorted(policy.bound_context.items()))
    for name, value in (
        ("principal", policy.principal),
        ("external id", policy.external_id),
        *([("seats", ", ".join(policy.seats))] if policy.seats else ()),
        ("bound", bound),
    ):
        typer.echo(f"{name:<12} {one_line(value) or '-'}")
    for index, statement in enumerate(policy.statements):
        whose = " (the vendor puts this in place)" if statement.by_vendor else ""
        typer.echo(f"\n{index + 1}. {one_line(statement.title)}{whose}")
        typer.echo(f"   attach to  {one_line(statement.attach_to) or '-'}")
        typer.echo(f"   permits    {one_line(', '.join(statement.permissions)) or '-'}")
        if files:
            typer.echo(f"   written to {files[index]}")
        else:
            typer.echo(f"\n{whole_lines(statement.text)}")
    if policy.notices:
        typer.echo()
    for notice in policy.notices:
        typer.echo(f"note: {one_line(notice)}")


def _write(statements: Sequence[AccessStatement], folder: Path) -> list[Path]:
    """Writes each statement to a file of its own, and returns the files.

    Raises:
        InputError: The folder cannot be made, or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot make {folder}: {problem.strerror}") from problem
    files = []
    for number, statement in enumerate(statements, 1):
        file = folder / _file_name(number, statement)
        with open_output(str(file), secret=False) as opened:
            opened.write(f"{statement.text.rstrip()}\n".encode())
        files.append(file)
    return files


def _file_name(number: int, statement: AccessStatement) -> str:
    # If the title names a file, another statement refers to that name. The pattern allows no
    # separator and no leading dot, so the server cannot name a file outside the folder.
    named = re.search(r"(?<!\S)[A-Za-z0-9][\w.-]*\.(?:hcl|json)$", statement.title)
    if named is not None:
        return named[0]
    title = re.sub(r"[^a-z0-9]+", "-", statement.title.lower()).strip("-")
    return f"{number}-{title}{_ENDINGS.get(statement.language, '.txt')}"
