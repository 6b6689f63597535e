"""The counterpart of each provider and its row's declarations, for the provider suite.

A counterpart is the KMS that an adapter calls, in the customer's hand: it makes keys, disables
them, takes permissions away and breaks the network. A row declares as absent, with a reason, what
a provider cannot express, and as a deviation, with a reason, what it does differently. The suite
asserts each deviation, so a declaration that is no longer true fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Final, NoReturn

import pytest

from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from fakes import FakeClock
from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import (
    Authenticates,
    DescribesKeys,
    KeyProvider,
    Unwrapped,
    Wrapped,
)

BUDGET: Final = 5.0
"""Seconds that a call may take, as in the server."""

DRIP: Final = 0.1
"""Seconds between two bytes of an answer that drips."""


class NotInstalledError(Exception):
    """The KMS of a row is not installed on this machine; the text says why."""


def without(error: NotInstalledError) -> NoReturn:
    """Skips a test whose KMS is not installed; in CI, where nobody sees a skip, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{error}; CI needs it")
    pytest.skip(str(error))


class Ability(StrEnum):
    """An ability that a provider or its KMS may lack."""

    # Offered by the provider.
    AUTHENTICATE = "authenticate"
    DESCRIBE = "describe"
    REQUEST_IDS = "request ids"
    FORESEE = "foresee"
    # In the customer's power.
    VERSION_STATES = "version states"
    DESTROY_VERSION = "destroy version"
    SCHEDULE_DELETION = "schedule deletion"
    PERMISSIONS = "permissions"
    TRUST = "trust"
    WRONG_PURPOSE = "wrong purpose"
    MATERIAL_MISSING = "material missing"
    # Faults of credentials and answers.
    CREDENTIALS = "credentials"
    SESSIONS = "sessions"
    THROTTLE = "throttle"
    THROTTLE_HINT = "throttle hint"
    WRONG_ANSWER = "wrong answer"
    WRONG_CHECKSUM = "wrong checksum"
    # Outages, which fail at once.
    REFUSED = "connection refused"
    RESET = "connection reset"
    TLS_FAILURE = "tls failure"
    SERVER_ERROR = "server error"
    GARBAGE = "garbage"
    TOO_LARGE = "answer too large"
    # Hangs, which cost time.
    HANG_AT_CONNECT = "hang at connect"
    HANG_AT_READ = "hang at read"
    DRIPPING = "drip"


OUTAGES: Final = (
    Ability.REFUSED,
    Ability.RESET,
    Ability.TLS_FAILURE,
    Ability.SERVER_ERROR,
    Ability.GARBAGE,
    Ability.TOO_LARGE,
)
"""Ways in which any KMS on a network may fail at once."""

HANGS: Final = (Ability.HANG_AT_CONNECT, Ability.HANG_AT_READ, Ability.DRIPPING)
"""Ways in which any KMS on a network may keep a caller waiting."""

NETWORK: Final = OUTAGES + HANGS
"""The abilities that a provider without a network declares absent."""


class Deviation(StrEnum):
    """A way in which a provider may differ."""

    WRAPS_WHILE_DISABLED = "wraps while disabled"
    DESCRIBES_WHILE_DISABLED = "describes while disabled"
    CANCELLED_DELETION_ENABLES = "cancelled deletion enables"
    MISSING_LOOKS_DENIED = "a missing key looks like a denied one"
    WRAP_NEEDS_UNWRAP = "wrapping needs the permission to unwrap"


class Counterpart:
    """The KMS behind one provider; a subclass does what its row does not declare absent.

    A test gets a counterpart of its own and calls `close` on it. What is slow to start, such as a
    server, starts once for all tests, so a counterpart keeps its keys apart from those of others.
    If the KMS is not installed, the constructor raises NotInstalledError.

    Every change holds for the provider's next call: a method returns once the KMS answers so, and
    a fault cuts open connections. A method that returns a context ends what it began when the test
    leaves the context, whatever the test raised there. A counterpart does nothing through the
    provider.

    Attributes:
        provider: The provider under test, which calls this KMS.
        clock: The provider's monotonic clock, if the provider has sessions.
        logins: The layer of faults before the logins, if the provider has sessions.
    """

    provider: KeyProvider
    clock: FakeClock
    logins: FaultLayer

    # The customer's keys.

    def create_key(self) -> RootKey:
        """Makes a root key with one version, and with a principal if the provider has any."""
        raise AssertionError

    def missing_key(self) -> RootKey:
        """Returns a well-formed root key that does not exist, in the same account."""
        raise AssertionError

    def unusable_key(self, why: Ability) -> RootKey:
        """Makes a key of the WRONG_PURPOSE, or an imported key with MATERIAL_MISSING."""
        raise AssertionError

    def exists(self, key: RootKey) -> bool:
        """Returns whether the KMS holds a key, without asking the provider."""
        raise AssertionError

    def new_version(self, key: RootKey) -> None:
        """Rotates a key."""
        raise AssertionError

    def disable(self, key: RootKey, version: str | None = None) -> None:
        """Disables a key, or one version."""
        raise AssertionError

    def enable(self, key: RootKey, version: str | None = None) -> None:
        """Enables a key, or one version."""
        raise AssertionError

    def delete(self, key: RootKey, version: str | None = None) -> None:
        """Deletes a key, or one version, for good."""
        raise AssertionError

    def schedule_deletion(self, key: RootKey) -> None:
        """Starts a key's waiting period."""
        raise AssertionError

    def cancel_deletion(self, key: RootKey) -> None:
        """Ends a key's waiting period."""
        raise AssertionError

    def deny(self, key: RootKey, permission: str) -> None:
        """Takes away the permission to `wrap`, `unwrap` or `describe`."""
        raise AssertionError

    def restore(self, key: RootKey, permission: str) -> None:
        """Gives a permission back."""
        raise AssertionError

    # Credentials and trust.

    def withdrawn_trust(self, key: RootKey) -> AbstractContextManager[None]:
        """Withdraws the customer's trust in the key's principal, and ends its sessions."""
        raise AssertionError

    def broken_credentials(self) -> AbstractContextManager[None]:
        """Stops accepting Keyfold's own credential, and every session that came from it."""
        raise AssertionError

    def expire_sessions(self) -> None:
        """Ends every session and token that Keyfold holds; it may get new ones."""
        raise AssertionError

    def is_login(self, request: Request) -> bool:
        """Returns whether a request at `logins` asks for a session of the key's principal."""
        raise AssertionError

    def dripping_logins(self) -> AbstractContextManager[None]:
        """Answers logins one byte every `DRIP` seconds, and all other requests as usual."""
        return self.logins.dripping(DRIP, only=self.is_login)

    @contextmanager
    def slow_logins(self, seconds: float) -> Iterator[list[Request]]:
        """Delays each answer to a login; yields the list of logins that succeeded."""
        granted: list[Request] = []
        answer = self.logins._answer

        def later(request: Request) -> Reply:
            reply = answer(request)
            if self.is_login(request):
                time.sleep(seconds)
                if reply.status == HTTPStatus.OK:
                    granted.append(request)
            return reply

        with self.logins.instead(later):
            yield granted

    # Faults.

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        """Answers that the caller must slow down, with a hint in seconds or without one."""
        raise AssertionError

    def outage(self, which: str) -> AbstractContextManager[None]:
        """Breaks the KMS in one of the ways of `Row.outages`, for every key and for logins."""
        raise AssertionError

    def hanging(self, which: str) -> AbstractContextManager[None]:
        """Keeps callers waiting in one of the ways of `Row.hangs`.

        A drip answers one byte every `DRIP` seconds, so that no single read waits for long. Leaving
        the context releases every call that hangs.
        """
        raise AssertionError

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        """Opens a key's ciphertexts to other bytes of the same size."""
        raise AssertionError

    def wrong_checksum(self, key: RootKey) -> AbstractContextManager[None]:
        """Answers calls to a key with wrong checksums."""
        raise AssertionError

    def secrets(self) -> list[bytes]:
        """Returns key material and credentials that nobody may see anywhere."""
        raise AssertionError

    def close(self) -> None:
        """Stops everything that the counterpart started."""


@dataclass(frozen=True)
class Row:
    """One provider of the suite.

    Attributes:
        name: The provider's type.
        make: Function that makes a counterpart, given a folder for it.
        binds: Fields of the binding that the KMS itself binds. The payload's digest catches a
            change of any other.
        refused: Key specs that this provider refuses, with the field at fault.
        aliases: URIs with their canonical form.
        further_outages: Ways beside `OUTAGES` in which the KMS may fail at once.
        absent: Abilities that the provider lacks, with the reason.
        deviations: Ways in which the provider differs, with the reason.
    """

    name: str
    make: Callable[[Path], Counterpart]
    binds: frozenset[str]
    refused: tuple[tuple[RootKey, str], ...]
    aliases: tuple[tuple[str, str], ...] = ()
    further_outages: tuple[str, ...] = ()
    absent: Mapping[Ability, str] = field(default_factory=dict)
    deviations: Mapping[Deviation, str] = field(default_factory=dict)

    def has(self, *abilities: Ability) -> bool:
        """Returns whether the row has all of these abilities."""
        return not any(ability in self.absent for ability in abilities)

    @property
    def outages(self) -> tuple[str, ...]:
        """Ways in which the KMS may fail at once."""
        return (*(each for each in OUTAGES if self.has(each)), *self.further_outages)

    @property
    def hangs(self) -> tuple[str, ...]:
        """Ways in which the KMS may keep callers waiting."""
        return tuple(each for each in HANGS if self.has(each))


@dataclass
class Bench:
    """The bench that a test works at: a provider with its KMS, a root key and a KEK to wrap.

    Attributes:
        row: The provider's row.
        there: The provider's KMS.
        key: A root key with one version.
        binding: The binding of the KEK.
    """

    row: Row
    there: Counterpart
    key: RootKey
    binding: Binding
    kek: bytes = field(default_factory=lambda: os.urandom(KEY_SIZE), repr=False)

    @property
    def provider(self) -> KeyProvider:
        """The provider under test."""
        return self.there.provider

    @property
    def payload(self) -> bytes:
        """The 65 bytes that the root key wraps."""
        return bytes(self.binding.payload(self.kek))

    def wrap(
        self,
        payload: bytes | None = None,
        binding: Binding | None = None,
        *,
        key: RootKey | None = None,
        budget: float = BUDGET,
    ) -> Wrapped:
        """Wraps the payload under the key, or the arguments in their place."""
        payload = self.payload if payload is None else payload
        binding = binding or self.binding
        return self.provider.wrap(key or self.key, payload, binding, budget=budget)

    def opened(
        self,
        wrapped: Wrapped,
        binding: Binding | None = None,
        *,
        key: RootKey | None = None,
        budget: float = BUDGET,
    ) -> Unwrapped:
        """Unwraps with the key and binding, or the arguments in their place."""
        version, ciphertext = wrapped.key_version, wrapped.ciphertext
        binding = binding or self.binding
        return self.provider.unwrap(key or self.key, version, ciphertext, binding, budget=budget)

    def unwrap(
        self,
        wrapped: Wrapped,
        binding: Binding | None = None,
        *,
        key: RootKey | None = None,
        budget: float = BUDGET,
    ) -> bytes:
        """Unwraps as `opened` does, and returns only the plaintext."""
        return bytes(self.opened(wrapped, binding, key=key, budget=budget).plaintext)

    def describe(self, key: RootKey | None = None, *, budget: float = BUDGET) -> str:
        """Returns the detail of the provider's description of the key."""
        assert isinstance(self.provider, DescribesKeys)
        return self.provider.describe(key or self.key, budget=budget).detail

    def authenticate(self, key: RootKey | None = None, *, budget: float = BUDGET) -> None:
        """Proves the credential."""
        assert isinstance(self.provider, Authenticates)
        self.provider.authenticate(key or self.key, budget=budget)
