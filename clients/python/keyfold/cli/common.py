"""The options that every command has, before the command's name or after it."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer

from keyfold.cli.completion import completing
from keyfold.cli.errors import InputError, reporting
from keyfold.cli.input.values import seconds
from keyfold.cli.output.forms import DATA, RESOURCES, Form
from keyfold.cli.output.tables import Look, looking
from keyfold.cli.session import Session
from keyfold.client import Client
from keyfold.errors import InvalidInputError
from keyfold.transport.target import DEFAULT_TARGET
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT
from keyfold.transport.tls import Tls

Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        help="What to print: table, wide (every column, and nothing folded), name, json or yaml.",
        autocompletion=lambda: [form.value for form in Form],
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, with the field names of the contract.")
]
NoHeaders = Annotated[
    bool,
    typer.Option("--no-headers", help="Print rows without heads and titles; remarks go to stderr."),
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


def _options(  # noqa: PLR0913  one argument for each option
    *,
    output_form: Output = None,
    json: Json = False,
    no_headers: NoHeaders = False,
    target: Server = DEFAULT_TARGET,
    timeout: Timeout = None,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: PrivateKey = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
    on_behalf_of: OnBehalfOf = None,
) -> None:
    """Takes the options, for whoever asks the parser's context for them."""


_COMMON: Final = tuple(inspect.signature(_options, eval_str=True).parameters.values())
_OF_TABLES: Final = frozenset({"output_form", "no_headers"})


def with_session(
    function: Callable[..., None],
    forms: Sequence[Form] = RESOURCES,
    opening: Callable[[Unopened], AbstractContextManager[Any]] | None = None,
) -> Callable[..., None]:
    """Adds the common options to a command, and reports its errors.

    The command takes a session as its first argument. In its place, typer sees the options that
    the session is made from.

    Args:
        function: The command.
        forms: The forms in which it prints, its default first.
        opening: Makes the command's first argument; None: a session.
    """
    opening = opening or _session
    own = [
        completing(one, _opened_to_complete)
        for one in list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    ]
    common = [one for one in _COMMON if forms != DATA or one.name not in _OF_TABLES]

    @functools.wraps(function)
    def command(parsed: typer.Context, **given: Any) -> None:
        for one in common:
            given.pop(one.name)
        shared = shared_options(parsed)
        wants_json = shared["json"] or shared["output_form"] == Form.JSON
        with reporting(parsed, as_json=wants_json, target=shared["target"]):
            form = _form(shared["output_form"], forms, as_json=shared["json"])
            headers = not shared["no_headers"] and form is not Form.NAME
            look = Look(form is Form.WIDE, headers)
            with looking(look), opening(Unopened(form, shared, parsed)) as session:
                function(session, **given)

    context = inspect.Parameter("parsed", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [
        context,
        *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *common)),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def before_commands(group: typer.Typer, *own: inspect.Parameter) -> None:
    """Lets a group of commands take the common options before the command's name.

    Its help leaves them out, because each command's has them.

    Args:
        group: The group.
        own: The group's own options.
    """

    def take(**given: Any) -> None:
        del given  # each command asks the parser's context

    parameters = [*own, *map(_hidden, _COMMON)]
    take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    take.__annotations__ = {one.name: one.annotation for one in parameters}
    group.callback()(take)


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    option.hidden = True
    return parameter.replace(annotation=Annotated[kind, option])


def shared_options(context: typer.Context) -> dict[str, Any]:
    """Returns the common options as they stand after a command's name, or else before it."""
    found: dict[str, Any] = {}
    places: list[Any] = [context]
    while places[-1].parent is not None:
        places.append(places[-1].parent)
    for one in _COMMON:
        having = [place for place in places if one.name in place.params]
        typed = [place for place in having if _typed(place, one.name)]
        found[one.name] = (typed or having)[0].params[one.name]
    return found


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _form(asked: str | None, forms: Sequence[Form], *, as_json: bool) -> Form:
    """Returns the form in which a command prints.

    Raises:
        InputError: The command has no such form, or the options contradict each other.
    """
    if asked is None:
        return Form.JSON if as_json else forms[0]
    if asked not in forms:
        raise InputError(f"--output: {asked!r} is not {_one_of(forms)}")
    if as_json and asked != Form.JSON:
        raise InputError(f"give --json or --output {asked}, but not both")
    return Form(asked)


def _one_of(forms: Iterable[str]) -> str:
    *most, last = forms
    return f"{', '.join(most)} or {last}"


@dataclass(frozen=True, slots=True)
class Unopened:
    """What a session is made from; nothing of it has been read yet.

    Attributes:
        form: The form in which the command prints.
        shared: The common options.
        parsed: The command, as it was parsed.
    """

    form: Form
    shared: Mapping[str, Any]
    parsed: typer.Context

    @property
    def target(self) -> str:
        """The --target, as it was given."""
        return str(self.shared["target"])

    @property
    def timeout(self) -> float | None:
        """The --timeout in seconds, or None.

        Raises:
            InputError: It is not a time, or it is 0.
        """
        given = self.shared["timeout"]
        limit = None if given is None else seconds(given, "--timeout")
        if limit == 0:
            raise InputError("--timeout must be more than 0")
        return limit

    @property
    def tls(self) -> Tls | None:
        """The certificates; None: plain text."""
        files = [_path(self.shared[name]) for name in ("ca", "cert", "key")]
        name = self.shared["server_name"]
        secured = self.shared["tls"] or any(one is not None for one in (*files, name))
        return Tls(files[0], files[1], files[2], name) if secured else None

    @property
    def token_file(self) -> Path | None:
        """The file with the caller's token, or None."""
        return _path(self.shared["token_file"])

    def connect(self, place: str) -> Client:
        """Makes a client of a server.

        Raises:
            InputError: An option has a wrong value, or a file cannot be read.
        """
        limit = self.timeout
        try:
            return Client(
                place,
                tls=self.tls,
                token=self.token_file,
                on_behalf_of=self.shared["on_behalf_of"],
                timeout=limit or DATA_TIMEOUT,
                control_timeout=limit or CONTROL_TIMEOUT,
            )
        except InvalidInputError as problem:
            raise InputError(problem.message) from problem


def opened(made_from: Unopened) -> Session:
    """Opens the session of one command.

    Raises:
        InputError: An option has a wrong value, or a file cannot be read.
    """
    one = made_from
    return Session(
        one.target, one.connect(one.target), one.form, one.connect, one.parsed, one.timeout
    )


@contextmanager
def _session(made_from: Unopened) -> Iterator[Session]:
    session = opened(made_from)
    with session.client:
        yield session


def _opened_to_complete(parsed: typer.Context) -> Session:
    return opened(Unopened(Form.NAME, shared_options(parsed), parsed))


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)
