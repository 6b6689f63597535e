"""The control of the Google Cloud counterpart: its keys, its principals and its faults.

A test or a seed calls these methods; no Google API reaches them. The servers read what changes here
on their next request.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from counterparts.gcp_errors import ERRORS, Refusal
from counterparts.gcp_faults import BEFORE, Fault, Faults
from counterparts.gcp_iam import Iam
from counterparts.gcp_keys import KEY, Algorithm, Key, Keys, Protection, Purpose
from counterparts.gcp_methods import METHODS

_HTTP_OPERATIONS = frozenset({"token", "generateAccessToken"})
# Fields known of any request, to fill in an error's parts.
_KNOWN = frozenset({"method", "seconds", "service"})


class Control:
    """The changes that a test can make to a counterpart. Thread-safe."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._iam = Iam()
        self._faults = Faults()

    def create_key(
        self,
        name: str,
        *,
        purpose: str = "ENCRYPT_DECRYPT",
        algorithm: str = "GOOGLE_SYMMETRIC_ENCRYPTION",
        protection: str = "SOFTWARE",
    ) -> str:
        """Creates a key with version 1, and its ring if that is missing; returns its name.

        Raises:
            ValueError: The name is not the name of a crypto key.
            Refusal: The key already exists.
        """
        if not KEY.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a crypto key")
        ring = name.rpartition("/cryptoKeys/")[0]
        with self._keys.lock:
            if not self._keys.has_ring(ring):
                self._keys.create_ring(ring)
            key = Key(
                name,
                Purpose[purpose],
                Algorithm[algorithm],
                Protection[protection],
                timedelta(days=30),
            )
            return self._keys.create_key(key, first_version=True).name

    def new_version(self, key: str, *, primary: bool = True) -> str:
        """Adds a version, as rotation does, and makes it primary if asked; returns its name."""
        with self._keys.lock:
            version = self._keys.create_version(key).name
            if primary:
                self._keys.set_primary(key, int(version.rpartition("/")[2]))
            return version

    def enable(self, version: str) -> None:
        """Enables a version, or a key's primary one."""
        self._move(version, "enable")

    def disable(self, version: str) -> None:
        """Disables a version, or a key's primary one."""
        self._move(version, "disable")

    def destroy(self, version: str) -> None:
        """Schedules the destruction of a version, or of a key's primary one."""
        self._move(version, "destroy")

    def restore(self, version: str) -> None:
        """Cancels a scheduled destruction; the version is then disabled."""
        self._move(version, "restore")

    def expire_version(self, version: str) -> None:
        """Lets the time of a scheduled destruction come, which removes the key material."""
        self._move(version, "expire")

    def allow(self, principal: str, resource: str, permission: str) -> None:
        """Gives a service account a permission on a resource and everything below it.

        Args:
            principal: The service account's email.
            resource: A project, ring, key or version by name; for
                `iam.serviceAccounts.getAccessToken`, the other account's email.
            permission: A permission, a predefined role of `gcp_iam.ROLES` or a custom role.
        """
        self._iam.add(principal)
        if "@" in resource:
            self._iam.add(resource)
        self._iam.allow(principal, resource, permission)

    def service_account(self, principal: str) -> None:
        """Makes a service account, unless it exists."""
        self._iam.add(principal)

    def create_role(self, name: str, permissions: list[str]) -> None:
        """Makes a custom role, `projects/P/roles/ID`.

        Raises:
            ValueError: The role already exists.
        """
        self._iam.create_role(name, permissions)

    def given(self, principal: str) -> set[tuple[str, str]]:
        """Returns a service account's permissions: resources with permissions."""
        return self._iam.given(principal)

    def deny(self, principal: str, resource: str, permission: str) -> None:
        """Takes back what `allow` gave with the same arguments."""
        self._iam.deny(principal, resource, permission)

    def remove_principal(self, principal: str) -> None:
        """Deletes a service account with its keys, tokens and permissions."""
        self._iam.remove(principal)

    def expire_tokens(self, principal: str | None = None) -> None:
        """Lets all access tokens issued so far expire, of one account or of all."""
        self._iam.expire(principal)

    def revoke_tokens(self, principal: str | None = None) -> None:
        """Forgets all access tokens issued so far, of one account or of all."""
        self._iam.revoke(principal)

    def inject(
        self, operation: str, kind: str, *, times: int | None = None, **options: Any
    ) -> None:
        """Makes an operation go wrong.

        Args:
            operation: An RPC's name, "token" or "generateAccessToken".
            kind: One of `gcp_faults.BEFORE`, or of `AFTER` for Encrypt and Decrypt.
            times: Number of calls that meet it; None for all, until `clear_faults`.
            options: `error`, `answer`, `seconds` or `size`, as in `gcp_faults.Fault`.

        Raises:
            ValueError: The operation or the fault does not exist, or they do not go together.
        """
        fault = Fault(kind, **options)
        http = operation in _HTTP_OPERATIONS
        if not http and operation not in METHODS:
            raise ValueError(f"no operation is called {operation!r}")
        if kind not in BEFORE and operation not in {"Encrypt", "Decrypt"}:
            raise ValueError(f"an answer of {operation} cannot be {kind}")
        if kind in {"unverified", "wrong_name"} and operation == "Decrypt":
            raise ValueError(f"an answer of Decrypt has nothing to be {kind}")
        if fault.error:
            self._answerable(fault.error, http=http)
        self._faults.add(operation, fault, times)

    def clear_faults(self) -> None:
        """Ends all faults; calls that hang then end with UNAVAILABLE."""
        self._faults.clear()

    def wait_until_held(self, calls: int = 1, seconds: float = 10) -> bool:
        """Waits until so many calls hang or are slow at once; returns whether that happened."""
        return self._faults.wait_until_held(calls, seconds)

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """Makes a control call that came as JSON.

        Args:
            order: "call" names one of CONTROLS; the other members are its arguments.

        Raises:
            ValueError: The call does not exist, or the counterpart refuses it.
            TypeError: There are too few or too many arguments.
        """
        arguments = dict(order)
        name = arguments.pop("call", None)
        if name not in CONTROLS:
            raise ValueError(f"no control call {name!r}, take one of {', '.join(CONTROLS)}")
        try:
            return {"result": getattr(self, name)(**arguments)}
        except Refusal as refusal:
            raise ValueError(f"refused: {refusal}") from None

    def _answerable(self, error: str, *, http: bool) -> None:
        if not http and "status" not in ERRORS[error]:
            raise ValueError(f"{error} is not an answer of a gRPC service")
        of_a_call = {"location", "permission", "resource", "state", "version"}
        known = _KNOWN if http else _KNOWN | of_a_call
        try:
            Refusal(error, **dict.fromkeys(known, 0)).check()
        except KeyError as missing:
            raise ValueError(f"{error} needs {missing}, which only its own cause has") from None

    def _move(self, name: str, how: str) -> None:
        with self._keys.lock:
            primary = self._keys.key(name).primary if KEY.fullmatch(name) else None
            self._keys.move(primary.name if primary else name, how)


CONTROLS = (
    "allow",
    "clear_faults",
    "create_key",
    "create_role",
    "deny",
    "destroy",
    "disable",
    "enable",
    "expire_tokens",
    "expire_version",
    "inject",
    "new_version",
    "remove_principal",
    "restore",
    "revoke_tokens",
    "service_account_file",
)
