"""The variables that Kubernetes puts into each container for each Service of its namespace.

A Service named `keyfold` or `keyfold-…` yields names with the settings' prefix: KEYFOLD_PORT,
KEYFOLD_SERVICE_HOST, KEYFOLD_PORT_7443_TCP_ADDR and so on. None of them is a setting.
"""

from __future__ import annotations

import re
from typing import Final

_ADDRESS: Final = r"(?:\d+(?:\.\d+){3}|[0-9a-f]*:[0-9a-f:.]+)"
_PORT: Final = r"PORT_\d+_(?:TCP|UDP|SCTP)"

_LINK: Final = re.compile(
    r"KEYFOLD_(?:[A-Z0-9_]+_)?(?:"
    rf"(?:SERVICE_HOST|{_PORT}_ADDR)={_ADDRESS}"
    rf"|(?:SERVICE_PORT(?:_[A-Z0-9_]+)?|{_PORT}_PORT)=\d+"
    rf"|{_PORT}_PROTO=(?:tcp|udp|sctp)"
    rf"|(?:PORT|{_PORT})=(?:tcp|udp|sctp)://(?:{_ADDRESS}|\[{_ADDRESS}\]):\d+)"
)


def is_service_link(name: str, value: str) -> bool:
    """Says whether Kubernetes set a variable for a Service.

    The value counts, too: KEYFOLD_PORT=7443 is somebody's mistake, and no Service's.
    """
    return _LINK.fullmatch(f"{name}={value}") is not None
