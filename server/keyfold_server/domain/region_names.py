"""The names of regions in a request."""

from __future__ import annotations

from collections.abc import Iterable

from keyfold_server.domain.errors import DuplicateRegionError
from keyfold_server.domain.keyspec import check_name


def check_regions(names: Iterable[str], field_path: str) -> None:
    """Checks the region names of a request.

    Args:
        names: The names as the caller sent them.
        field_path: The path of the request field, for the error.

    Raises:
        InvalidNameError: A name is not a region's name.
        DuplicateRegionError: A region is named twice.
    """
    seen: set[str] = set()
    for index, name in enumerate(names):
        path = f"{field_path}[{index}]"
        check_name(name, path)
        if name in seen:
            raise DuplicateRegionError(
                f"region {name} is named twice; name each region once", region=name, field=path
            )
        seen.add(name)
