"""The version of the installed package, which holds the client, the server and both programs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("keyfold")
    except PackageNotFoundError:
        return "(not installed)"


__version__: Final = _installed()
"""The release, such as `0.1.0`; `(not installed)` where only the source is on the path."""
