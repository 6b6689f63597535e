# Generated from aio/caller.py by `make client`; never edited.

"""Who the caller is."""

from __future__ import annotations

from keyfold.calls.caller import get_caller
from keyfold.client.connection import Connection
from keyfold.models.caller import CallerIdentity


class Callers(Connection):
    """The call that says who the caller is to the server."""

    def get_caller(self, *, timeout: float | None = None) -> CallerIdentity:
        """Returns who the caller is to the server, and which grants it has.

        It needs no role, and works while the server's store is away.

        Raises:
            UnauthenticatedError: The server does not know the caller, or its credential is not
                valid.

        Example:
            >>> me = client.get_caller()
            >>> me.caller, me.may("Revoke", "prod")
            ('local', True)
        """
        return self._ask(get_caller(), timeout)
