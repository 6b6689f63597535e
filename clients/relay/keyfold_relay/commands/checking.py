"""`keyfold-relay check`: tries Keyfold and every target, and prints no secret."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import typer

from keyfold_relay import cloudevents, targets
from keyfold_relay.config import Config, ConfigError
from keyfold_relay.config import Target as TargetConfig
from keyfold_relay.relay import ExitCode
from keyfold_relay.source import NotNowError
from keyfold_relay.source.event_service import EventService
from keyfold_relay.targets import NotTakenError


async def check(config: Config) -> ExitCode:
    """Tries everything side by side and prints a line for each."""
    names = ["keyfold", *(f"targets.{name}" for name in config.targets)]
    faults = await asyncio.gather(
        _keyfold(config), *(_target(table) for table in config.targets.values())
    )
    for name, fault in zip(names, faults, strict=True):
        typer.echo(f"{name}: {fault or 'ok'}")
    return ExitCode.NOT_DELIVERED if any(faults) else ExitCode.OK


async def _keyfold(config: Config) -> str:
    """Returns what keeps the relay from reading events, or an empty string."""
    try:
        source = EventService(config.keyfold)
        try:
            await source.probe()
        finally:
            await source.close()
    except (ConfigError, NotNowError) as error:
        return str(error)
    return ""


async def _target(table: TargetConfig) -> str:
    """Returns why a target does not take an event, or an empty string."""
    try:
        target = targets.make(table)
        try:
            await target.send([cloudevents.check(datetime.now(UTC))])
        finally:
            await target.close()
    except (ConfigError, NotTakenError) as error:
        return str(error)
    return ""
