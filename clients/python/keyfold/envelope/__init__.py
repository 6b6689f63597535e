"""The envelope: data sealed under data keys, as messages and streams that carry what opening takes.

    aio/     the envelope for asyncio, and the data keys that it seals with
    client/  the same for synchronous programs; `make client` generates it from aio/
    message  the bytes of a message, and of a stream's header
    header   the header in its stream
    streams  the rest of a stream: Tink
    cipher   sealing and opening under one data key
    keys     what the envelope needs of a data key, and how long one may serve
    work     where long computing happens

docs/envelope.md describes the messages, docs/files.md the streams.
"""

from keyfold.envelope.aio.envelope import AsyncEnvelope
from keyfold.envelope.client.envelope import Envelope
from keyfold.envelope.streams import SealingStream

__all__ = ["AsyncEnvelope", "Envelope", "SealingStream"]
