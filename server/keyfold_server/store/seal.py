"""The seal of a row: an HMAC over all that decides.

The bytes are fixed: a label, the encoding's version, the table's name, then
the columns in the schema's order. Every part is prefixed with its length and every value with its
type, so that no two rows have the same bytes, and absent is not empty.

Columns that a table got after its first schema stand at the end, and of them those that are absent
in a row, and all after them in it, have no bytes. Two rows still never have the same ones: what
is there stands in its place, counted from the first column, and the last that is there is not
absent. So a row that uses no later column has the bytes, and the MAC, that it always had.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from functools import cache
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.store.schema import ALWAYS_SEALED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.service_key import ServiceKey

ENCODING: Final = 1
"""Version of the bytes under the MAC; the store's row says which one it was sealed with."""

_LABEL: Final = b"keyfold row"
_ABSENT: Final = b"n"
_length: Final = struct.Struct(">I").pack
_typed: Final = struct.Struct(">cI").pack


def encode(table: str, values: Sequence[object]) -> bytes:
    """Returns the bytes under a row's MAC.

    Raises:
        TypeError: A value is of a type that no column has.
    """
    parts = [_prefix(table)]
    for value in values[: _covered(table, values)]:
        if isinstance(value, str):
            raw = value.encode()
            parts += (_typed(b"s", len(raw)), raw)
        elif isinstance(value, bytes):
            parts += (_typed(b"b", len(value)), value)
        elif isinstance(value, int):
            raw = b"%d" % value
            parts += (_typed(b"i", len(raw)), raw)
        elif value is None:
            parts.append(_ABSENT)
        else:
            raise TypeError(f"no column of {table} holds a {type(value).__name__}")
    return b"".join(parts)


def _covered(table: str, values: Sequence[object]) -> int:
    """Counts the values that have bytes: all but absent later ones at the end."""
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
    """Returns the digest over a cluster's rows, from their MACs in their fixed order.

    A MAC has one length and speaks for its row's table and identity, so the sum needs no framing.
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

    def check(self, table: str, row: Cells, cluster: str | None = None) -> None:
        """Refuses a row that this service key did not seal.

        Args:
            table: The table's name.
            row: All values, the MAC last.
            cluster: The cluster's name, for the message.

        Raises:
            RowNotAuthenticError: The MAC does not fit the other values.
        """
        mac = row[-1]
        try:
            good = self._key.mac(encode(table, row[:-1]))
        except (TypeError, UnicodeEncodeError):
            good = None
        if good is None or not isinstance(mac, bytes) or not hmac.compare_digest(mac, good):
            raise not_authentic(table, cluster)


def not_authentic(table: str, cluster: str | None = None) -> RowNotAuthenticError:
    """Makes the error about a row: it names the table and the cluster, never the contents."""
    whose = f" of cluster {cluster}" if cluster is not None else ""
    return RowNotAuthenticError(
        f"a row in {table}{whose} does not carry the service key's seal, or one is missing: "
        "somebody else wrote the store, or a newer release did; restore it from a backup, or start "
        "that release",
        cluster=cluster,
    )
