"""Refusing the mapper's bulk statements with values of encrypted attributes.

The mapper leaves out names that it does not know, and `encrypted` hides the attribute from it: the
statement would succeed without the value.
"""

from __future__ import annotations

from sqlalchemy.orm import ORMExecuteState

from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.sqlalchemy.attribute import attributes_of


def refuse_bulk(state: ORMExecuteState) -> None:
    """Refuses rows of an insert or update that name an encrypted attribute.

    Raises:
        EncryptedColumnError: They do. Nothing was stored.
    """
    mapper, rows = state.bind_mapper, state.parameters
    if mapper is None or not rows or not (state.is_insert or state.is_update):
        return
    given: set[str] = {name for row in ([rows] if isinstance(rows, dict) else rows) for name in row}
    found = given & {attribute.name for attribute in attributes_of(mapper.class_)}
    if found:
        raise EncryptedColumnError(
            f"{mapper.class_.__name__}.{min(found)} was to be stored without its row, so nobody "
            "can tell whose key encrypts it; set the attribute of an object and add it to a session"
        )
