"""Who the caller is."""

from __future__ import annotations

from keyfold.aio.connection import Connection
from keyfold.calls.caller import get_caller
from keyfold.models.caller import CallerIdentity


class Callers(Connection):
    """The call that says who the caller is to the server."""

    async def get_caller(self, *, timeout: float | None = None) -> CallerIdentity:
        """Returns who the caller is to the server, and which grants it has.

        It needs no role, and works while the server's store is away.

        Raises:
            UnauthenticatedError: The server does not know the caller, or its credential is not
                valid.

        Example:
            >>> me = await client.get_caller()
            >>> me.caller, me.may("Revoke", "prod")
            ('local', True)
        """
        return await self._ask(get_caller(), timeout)
