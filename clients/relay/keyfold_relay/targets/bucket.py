"""A bucket of S3, or of a service that speaks its protocol: one object for each batch.

boto3 makes and signs the requests; `http` sends them, so that a bucket passes the same address
rules and time limits as a webhook. An object is named after the first and the last event in it and
after its content. So a batch that is sent again replaces its own object, and names sort in the
log's order.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final
from urllib.parse import urlsplit

from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.config import BucketTarget, ConfigError, SecretError
from keyfold_relay.http import Addresses, NoAnswerError, Outbound
from keyfold_relay.targets.target import Limits, NotTakenError

TIMEOUT: Final = 60.0
"""Seconds for a whole request."""

_EVENTS: Final = 20_000
_SIZE: Final = 8 * 1024 * 1024
_LINES: Final = "application/x-ndjson"


class Bucket:
    """Puts each batch as one object.

    Args:
        config: The target's table.
        timeout: Seconds for a whole request.

    Raises:
        ConfigError: boto3 is not installed, or the file of authorities cannot be used.
    """

    def __init__(self, config: BucketTarget, timeout: float = TIMEOUT) -> None:
        try:
            import boto3  # noqa: F401
        except ModuleNotFoundError:
            raise ConfigError(
                "a target of kind s3 needs boto3; install keyfold[relay,aws]"
            ) from None
        self._config = config
        self._timeout = timeout
        plain = config.endpoint is not None and urlsplit(config.endpoint).scheme == "http"
        try:
            self._outbound = Outbound(
                Addresses(config.allow_addresses, plain=plain), timeout, config.ca
            )
        except (OSError, ssl.SSLError):
            raise ConfigError(f"cannot read authorities from {config.ca}") from None
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def limits(self) -> Limits:
        """How large a batch may be, and how long it is collected."""
        return Limits(_EVENTS, _SIZE, self._config.every)

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        """Puts a batch as an object.

        Raises:
            NotTakenError: The service has not taken it, or there are no credentials.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        self._loop = asyncio.get_running_loop()
        body = b"".join(event.body + b"\n" for event in batch)
        try:
            await asyncio.to_thread(self._put, self._name(batch, body), body)
        except (SecretError, NoAnswerError) as error:
            raise NotTakenError(str(error)) from error
        except ClientError as error:
            # The code is one of a documented list; the message may have anything in it.
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            named = f" ({code})" if code.isascii() and code.isalnum() else ""
            raise NotTakenError(f"it answered {status}{named}") from error
        except (BotoCoreError, ValueError) as error:
            raise NotTakenError(
                f"boto3 cannot make the request ({type(error).__name__}); check the credentials, "
                "the region and the bucket's name"
            ) from error

    def _name(self, batch: Sequence[CloudEvent], body: bytes) -> str:
        first, last = batch[0], batch[-1]
        day = datetime.fromtimestamp(first.time, UTC)
        digest = hashlib.sha256(body).hexdigest()[:16]
        return (
            f"{self._config.prefix}{day:%Y/%m/%d}/"
            f"{first.number:020d}-{last.number:020d}-{digest}.jsonl"
        )

    def _put(self, name: str, body: bytes) -> None:
        self._opened().put_object(
            Bucket=self._config.bucket, Key=name, Body=body, ContentType=_LINES
        )

    def _opened(self) -> Any:
        """Returns the client; makes a new one where the credentials are ours, which may rotate."""
        if self._client is not None and self._config.access_key_id is None:
            return self._client
        import boto3
        from botocore.config import Config

        identity, secret = self._config.access_key_id, self._config.secret_access_key
        self._client = boto3.session.Session().client(
            "s3",
            region_name=self._config.region,
            endpoint_url=self._config.endpoint,
            aws_access_key_id=identity and identity.read(),
            aws_secret_access_key=secret and secret.read(),
            config=Config(
                proxies={},
                retries={"total_max_attempts": 1, "mode": "standard"},
                s3={"addressing_style": "path" if self._config.path_style else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._client.meta.events.register("before-send.s3", self._sent)
        return self._client

    def _sent(self, request: Any, **_: Any) -> Any:
        """Sends a request that boto3 has signed, in place of boto3. Runs in boto3's thread."""
        from botocore.awsrequest import AWSResponse

        body = request.body or b""
        if not isinstance(body, bytes | bytearray | str):
            body = body.read()
        headers = {name: _text(value) for name, value in request.headers.items()}
        # The server is asked to wait for nothing, and the body's length is its own.
        for name in [name for name in headers if name.lower() in ("expect", "content-length")]:
            del headers[name]
        content = body.encode() if isinstance(body, str) else bytes(body)
        assert self._loop is not None  # noqa: S101  `send` has set it
        answer = asyncio.run_coroutine_threadsafe(
            self._outbound.send(request.method, request.url, headers, content), self._loop
        ).result()
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
            # boto3 would look for the bucket's region, and again at each further redirect.
            raise NoAnswerError(
                f"it answered {answer.status}, and redirects are not followed; set region and "
                "endpoint to those of the bucket"
            )
        return AWSResponse(request.url, answer.status, answer.headers, _Raw(answer.body))

    def reopen(self) -> None:
        """Does nothing: credentials are read for every request."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._outbound.close()


class _Raw(BytesIO):
    """An answer's body, as boto3 reads it."""

    def stream(self, **_: Any) -> Any:
        """Returns the body in one part."""
        yield self.read()


def _text(value: object) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
