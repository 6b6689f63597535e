"""Reads the metrics of a server under test."""

from __future__ import annotations

import re
import socket
import urllib.request
from typing import Final

_STORE_CALLS: Final = re.compile(
    r'^keyfold_store_call_duration_seconds_count\{operation="(\w+)",outcome="\w+"\} (\S+)$',
    re.MULTILINE,
)


def free_port() -> int:
    """Returns a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scraped(address: str) -> str:
    """Returns the metrics that a server shows at `HOST:PORT`."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def store_calls(address: str) -> dict[str, int]:
    """Returns how often a server has called its store since its start, by operation."""
    counts: dict[str, int] = {}
    for operation, count in _STORE_CALLS.findall(scraped(address)):
        counts[operation] = counts.get(operation, 0) + int(float(count))
    return counts
