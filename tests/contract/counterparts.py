"""The other side of each provider, and what is declared of it, for the provider suite.

A counterpart is the key service that an adapter talks to, with the customer's hand on it: it
makes keys, disables them, takes permissions away and breaks the line. What a provider cannot
express is declared absent with a reason, what it does differently is a deviation with a reason;
the suite asserts the deviation, so a declaration that is no longer true fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import (
    Authenticates,
    DescribesKeys,
    KeyProvider,
    Unwrapped,
    Wrapped,
)

BUDGET: Final = 5.0
"""Seconds that a call may take, as in the server."""


class Ability(StrEnum):
    """What a provider or its service may lack."""

    AUTHENTICATE = "authenticate"
    DESCRIBE = "describe"
    REQUEST_IDS = "request ids"
    VERSION_STATES = "version states"
    DESTROY_VERSION = "destroy version"
    SCHEDULE_DELETION = "schedule deletion"
    PERMISSIONS = "permissions"
    CREDENTIALS = "credentials"
    THROTTLE = "throttle"
    THROTTLE_HINT = "throttle hint"
    HANG = "hang"
    WRONG_ANSWER = "wrong answer"


class Deviation(StrEnum):
    """What a provider may do differently."""

    WRAPS_WHILE_DISABLED = "wraps while disabled"
    DESCRIBES_WHILE_DISABLED = "describes while disabled"
    CANCELLED_DELETION_ENABLES = "cancelled deletion enables"
    MISSING_LOOKS_DENIED = "a missing key looks like a denied one"


class Counterpart:
    """The key service behind one provider; a subclass does what its row does not declare absent.

    Attributes:
        provider: The provider under test, speaking to this service.
    """

    provider: KeyProvider

    def create_key(self) -> RootKey:
        """Makes a fresh root key with one version."""
        raise AssertionError

    def missing_key(self) -> RootKey:
        """Returns a well-formed root key that does not exist."""
        raise AssertionError

    def exists(self, key: RootKey) -> bool:
        """Tells whether the service holds a key, without the provider."""
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
        """Takes the permission to wrap, unwrap or describe."""
        raise AssertionError

    def restore(self, key: RootKey, permission: str) -> None:
        """Gives a permission back."""
        raise AssertionError

    def broken_credentials(self) -> AbstractContextManager[None]:
        """Stops accepting Keyfold's own credential."""
        raise AssertionError

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        """Asks to slow down, with a hint in seconds or without."""
        raise AssertionError

    def hanging(self) -> AbstractContextManager[None]:
        """Takes calls and does not answer."""
        raise AssertionError

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        """Opens a key's ciphertexts to something else than was wrapped."""
        raise AssertionError

    def outage(self, which: str) -> AbstractContextManager[None]:
        """Breaks in one of the ways that the row lists."""
        raise AssertionError

    def secrets(self) -> list[bytes]:
        """Returns key material and credentials that must not be seen anywhere."""
        raise AssertionError

    def close(self) -> None:
        """Stops what the counterpart started."""


@dataclass(frozen=True)
class Row:
    """One provider of the suite.

    Attributes:
        name: Its type.
        make: Makes a counterpart in a folder of its own.
        binds: Fields of the binding that the service itself binds; the others are caught by
            the payload's digest.
        outages: Ways in which the service cannot be asked.
        refused: Key specs that are not this provider's, with the field at fault.
        aliases: Uris with their canonical form.
        absent: Abilities that there are not, with the reason.
        deviations: What is done differently, with the reason.
    """

    name: str
    make: Callable[[Path], Counterpart]
    binds: frozenset[str]
    outages: tuple[str, ...]
    refused: tuple[tuple[RootKey, str], ...]
    aliases: tuple[tuple[str, str], ...] = ()
    absent: Mapping[Ability, str] = field(default_factory=dict)
    deviations: Mapping[Deviation, str] = field(default_factory=dict)

    def has(self, *abilities: Ability) -> bool:
        """Tells whether none of these is declared absent."""
        return not any(ability in self.absent for ability in abilities)


@dataclass
class Bench:
    """A provider with its service, a root key and a KEK to wrap: what a test works at.

    Attributes:
        row: What is declared of the provider.
        there: The service.
        key: A root key with one version.
        binding: What the KEK is bound to.
        kek: The KEK.
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
        """What the root key wraps: 65 bytes."""
        return bytes(self.binding.payload(self.kek))

    def wrap(
        self,
        payload: bytes | None = None,
        binding: Binding | None = None,
        *,
        key: RootKey | None = None,
        budget: float = BUDGET,
    ) -> Wrapped:
        """Wraps the payload under the key, or what is given instead."""
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
        """Unwraps with the key and binding, or what is given instead."""
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
        """Unwraps likewise, to the plaintext alone."""
        return bytes(self.opened(wrapped, binding, key=key, budget=budget).plaintext)

    def describe(self, key: RootKey | None = None) -> str:
        """Returns the version that the provider describes as the newest."""
        assert isinstance(self.provider, DescribesKeys)
        return self.provider.describe(key or self.key, budget=BUDGET).newest_version

    def authenticate(self, key: RootKey | None = None) -> None:
        """Proves the credential."""
        assert isinstance(self.provider, Authenticates)
        self.provider.authenticate(key or self.key, budget=BUDGET)
