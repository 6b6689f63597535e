"""The attribute of a model's instances whose values are encrypted.

An instance has a cell in place of the value. Reading the attribute opens it.
"""

from __future__ import annotations

from typing import Any

from django.db.models.query_utils import DeferredAttribute
from django.utils.functional import Promise

from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.django.setting import tenants


class EncryptedAttribute(DeferredAttribute):
    """The value of an encrypted field."""

    def __get__(self, row: Any, owner: Any = None) -> Any:
        if row is None:
            return self
        cell = self.cell(row)
        if cell is None:
            return None
        if not cell.is_open:
            self.locate(row, cell)
            cell.open(tenants(), cell.place or self.field.places.now(row))
        return cell.read(self.field.codec)

    def __set__(self, row: Any, value: Any) -> None:
        if isinstance(value, Promise):
            value = str(value)
        if value is not None and not isinstance(value, Cell):
            # Not only when the row is stored: the traceback shows who set it.
            self.field.codec.encode(value, str(self.field))
            value = Cell.of(value)
        row.__dict__[self.field.attname] = value

    def cell(self, row: Any) -> Cell | None:
        """Returns the cell of a row, and reads it first if the query had left it out."""
        name = self.field.attname
        if name not in row.__dict__:
            self._read(row)
        found: Cell | None = row.__dict__[name]
        return found

    def refuse_to_leave(self, row: Any, saved: frozenset[str]) -> None:
        """Refuses to save a row that moves elsewhere without the field's value.

        Raises:
            EncryptedColumnError: The value would not open where the row goes.
        """
        places, name = self.field.places, self.field.attname
        if saved.isdisjoint(places.deciding_names) or row._state.adding:  # noqa: SLF001
            return
        cell = row.__dict__.get(name)
        if name in row.__dict__:
            origin = None if cell is None or cell.message is None else cell.origin
        else:
            # Without the value itself, which may be large: only whether there is one.
            rows = self._rows(row).exclude(**{name: None})
            origin = places.origin(rows.values(*places.decided_by).first() or {})
        if origin is not None and places.before(row, origin) != places.now(row):
            raise EncryptedColumnError(
                f"a row moves to another tenant or key without its value of {self.field}, which "
                "would not open there; save that field, too"
            )

    @staticmethod
    def _rows(row: Any) -> Any:
        """Returns the queryset of a row as the database has it."""
        rows = type(row)._base_manager.db_manager(row._state.db)  # noqa: SLF001
        return rows.filter(pk=row.pk)

    def _read(self, row: Any) -> None:
        """Reads the value, with what decides where it stands: the row may have changed since."""
        names = (self.field.attname, *self.field.places.decided_by)
        values = self._rows(row).values(*names).get()
        cell = row.__dict__[self.field.attname] = values[self.field.attname]
        if cell is not None:
            cell.origin = self.field.places.origin(values)

    def locate(self, row: Any, cell: Cell) -> None:
        """Has a cell know where its row stood when it was read, if that is known."""
        if cell.place is None and cell.origin is not None:
            cell.place = self.field.places.before(row, cell.origin)
