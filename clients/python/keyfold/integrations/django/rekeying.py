"""Moving the encrypted values of a table to newer keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.rekeying import Rekeyed, RowFailure, Stored, moves
from keyfold.integrations.django.fields import encrypted_fields
from keyfold.integrations.django.setting import tenants


def rekey(
    model: Any, *, using: str = DEFAULT_DB_ALIAS, after: Any = None, batch: int = 500
) -> Iterator[Rekeyed]:
    """Moves the encrypted values of a model to their tenants' newest keys, without opening them.

    It walks the table in the order of its primary key, and stores each batch before it yields what
    became of it. Keep the batch's `after` to go on from there after a crash. A value that somebody
    writes meanwhile is left as it is.

    Args:
        model: The model.
        using: The database.
        after: Where to go on: the primary key of the last row that is done.
        batch: How many rows to read and store at a time.

    Raises:
        EncryptedColumnError: The model has no encrypted field.
        KeyfoldError: No server answers. What was yielded is stored.
    """
    fields = encrypted_fields(model)
    if not fields:
        raise EncryptedColumnError(f"{model.__name__} has no encrypted field")
    rows = model._base_manager.using(using).order_by("pk")  # noqa: SLF001
    relations = [field.places.relations for field in fields if field.places.relations]
    if relations:
        rows = rows.select_related(*relations)
    place = after[0] if isinstance(after, tuple | list) else after
    while True:
        part = list((rows if place is None else rows.filter(pk__gt=place))[:batch])
        if not part:
            return
        place = part[-1].pk
        failures: list[RowFailure] = []
        found = moves(tenants(), _values(fields, part, failures))
        with transaction.atomic(using=using):
            moved = sum(_replace(fields, using, value, message) for value, message in found.newer)
        yield Rekeyed(
            (place,),
            len(part),
            moved,
            found.current,
            len(found.newer) - moved,
            (*failures, *found.failures),
        )


def _values(fields: list[Any], rows: Iterable[Any], failures: list[RowFailure]) -> Iterator[Stored]:
    for row in rows:
        for field in fields:
            cell = row.__dict__[field.attname]
            if cell is None:
                continue
            try:
                place = field.places.now(row)
            except EncryptedColumnError as error:
                failures.append(RowFailure((row.pk,), error))
                continue
            key = getattr(row, field.model._meta.pk.attname)  # noqa: SLF001
            yield Stored((key,), place.column, place.tenant, cell.message)


def _replace(fields: list[Any], using: str, value: Stored, message: bytes) -> int:
    """Stores a newer message if the older one is still there, and returns how many it stored."""
    (field,) = [one for one in fields if one.places.column == value.column]
    connection, meta = connections[using], field.model._meta  # noqa: SLF001
    table, column, key = map(
        connection.ops.quote_name, (meta.db_table, field.column, meta.pk.column)
    )
    newer, older = map(connection.Database.Binary, (message, value.message))
    with connection.cursor() as cursor:
        # The field refuses to be compared, because its value cannot be. The names are the model's.
        cursor.execute(
            f"UPDATE {table} SET {column} = %s WHERE {key} = %s AND {column} = %s",  # noqa: S608
            [newer, meta.pk.get_db_prep_value(value.row[0], connection), older],
        )
        done: int = cursor.rowcount
    return done
