"""The listener: it serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from typing import Final

from aiohttp import web

from keyfold_console.app import build
from keyfold_console.settings import Settings, SettingsError

_log: Final = logging.getLogger(__name__)

_DRAIN: Final = 10.0
"""Seconds that requests under way have at the end."""

_IDLE: Final = 75.0
"""Seconds for which a connection without a request stays open."""


async def serve(settings: Settings) -> None:
    """Serves until a signal.

    Raises:
        SettingsError: The address or the certificate cannot be used.
    """
    tls = certificates(settings)
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    runner = web.AppRunner(
        build(settings), access_log=None, keepalive_timeout=_IDLE, shutdown_timeout=_DRAIN
    )
    await runner.setup()
    try:
        host, port = settings.address
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(
                f"--listen {settings.listen}: cannot listen there: {error.strerror}"
            ) from None
        scheme = "https" if settings.certificate else "http"
        _log.info(
            "the console serves",
            extra={
                "addresses": [f"{scheme}://{one[0]}:{one[1]}" for one in runner.addresses],
                "target": settings.target,
            },
        )
        await stop.wait()
    finally:
        await runner.cleanup()
    _log.info("the console has ended")


def certificates(settings: Settings) -> ssl.SSLContext | None:
    """Returns the console's own TLS; None without a certificate.

    Raises:
        SettingsError: The files cannot be read, or do not fit together.
    """
    if settings.certificate is None or settings.private_key is None:
        return None
    for file in (settings.certificate, settings.private_key):
        try:
            file.read_bytes()
        except OSError as error:
            raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.private_key)
    except ssl.SSLError as error:
        raise SettingsError(
            f"{settings.certificate} and {settings.private_key} are not a certificate and its "
            f"private key: {error.reason}"
        ) from None
    return context
