"""`keyfold-relay listen`: a receiver for trying the relay, which verifies and prints events."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

import typer
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from keyfold_relay import cloudevents, signing
from keyfold_relay.config import ConfigError, Secret, SecretError, SecretPlace

_MAX_BODY: Final = 4 * 1024 * 1024


def serve(address: str, secrets: Sequence[str]) -> None:
    """Serves until it is interrupted.

    Raises:
        ConfigError: A secret or the address cannot be used.
    """
    keys = [_key(each) for each in secrets]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError("--address: write HOST:PORT, such as 127.0.0.1:8080")
    app = application(keys)
    try:
        web.run_app(
            app,
            host=host.strip("[]"),
            port=int(port),
            access_log=None,
            print=lambda _: typer.echo(f"listening on http://{address}", err=True),
        )
    except OSError as error:
        raise ConfigError(f"--address: cannot listen on {address}: {error.strerror}") from None


def application(keys: Sequence[bytes]) -> web.Application:
    """Returns the receiver, which answers every path.

    Args:
        keys: The secrets' bytes.
    """

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            signing.verify(keys, headers, body, time.time())
            events = _events(request.content_type, body)
        except signing.NotSignedError as error:
            typer.echo(f"refused: {error}", err=True)
            return web.Response(status=401)
        except ValueError:
            typer.echo("refused: it is signed, but not a CloudEvent in JSON", err=True)
            return web.Response(status=400)
        for event in events:
            typer.echo(json.dumps(event, ensure_ascii=False))
        return web.Response(status=204)

    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_post("/{path:.*}", receive)
    return app


def _events(kind: str, body: bytes) -> list[Any]:
    """Returns the events of a body.

    Raises:
        ValueError: It has none.
    """
    content = json.loads(body)
    if kind == cloudevents.BATCH and isinstance(content, list):
        return content
    if kind == cloudevents.SINGLE and isinstance(content, dict):
        return [content]
    raise ValueError("not a CloudEvent")


def _key(written: str) -> bytes:
    try:
        place: SecretPlace = TypeAdapter(Secret).validate_python(written)
        return signing.key_of(place.read())
    except ValidationError as error:
        raise ConfigError(
            "--secret: " + error.errors()[0]["msg"].removeprefix("Value error, ")
        ) from None
    except (SecretError, signing.BadSecretError) as error:
        raise ConfigError(f"--secret: {error}") from None
