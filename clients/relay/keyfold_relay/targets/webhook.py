"""An HTTPS webhook: CloudEvents in JSON, signed as Standard Webhooks prescribes."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from keyfold_relay import signing
from keyfold_relay.cloudevents import BATCH, SINGLE, CloudEvent
from keyfold_relay.config import ConfigError, SecretError, SecretPlace, WebhookTarget
from keyfold_relay.http import Addresses, Answer, NoAnswerError, Outbound
from keyfold_relay.targets.target import MOMENT, Limits, NotTakenError

TIMEOUT: Final = 20.0
"""Seconds for a whole request; Standard Webhooks asks for 15 to 30."""

_SIZE: Final = 512 * 1024
"""Most bytes of a batch. Receivers often refuse more than a megabyte."""


class Webhook:
    """Sends each batch as one POST.

    Args:
        config: The target's table.
        timeout: Seconds for a whole request.

    Raises:
        ConfigError: The file of authorities cannot be used.
    """

    def __init__(self, config: WebhookTarget, timeout: float = TIMEOUT) -> None:
        self._config = config
        addresses = Addresses(config.allow_addresses, plain=urlsplit(config.url).scheme == "http")
        try:
            self._outbound = Outbound(addresses, timeout, config.ca)
        except (OSError, ssl.SSLError):
            raise ConfigError(f"cannot read authorities from {config.ca}") from None

    @property
    def limits(self) -> Limits:
        """How large a batch may be."""
        return Limits(self._config.batch, _SIZE, MOMENT)

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        """POSTs a batch; a status from 200 to 299 means that the receiver has it.

        Raises:
            NotTakenError: There is another status or none, or a secret cannot be read.
        """
        if self._config.batch == 1:
            kind, body = SINGLE, batch[0].body
        else:
            kind, body = BATCH, b"[%b]" % b",".join(event.body for event in batch)
        try:
            headers = self._headers(body) | {"Content-Type": f"{kind}; charset=utf-8"}
            answer = await self._outbound.send("POST", self._config.url, headers, body)
        except (SecretError, signing.BadSecretError, NoAnswerError) as error:
            raise NotTakenError(str(error)) from error
        _accepted(answer)

    def _headers(self, body: bytes) -> dict[str, str]:
        keys = [_key(secret) for secret in self._config.secrets]
        # The same batch has the same id each time, also from a relay that was started again.
        identity = f"msg_{hashlib.sha256(body).hexdigest()[:32]}"
        own = {name: secret.read() for name, secret in self._config.headers.items()}
        return own | signing.signed(keys, identity, int(time.time()), body)

    def reopen(self) -> None:
        """Does nothing: secrets are read for every request."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._outbound.close()


def _key(place: SecretPlace) -> bytes:
    """Returns a signing secret's bytes; the error names its place."""
    try:
        return signing.key_of(place.read())
    except signing.BadSecretError as error:
        raise signing.BadSecretError(f"{place}: {error}") from None


def _accepted(answer: Answer) -> None:
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise NotTakenError(
            f"it answered {status}, and redirects are not followed; set url to the final address"
        )
    raise NotTakenError(
        f"it answered {status}",
        retry_after=answer.retry_after,
        too_large=status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        gone=status == HTTPStatus.GONE,
    )
