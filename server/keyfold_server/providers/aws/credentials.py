"""As whom Keyfold calls AWS: its own identity, or a role that a customer lets it take.

Invariant (protocol F2a): Keyfold's own credential that is not accepted is got anew once and,
failing that, is CREDENTIALS_FAILED. A role that cannot be taken any more is the customer's
refusal only if Keyfold's own side is shown good since; otherwise it is CREDENTIALS_FAILED, too.
A role's session is taken anew at least every `LONGEST` seconds, since withdrawn trust shows only
then. It must not know keys.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import ClientError

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.aws.clients import new_session
from keyfold_server.providers.aws.errors import (
    BROKEN,
    about_own_credential,
    blames_the_caller,
    code,
    credentials_failed,
    denied,
    request_id,
    translate,
)
from keyfold_server.providers.shared.deadlines import current

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

AHEAD: Final = 8 * 60.0
"""Seconds after which a session is taken anew while the old one still serves, less up to one."""

LONGEST: Final = 10 * 60.0
"""Seconds after which a session is not used any more."""

DURATION: Final = 15 * 60
"""Seconds that a session lasts at AWS: the shortest that there is."""

_PAUSE: Final = 15.0
"""Seconds until renewing ahead is tried again after it failed."""

_ASSUME: Final = "sts:AssumeRole"


class Credential(Protocol):
    """A credential that can be brought up to date."""

    def fresh(self) -> ReadOnlyCredentials:
        """Returns what calls are signed with from now on, renewed where it is time.

        Raises:
            KmsError: It cannot be had.
        """
        ...

    def renew(self, used: ReadOnlyCredentials) -> None:
        """Gets another credential than the one that was used and not accepted.

        Raises:
            KmsError: There is none.
        """
        ...


def under(credential: Credential, work: Callable[[], _T], operation: str) -> _T:
    """Carries out a call under a credential, a second time where it had to be renewed.

    Raises:
        CredentialsFailedError: The renewed one was not accepted either.
        ClientError: AWS answered no for another reason.
    """
    used = credential.fresh()
    try:
        return work()
    except ClientError as error:
        if not about_own_credential(error):
            raise
    credential.renew(used)
    attempts.count_retry()
    try:
        return work()
    except ClientError as error:
        if about_own_credential(error):
            raise credentials_failed(operation, code(error), request_id(error.response)) from error
        raise


class _Held:
    """A credential as the SDK's clients take it: what was last got, without asking anybody."""

    method = "keyfold"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frozen: ReadOnlyCredentials | None = None

    def get_frozen_credentials(self) -> ReadOnlyCredentials | None:
        """Returns what requests are signed with; see `aws_clients.Signs`."""
        return self._frozen

    def get_deferred_property(self, name: str) -> Callable[[], None]:
        """Returns what tells a property; see `aws_clients.Signs`."""
        del name
        return lambda: None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits for this thread's turn, as long as its call may take."""
        if not self._lock.acquire(timeout=max(0.0, current().ends - monotonic())):
            raise UnreachableError("another call took too long to renew the AWS credential")
        try:
            yield
        finally:
            self._lock.release()


class Ambient(_Held):
    """The server's own identity: environment, files, web identity, container or machine."""

    def __init__(self) -> None:
        super().__init__()
        self._source: Credentials | None = None

    def fresh(self) -> ReadOnlyCredentials:
        """Returns the identity's credential; the SDK renews what can be renewed."""
        with self._turn():
            frozen = self._frozen = self._read()
        return frozen

    def renew(self, used: ReadOnlyCredentials) -> None:
        """Looks for the credential again, from the beginning."""
        with self._turn():
            if self._frozen != used:
                return
            self._source = None
            self._frozen = self._read()
            if self._frozen == used:
                raise CredentialsFailedError(
                    "AWS does not accept the server's own credential, and there is no other; "
                    "renew it where the AWS_* environment points to"
                )

    def _read(self) -> ReadOnlyCredentials:
        try:
            # A session of its own, so that nothing of what was found before is remembered.
            self._source = self._source or new_session().get_credentials()
            found = self._source and self._source.get_frozen_credentials()
        except (*BROKEN, OSError) as error:
            self._source = None
            raise CredentialsFailedError(
                "the server's own AWS credential cannot be had; look at the AWS_* environment "
                f"and what it points to ({type(error).__name__})"
            ) from error
        if not found or not found.access_key:
            self._source = None
            raise CredentialsFailedError(
                "there is no AWS credential on this server; set AWS_* or give its machine a role"
            )
        return found


class _Session(NamedTuple):
    """A role's session, and when it was begun, on the monotonic clock."""

    frozen: ReadOnlyCredentials
    began: float


class Role(_Held):
    """A role that a customer lets Keyfold take."""

    def __init__(
        self,
        arn: str,
        take: Callable[[], dict[str, Any]],
        shown_good: Callable[[Role], bool],
        clock: Callable[[], float],
    ) -> None:
        """Prepares a role; it is taken with the first call.

        Args:
            arn: The role.
            take: Calls AssumeRole and returns its answer.
            shown_good: Tells whether Keyfold's own side is good, seen from beside this role.
            clock: Monotonic seconds.
        """
        super().__init__()
        self.arn = arn
        self.taken_at: float | None = None
        self._take = take
        self._shown_good = shown_good
        self._clock = clock
        self._session: _Session | None = None
        # Sessions that began together are renewed one after the other.
        self._ahead = AHEAD - random.uniform(0, 60)  # noqa: S311  no secret
        self._not_before = 0.0

    def fresh(self) -> ReadOnlyCredentials:
        """Returns the session's credential; takes the role anew where it is time."""
        session, now = self._session, self._clock()
        if session is not None and now - session.began < self._ahead:
            return session.frozen
        if session is not None and now - session.began < LONGEST:
            return self._renewed_ahead(session, now)
        with self._turn():
            if self._session is session:
                self._begin()
            return self._now()

    def renew(self, used: ReadOnlyCredentials) -> None:
        """Takes the role anew."""
        with self._turn():
            if self._frozen == used:
                self._begin()

    def probe(self) -> bool:
        """Tells whether the role can be taken now; what is held stays."""
        try:
            self._take()
        except (KmsError, *BROKEN):
            return False
        return True

    def _renewed_ahead(self, session: _Session, now: float) -> ReadOnlyCredentials:
        """Takes the role anew in one thread, while the others go on with what there is."""
        if now < self._not_before or not self._lock.acquire(blocking=False):
            return session.frozen
        try:
            self._begin()
        except CouldNotTellError as error:
            self._not_before = now + _PAUSE
            _log.warning("role %s could not be taken anew yet: %s", self.arn, error.message)
            return session.frozen
        finally:
            self._lock.release()
        return self._now()

    def _now(self) -> ReadOnlyCredentials:
        session = self._session
        if session is None:
            raise UnreachableError("the role's session ended while the call began; try again")
        return session.frozen

    def _begin(self) -> None:
        """Takes the role; under the lock."""
        began = self._clock()
        try:
            found = self._take()["Credentials"]
            frozen = ReadOnlyCredentials(
                found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], None
            )
        except BROKEN as error:
            meant = self._meaning(error)
            if not isinstance(meant, CouldNotTellError):
                self._session = self._frozen = None
            raise meant from error
        self._session, self._frozen, self.taken_at = _Session(frozen, began), frozen, began

    def _meaning(self, error: Exception) -> KmsError:
        """Returns what an AssumeRole that failed means (protocol F2a)."""
        meant = translate(error, _ASSUME, self.arn)
        if not isinstance(error, ClientError) or not denied(error):
            # Only a denial can be the customer's; whatever else it is, it is no refusal.
            return (
                meant if isinstance(meant, CouldNotTellError) else UnreachableError(meant.message)
            )
        if not blames_the_caller(error) and self._shown_good(self):
            return AccessDeniedError(
                f"AWS does not let Keyfold take role {self.arn}; its trust policy must name "
                "Keyfold's identity and the external id that Keyfold issued",
                provider_request_id=request_id(error.response),
                missing_permission=_ASSUME,
            )
        return CredentialsFailedError(
            f"AWS does not let Keyfold take role {self.arn}, and Keyfold's own identity could not "
            "be shown to be good; look at its credential and its permission sts:AssumeRole",
            provider_request_id=request_id(error.response),
            missing_permission=_ASSUME,
        )
