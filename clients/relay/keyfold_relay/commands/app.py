"""The command line: each command, and how its faults are said."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from keyfold.version import __version__
from keyfold_relay import config, logs
from keyfold_relay.commands import checking, cursors, listening, replaying
from keyfold_relay.config import Config, ConfigError
from keyfold_relay.delivery import ParkedError
from keyfold_relay.relay import ExitCode, Relay
from keyfold_relay.source import CursorExpiredError, CursorTakenError, NotNowError
from keyfold_relay.targets import NotTakenError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Carries Keyfold's events to webhooks, files and buckets.",
    epilog="""\b
Exit codes:
  0  success; for run: ended in order by SIGTERM or SIGINT
  1  unexpected error
  2  wrong usage, or a fault in the file
  3  another relay has taken a target's cursor over
  4  a target's cursor has expired
  5  Keyfold gave no events, or a target did not take them""",
)

_MOST: Final = (1 << 63) - 1
"""The highest number that a request can name."""

File = Annotated[Path, typer.Argument(help="The TOML file.", show_default=False)]
Target = Annotated[str, typer.Argument(help="A target's name in the file.", show_default=False)]


def _version(wanted: bool) -> None:  # noqa: FBT001  typer passes it by position
    if wanted:
        typer.echo(f"keyfold-relay {__version__}")
        raise typer.Exit


@app.callback()
def _before_commands(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def run(file: File) -> None:
    """Deliver events until SIGTERM. SIGHUP reopens files and tries waiting targets."""
    loaded = _load(file)
    logs.set_up()

    async def delivering() -> ExitCode:
        return await Relay(loaded).run()

    _end(_run(delivering()))


@app.command()
def check(file: File) -> None:
    """Say what is wrong with the file, and try Keyfold and every target.

    Each target gets one event of the type com.keyfold.relay.check.
    """
    _end(_run(checking.check(_load(file))))


@app.command()
def replay(
    file: File,
    target: Target,
    first: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, help="Send the events again from this number on."),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, help="The last number to send; the newest if left out."),
    ] = None,
) -> None:
    """Send what is parked, or a range of the log again.

    Without --first it sends what waits at the target's cursor, as the relay would, and ends. With
    --first it sends a range again and leaves the cursor where it is.
    """
    loaded = _load(file, target)
    logs.set_up()
    if first is None:
        if last is not None:
            _fail("--last needs --first", ExitCode.INVALID)
        _end(_run(replaying.waiting(loaded, target)))
    if last is not None and last < first:
        _fail("--last is before --first", ExitCode.INVALID)
    _end(_run(replaying.again(loaded, target, first, last)))


@app.command()
def skip(
    file: File,
    target: Target,
    to: Annotated[
        int, typer.Option(min=1, max=_MOST, help="The number of the last event to skip.")
    ],
) -> None:
    """Move a target's cursor past events that it will never take; prints them as JSON Lines."""
    loaded = _load(file, target)
    _end(_run(cursors.skip(loaded, target, to)))


@app.command()
def forget(
    file: File,
    target: Target,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002
) -> None:
    """Delete a target's cursor, such as an expired one; the next run makes a new one."""
    loaded = _load(file, target)
    if not yes:
        typer.confirm(f"delete the cursor {loaded.cursor(target)}?", abort=True)
    _end(_run(cursors.forget(loaded, target)))


@app.command()
def listen(
    secret: Annotated[
        list[str], typer.Option(help="A signing secret: file:/PATH or env:NAME; may be repeated.")
    ],
    address: Annotated[str, typer.Option(help="HOST:PORT on this machine.")] = "127.0.0.1:8080",
) -> None:
    """Receive a webhook's events, to try it: verify each signature and print the events."""
    try:
        listening.serve(address, secret)
    except ConfigError as error:
        _fail(str(error), ExitCode.INVALID)


def _load(file: Path, target: str | None = None) -> Config:
    try:
        loaded = config.load(file)
    except ConfigError as error:
        _fail(str(error), ExitCode.INVALID)
    if target is not None and target not in loaded.targets:
        names = ", ".join(sorted(loaded.targets))
        _fail(f"{file} has no target {target}; its targets are {names}", ExitCode.INVALID)
    return loaded


def _run(work: Coroutine[Any, Any, ExitCode]) -> ExitCode:
    try:
        # Not asyncio.run, which waits for threads at its end: one may hang in a look-up of a name,
        # or in a write to a pipe that nobody reads.
        return asyncio.new_event_loop().run_until_complete(work)
    except ConfigError as error:
        _fail(str(error), ExitCode.INVALID)
    except CursorTakenError:
        _fail(
            "a relay has taken the cursor over meanwhile, and goes on in this command's place",
            ExitCode.TAKEN,
        )
    except CursorExpiredError as error:
        _fail(f"{error}; `keyfold-relay forget` deletes the cursor", ExitCode.EXPIRED)
    except (NotNowError, NotTakenError) as error:
        _fail(str(error), ExitCode.NOT_DELIVERED)
    except ParkedError:
        _fail("the target does not take its events; the log says why", ExitCode.NOT_DELIVERED)
    except KeyboardInterrupt:
        return ExitCode.OK


def _fail(message: str, code: ExitCode) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(code)


def _end(code: ExitCode) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit, which waits for such threads, too.
    os._exit(code)
