"""Encrypted columns for SQLAlchemy: each row under the key of its own tenant.

    class Card(Base):
        __tablename__ = "cards"
        id: Mapped[int] = mapped_column(primary_key=True)
        organization: Mapped[str]
        number = encrypted(str, tenant="organization")

    Session = sessionmaker(engine, info=Tenants(client, "eu", cache=cache).info)

The mapper's own hooks encrypt, because they see the row, and a column type does not. So no value
can be encrypted for another tenant than that of its row. docs/integrations/sqlalchemy.md says the
rest.

    attribute    the attribute of a mapped class
    sealed_type  the type of its column
    statements   refusing bulk statements, which the mapper's hooks do not see
    tenants      who seals and opens for a session
    rows         opening many rows at once
    rekeying     moving a table's values to newer keys
"""

try:
    import sqlalchemy as _sqlalchemy
except ImportError:
    raise ImportError(
        "keyfold.integrations.sqlalchemy needs SQLAlchemy: install keyfold[sqlalchemy]"
    ) from None

from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.rekeying import Rekeyed, RowFailure
from keyfold.integrations.sqlalchemy.attribute import Encrypted, encrypted
from keyfold.integrations.sqlalchemy.rekeying import rekey
from keyfold.integrations.sqlalchemy.rows import async_open_rows, open_rows
from keyfold.integrations.sqlalchemy.sealed_type import SealedType
from keyfold.integrations.sqlalchemy.statements import refuse_bulk as _refuse_bulk
from keyfold.integrations.sqlalchemy.tenants import Tenants

_sqlalchemy.event.listen(_sqlalchemy.orm.Session, "do_orm_execute", _refuse_bulk)

del _sqlalchemy, _refuse_bulk

__all__ = [
    "Cell",
    "Encrypted",
    "EncryptedColumnError",
    "Rekeyed",
    "RowFailure",
    "SealedType",
    "Tenants",
    "async_open_rows",
    "encrypted",
    "open_rows",
    "rekey",
]
