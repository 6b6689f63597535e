"""Who seals and opens for a session; also from asyncio, whose sessions run in greenlets."""

from __future__ import annotations

import inspect
from typing import Any, Final

from sqlalchemy import util
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm import Session

from keyfold.integrations.columns import tenants
from keyfold.integrations.columns.faults import EncryptedColumnError

_KEY: Final = "keyfold"


class Tenants(tenants.Tenants):
    """Seals and opens the values of encrypted columns, each under the key of its row's tenant.

    Hand `info` to the sessionmaker. Any number of threads may share it. With an `AsyncClient` it
    serves an AsyncSession, on the client's event loop.

    Args:
        client: The client that makes and unwraps data keys.
        region: The region whose keys seal: its name, or a function that returns the name for a
            tenant.
        cluster: A function that returns the cluster's name for a tenant; by default they are the
            same.
        cache: What keeps data keys. Without it, each query's rows are a call.
    """

    @property
    def info(self) -> dict[str, Tenants]:
        """What a sessionmaker takes as `info`, so that its sessions encrypt with these tenants."""
        return {_KEY: self}

    def _settled(self, result: Any) -> Any:
        if not inspect.iscoroutine(result):
            return result
        try:
            return util.await_only(result)
        except MissingGreenlet:
            result.close()
            raise EncryptedColumnError(
                "an encrypted attribute was read that is not open yet, outside of the session's "
                "calls; read it with `await row.awaitable_attrs.NAME`, or call "
                "`await async_open_rows(rows)` first"
            ) from None


def find(session: Session | None) -> Tenants | None:
    """Returns the tenants of a session, if it has any."""
    found = None if session is None else session.info.get(_KEY)
    return found if isinstance(found, Tenants) else None


def of(session: Session | None) -> Tenants:
    """Returns the tenants of a session.

    Raises:
        EncryptedColumnError: It has none, or there is no session.
    """
    found = find(session)
    if found is None:
        raise EncryptedColumnError(
            "the session does not know whose keys encrypt; make it with "
            "`sessionmaker(engine, info=tenants.info)`"
        )
    return found
