"""docs/transports.md: what stands in the way of another default, and the default itself."""

from __future__ import annotations

import re
from pathlib import Path

from keyfold_server.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "transports.md"


def test_the_default_has_no_open_row() -> None:
    """As the page says, gRPC's own library is the default until the other one has no open row."""
    rows = re.findall(r"^\| .* \| (open|kept) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    assert Settings().transport == "grpc" or "open" not in rows
