"""Rows that were read together open together: a page of rows is one call, not one for each."""

from __future__ import annotations

from typing import Final
from weakref import ref

import keyfold
from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.place import Place
from keyfold.integrations.columns.tenants import Tenants

_MOST_CELLS: Final = 1_000
"""Most cells that open together: as many keys as one call takes."""

_MOST_BYTES: Final = 4 << 20
"""Most bytes of messages that open together. Beyond it a call saves less than memory costs."""


class Group:
    """Cells of one column that were read together, for as long as somebody holds their rows.

    The first of them that is read opens those beside it.
    """

    def __init__(self) -> None:
        self._cells: list[ref[Cell]] = []

    def add(self, cell: Cell) -> None:
        """Adds a cell that knows its place."""
        cell.group = self
        self._cells.append(ref(cell))

    def open(self, first: Cell, tenants: Tenants) -> None:
        """Opens a cell and those beside it. What fails for another cell, it tells when it is read.

        Raises:
            KeyfoldError: The first cell does not open.
        """
        cells = self._taken(first)
        results = tenants.open_many([(place, message) for _, place, message in cells])
        for (cell, *_), result in zip(cells, results, strict=True):
            if isinstance(result, bytes):
                cell.opened(result)
            else:
                # It asks for itself next time: the fault may have passed.
                cell.group = None
        if isinstance(results[0], keyfold.KeyfoldError):
            raise results[0]

    def _taken(self, first: Cell) -> list[tuple[Cell, Place, bytes]]:
        """Takes the cells of one go out of the group, the first one before all others."""
        waiting, self._cells = self._cells, []
        taken: list[tuple[Cell, Place, bytes]] = []
        size = 0
        for at, cell in enumerate([first, *(one() for one in waiting)]):
            if cell is None or cell.is_open or (at and cell is first):
                continue
            if cell.place is None or cell.message is None:
                continue
            size += len(cell.message)
            if taken and (len(taken) == _MOST_CELLS or size > _MOST_BYTES):
                self._cells = waiting[at - 1 :]
                break
            taken.append((cell, cell.place, cell.message))
        return taken


def open_together(cells: list[Cell], tenants: Tenants) -> None:
    """Opens cells that know their places. Those that fail tell when they are read.

    Raises:
        KeyfoldError: No server answers.
    """
    while cells:
        group = Group()
        for cell in cells:
            group.add(cell)
        try:
            group.open(cells[0], tenants)
        except (keyfold.UnavailableError, keyfold.DeadlineError):
            raise
        except keyfold.KeyfoldError:
            pass  # The row says it when it is read.
        cells = [cell for cell in cells[1:] if cell.group is group]
