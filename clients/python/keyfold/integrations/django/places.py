"""The tenant of a row, and what the values in it are bound to.

A field's tenant is named by a path of fields, such as `account__organization`, or by a function of
the row. The first field of a path lies in the row itself: what it was when the row was read decides
who opens the row's values, whatever it was changed to since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.place import Column, Place, text_of

TenantOf = str | Callable[[Any], Any]


class Places:
    """Where the values of one field stand.

    Args:
        field: The field, of a model that is complete.
        tenant: The path or the function.
        row: The names of the fields that tell a row from others; none: the primary key.
        bound_as: The table and the column that values are bound to, if not the field's own.
    """

    def __init__(
        self, field: Any, tenant: TenantOf, row: tuple[str, ...], bound_as: tuple[str, str] | None
    ) -> None:
        meta = field.model._meta  # noqa: SLF001  Django's public interface
        key = meta.pk
        self._tenant = tenant
        self._row = tuple(meta.get_field(name) for name in row) or (key,)
        late = not row and (isinstance(key, models.AutoField) or key.has_db_default())
        table, name = bound_as or (meta.db_table, field.column)
        self.column = Column(table, name, late)
        self._path: tuple[Any, ...] = ()
        if isinstance(tenant, str):
            self._path = tuple(path_of(field.model, tenant))

    @property
    def decided_by(self) -> tuple[str, ...]:
        """The attributes of a row that decide where its value stands."""
        return tuple(field.attname for field in self.deciding)

    @property
    def deciding_names(self) -> frozenset[str]:
        """The names of these, as `update_fields` may have them."""
        return frozenset(name for field in self.deciding for name in (field.name, field.attname))

    @property
    def deciding(self) -> tuple[Any, ...]:
        """The fields of a row that decide where its value stands."""
        return (*self._path[:1], *self._row)

    @property
    def relations(self) -> str:
        """The relations that lead to the tenant, as `select_related` takes them; or nothing."""
        return "__".join(field.name for field in self._path[:-1])

    def now(self, row: Any) -> Place:
        """Returns where the row stands as it is in memory.

        Raises:
            EncryptedColumnError: It has no tenant, or none of a type that values can be bound to.
        """
        return self._place(row, {name: getattr(row, name) for name in self.decided_by})

    def origin(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns those of the values read that decide where a row stands; None: they do not."""
        if callable(self._tenant) or any(values.get(name) is None for name in self.decided_by):
            return None
        return {name: values[name] for name in self.decided_by}

    def before(self, row: Any, origin: Mapping[str, Any]) -> Place:
        """Returns where a row stood when these values of it were read."""
        return self._place(row, origin)

    def at_hand(self, row: Any) -> bool:
        """Returns whether the place of a row is known without a query."""
        if callable(self._tenant):
            return False
        found = row
        for field in self._path[:-1]:
            if not field.is_cached(found):
                return False
            found = getattr(found, field.name)
        return True

    def _place(self, row: Any, values: Mapping[str, Any]) -> Place:
        tenant = self._tenant_of(row, values)
        if tenant is None or tenant == "":
            raise EncryptedColumnError(
                f"a row of {self.column.table} has no tenant ({self._name}), so nobody can tell "
                f"whose key encrypts {self.column.name}; set it first"
            )
        found = []
        for field in self._row:
            value = values[field.attname]
            if value is None:
                if self.column.numbered_late:
                    return Place(self.column, text_of(tenant, self._name), ())
                raise EncryptedColumnError(
                    f"a row of {self.column.table} has no {field.name} yet, to which "
                    f"{self.column.name} is bound; set it first"
                )
            what = f"{self.column.table}.{field.column}"
            found.append((field.column, text_of(_python(field, value), what)))
        return Place(self.column, text_of(tenant, self._name), tuple(found))

    def _tenant_of(self, row: Any, values: Mapping[str, Any]) -> Any:
        if callable(self._tenant):
            return self._tenant(row)
        first, *others = self._path
        value = values[first.attname]
        if not others or value is None:
            return _python(first, value)
        found = row
        if getattr(row, first.attname) == value:
            found = getattr(row, first.name)
        else:
            kind, target = first.remote_field.model, first.target_field
            own = kind._base_manager.using(row._state.db)  # noqa: SLF001
            found = own.get(**{target.attname: value})
        for field in others[:-1]:
            found = getattr(found, field.name)
        return _python(others[-1], getattr(found, others[-1].attname))

    @property
    def _name(self) -> str:
        return getattr(self._tenant, "__name__", str(self._tenant))


def path_of(model: Any, path: str) -> list[Any]:
    """Returns the fields of a path.

    Raises:
        FieldDoesNotExist: There is no such field, or one in the middle leads to no single row.
    """
    found: list[Any] = []
    for name in path.split("__"):
        if found:
            relation = found[-1].remote_field
            if relation is None:
                raise FieldDoesNotExist(f"{found[-1]} leads to no other model")
            model = relation.model
        field = model._meta.get_field(name)  # noqa: SLF001
        if not getattr(field, "concrete", False) or getattr(field, "many_to_many", False):
            raise FieldDoesNotExist(f"{name} of {model.__name__} is no column")
        found.append(field)
    return found


def _python(field: Any, value: Any) -> Any:
    """Returns a value as its column gives it, also if a program has set the text of a UUID."""
    while field.remote_field is not None:
        field = field.target_field
    return field.to_python(value)
