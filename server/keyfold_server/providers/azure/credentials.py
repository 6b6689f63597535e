"""The Entra tokens that Keyfold calls Azure with: one lease for each principal and audience.

`shared.lease` renews them, and decides what a rejected or a withdrawn one means (protocol F2a).
This module says how long a token lasts, and how a vault rejects one. It must not know keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from keyfold_server.providers.azure.errors import credentials_failed
from keyfold_server.providers.azure.logins import EntraToken
from keyfold_server.providers.azure.replies import Reply
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import Granted, RejectedError


def tokens(
    name: str,
    login: Callable[[], EntraToken],
    *,
    clock: Callable[[], float],
    cloud: str = "",
    shown_good: Callable[[Lease[EntraToken]], bool],
) -> Lease[EntraToken]:
    """Returns the lease of a principal's tokens; the first call asks Entra.

    Args:
        name: The principal, empty for the server's own identity.
        login: Logs in anew; see `Logins` for its errors.
        clock: Returns monotonic seconds.
        cloud: The cloud whose Entra knows the principal.
        shown_good: Tells whether Keyfold's own side is good, without asking this principal.
    """

    def granted(_rejected: EntraToken | None) -> Granted[EntraToken]:
        token = login()
        # Entra names the end by its own clock. Where ours is wrong, a vault rejects the token,
        # and the lease renews it then.
        return Granted(token, token.expires - time.time())

    kind = "principal" if name else "the server's own Azure identity"
    return Lease(granted, clock=clock, name=name, kind=kind, cloud=cloud, shown_good=shown_good)


def under(lease: Lease[EntraToken], work: Callable[[EntraToken], Reply], what_for: str) -> Reply:
    """Makes a call, and makes it again if the vault rejects the first token.

    Args:
        lease: The tokens.
        work: Makes the call with a token, and returns the answer, whatever its status.
        what_for: The call in words, such as `for unwrapkey`.

    Raises:
        CredentialsFailedError: The vault rejected the renewed token, too.
        KmsError: There is no token, and the login failed.
    """

    def attempt(token: EntraToken) -> Reply:
        reply = work(token)
        if reply.unauthorized:
            raise RejectedError(credentials_failed(what_for, reply.request_id))
        return reply

    return lease.under(attempt)
