"""The attribute of a mapped class whose values are encrypted, each for the tenant of its row.

The values lie as cells in a column attribute beside it, `_NAME_cell`. Before the mapper writes a
row it seals them, and reading the attribute opens them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar, overload

from sqlalchemy import Column as SqlColumn
from sqlalchemy import event, inspect
from sqlalchemy.orm import InstanceState, InstrumentedAttribute, Mapper, mapped_column

from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.codecs import BINARY, JSON, TEXT, Codec
from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.group import Group
from keyfold.integrations.columns.place import Column, Place, text_of
from keyfold.integrations.columns.tenants import Tenants
from keyfold.integrations.sqlalchemy import tenants as sessions
from keyfold.integrations.sqlalchemy.sealed_type import SealedType

T = TypeVar("T")

_CODECS: Final[dict[Any, Codec]] = {str: TEXT, bytes: BINARY, dict: JSON, list: JSON, object: JSON}


def encrypted(
    kind: type[T],
    *,
    tenant: str,
    row: str | Iterable[str] = (),
    column: str | None = None,
    bound_as: str | None = None,
    nullable: bool = False,
) -> Encrypted[T]:
    """Declares an encrypted attribute of a mapped class. Do not annotate it.

    Args:
        kind: `str`, `bytes`, or `dict`, `list` or `object` for what JSON can say. A change inside
            such a value is not noticed: set the attribute anew.
        tenant: The attribute of the same class that says whose key encrypts.
        row: The attributes that tell a row from others, if not those of the primary key. They must
            be set when the row is stored.
        column: The column's name; by default the attribute's.
        bound_as: `TABLE.COLUMN`, which values are bound to; by default the names of both. After you
            have renamed one, set it to what it was.
        nullable: Whether the column may be NULL. None is never encrypted.

    Raises:
        TypeError: The kind is another one.
        ValueError: `bound_as` is not `TABLE.COLUMN`.
    """
    codec = _CODECS.get(kind)
    if codec is None:
        raise TypeError(f"encrypted columns hold str, bytes, dict, list or object, not {kind}")
    names = (row,) if isinstance(row, str) else tuple(row)
    table, dot, name = (bound_as or "").rpartition(".")
    if bound_as is not None and not (table and dot and name):
        raise ValueError(f"bound_as is TABLE.COLUMN, not {bound_as!r}")
    bound = (table, name) if bound_as else None
    return Encrypted(codec, tenant, names, column, bound, nullable=nullable)


class Encrypted(Generic[T]):
    """An encrypted attribute; `encrypted` declares one.

    Attributes:
        tenant: The attribute that says whose key encrypts.
        name: The name under which the class has it.
        key: The attribute that holds the cells.
    """

    def __init__(
        self,
        codec: Codec,
        tenant: str,
        row: tuple[str, ...],
        column: str | None,
        bound_as: tuple[str, str] | None,
        *,
        nullable: bool,
    ) -> None:
        self._codec = codec
        self.tenant = tenant
        self._bound_as = bound_as
        self._row = row
        self._column_name = column
        self._nullable = nullable
        self.name = self.key = ""
        self._columns: dict[Mapper[Any], Column] = {}

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name
        self.key = f"_{name}_cell"
        column = mapped_column(
            self._column_name or name, SealedType(), nullable=self._nullable, info={"keyfold": self}
        )
        setattr(owner, self.key, column)
        for hook, what in (
            ("before_insert", self._seal_new),
            ("before_update", self._seal_changed),
            ("load", self._loaded),
            ("refresh", self._refreshed),
            ("mapper_configured", self._configured),
        ):
            event.listen(owner, hook, what, propagate=True)

    @overload
    def __get__(self, row: None, owner: type[Any]) -> InstrumentedAttribute[T]: ...

    @overload
    def __get__(self, row: object, owner: type[Any]) -> T: ...

    def __get__(self, row: object | None, owner: type[Any]) -> Any:
        if row is None:
            # The column, for queries, once the class is mapped.
            found = getattr(owner, self.key, self)
            return found if isinstance(found, InstrumentedAttribute) else self
        closed = self.closed_cell(row)
        if closed is not None:
            cell, tenants = closed
            cell.open(tenants, cell.place)
        cell = getattr(row, self.key)
        return None if cell is None else cell.read(self._codec)

    def closed_cell(self, row: Any) -> tuple[Any, Tenants] | None:
        """Returns a row's cell, which then knows its place, and who opens it; None: it is open."""
        cell = getattr(row, self.key)
        if cell is None or cell.is_open:
            return None
        state = inspect(row)
        if cell.place is None:
            cell.place = self._stored_place(state)
        return cell, cell.tenants or sessions.of(state.session)

    def __set__(self, row: object, value: T | None) -> None:
        if value is not None:
            # Not only when the row is stored: the traceback shows who set it.
            self._codec.encode(value, f"{type(row).__name__}.{self.name}")
        setattr(row, self.key, None if value is None else Cell.of(value))

    # Hooks of the mapper

    def _configured(self, mapper: Mapper[Any], owner: type[Any]) -> None:
        """Has the mapper keep what a row was before, where that decides who can open it."""
        for key in (self.tenant, *self._row_keys(mapper)):
            event.listen(getattr(owner, key), "set", _remember, active_history=True)

    def _seal_new(self, mapper: Mapper[Any], _connection: Any, row: Any) -> None:
        cell = getattr(row, self.key)
        if cell is not None:
            place = self._new_place(mapper, row)
            if cell.place is None and not cell.is_open:
                # Nobody knows whose the row was when it was read: what opens is this tenant's.
                cell.open(cell.tenants or sessions.of(inspect(row).session), place)
            self._seal(row, cell, place)

    def _seal_changed(self, mapper: Mapper[Any], _connection: Any, row: Any) -> None:
        state = inspect(row)
        parts = (self.tenant, *self._row_keys(mapper))
        moved = any(state.attrs[key].history.has_changes() for key in parts)
        if not moved and self.key not in state.dict:
            return
        cell = getattr(row, self.key)
        if cell is None:
            return
        if cell.place is None and cell.message is not None:
            cell.place = self._stored_place(state)
        self._seal(row, cell, self._new_place(mapper, row))

    def _seal(self, row: Any, cell: Cell, place: Place) -> None:
        stored = cell.stored(sessions.of(inspect(row).session), place, self._codec)
        if stored is not cell:
            setattr(row, self.key, stored)

    def _loaded(self, row: Any, context: Any) -> None:
        cell = self._refreshed(row)
        if cell is not None and context is not None:
            group = context.attributes.setdefault(("keyfold", self), Group())
            group.add(cell)

    def _refreshed(self, row: Any, *_: Any) -> Cell | None:
        """Notes where a cell was read, before anybody moves the row."""
        state = inspect(row)
        cell = state.dict.get(self.key)
        parts = (self.tenant, *self._row_keys(state.mapper))
        if cell is None or any(state.dict.get(key) is None for key in parts):
            return None
        if cell.place is None:
            cell.place = self._stored_place(state)
        cell.tenants = cell.tenants or sessions.find(state.session)
        return cell  # type: ignore[no-any-return]

    # Places

    def _stored_place(self, state: InstanceState[Any]) -> Place:
        """Returns the place at which the database has the row."""
        return self._place(state.mapper, lambda key: self._stored(state, key))

    def _stored(self, state: InstanceState[Any], key: str) -> Any:
        if key not in state.committed_state:
            return getattr(state.obj(), key)
        history = state.attrs[key].history
        if not history.has_changes():
            return getattr(state.obj(), key)
        if not history.deleted:
            raise EncryptedColumnError(
                f"{state.class_.__name__}.{key} was changed without having been read, so nobody "
                f"can tell whose key encrypted {self.name}; read it first"
            )
        return history.deleted[0]

    def _new_place(self, mapper: Mapper[Any], row: Any) -> Place:
        """Returns the place at which the database will have the row."""
        return self._place(mapper, lambda key: self._coming(mapper, row, key))

    def _coming(self, mapper: Mapper[Any], row: Any, key: str) -> Any:
        value = getattr(row, key)
        if value is None and key != self.tenant:
            column = mapper.attrs[key].columns[0]
            default = column.default
            if default is not None and default.is_callable:
                # SQLAlchemy would ask for it only when the values are sealed.
                value = default.arg(_NoContext(f"{column.table.name}.{column.name}"))
                setattr(row, key, value)
        return value

    def _place(self, mapper: Mapper[Any], value_of: Any) -> Place:
        column = self.column(mapper)
        tenant = value_of(self.tenant)
        if tenant is None or tenant == "":
            raise EncryptedColumnError(
                f"a row of {column.table} has no {self.tenant}, so nobody can tell whose key "
                f"encrypts {column.name}; set it first"
            )
        found: list[tuple[str, str]] = []
        for key in self._row_keys(mapper):
            value = value_of(key)
            if value is None:
                if column.numbered_late:
                    return Place(column, text_of(tenant, self.tenant), ())
                raise EncryptedColumnError(
                    f"a row of {column.table} has no {key} yet, to which {column.name} is bound; "
                    "set it first"
                )
            found.append((self._name_of(mapper, key), text_of(value, f"{column.table}.{key}")))
        return Place(column, text_of(tenant, self.tenant), tuple(found))

    def column(self, mapper: Mapper[Any]) -> Column:
        """Returns the column of a mapped class, as its values are bound to it."""
        column = self._columns.get(mapper)
        if column is None:
            own: SqlColumn[Any] = mapper.attrs[self.key].columns[0]
            late = not self._row and any(_numbered_late(one) for one in mapper.primary_key)
            table, name = self._bound_as or (str(own.table.description), own.name)
            column = Column(table, name, late)
            self._columns[mapper] = column
        return column

    def _row_keys(self, mapper: Mapper[Any]) -> tuple[str, ...]:
        if self._row:
            return self._row
        return tuple(mapper.get_property_by_column(one).key for one in mapper.primary_key)

    @staticmethod
    def _name_of(mapper: Mapper[Any], key: str) -> str:
        name: str = mapper.attrs[key].columns[0].name
        return name


def attributes_of(model: type[Any]) -> list[Encrypted[Any]]:
    """Returns the encrypted attributes of a mapped class."""
    columns = inspect(model).columns
    found = [column.info.get("keyfold") for column in columns]
    return [one for one in found if isinstance(one, Encrypted)]


def _remember(*_: Any) -> None:
    """Stands for the listener that `active_history` needs."""


class _NoContext:
    """Stands for the execution that a default may look at, and that has not begun yet."""

    def __init__(self, column: str) -> None:
        self._column = column

    def __getattr__(self, name: str) -> Any:
        raise EncryptedColumnError(
            f"the default of {self._column} looks at the statement, which encrypted columns of the "
            "row must know it before; set it yourself"
        )


def _numbered_late(column: Any) -> bool:
    """Returns whether the database may choose a primary key's value."""
    if column.default is not None and not column.default.is_sequence:
        return False
    own = column.table.autoincrement_column
    return column is own or column.server_default is not None or column.default is not None
