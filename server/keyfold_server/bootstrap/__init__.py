"""Joins the concrete parts by the settings: providers, store, access, service and server.

This is the only package that knows all others. A test can join the parts in other ways.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from keyfold.version import __version__
from keyfold_server import grpc_log, monitoring, observability, telemetry
from keyfold_server.bootstrap import process
from keyfold_server.bootstrap.access import Access
from keyfold_server.bootstrap.providers import catalog, key_names, regions, seats, served_regions
from keyfold_server.domain.bounds import Bounds, Rates
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.rpc.asgi_server import LOOK, AsgiServer
from keyfold_server.rpc.call_log import CallLog
from keyfold_server.rpc.grpc_aio import GrpcAio
from keyfold_server.rpc.server import Server, Transport
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.garbage import EVERY, Garbage
from keyfold_server.service.readiness import Readiness
from keyfold_server.service.replica import Replica
from keyfold_server.settings import Settings, unknown_variables
from keyfold_server.store import opening
from keyfold_server.store.postgresql.address import Timeouts
from keyfold_server.telemetry import Sampling

__all__ = ["bounds", "migrate", "regions", "replica", "run", "serve"]

log = logging.getLogger(__name__)


def replica(settings: Settings) -> tuple[Replica, Callable[[], None]]:
    """Joins one replica to its store and providers.

    Returns:
        The replica, and the function that closes its store; call that when the replica has stopped.

    Raises:
        SetupError: The settings are wrong, or the store or its service key cannot be used.
    """
    clock = SystemClock()
    providers = catalog(settings)
    providers.start()
    names = key_names(settings, providers)
    places = regions(settings, providers)
    pool = seats(settings, providers)
    store = opening.open_store(
        settings.store,
        settings.service_key,
        clock=clock,
        password_file=settings.store_password_file,
        listen_url=settings.store_listen,
        migrating=settings.migrate == "auto",
        # Two polls can hang within the time that a replica may go without the store.
        timeouts=Timeouts(poll=min(5.0, settings.store_max_staleness / 3)),
    )
    timing = Timing(
        cache_ttl=settings.cache_ttl,
        outage_grace=settings.outage_grace,
        store_max_staleness=settings.store_max_staleness,
        store_poll=min(Timing().store_poll, settings.store_max_staleness / 4),
        sweep=settings.sweep_interval,
        log_retention=settings.log_retention,
        cursor_expiry=settings.cursor_expiry,
        usage_retention=settings.usage_retention,
        backup_retention=settings.backup_retention,
    )
    joined = Replica(
        providers.provider,
        names,
        store,
        clock,
        timing,
        bounds=bounds(settings),
        regions=places,
        seats=pool,
        served=served_regions(settings),
    )
    return joined, store.close


def bounds(settings: Settings) -> Bounds:
    """Returns the bounds of the settings."""
    return Bounds(
        cached_clusters=settings.cache_clusters,
        header_bytes=settings.max_header_bytes,
        default_deadline=settings.default_deadline,
        longest_deadline=settings.max_deadline,
        calls=settings.max_concurrent_calls,
        calls_per_caller=settings.max_calls_per_caller,
        calls_per_organization=settings.max_calls_per_organization,
        streams_per_caller=settings.max_streams_per_caller,
        calls_per_connection=settings.max_calls_per_connection,
        connections=settings.max_connections,
        request_bytes=settings.max_request_bytes,
        request_bytes_per_caller=settings.max_request_bytes_per_caller,
        receive_timeout=settings.receive_timeout,
        unread_bytes=settings.max_unread_bytes,
        rate_per_caller=settings.rate_per_caller,
        rate_per_organization=settings.rate_per_organization,
        connection_age=settings.max_connection_age,
        ping_interval=settings.min_ping_interval,
        kms_rates=Rates(
            per_key=settings.kms_rate_per_key,
            per_account=settings.kms_rate_per_account,
            per_provider=settings.kms_rate_per_provider,
        ),
    )


def migrate(settings: Settings) -> str:
    """Brings the store to this release's schema, and returns the store's name for messages.

    Raises:
        SetupError: The store cannot be migrated.
    """
    if settings.store.startswith("sqlite:///"):
        _, close = replica(settings)
        close()
        return settings.store
    return opening.migrate_store(settings.store, password_file=settings.store_password_file)


async def serve(
    settings: Settings,
    ready: Callable[[str], None],
    sampling: Sampling,
    call_log: CallLog,
    readiness: Readiness,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        settings: The settings.
        ready: Called with the address once the server takes calls.
        sampling: Decides which calls get spans.
        call_log: Records each call.
        readiness: Learns when the server has started and when it stops.

    Raises:
        SetupError: The server cannot start with these settings.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    access = Access(settings, SystemClock())
    joined, close = replica(settings)
    joined.run_operations(access.callers.rights)
    try:
        await joined.start()
        await access.start(joined.supervisor)
        transport = _transport(settings, access, joined)
        server = Server(
            joined,
            access.callers,
            transport,
            sampling=sampling,
            call_log=call_log,
            readiness=readiness,
        )
        try:
            address = await server.start()
            garbage = Garbage(joined.clock)
            await garbage.turn()
            joined.supervisor.start("garbage", garbage.turn, EVERY)
            log.info("serving %s", _served(joined.served))
            ready(address)
            await stopping.wait()
            log.info("draining for up to %g seconds", settings.drain_grace)
        finally:
            await server.stop()
            await joined.stop()
    finally:
        close()


def _served(served: ServedRegions) -> str:
    """Returns what a replica serves, for the log."""
    if served.all:
        return "every region"
    return f"region{'s' if len(served.names or ()) > 1 else ''} {served} alone"


def _transport(settings: Settings, access: Access, joined: Replica) -> Transport:
    if settings.transport == "grpc":
        return GrpcAio(
            settings.listen,
            joined.bounds,
            credentials=None if access.tls is None else access.tls.credentials(),
            asks_clients=access.asks_clients,
            socket_mode=settings.socket_mode,
            grace=settings.drain_grace,
        )
    transport = AsgiServer(
        settings.listen,
        joined.bounds,
        tls=access.tls,
        socket_mode=settings.socket_mode,
        grace=settings.drain_grace,
        origins=settings.cors_origins,
    )
    joined.supervisor.start("transport", transport.keep, LOOK)
    return transport


def run(settings: Settings, ready: Callable[[str], None]) -> None:
    """Runs `serve` with logs, traces and metrics, on uvloop if it is installed."""
    process.keep_memory_private()
    by_grpc = settings.tls_cert is not None and settings.transport == "grpc"
    if by_grpc and os.environ.get("GRPC_VERBOSITY") == grpc_log.VERBOSITY:
        end_grpc_log = grpc_log.follow()
    else:
        end_grpc_log = _nothing
    pretty = observability.logs()
    for name in unknown_variables():
        log.warning("%s is not a setting; is it misspelt?", name)
    process.allow_connections(settings.max_connections)
    sampling = observability.traces()
    readiness = Readiness()
    telemetry.BUILD.info(
        {
            "version": __version__,
            "python": platform.python_version(),
            "transport": settings.transport,
            "store": urlsplit(settings.store).scheme,
        }
    )
    telemetry.SERVING.set_function(lambda: float(not readiness.obstacle))
    end_monitoring = monitoring.serve(settings.metrics_address(), readiness)
    call_log = CallLog(sys.stderr.fileno(), pretty=pretty, clusters=settings.metrics_clusters)
    call_log.start()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, ready, sampling, call_log, readiness))
    finally:
        call_log.stop()
        end_monitoring()
        observability.end_traces()
        end_grpc_log()


def _nothing() -> None:
    """Does nothing."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
