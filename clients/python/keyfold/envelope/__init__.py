"""The envelope: data sealed under data keys, as messages that carry what opening takes.

    aio/     the envelope for asyncio, and the data keys that it seals with
    client/  the same for synchronous programs; `make client` generates it from aio/
    message  the bytes of a message
    cipher   sealing and opening under one data key
    keys     what the envelope needs of a data key, and how long one may serve
    work     where long computing happens

docs/envelope.md describes the messages.
"""

from keyfold.envelope.aio.envelope import AsyncEnvelope
from keyfold.envelope.client.envelope import Envelope

__all__ = ["AsyncEnvelope", "Envelope"]
