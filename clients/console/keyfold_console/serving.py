"""The listener: it serves until SIGTERM or SIGINT, and takes a renewed certificate by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
from typing import Final

from aiohttp import web

from keyfold_console.app import build
from keyfold_console.settings import Settings, SettingsError
from keyfold_console.unreadable import answer_plainly

_log: Final = logging.getLogger(__name__)

_DRAIN: Final = 10.0
"""Seconds that requests under way have at the end."""

_LOOK: Final = 10.0
"""Seconds between two looks at the files of the certificate."""

_IDLE: Final = 75.0
"""Seconds for which a connection without a request stays open."""


async def serve(settings: Settings) -> None:
    """Serves until a signal.

    Raises:
        SettingsError: The address or the certificate cannot be used.
    """
    certificate = Certificate(settings)
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    runner = web.AppRunner(
        build(settings), access_log=None, keepalive_timeout=_IDLE, shutdown_timeout=_DRAIN
    )
    await runner.setup()
    try:
        if runner.server is not None:
            answer_plainly(runner.server)
        host, port = settings.address
        site = web.TCPSite(runner, host, port, ssl_context=certificate.context)
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
        renewing = asyncio.create_task(certificate.renew())
        try:
            await stop.wait()
        finally:
            renewing.cancel()
    finally:
        await runner.cleanup()
    _log.info("the console has ended")


class Certificate:
    """The console's own certificate, as its files have it.

    Attributes:
        context: TLS for the listener, whose next handshake takes the newest good pair; None without
            a certificate.
    """

    def __init__(self, settings: Settings) -> None:
        """Reads the files.

        Raises:
            SettingsError: They cannot be read, or do not fit together.
        """
        self._settings = settings
        self._seen = self._stamps()
        self.context = self._newest = certificates(settings)
        if self.context is not None:
            # A context of its own for each pair, because a half-written one would spoil it.
            self.context.sni_callback = self._choose

    async def renew(self) -> None:
        """Looks at the files again and again, until cancelled."""
        while self.context is not None:
            await asyncio.sleep(_LOOK)
            self.look()

    def look(self) -> None:
        """Takes a pair that has changed; keeps the last one while the files do not fit together."""
        seen = self._stamps()
        if seen == self._seen:
            return
        try:
            self._newest = certificates(self._settings)
        except SettingsError as error:
            _log.warning("the renewed certificate cannot be used", extra={"error": str(error)})
        else:
            self._seen = seen
            _log.info("the console has a renewed certificate")

    def _stamps(self) -> list[tuple[int, int]]:
        files = (self._settings.certificate, self._settings.private_key)
        stamps = []
        for file in files:
            with contextlib.suppress(OSError):
                if file is not None:
                    found = file.stat()
                    stamps.append((found.st_mtime_ns, found.st_ino))
        return stamps

    def _choose(
        self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        if self._newest is not None:
            handshake.context = self._newest


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
