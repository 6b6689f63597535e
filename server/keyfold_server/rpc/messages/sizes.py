"""How many bytes a request or reply may have."""

from __future__ import annotations

from typing import Final

from keyfold_server.domain.errors import MalformedRequestError

MAX_BATCH: Final = 4 * 1024 * 1024
"""Bytes of a batch's request, and of its reply."""

MAX_REQUEST: Final = 256 * 1024
"""Bytes of any other request: many times the largest sensible one."""

SLACK: Final = 1024 * 1024
"""Bytes beyond `MAX_BATCH` that gRPC itself lets pass. The handlers refuse these messages with a
reason; gRPC refuses still larger ones without one."""

LARGEST: Final = MAX_BATCH + SLACK
"""Bytes of the largest message that gRPC lets pass, for any method."""

MAX_JSON: Final = 1024 * 1024
"""Bytes of a request in JSON. A batch of 1,000 keys has a tenth of them; to read many more would
take the server seconds."""

UNASKED: Final = 16 * 1024
"""Bytes of a request that a client may send before the server reads it. Most requests are smaller
and so cost no further round trip. The number of calls bounds these bytes; `RequestRoom` does not
count them."""


def check_size(data: bytes) -> None:
    """Refuses a request, of any method but a batch's, that is too large.

    Raises:
        MalformedRequestError: It has more than `MAX_REQUEST` bytes.
    """
    if len(data) > MAX_REQUEST:
        raise MalformedRequestError(
            f"the request has {len(data):,} bytes, and at most {MAX_REQUEST:,} are allowed"
        )
