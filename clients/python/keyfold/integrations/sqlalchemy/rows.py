"""Opening many rows at once, with one call for each tenant's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy.util import greenlet_spawn

from keyfold.integrations.columns.group import open_together
from keyfold.integrations.sqlalchemy.attribute import attributes_of


def open_rows(rows: Iterable[Any]) -> None:
    """Opens the encrypted attributes of rows, so that reading them makes no further call.

    Rows that one query returned open together by themselves, as soon as one of them is read. This
    is for rows from several queries. A value that does not open raises when it is read.

    Raises:
        KeyfoldError: No server answers.
    """
    closed: dict[int, tuple[Any, list[Any]]] = {}
    for row in rows:
        for attribute in attributes_of(type(row)):
            found = attribute.closed_cell(row)
            if found is not None:
                cell, tenants = found
                closed.setdefault(id(tenants), (tenants, []))[1].append(cell)
    for tenants, cells in closed.values():
        open_together(cells, tenants)


async def async_open_rows(rows: Iterable[Any]) -> None:
    """Does the same for rows of an AsyncSession."""
    await greenlet_spawn(open_rows, rows)
