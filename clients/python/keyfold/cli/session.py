"""A command's connection to a server, and what it prints there: text, names, JSON or YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from keyfold.calls import Call, Response, Result
from keyfold.calls.call import next_page
from keyfold.calls.organizations import get_organization
from keyfold.cli.output.documents import as_yaml
from keyfold.cli.output.forms import Form
from keyfold.cli.output.names import names_of
from keyfold.cli.output.text import one_line
from keyfold.client import Client
from keyfold.errors import KeyfoldError, NotFoundError


@dataclass(frozen=True, slots=True)
class Session:
    """A command's connection to a server.

    Attributes:
        target: The --target, as it was given.
        client: Its client.
        form: The form in which the command prints what it shows.
        connect: Makes a client of another server, with the options of this one.
        parsed: The command, as it was parsed.
        timeout: The --timeout in seconds; None if the command line does not set one.
    """

    target: str
    client: Client
    form: Form
    connect: Callable[[str], Client]
    parsed: typer.Context
    timeout: float | None = None

    @property
    def for_programs(self) -> bool:
        """Whether the command prints names, JSON or YAML, and not text for people."""
        return self.form in {Form.NAME, Form.JSON, Form.YAML}

    def printed(self, message: Message, *named: str) -> bool:
        """Prints a response as names, JSON or YAML, if the command is to print one of them.

        Args:
            message: The response.
            named: The names of the resources, in place of those that the response has.

        Returns:
            Whether it has. If not, text for people is wanted.
        """
        if self.form is Form.NAME:
            for name in named or names_of(message):
                typer.echo(name)
        elif self.form is Form.JSON:
            typer.echo(json_of(message))
        elif self.form is Form.YAML:
            typer.echo(as_yaml(json.loads(json_of(message))), nl=False)
        return self.for_programs

    def streamed(self, message: Message) -> bool:
        """Prints one response of several as JSON in a line of its own, or as a YAML document.

        Returns:
            Whether it has. If not, text for people is wanted.
        """
        if self.form is Form.YAML:
            typer.echo(f"---\n{as_yaml(json.loads(json_of(message)))}", nl=False)
        elif self.form is Form.JSON:
            typer.echo(json_of(message, indent=None))
        else:
            return False
        return True

    def printed_object(self, shown: dict[str, Any]) -> bool:
        """Prints an object of the command's own as JSON or YAML, if it is to print one of them.

        Returns:
            Whether it has. If not, text for people is wanted.
        """
        if self.form is Form.JSON:
            typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        elif self.form is Form.YAML:
            typer.echo(as_yaml(shown), nl=False)
        else:
            return False
        return True

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
        if not found:
            self._tell_unknown(first.request)
        more = page is not None or 0 < limit < len(found)
        if limit:
            del found[limit:]
        return whole, more

    def _tell_unknown(self, request: Message) -> None:
        """Says on stderr that the organization of an empty list does not exist.

        One that the caller may not see gets the same words from the server (C8).
        """
        organization = _organization_in(request)
        if not organization:
            return
        try:
            self.client.send(get_organization(organization))
        except NotFoundError as error:
            sys.stdout.flush()
            typer.echo(f"note: {one_line(error.message)}", err=True)
        except KeyfoldError:
            return  # Whether it exists cannot be told, and the list is right in any case.


def _organization_in(request: Any) -> str:
    """Returns the organization that the request of a list names, or empty."""
    narrow = getattr(request, "filter", request)
    return str(getattr(narrow, "organization", ""))


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
