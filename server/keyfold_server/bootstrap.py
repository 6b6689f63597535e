"""Where concrete parts meet: settings to providers, store, service and server.

The only file that knows every room. Its parts can be put together with others in a test.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final

from keyfold_server import observability
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers import Catalog, Maker, maker, third_party, type_of
from keyfold_server.rpc.call_log import CallLog
from keyfold_server.rpc.server import GrpcServer
from keyfold_server.service.replica import Replica
from keyfold_server.service.timing import SystemClock, Timing
from keyfold_server.settings import Settings, unknown_variables
from keyfold_server.store import opening
from keyfold_server.store.address import Limits
from keyfold_server.telemetry import Sampling

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4


def catalog(settings: Settings) -> Catalog:
    """Returns the providers that the settings allow for."""
    makers: dict[str, Maker] = third_party()
    if settings.local_keys is not None:
        makers["LOCAL"] = maker("LOCAL", settings.local_keys)
    return Catalog(makers)


def platform_keys(settings: Settings, providers: Catalog) -> Callable[[str], RootKey | None]:
    """Returns what tells the vendor's own key of a region.

    Raises:
        SetupError: A uri is none of a known provider's, or that provider is not set up.
    """

    def key(uri: str) -> RootKey:
        root = RootKey(type_of(uri), uri)
        return providers.provider(root.type).canonical(root)

    given = settings.platform_key
    uris = given if isinstance(given, dict) else {}
    every = given if isinstance(given, str) else None
    try:
        keys = {region: key(uri) for region, uri in uris.items()}
        default = None if every is None else key(every)
    except KeyfoldError as error:
        raise SetupError(f"KEYFOLD_PLATFORM_KEY: {error.message}") from None
    return lambda region: keys.get(region, default)


def check(settings: Settings) -> list[str]:
    """Returns what is wrong with settings beyond their form, without starting anything.

    Each provider that is set up is made, so that a missing extra shows now and not on first use.
    """
    faults = []
    providers = catalog(settings)
    try:
        platform_keys(settings, providers)
    except KeyfoldError as error:
        faults.append(error.message)
    for type_ in providers.types():
        try:
            providers.provider(type_)
        except KeyfoldError as error:
            faults.append(f"{type_}: {error.message}")
    try:
        opening.check(settings.store, settings.service_key)
    except KeyfoldError as error:
        faults.append(f"KEYFOLD_STORE: {error.message}")
    return faults


def replica(settings: Settings) -> tuple[Replica, Callable[[], None]]:
    """Joins one replica to its store and providers.

    Returns:
        The replica, and what closes its store once it has stopped.

    Raises:
        SetupError: The store or its service key cannot be used as they are.
    """
    clock = SystemClock()
    providers = catalog(settings)
    if settings.local_keys is not None:
        providers.provider("LOCAL")  # Now, so that its warning stands at the log's beginning.
    platform = platform_keys(settings, providers)
    store = opening.open_store(
        settings.store,
        settings.service_key,
        clock=clock,
        password_file=settings.store_password_file,
        migrating=settings.migrate == "auto",
        # Two polls that hang fit into the time that a replica may go without the store.
        limits=Limits(poll=min(5.0, settings.store_max_staleness / 3)),
    )
    timing = Timing(
        cache_ttl=settings.cache_ttl,
        outage_grace=settings.outage_grace,
        store_max_staleness=settings.store_max_staleness,
        store_poll=min(1.0, settings.store_max_staleness / 4),
    )
    joined = Replica(
        providers.provider,
        platform,
        store,
        clock,
        timing,
        max_clusters=settings.cache_clusters,
    )
    return joined, store.close


def migrate(settings: Settings) -> str:
    """Brings the store to this release's schema, and returns what to call it.

    Raises:
        SetupError: The store cannot be migrated.
    """
    if settings.store.startswith("sqlite:///"):
        _, close = replica(settings)
        close()
        return settings.store
    return opening.migrate_store(settings.store, password_file=settings.store_password_file)


async def serve(
    settings: Settings, ready: Callable[[str], None], sampling: Sampling, call_log: CallLog
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        settings: The settings.
        ready: Told the address once calls are taken.
        sampling: Which calls get spans.
        call_log: Takes a line per call.

    Raises:
        SetupError: The server cannot start as it is set up.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    joined, close = replica(settings)
    try:
        await joined.start()
        server = GrpcServer(
            joined, settings.listen, settings.max_concurrent_calls, sampling, call_log
        )
        try:
            ready(await server.start())
            await stopping.wait()
            log.info("draining for up to %g seconds", settings.drain_grace)
        finally:
            await server.stop(settings.drain_grace)
            await joined.stop()
    finally:
        close()


def run(settings: Settings, ready: Callable[[str], None]) -> None:
    """Runs `serve` on uvloop where it is installed, seen from outside, its memory private."""
    _keep_memory_private()
    pretty = observability.logs()
    for name in unknown_variables():
        log.warning("%s is not a setting; is it misspelt?", name)
    sampling = observability.traces()
    end_metrics = observability.metrics(settings.metrics_address())
    call_log = CallLog(sys.stderr.fileno(), pretty=pretty)
    call_log.start()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, ready, sampling, call_log))
    finally:
        call_log.stop()
        end_metrics()
        observability.end_traces()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _keep_memory_private() -> None:
    """Forbids core dumps and ptrace: both would hand out the keys in memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            log.warning("the kernel did not switch core dumps and ptrace off")
