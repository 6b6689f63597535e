"""`keyfold-relay skip` and `forget`: an operator moves or deletes a target's cursor."""

from __future__ import annotations

import sys

import typer

from keyfold_relay.config import Config
from keyfold_relay.relay import ExitCode
from keyfold_relay.source.event_service import EventService


async def skip(config: Config, name: str, to: int) -> ExitCode:
    """Takes a cursor over and moves it past a number; prints what it passes."""
    source = EventService(config.keyfold)
    token, skipped = "", 0
    try:
        to = min(to, await source.newest(config.cursor(name)))
        wanted = config.targets[name].filter.message()
        async with source.watch(config.cursor(name), wanted) as feed:
            async for message in feed.messages():
                if message.number > to:
                    break
                token = message.token
                if message.event is not None:
                    sys.stdout.buffer.write(message.event.body + b"\n")
                    skipped += 1
                if message.number == to:
                    break
            if token:
                sys.stdout.flush()
                await source.advance(config.cursor(name), feed.session, token)
    finally:
        await source.close()
    typer.echo(f"{name}: {skipped} events skipped", err=True)
    return ExitCode.OK


async def forget(config: Config, name: str) -> ExitCode:
    """Deletes a target's cursor."""
    source = EventService(config.keyfold)
    try:
        await source.forget(config.cursor(name))
    finally:
        await source.close()
    typer.echo(f"{name}: the cursor {config.cursor(name)} is deleted")
    return ExitCode.OK
