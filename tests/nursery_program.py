"""Keyfold's programs without their imports: forked from a process that has imported everything.

This is a program, which `nursery` starts. It reads one order per line and answers each with a line,
of the order's number and:

    {"number": …, "do": "start", "program": …, "arguments": […], "folder": …, "input": …, "out": …,
     "err": …, "environment": {…}}                             the process id
    {"number": …, "do": "poll", "pid": …}                      the exit status, or `running`

A fork differs from a program that was started in two things: its imports are done, and its
commands are built. Both cost ten times as much as all else that a start does. It gets the given
folder, files, arguments and environment, and ends as a program does. When the orders end, the
nursery ends every process that is left.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_ADDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def _client() -> None:
    from keyfold import cli

    cli.main()


def _server() -> None:
    from keyfold_server import __main__ as program

    program.main()


def import_server() -> None:
    """Imports all that a server needs, so that no fork has to."""
    from keyfold_server import __main__, admin, bootstrap
    from keyfold_server.providers.local import provider as local
    from keyfold_server.store import opening

    del __main__, admin, bootstrap, local, opening
    with contextlib.suppress(ImportError):  # the driver for PostgreSQL may be missing
        from keyfold_server.store.postgresql import notifications

        del notifications


def _build_commands() -> None:
    """Builds the programs' commands, and has typer keep them for all forks."""
    import typer.main

    from keyfold.cli.app import app
    from keyfold_server import admin

    build = functools.cache(typer.main.get_command)
    typer.main.get_command = build
    build(app)
    build(admin.app)


def _opened(order: dict[str, Any]) -> list[int]:
    """Opens what a program reads and writes, so that whoever gave the order may close it."""
    ways = {"input": os.O_RDONLY, "out": _ADDING, "err": _ADDING}
    # A terminal must not become the nursery's own.
    return [
        os.open(Path(order["folder"], order[name]), way | os.O_NOCTTY, 0o666)
        for name, way in ways.items()
    ]


def _prepare(order: dict[str, Any], files: list[int]) -> None:
    """Gives a fork what the order names: folder, environment, arguments and files."""
    os.setsid()  # Ctrl-C in the tests' terminal is not for it.
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["program"], *order["arguments"]]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # What Python found out at its start about the nursery's own.
    sys.stdin = os.fdopen(0, closefd=False)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _poll(child: int, ended: dict[int, int | None]) -> str:
    if ended[child] is None:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            ended[child] = os.waitstatus_to_exitcode(status)
    code = ended[child]
    return "running" if code is None else str(code)


def _carry_out(ended: dict[int, int | None]) -> tuple[dict[str, Any], list[int]] | None:
    """Carries out orders; returns None at their end, and in each fork its order and its files."""
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "poll":
            answer = _poll(order["pid"], ended)
        else:
            files = _opened(order)
            child = os.fork()
            if child == 0:
                return dict(order), files
            for file in files:
                os.close(file)
            # A number may come back: then it is another process's.
            ended[child] = None
            answer = str(child)
        sys.stdout.write(f"{order['number']} {answer}\n")
        sys.stdout.flush()
    return None


def _keep_from_collector() -> None:
    """Keeps what was imported from the collector, in all forks, too.

    A collection would copy every page of it into the fork. That took most of a fork's computing: a
    server does one as it starts (`keyfold_server.service.garbage`), and Python does as it ends. So
    a fork's first `gc.unfreeze` does nothing.
    """
    gc.collect()
    gc.freeze()
    unfreeze = gc.unfreeze

    def first() -> None:
        gc.unfreeze = unfreeze

    gc.unfreeze = first


def run(programs: Mapping[str, Callable[[], None]]) -> None:
    """Carries out orders; in a fork, runs its program.

    Args:
        programs: The programs by name. What they import should be imported already.
    """
    # Ctrl-C in a terminal reaches this process, too, whose end comes with its orders'.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_from_collector()
    ended: dict[int, int | None] = {}
    fork = _carry_out(ended)
    if fork is not None:
        order, files = fork
        _prepare(order, files)
        programs[Path(order["program"]).name]()
        return
    for child, code in ended.items():
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    import_server()
    _build_commands()
    run({"keyfold": _client, "keyfold-server": _server})
