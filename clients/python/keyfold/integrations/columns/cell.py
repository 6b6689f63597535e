"""The value of one column of one row: sealed, open, or both.

A cell never changes what it holds; opening it only adds what its message says. So rows may share
it. It shows and pickles no plaintext.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from keyfold.integrations.columns.codecs import Codec
from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.place import Place
from keyfold.integrations.columns.tenants import Tenants

if TYPE_CHECKING:
    from keyfold.integrations.columns.group import Group

_NOTHING: Final = object()


class Cell:
    """One value.

    Attributes:
        message: The value, sealed; None: nobody has sealed it yet.
        place: The row and column that it was sealed for or read from, as far as that is known. The
            row may have moved since.
        group: The cells that were read together with it.
        tenants: Who opens it, for a row that may outlive what it was read with.
        origin: What the mapper noted of the row when it was read, from which the place follows.
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_value",
        "group",
        "message",
        "origin",
        "place",
        "tenants",
    )

    def __init__(
        self, message: bytes | None, place: Place | None = None, origin: Any = None
    ) -> None:
        """Takes what a database holds."""
        self.message = message
        self.place = place
        self.origin = origin
        self.group: Group | None = None
        self.tenants: Tenants | None = None
        self._data: bytes | None = None
        self._value: Any = _NOTHING

    @classmethod
    def of(cls, value: Any) -> Cell:
        """Returns the cell of a value that an application has set."""
        cell = cls(None)
        cell._value = value
        return cell

    @property
    def is_open(self) -> bool:
        """Whether the value is in memory."""
        return self._value is not _NOTHING or self._data is not None

    def opened(self, data: bytes) -> None:
        """Adds what its message was opened to."""
        self._data, self.group = data, None

    def read(self, codec: Codec) -> Any:
        """Returns the value of a cell that is open."""
        if self._value is _NOTHING:
            assert self._data is not None  # noqa: S101  or it would not be open
            column = "of an encrypted attribute" if self.place is None else self.place.column
            self._value = codec.decode(self._data, column)
        return self._value

    def open(self, tenants: Tenants, place: Place) -> None:
        """Opens the cell, and those that were read together with it.

        Args:
            tenants: Who opens.
            place: Where it stands, unless it knows that itself.
        """
        if not self.is_open and self.group is not None:
            self.group.open(self, tenants)
        if not self.is_open:
            assert self.message is not None  # noqa: S101  a cell has a value or a message
            self.place = self.place or place
            self.opened(tenants.open(self.place, self.message))

    def stored(self, tenants: Tenants, place: Place, codec: Codec) -> Cell:
        """Returns the cell to store at a place: this one, or one that was sealed for the place.

        Args:
            tenants: Who seals.
            place: Where it will stand.
            codec: What the column holds.
        """
        if self._value is _NOTHING:
            if self._stands_at(place):
                return self
            self.open(tenants, place)
        if self._value is _NOTHING:
            data = self._data or b""
        else:
            data = codec.encode(self._value, place.column)
            # A list or dictionary may have changed since it was opened.
            if data == self._data and self._stands_at(place):
                return self
        sealed = Cell(tenants.seal(place, data), place)
        sealed._data, sealed._value = data, self._value
        return sealed

    def _stands_at(self, place: Place) -> bool:
        if self.message is None:
            return False
        here = self.place
        if here is not None and not here.row and here.column.numbered_late:
            # The database has numbered the row since. The value is bound to the number when it is
            # next set.
            return (here.tenant, here.column) == (place.tenant, place.column)
        return here in (None, place)

    def __repr__(self) -> str:
        return "Cell(<encrypted>)"

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        copied = Cell(self.message, self.place, self.origin)
        copied._data = self._data
        if self._value is not _NOTHING:
            copied._value = copy.deepcopy(self._value, memo)
        return copied

    def __reduce__(self) -> tuple[type[Cell], tuple[bytes, Place | None, Any]]:
        if self.message is None:
            raise EncryptedColumnError(
                "a row with a new value of an encrypted column cannot be pickled: the value is not "
                "encrypted before the row is stored; store it first"
            )
        return Cell, (self.message, self.place, self.origin)
