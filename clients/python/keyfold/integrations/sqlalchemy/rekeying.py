"""Moving the encrypted values of a table to newer keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import LargeBinary, Row, inspect, select, tuple_, type_coerce, update
from sqlalchemy.orm import Mapper, Session

from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.rekeying import Rekeyed, Stored, moves
from keyfold.integrations.sqlalchemy import tenants as sessions
from keyfold.integrations.sqlalchemy.attribute import Encrypted, attributes_of


def rekey(
    session: Session,
    model: type[Any],
    *,
    after: Sequence[Any] | None = None,
    batch: int = 500,
) -> Iterator[Rekeyed]:
    """Moves the encrypted values of a table to their tenants' newest keys, without opening them.

    It walks the table in the order of its primary key, and commits each batch before it yields what
    became of it. Store the batch's `after` to go on from there after a crash. A value that somebody
    writes meanwhile is left as it is. An object that was read before and is stored later does not
    bring the older value back, because the mapper stores changed attributes only.

    Args:
        session: A session that is used for nothing else meanwhile.
        model: The mapped class.
        after: Where to go on: the primary key of the last row that is done.
        batch: How many rows to read and commit at a time.

    Raises:
        EncryptedColumnError: The class has no encrypted attribute.
        KeyfoldError: No server answers. What was yielded is stored.
    """
    mapper: Mapper[Any] = inspect(model)
    attributes = attributes_of(model)
    if not attributes:
        raise EncryptedColumnError(f"{model.__name__} has no encrypted attribute")
    tenants = sessions.of(session)
    keys = [mapper.get_property_by_column(column).class_attribute for column in mapper.primary_key]
    # Plain bytes, because a message is compared here, and not the value in it.
    cells = [type_coerce(getattr(model, one.key), LargeBinary) for one in attributes]
    names = [getattr(model, one.tenant) for one in attributes]
    walk = select(*keys, *names, *cells).order_by(*keys).limit(batch)
    place = None if after is None else tuple(after)
    while True:
        beyond = walk if place is None else walk.where(tuple_(*keys) > tuple_(*place))
        rows = session.execute(beyond).all()
        # Nothing is locked, and no snapshot held, while the server is asked.
        session.commit()
        if not rows:
            return
        place = tuple(rows[-1][: len(keys)])
        found = moves(tenants, _values(mapper, attributes, rows))
        moved = sum(
            _replace(session, mapper, attributes, value, message) for value, message in found.newer
        )
        session.commit()
        yield Rekeyed(
            place,
            len(rows),
            moved,
            found.current,
            len(found.newer) - moved,
            tuple(found.failures),
        )


def _values(
    mapper: Mapper[Any], attributes: Sequence[Encrypted[Any]], rows: Iterable[Row[Any]]
) -> Iterator[Stored]:
    keys, count = len(mapper.primary_key), len(attributes)
    for row in rows:
        names, messages = row[keys : keys + count], row[keys + count :]
        for attribute, name, message in zip(attributes, names, messages, strict=True):
            if message is not None:
                column = attribute.column(mapper)
                yield Stored(tuple(row[:keys]), column, str(name), bytes(message))


def _replace(
    session: Session,
    mapper: Mapper[Any],
    attributes: Sequence[Encrypted[Any]],
    value: Stored,
    message: bytes,
) -> int:
    """Stores a newer message if the older one is still there, and returns how many it stored."""
    (attribute,) = [one for one in attributes if one.column(mapper) == value.column]
    cell = mapper.attrs[attribute.key].columns[0]
    table = cell.table
    keys = zip(table.primary_key, value.row, strict=True)
    change = (
        update(table)
        .where(*(column == part for column, part in keys))
        .where(type_coerce(cell, LargeBinary) == value.message)
        .values({cell.name: type_coerce(message, LargeBinary)})
    )
    done: int = session.connection().execute(change).rowcount
    return done
