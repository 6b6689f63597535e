"""Model fields whose values are encrypted, each for the tenant of its row."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final

from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models import NOT_PROVIDED, signals
from django.db.models.constants import OnConflict

from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.codecs import BINARY, TEXT, Codec, Json
from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.django.attribute import EncryptedAttribute
from keyfold.integrations.django.lookups import ExactlyNull, refused
from keyfold.integrations.django.places import Places, TenantOf, path_of
from keyfold.integrations.django.setting import tenants

_MODULE: Final = "keyfold.integrations.django"
_BYTES: Final = (bytes, bytearray, memoryview)
"""What a database's driver gives for a binary column."""


class _Encrypted:
    """What the encrypted fields share; it comes before Django's field among their bases.

    Args:
        tenant: The path of fields that says whose key encrypts, such as `organization` or
            `account__organization`; or a function of the row.
        row: The names of the fields that tell a row from others, if not the primary key. They must
            be set when the row is stored.
        bound_as: `TABLE.COLUMN`, which values are bound to; by default the names of both. After you
            have renamed one, set it to what it was.
    """

    descriptor_class = EncryptedAttribute
    codec: Codec

    # What Django's fields have.
    model: Any
    name: str
    attname: str
    column: str

    def __init__(
        self,
        *args: Any,
        tenant: TenantOf,
        row: str | Iterable[str] = (),
        bound_as: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._tenant = tenant
        self._row = (row,) if isinstance(row, str) else tuple(row)
        self._bound_as = bound_as
        super().__init__(*args, **kwargs)

    @functools.cached_property
    def places(self) -> Places:
        """Where the field's values stand."""
        table, dot, column = (self._bound_as or "").rpartition(".")
        return Places(self, self._tenant, self._row, (table, column) if dot else None)

    # The database

    def get_internal_type(self) -> str:
        """Returns the type of the column."""
        return "BinaryField"

    def from_db_value(self, value: Any, *_: Any) -> Cell | None:
        """Returns what an instance gets."""
        # SQLite has any type in any column. What is no bytes is no message, and its row says so.
        return None if value is None else Cell(bytes(value) if isinstance(value, _BYTES) else b"")

    def pre_save(self, row: Any, add: bool) -> Cell | None:  # noqa: ARG002, FBT001  Django's
        """Returns what to store of a row: its value, encrypted for its own tenant."""
        attribute = EncryptedAttribute(self)
        cell = attribute.cell(row)
        if cell is None:
            return None
        attribute.locate(row, cell)
        if cell.place is None and not cell.is_open:
            # Nobody knows whose the row was when it was read: what opens is its present tenant's.
            cell.open(tenants(), self.places.now(row))
        stored = cell.stored(tenants(), self.places.now(row), self.codec)
        row.__dict__[self.attname] = stored
        return stored

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        """Returns the message of a cell that was encrypted for its row."""
        if isinstance(value, models.Value):
            value = value.value
        if value is None:
            return None
        message = value.message if isinstance(value, Cell) else None
        if message is None:
            raise EncryptedColumnError(
                f"a value of {self} was to be stored without its row, so nobody can tell whose key "
                "encrypts it; set the attribute of an instance, and save it or use bulk_create"
            )
        return connection.Database.Binary(bytes(message))

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002
        """Returns the same: there is no other use of a value."""
        return self.get_db_prep_save(value, connection)

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:  # noqa: ARG002
        """Returns what stands for the value in a statement.

        Raises:
            EncryptedColumnError: On conflict, the row would keep what the value is bound to, or
                the value, without the other.
        """
        query = compiler.query
        if getattr(query, "on_conflict", None) is OnConflict.UPDATE:
            self._refuse_to_part(query)
        return "%s"

    def _refuse_to_part(self, query: Any) -> None:
        columns = {field.column for field in self.places.deciding}
        if self.places.column.numbered_late and all(row.pk is None for row in query.objs):
            # The value is not bound to a number, and opens under every one.
            columns.discard(self.model._meta.pk.column)  # noqa: SLF001
        updated = {field.column for field in query.update_fields}
        free = columns - {field.column for field in query.unique_fields}
        if (free - updated) if self.column in updated else (free & updated):
            raise EncryptedColumnError(
                f"a value of {self} would not open in a row that is there already: it is bound to "
                f"{', '.join(sorted(columns))}; have unique_fields name these, or use "
                "update_or_create"
            )

    # Queries

    def get_lookup(self, lookup_name: str) -> Any:
        """Returns `isnull`, or an `exact` that takes None alone.

        Raises:
            EncryptedLookupError: It is another one.
        """
        if lookup_name == "isnull":
            return super().get_lookup(lookup_name)  # type: ignore[misc]
        if lookup_name == "exact":
            return ExactlyNull
        raise refused(self)

    def get_transform(self, name: str) -> Any:  # noqa: ARG002
        """Refuses every transform, such as the keys of JSON."""
        raise refused(self)

    # Migrations and checks

    def deconstruct(self) -> Any:
        """Returns what a migration writes. Nothing of it is a secret."""
        name, _, args, kwargs = super().deconstruct()  # type: ignore[misc]
        kwargs["tenant"] = self._tenant
        if self._row:
            kwargs["row"] = self._row
        if self._bound_as is not None:
            kwargs["bound_as"] = self._bound_as
        return name, f"{_MODULE}.{type(self).__name__}", args, kwargs

    def check(self, **kwargs: Any) -> list[Any]:
        """Looks for what cannot work."""
        return [*super().check(**kwargs), *self._faults()]  # type: ignore[misc]

    def value_to_string(self, row: Any) -> str:  # noqa: ARG002
        """Refuses to be serialized: a dump of the data would hold every customer's plaintext."""
        raise EncryptedColumnError(
            f"{self} is encrypted, and a dump would show it; back up the database instead, or "
            "exclude the model from the dump"
        )

    def _faults(self) -> Iterable[Any]:
        if isinstance(self._tenant, str):
            try:
                path_of(self.model, self._tenant)
            except FieldDoesNotExist as error:
                yield self._fault(1, f"tenant={self._tenant!r} is no path of fields: {error}")
        for name in self._row:
            try:
                path_of(self.model, name)
            except FieldDoesNotExist as error:
                yield self._fault(2, f"row={name!r} is no field: {error}")
        for option in ("primary_key", "unique", "db_index", "unique_for_date"):
            if getattr(self, option, None):
                yield self._fault(3, f"{option} needs equal bytes for equal values")
        if getattr(self, "db_default", NOT_PROVIDED) is not NOT_PROVIDED:
            yield self._fault(4, "db_default would be stored without being encrypted")
        if self._bound_as is not None and "." not in self._bound_as.strip("."):
            yield self._fault(5, f"bound_as={self._bound_as!r} is not TABLE.COLUMN")

    def _fault(self, number: int, text: str) -> Any:
        return checks.Error(
            f"An encrypted field cannot work so: {text}.", obj=self, id=f"keyfold.E00{number}"
        )


class EncryptedTextField(_Encrypted, models.TextField):
    """Text."""

    codec = TEXT


class EncryptedBinaryField(_Encrypted, models.BinaryField):
    """Bytes."""

    codec = BINARY


class EncryptedJSONField(_Encrypted, models.JSONField):
    """What JSON can say. `encoder` and `decoder` are those of JSONField."""

    @functools.cached_property
    def codec(self) -> Json:  # type: ignore[override]
        """Writes and reads JSON."""
        return Json(self.encoder, self.decoder)


def encrypted_fields(model: Any) -> list[Any]:
    """Returns the encrypted fields of a model, those of its parents' tables among them."""
    fields = model._meta.concrete_fields  # noqa: SLF001
    return [field for field in fields if isinstance(field, _Encrypted)]


def _watch(sender: Any, **_: Any) -> None:
    """Has instances of a model with encrypted fields note where they were read."""
    if not sender._meta.abstract and encrypted_fields(sender):  # noqa: SLF001
        signals.post_init.connect(_note, sender=sender, dispatch_uid="keyfold")
        signals.pre_save.connect(_saving, sender=sender, dispatch_uid="keyfold")


def _note(sender: Any, instance: Any, **_: Any) -> None:
    for field in encrypted_fields(sender):
        cell = instance.__dict__.get(field.attname)
        if isinstance(cell, Cell) and cell.message is not None and cell.origin is None:
            cell.origin = field.places.origin(instance.__dict__)


def _saving(sender: Any, instance: Any, update_fields: Any = None, **_: Any) -> None:
    """Refuses to move a row without its values, which would not open there."""
    if update_fields is None:
        return
    for field in encrypted_fields(sender):
        if update_fields.isdisjoint({field.name, field.attname}):
            EncryptedAttribute(field).refuse_to_leave(instance, update_fields)


signals.class_prepared.connect(_watch, dispatch_uid="keyfold")
