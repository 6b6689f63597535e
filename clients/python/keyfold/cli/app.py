"""The table of commands."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from keyfold.cli.commands import (
    access_policy,
    cursors,
    data_plane,
    deletion,
    events,
    key_links,
    key_test,
    key_usage,
    lifecycle,
    onboarding,
    operations,
    organizations,
    probe,
    recheck,
    rotation,
    status,
    usage,
    watch,
    what_if,
    whoami,
)
from keyfold.cli.commands.check.command import check, nothing_opened
from keyfold.cli.commands.documents.apply import apply
from keyfold.cli.commands.documents.get import get
from keyfold.cli.commands.files import commands as files
from keyfold.cli.common import before_commands, with_session
from keyfold.cli.errors import EXIT_CODES
from keyfold.cli.output.forms import DATA, DOCUMENT, PLAN, REPORT, RESOURCES
from keyfold.version import __version__

# Python's own tracebacks: those of rich print local variables, which may hold keys.
app = typer.Typer(
    name="keyfold",
    help="Wrap data keys under root keys that your customers hold, and manage those keys.",
    epilog=f"The options that every command has stand before its name or after it.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _name, _function, _forms in (
    ("enable", lifecycle.enable, RESOURCES),
    ("add-regions", lifecycle.add_regions, RESOURCES),
    ("rotate", rotation.rotate, RESOURCES),
    ("retire-generation", rotation.retire_generation, RESOURCES),
    ("revoke", lifecycle.revoke, RESOURCES),
    ("restore", lifecycle.restore, RESOURCES),
    ("delete", deletion.delete, RESOURCES),
    ("undelete", deletion.undelete, RESOURCES),
    ("test-key", key_test.key_test, REPORT),
    ("access-policy", access_policy.access_policy, REPORT),
    ("onboard", onboarding.onboard, RESOURCES),
    ("recheck", recheck.recheck, RESOURCES),
    ("probe", probe.probe, REPORT),
    ("status", status.status, RESOURCES),
    ("clusters", status.clusters, RESOURCES),
    ("get", get, DOCUMENT),
    ("apply", apply, PLAN),
    ("key-usage", key_usage.key_usage, RESOURCES),
    ("what-if", what_if.what_if, RESOURCES),
    ("usage", usage.usage, RESOURCES),
    ("watch", watch.watch, REPORT),
    ("whoami", whoami.whoami, REPORT),
    ("wrap", data_plane.wrap, DATA),
    ("unwrap", data_plane.unwrap, DATA),
    ("generate-data-key", data_plane.generate_data_key, DATA),
    ("rewrap", data_plane.rewrap, DATA),
    ("encrypt", files.encrypt, DATA),
    ("decrypt", files.decrypt, DATA),
    ("rekey", files.rekey, DATA),
):
    app.command(_name)(with_session(_function, _forms))
app.command("check")(with_session(check, PLAN, nothing_opened))

_events = typer.Typer(
    name="events",
    help="Show what happened to keys, and verify the log that tells it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_events.command("list")(with_session(events.list_events))
_events.command("show")(with_session(events.show))
_events.command("verify")(with_session(events.verify, REPORT))
_events.command("anchor")(with_session(events.anchor, REPORT))
_events.command("export")(with_session(events.export, DATA))
app.add_typer(_events)

_cursors = typer.Typer(
    name="cursors",
    help="Show how far the readers of events are, such as relays, and delete those that are gone.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_cursors.command("list")(with_session(cursors.list_cursors))
_cursors.command("delete")(with_session(cursors.delete))
app.add_typer(_cursors)

_operations = typer.Typer(
    name="operations",
    help="Work on many regions at once: rotate them, try or prove their keys, set their policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_operations.command("start")(with_session(operations.start))
_operations.command("get")(with_session(operations.get))
_operations.command("list")(with_session(operations.list_operations))
_operations.command("wait")(with_session(operations.wait))
_operations.command("cancel")(with_session(operations.cancel))
_operations.command("delete")(with_session(operations.delete))
app.add_typer(_operations)

_organizations = typer.Typer(
    name="organizations",
    help="Manage your customers: their limits, and what their clusters' regions get.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_organizations.command("create")(with_session(organizations.create))
_organizations.command("get")(with_session(organizations.get))
_organizations.command("list")(with_session(organizations.list_organizations))
_organizations.command("update")(with_session(organizations.update))
_organizations.command("delete")(with_session(organizations.delete))
app.add_typer(_organizations)

_links = typer.Typer(
    name="links",
    help="Manage the root keys that organizations have linked.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_links.command("create")(with_session(key_links.create))
_links.command("get")(with_session(key_links.get))
_links.command("list")(with_session(key_links.list_links))
_links.command("update")(with_session(key_links.update))
_links.command("move")(with_session(key_links.move))
_links.command("delete")(with_session(key_links.delete))
app.add_typer(_links)

for _group in (_events, _cursors, _operations, _organizations, _links):
    before_commands(_group)


def _version(wanted: bool) -> None:  # noqa: FBT001  typer passes it by position
    if wanted:
        typer.echo(f"keyfold {__version__}")
        raise typer.Exit


before_commands(
    app,
    inspect.Parameter(
        "version",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[
            bool,
            typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
        ],
    ),
)
