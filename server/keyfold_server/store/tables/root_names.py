"""The names of root keys, which the log shows to people beside the ids of root keys.

An entry about a root key keeps the name, since the last wrap under that root key goes with the next
rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, select

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.log import KeyName
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import wraps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

_ONE: Final = select(*wraps.c).where(wraps.c.root_id == bindparam("of_root")).limit(1)
_TYPE: Final = list(wraps.columns).index(wraps.c.root_type)


def reading(root: str) -> Step:
    """Returns the step that reads a wrap by a root key; `of` takes what it returns."""
    return Step(_ONE, [{"of_root": root}])


def of(found: Sequence[Cells], seal: Seal) -> KeyName | None:
    """Returns the name of the root key of a wrap, or None.

    An entry without a name is better than none, so a wrap that is not authentic gives no error.
    """
    for row in found:
        try:
            seal.check("wraps", row)
        except RowNotAuthenticError:
            continue
        return KeyName(*row[_TYPE : _TYPE + 3])
    return None
