"""`keyfold-relay replay`: sends what waits at a cursor, or a range of the log again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import typer

from keyfold_relay import targets
from keyfold_relay.clock import Clock
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.config import Config
from keyfold_relay.delivery import Delivery, Ending
from keyfold_relay.meters import Meters
from keyfold_relay.relay import ExitCode
from keyfold_relay.source.event_service import EventService
from keyfold_relay.targets import Target


async def waiting(config: Config, name: str) -> ExitCode:
    """Delivers what waits at a target's cursor, and moves the cursor."""
    async with _both(config, name) as (source, target):
        delivery = Delivery(
            name,
            config.cursor(name),
            config.targets[name].filter.message(),
            target,
            source,
            meters=Meters(),
            park_after=config.relay.park_after,
            clock=Clock(),
        )
        ending = await delivery.run(until=await source.newest(config.cursor(name)))
        typer.echo(f"{name}: {delivery.count} events delivered, {ending.value}")
        return {Ending.TAKEN: ExitCode.TAKEN, Ending.EXPIRED: ExitCode.EXPIRED}.get(
            ending, ExitCode.OK
        )


async def again(config: Config, name: str, first: int, last: int | None) -> ExitCode:
    """Sends a range of the log; each batch must be taken at the first attempt.

    Raises:
        NotTakenError: The target has not taken a batch.
        NotNowError: Keyfold does not give the events.
    """
    async with _both(config, name) as (source, target):
        sent, batch, size = 0, list[CloudEvent](), 0
        wanted = config.targets[name].filter.message()
        wanted.first_number, wanted.last_number = first, last or 0
        async for event in source.events(wanted):
            full = len(batch) >= target.limits.events
            if batch and (full or size + len(event.body) > target.limits.size):
                await target.send(batch)
                sent, batch, size = sent + len(batch), [], 0
            batch.append(event)
            size += len(event.body)
        if batch:
            await target.send(batch)
        typer.echo(f"{name}: {sent + len(batch)} events sent again")
        return ExitCode.OK


@asynccontextmanager
async def _both(config: Config, name: str) -> AsyncIterator[tuple[EventService, Target]]:
    source, target = EventService(config.keyfold), targets.make(config.targets[name])
    try:
        yield source, target
    finally:
        await target.close()
        await source.close()
