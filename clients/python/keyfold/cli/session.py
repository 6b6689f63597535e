"""What every command has: a server to talk to, and `--json`."""

# ruff: noqa: FBT002  options of the command line, one argument each

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
from keyfold.cli.failures import InputError, reporting
from keyfold.cli.values import seconds
from keyfold.client import Client
from keyfold.transport.target import DEFAULT_TARGET
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT
from keyfold.transport.tls import Tls

Json = Annotated[bool, typer.Option("--json", help="Print JSON with the contract's field names.")]
Server = Annotated[
    str,
    typer.Option(
        envvar="KEYFOLD_TARGET",
        help="host:port, unix:/path, or several host:port with commas between.",
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(help="Deadline, such as 10s [default: 10s for keys, 30s for changes]."),
]
UseTls = Annotated[bool, typer.Option("--tls", help="Use TLS with the system's authorities.")]
Ca = Annotated[
    Path | None,
    typer.Option(envvar="KEYFOLD_CA", help="Use TLS with the authorities in this PEM file."),
]
Cert = Annotated[
    Path | None,
    typer.Option(envvar="KEYFOLD_CERT", help="The client's certificate, a PEM file."),
]
PrivateKey = Annotated[
    Path | None,
    typer.Option(envvar="KEYFOLD_KEY", help="The certificate's private key, a PEM file."),
]
ServerName = Annotated[
    str | None,
    typer.Option(help="The name in the server's certificate, where not the target's."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="KEYFOLD_TOKEN_FILE",
        help="A file with a JWT that says who calls; over TLS, or to this machine alone.",
    ),
]
OnBehalfOf = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="For whom it is done, for the server's audit trail."),
]


@dataclass(frozen=True, slots=True)
class Session:
    """One command's connection, and how it shall print.

    Attributes:
        client: The client.
        json: Print the contract's JSON rather than something for people.
        timeout: Seconds that --timeout allows; None where it says nothing.
    """

    client: Client
    json: bool
    timeout: float | None = None

    def ask(
        self, call: Call[Response, Result], *, timeout: float | None = None
    ) -> tuple[Result, Response]:
        """Sends a call; returns its answer, and the message it was read from."""
        response = self.client.send(call, timeout=timeout)
        return call.read(response), response


def json_of(message: Message, *, indent: int | None = 2) -> str:
    """Returns a message as JSON: the contract's own field names, unset ones included.

    Without `indent` it is one line.
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
    """Gives a command the options that all have, and reports its errors.

    The command's first argument is the session; typer sees the options in its place.
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


def _open(  # noqa: PLR0913, PLR0917  options, one argument each
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
        InputError: An option cannot be used, or a file not be read.
    """
    limit = None if timeout is None else seconds(timeout, "--timeout")
    if limit == 0:
        raise InputError("--timeout must be more than 0")
    secured = tls or any(one is not None for one in (ca, cert, key, server_name))
    try:
        client = Client(
            target,
            tls=Tls(ca, cert, key, server_name) if secured else None,
            token=token_file,
            on_behalf_of=on_behalf_of,
            timeout=limit or DATA_TIMEOUT,
            control_timeout=limit or CONTROL_TIMEOUT,
        )
    except (ValueError, OSError) as problem:
        raise InputError(str(problem)) from problem
    return Session(client, json, limit)
