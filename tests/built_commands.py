"""Typer's commands, built once in a process: building them takes longer than most commands do.

A program builds its commands once, as it starts. Tests run hundreds of commands in one process, and
fork others from it.
"""

from __future__ import annotations

import functools
import importlib

import typer.main
import typer.testing


def keep(*apps: typer.Typer) -> None:
    """Has Typer build the commands of each app once in this process, and of these now.

    It also imports what commands import as they are called, for forks that call these.
    """
    build = functools.cache(typer.main.get_command)
    typer.main.get_command = build
    typer.testing._get_command = build  # type: ignore[attr-defined]
    for app in apps:
        importlib.import_module("typer._adapters")
        build(app)
