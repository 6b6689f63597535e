"""What the pages of a browser may do: nothing, unless the operator lists their origins.

A browser puts an `Origin` header on every POST that a page makes, and a page cannot take it away or
forge it. So a request that has one comes from a page, and is refused unless its origin is listed:
also a page that has the server's own address for its origin, because its name was pointed there
(DNS rebinding). Programs that are no browsers send no such header.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from keyfold_server.rpc.asgi_call import Headers, Refusal

_MAX_AGE: Final = b"7200"
"""Seconds for which a browser may remember the answer to its question; none remembers it longer."""

_MAY_SEND: Final = (
    b"authorization, connect-protocol-version, connect-timeout-ms, content-encoding, content-type, "
    b"on-behalf-of, traceparent, tracestate"
)

_VARY: Final = (b"vary", b"origin")


class Origins:
    """The origins whose pages may call."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        """Takes the origins as browsers write them, such as `https://console.example`."""
        self._allowed = frozenset(origin.encode() for origin in allowed)

    def headers(self, fields: Mapping[bytes, bytes]) -> Headers:
        """Returns the headers that let a page read the answer to its request."""
        origin = fields.get(b"origin")
        if origin is None or origin not in self._allowed:
            return ()
        return (b"access-control-allow-origin", origin), _VARY

    def check(self, method: str, fields: Mapping[bytes, bytes]) -> Refusal | None:
        """Returns the answer to a page that may not call, or asks whether it may; else None."""
        origin = fields.get(b"origin")
        if origin is None:
            return None
        if origin not in self._allowed:
            text = "pages of this origin may not call; KEYFOLD_CORS_ORIGINS names those that may"
            return Refusal(403, text, (_VARY,))
        if method == "OPTIONS" and b"access-control-request-method" in fields:
            return Refusal(
                204,
                "",
                (
                    *self.headers(fields),
                    (b"access-control-allow-methods", b"POST"),
                    (b"access-control-allow-headers", _MAY_SEND),
                    (b"access-control-max-age", _MAX_AGE),
                ),
            )
        return None
