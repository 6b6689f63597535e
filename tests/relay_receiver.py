"""A receiver of webhooks for the tests, over TLS on loopback, with the moods of bad days.

It checks signatures with the package `standardwebhooks`, whose authors wrote the specification, and
so shares no code with the relay.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from counterparts.pki import Authority

SECRET: Final = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
OTHER: Final = "whsec_" + "OTg3NjU0MzIxMDk4NzY1NDMyMTA5ODc2"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Receiver:
    """A receiver.

    Attributes:
        url: Where it listens.
        ca: A file with its authority.
        secrets: The secrets that it accepts.
        events: Every event that it took, in the order in which they came.
        numbers: The numbers of these events.
        requests: The headers of every request.
        refused: How many requests had no signature that holds.
        answer: What it answers; None answers 204 once it has taken the events.
    """

    def __init__(self, folder: Path, secrets: Sequence[str] = (SECRET,)) -> None:
        self.folder = folder
        self.secrets = list(secrets)
        self.events: list[dict[str, Any]] = []
        self.numbers: list[int] = []
        self._seen: set[int] = set()
        self._told = 0
        self.requests: list[dict[str, str]] = []
        self.refused = 0
        self.answer: Answer | None = None
        self.url = ""
        self.ca = folder / "receiver-ca.pem"
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        authority = Authority("receiver")
        self.ca.write_bytes(authority.ca_pem)
        pem, key = authority.issue(["127.0.0.1", "localhost", "siem.example"])
        both = self.folder / "receiver.pem"
        both.write_bytes(pem + key)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(both)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}/keyfold"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def came(self) -> None:
        """Waits until events have come that nobody has waited for yet."""
        while self._told == len(self.events):
            self._news.clear()
            await self._news.wait()
        self._told = len(self.events)

    async def has(self, number: int) -> None:
        """Waits until an event has come."""
        while number not in self._seen:
            self._news.clear()
            await self._news.wait()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(headers)
        if not any(_holds(secret, body, headers) for secret in self.secrets):
            self.refused += 1
            return web.Response(status=401)
        if self.answer is not None:
            answer = await self.answer(request)
            if answer is not None:
                return answer
        content = json.loads(body)
        came = content if isinstance(content, list) else [content]
        self.events += came
        numbers = [int(one["data"]["number"]) for one in came if "number" in one["data"]]
        self.numbers += numbers
        self._seen.update(numbers)
        self._news.set()
        return web.Response(status=204)


def _holds(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True
