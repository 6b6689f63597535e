"""The credentials that Keyfold calls AWS with: the server's own, or a role's session.

    the server's own   found by the SDK: environment, files, web identity, container or machine
    a role             taken with AssumeRole; its session lasts 15 minutes at AWS

`shared.lease` renews both, and decides what a rejected or a withdrawn one means (protocol F2a).
This module logs in to AWS for it, and must not know keys.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import ClientError

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    UnreachableError,
)
from keyfold_server.providers.aws.answers import code, request_id
from keyfold_server.providers.aws.clients import new_session
from keyfold_server.providers.aws.denials import blames_the_caller, denied
from keyfold_server.providers.aws.errors import (
    BROKEN,
    about_own_credential,
    credentials_failed,
    translate,
)
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import Granted, RejectedError, WithdrawnError

_T = TypeVar("_T")

DURATION: Final = 15 * 60
"""Seconds that a role's session lasts at AWS: the shortest that AWS offers."""

_ASSUME: Final = "sts:AssumeRole"


class Signer:
    """A lease in the form in which the SDK's clients take a credential; see `clients.Signs`."""

    method = "keyfold"

    def __init__(self, lease: Lease[ReadOnlyCredentials]) -> None:
        """Takes the lease."""
        self._lease = lease

    def get_frozen_credentials(self) -> ReadOnlyCredentials | None:
        """Returns the lease's session; never logs in."""
        return self._lease.session

    def get_deferred_property(self, name: str) -> Callable[[], None]:
        """Returns a function that returns None: a session has no further properties."""
        del name
        return lambda: None


def under(lease: Lease[ReadOnlyCredentials], work: Callable[[], _T], operation: str) -> _T:
    """Makes a call, and makes it again if AWS rejects the session that signed the first.

    Args:
        lease: The sessions; the SDK's client signs with the one that the lease holds.
        work: Makes the call.
        operation: AWS's name of the call, such as `kms:Decrypt`.

    Raises:
        CredentialsFailedError: AWS rejected the renewed session, too.
        ClientError: AWS answered no for another reason.
    """

    def attempt(_session: ReadOnlyCredentials) -> _T:
        try:
            return work()
        except ClientError as error:
            if not about_own_credential(error):
                raise
            failure = credentials_failed(operation, code(error), request_id(error.response))
            raise RejectedError(failure) from error

    return lease.under(attempt)


class _OwnLogin:
    """Finds the server's own credential. A lease calls it from one thread at a time."""

    def __init__(self) -> None:
        self._source: Credentials | None = None

    def __call__(self, rejected: ReadOnlyCredentials | None) -> Granted[ReadOnlyCredentials]:
        if rejected is not None:
            # Search from the beginning again: someone may have put another credential there.
            self._source = None
        found = self._found()
        if found == rejected:
            raise CredentialsFailedError(
                "AWS does not accept the server's own credential, and there is no other; "
                "renew it where the AWS_* environment points to"
            )
        return Granted(found, self._seconds())

    def _found(self) -> ReadOnlyCredentials:
        """Reads the credential; the SDK renews it first if it is about to end."""
        try:
            # A new session of the SDK, which remembers nothing that was found before.
            self._source = self._source or new_session().get_credentials()
            found = self._source and self._source.get_frozen_credentials()
        except (*BROKEN, OSError) as error:
            self._source = None
            raise CredentialsFailedError(
                "there is no usable AWS credential on this server; look at the AWS_* environment "
                f"and what it points to ({type(error).__name__})"
            ) from error
        if not found or not found.access_key:
            self._source = None
            raise CredentialsFailedError(
                "there is no AWS credential on this server; set AWS_* or give its machine a role"
            )
        return found

    def _seconds(self) -> float:
        """Returns the seconds until the credential ends; infinite if the SDK does not say.

        Even then the credential lasts for ten minutes: the SDK renews one with less time left.
        """
        ends = getattr(self._source, "_expiry_time", None)
        return ends.timestamp() - time.time() if isinstance(ends, datetime) else math.inf


def own_identity(clock: Callable[[], float]) -> Lease[ReadOnlyCredentials]:
    """Returns the lease of the server's own identity; the first call asks AWS."""
    return Lease(_OwnLogin(), clock=clock, kind="the server's own AWS identity")


def role(
    arn: str,
    assume: Callable[[], dict[str, Any]],
    shown_good: Callable[[Lease[ReadOnlyCredentials]], bool],
    clock: Callable[[], float],
) -> Lease[ReadOnlyCredentials]:
    """Returns the lease of a role that a customer lets Keyfold take.

    Args:
        arn: The role.
        assume: Calls AssumeRole and returns AWS's answer.
        shown_good: Tells whether Keyfold's own side is good, without asking this role.
        clock: Returns monotonic seconds.
    """
    partition = arn.split(":")[1]
    return Lease(
        lambda _rejected: taken(arn, assume),
        clock=clock,
        name=arn,
        kind="role",
        cloud=partition,
        shown_good=shown_good,
    )


def taken(arn: str, assume: Callable[[], dict[str, Any]]) -> Granted[ReadOnlyCredentials]:
    """Takes a role; see `role`.

    Raises:
        WithdrawnError: The role's trust policy does not let Keyfold take it.
        CouldNotTellError: AWS could not be asked, or Keyfold's own side is at fault.
    """
    try:
        found = assume()["Credentials"]
        session = ReadOnlyCredentials(
            found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], None
        )
    except BROKEN as error:
        raise _not_taken(error, arn) from error
    return Granted(session, DURATION)


def _not_taken(error: Exception, arn: str) -> Exception:
    """Returns what an AssumeRole that failed means (protocol F2a)."""
    if not isinstance(error, ClientError) or not denied(error):
        # Only a denial can be the customer's doing, so no other answer is a refusal.
        meant = translate(error, _ASSUME, arn)
        return meant if isinstance(meant, CouldNotTellError) else UnreachableError(meant.message)
    id_ = request_id(error.response)
    doubt = CredentialsFailedError(
        f"AWS does not let Keyfold take role {arn}, and Keyfold's own identity could not "
        "be shown to be good; look at its credential and its permission sts:AssumeRole",
        provider_request_id=id_,
        missing_permission=_ASSUME,
    )
    if blames_the_caller(error):
        return doubt
    refusal = AccessDeniedError(
        f"AWS does not let Keyfold take role {arn}; its trust policy must name "
        "Keyfold's identity and the external id that Keyfold issued",
        provider_request_id=id_,
        missing_permission=_ASSUME,
    )
    return WithdrawnError(refusal, doubt)
