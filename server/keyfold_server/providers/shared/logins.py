"""The result of a login, and the two ways in which a provider turns Keyfold away.

The code of each provider logs in and raises these errors, and `Lease` acts on them. This module
must not know any provider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from keyfold_server.domain.errors import CredentialsFailedError, RefusedError

_S = TypeVar("_S")


class WithdrawnError(Exception):
    """The provider knew Keyfold, and does not let it act as a principal.

    That is the customer's refusal only if Keyfold's own side is good; see `Principals`.

    Attributes:
        refusal: The error if Keyfold's own side is shown to be good.
        doubt: The error if it is not.
    """

    def __init__(self, refusal: RefusedError, doubt: CredentialsFailedError) -> None:
        """Takes both meanings."""
        super().__init__(refusal.message)
        self.refusal = refusal
        self.doubt = doubt


class RejectedError(Exception):
    """The provider did not accept a session, as opposed to what the session may do.

    Attributes:
        failure: The error if the provider does not accept the next session either.
    """

    def __init__(self, failure: CredentialsFailedError) -> None:
        """Takes the error."""
        super().__init__(failure.message)
        self.failure = failure


@contextmanager
def canary_of_our_own() -> Iterator[None]:
    """Surrounds a login as the canary, which nobody but the vendor can withdraw."""
    try:
        yield
    except WithdrawnError as error:
        raise error.doubt from error


@dataclass(frozen=True, slots=True)
class Granted(Generic[_S]):
    """A session from a login.

    Attributes:
        session: The session.
        seconds: The session's seconds from the login on, as the provider says; infinite if
            the provider does not name an end.
    """

    session: _S = field(repr=False)
    seconds: float = math.inf
