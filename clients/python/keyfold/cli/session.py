"""A command's connection to a server, and the options that every command has."""

# ruff: noqa: FBT002  options are booleans with defaults

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from keyfold.calls import Call, Response, Result
from keyfold.calls.call import next_page
from keyfold.cli.errors import InputError, reporting
from keyfold.cli.input.values import seconds
from keyfold.client import Client
from keyfold.transport.target import DEFAULT_TARGET
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT
from keyfold.transport.tls import Tls

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, with the field names of the contract.")
]
Server = Annotated[
    str,
    typer.Option(
        envvar="KEYFOLD_TARGET",
        help="The server: HOST:PORT, unix:/PATH, or several HOST:PORT separated by commas.",
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(help="Deadline, such as 10s [default: 10s for keys, 30s for everything else]."),
]
UseTls = Annotated[
    bool, typer.Option("--tls", help="Use TLS, and trust the system's certificate authorities.")
]
Ca = Annotated[
    Path | None,
    typer.Option(envvar="KEYFOLD_CA", help="Use TLS, and trust the authorities in this PEM file."),
]
Cert = Annotated[
    Path | None,
    typer.Option(envvar="KEYFOLD_CERT", help="A PEM file with the client's certificate."),
]
PrivateKey = Annotated[
    Path | None,
    typer.Option(envvar="KEYFOLD_KEY", help="A PEM file with the certificate's private key."),
]
ServerName = Annotated[
    str | None,
    typer.Option(help="The name in the server's certificate, if it is not the target's host."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="KEYFOLD_TOKEN_FILE",
        help="A file with a JWT that names the caller; needs TLS unless the server is local.",
    ),
]
OnBehalfOf = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Who the command is run for; the server's audit trail records it."
    ),
]


@dataclass(frozen=True, slots=True)
class Session:
    """A command's connection to a server.

    Attributes:
        client: The client.
        json: Whether the command prints the contract's JSON instead of text for people.
        connect: Makes a client of another server, with the options of this one.
        timeout: The --timeout in seconds; None if the command line does not set one.
    """

    client: Client
    json: bool
    connect: Callable[[str], Client]
    timeout: float | None = None

    def ask(
        self, call: Call[Response, Result], *, timeout: float | None = None
    ) -> tuple[Result, Response]:
        """Sends a call; returns its result, and the response that it was read from.

        Args:
            call: The call.
            timeout: Its deadline in seconds, in place of the session's.
        """
        response = self.client.send(call, timeout=timeout)
        return call.read(response), response

    def listed(
        self, first: Call[Response, Any], rows: str, *others: str, limit: int = 0
    ) -> tuple[Response, bool]:
        """Reads a list page by page, until the server has no more or there are enough rows.

        Args:
            first: The call for the first page.
            rows: The response's field that holds the list.
            others: Further lists in the response, to which each page may add.
            limit: Most rows to return; 0: all.

        Returns:
            One response with the lists of all pages, and whether the server has more rows.
        """
        whole: Any = None
        page: Call[Response, Any] | None = first
        while page is not None and not (whole and limit and len(getattr(whole, rows)) >= limit):
            response = self.client.send(page)
            whole = type(response)() if whole is None else whole
            for name in (rows, *others):
                getattr(whole, name).extend(getattr(response, name))
            page = next_page(page, response)
        found = getattr(whole, rows)
        more = page is not None or 0 < limit < len(found)
        if limit:
            del found[limit:]
        return whole, more


def json_of(message: Message, *, indent: int | None = 2) -> str:
    """Returns a message as JSON, with the contract's field names and with empty fields.

    Args:
        message: The message.
        indent: Spaces for each level; None puts everything on one line.
    """
    return MessageToJson(
        message,
        indent=indent,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )


def with_session(
    function: Callable[..., None],
) -> Callable[..., None]:
    """Adds the common options to a command, and reports its errors.

    The command takes a session as its first argument. In its place, typer sees the options that
    the session is made from.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    common = list(inspect.signature(_open, eval_str=True).parameters.values())

    @functools.wraps(function)
    def command(**options: Any) -> None:
        shared = {one.name: options.pop(one.name) for one in common}
        with reporting(as_json=shared["json"], target=shared["target"]):
            session = _open(**shared)
            with session.client:
                function(session, **options)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *common)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _open(  # noqa: PLR0913, PLR0917  one argument for each option
    json: Json = False,
    target: Server = DEFAULT_TARGET,
    timeout: Timeout = None,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: PrivateKey = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
    on_behalf_of: OnBehalfOf = None,
) -> Session:
    """Opens the session of one command.

    Raises:
        InputError: An option has a wrong value, or a file cannot be read.
    """
    limit = None if timeout is None else seconds(timeout, "--timeout")
    if limit == 0:
        raise InputError("--timeout must be more than 0")
    secured = tls or any(one is not None for one in (ca, cert, key, server_name))

    def connect(place: str) -> Client:
        try:
            return Client(
                place,
                tls=Tls(ca, cert, key, server_name) if secured else None,
                token=token_file,
                on_behalf_of=on_behalf_of,
                timeout=limit or DATA_TIMEOUT,
                control_timeout=limit or CONTROL_TIMEOUT,
            )
        except (ValueError, OSError) as problem:
            raise InputError(str(problem)) from problem

    return Session(connect(target), json, connect, limit)
