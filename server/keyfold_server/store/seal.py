"""The seal of a row: an HMAC over everything in it that decides (protocol A2).

The bytes under the HMAC are a fixed format: a label, the encoding's version, the table's name, then
the columns in the schema's order. Each part has its length in front, and each value its type too.
So no two rows have the same bytes, and NULL differs from an empty value.

A row that ends in NULLs of `_later` columns (see `schema`) has no bytes for them, and so keeps the
MAC from before the table had those columns. Two rows still never have the same bytes: a value's
place counts from the first column, and the last value that has bytes is not such a NULL.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from functools import cache
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.errors import RowNotAuthenticError, SetupError
from keyfold_server.store.schema import ALWAYS_SEALED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.service_key import ServiceKey

ENCODING: Final = 1
"""Version of the bytes under the MAC. The store's own row names the version that sealed it."""

_LABEL: Final = b"keyfold row"
_LOG: Final = "log"
_ABSENT: Final = b"n"
_length: Final = struct.Struct(">I").pack
_typed: Final = struct.Struct(">cI").pack


def encode(table: str, values: Sequence[object]) -> bytes:
    """Returns the bytes under a row's MAC.

    Raises:
        TypeError: A value is of a type that no column has.
    """
    parts = [_prefix(table)]
    add = parts.append
    for value in values[: _covered(table, values)]:
        # Rows are encoded whenever they are read, so the commonest types come first.
        if value is None:
            add(_ABSENT)
        elif isinstance(value, str):
            raw = value.encode()
            add(_typed(b"s", len(raw)))
            add(raw)
        elif isinstance(value, bytes):
            add(_typed(b"b", len(value)))
            add(value)
        elif isinstance(value, int):
            raw = b"%d" % value
            add(_typed(b"i", len(raw)))
            add(raw)
        else:
            raise TypeError(f"no column of {table} holds a {type(value).__name__}")
    return b"".join(parts)


def _covered(table: str, values: Sequence[object]) -> int:
    """Counts the values that have bytes: all but the NULLs of `_later` columns at the end."""
    count = len(values)
    least = ALWAYS_SEALED.get(table, count)
    while count > least and values[count - 1] is None:
        count -= 1
    return count


@cache
def _prefix(table: str) -> bytes:
    name = table.encode()
    return b"".join((_length(len(_LABEL)), _LABEL, bytes((ENCODING,)), _length(len(name)), name))


def digest(macs: Iterable[bytes]) -> bytes:
    """Returns the digest of a cluster's rows, given their MACs in their fixed order.

    All MACs have one length, and each vouches for its row's table and identity. So the digest
    needs nothing between them.
    """
    return hashlib.sha256(b"".join(macs)).digest()


class Seal:
    """Makes and checks the MACs of rows under one service key."""

    def __init__(self, key: ServiceKey) -> None:
        """Takes the service key."""
        self._key = key
        self.service_key_id: Final = key.service_key_id

    def sealed(self, table: str, values: Cells) -> Cells:
        """Returns a row with its MAC as the last value."""
        return (*values, self._key.mac(encode(table, values)))

    def mac(self, purpose: str, data: bytes) -> bytes:
        """Returns a MAC over bytes that are no row, such as those of a page token.

        Args:
            purpose: What the bytes are for. A MAC for one purpose is worth nothing for another.
            data: The bytes.
        """
        label, name = b"keyfold " + purpose.encode(), _length(len(data))
        return self._key.mac(b"".join((_length(len(label)), label, name, data)))

    def require_key(self, sealed_by: object) -> None:
        """Refuses a store that another service key sealed.

        Args:
            sealed_by: The service key's id in the store's own row.

        Raises:
            SetupError: It is not this key's id.
        """
        if sealed_by != self.service_key_id:
            raise SetupError(
                f"the service key {sealed_by} sealed the store, and the file holds the key "
                f"{self.service_key_id}: put the right key in its place"
            )

    def check(self, table: str, row: Cells, cluster: str | None = None) -> None:
        """Refuses a row that this service key did not seal.

        Args:
            table: Name of the row's table.
            row: The row's values, its MAC last.
            cluster: Name of the row's cluster, for the error's message.

        Raises:
            RowNotAuthenticError: The MAC does not match the other values.
        """
        mac = row[-1]
        try:
            good = self._key.mac(encode(table, row[:-1]))
        except (TypeError, UnicodeEncodeError):
            good = None
        if good is None or not isinstance(mac, bytes) or not hmac.compare_digest(mac, good):
            raise not_authentic(table, cluster, row[0] if table == _LOG else None)


def not_authentic(
    table: str, cluster: str | None = None, entry: object = None
) -> RowNotAuthenticError:
    """Makes the error about a row, which names the table and the cluster and no contents.

    Args:
        table: Name of the row's table.
        cluster: Name of the row's cluster, or None.
        entry: The number that an entry of the log says of itself, if the row is one.
    """
    whose = f" of cluster {cluster}" if cluster is not None else ""
    which = f", entry {entry}," if isinstance(entry, int) else ""
    error = RowNotAuthenticError(
        f"a row in {table}{whose}{which} does not carry the service key's seal, or one is missing: "
        "somebody else wrote the store, or a newer release did; restore it from a backup, or start "
        "that release",
        cluster=cluster,
    )
    error.entry = entry if isinstance(entry, int) else None
    return error
