"""What a customer's key management service must be able to do: the port that adapters fill.

Narrow on purpose. What only some providers can do is a protocol of its own, asked for with
`isinstance`, never faked. Adapters are synchronous and are called in bounded threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey


@dataclass(frozen=True, slots=True)
class Wrapped:
    """What a provider's wrap returned.

    Attributes:
        ciphertext: The provider's bytes, opaque to Keyfold.
        key_version: The root key's version that was used, as the provider writes it.
        request_id: The provider's own id of the call, empty where it gives none.
    """

    ciphertext: bytes
    key_version: str
    request_id: str = ""


@dataclass(slots=True)
class Unwrapped:
    """What a provider's unwrap returned.

    Attributes:
        plaintext: The bytes that were wrapped; whoever takes them wipes them.
        request_id: The provider's own id of the call, empty where it gives none.
    """

    plaintext: bytearray = field(repr=False)
    request_id: str = ""


class KeyProvider(Protocol):
    """A key management service that holds root keys.

    Every call takes a `budget` in seconds for all of its work, and raises errors of
    `domain.errors` alone: RefusedError where the service answered no, CouldNotTellError where
    it gave no answer that counts, KekMismatchError where the ciphertext does not open under the
    key and binding. SDK errors never leave an adapter.
    """

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key with its uri in canonical form; asks nobody.

        Raises:
            InvalidKeySpecError: The uri, principal or an option is not one of this provider's.
        """
        ...

    def account(self, key: RootKey) -> str:
        """Returns whose quota and fate a call shares: an AWS account, a vault, a project."""
        ...

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the newest version of a root key, bound to a context."""
        ...

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned, given the same key, version and binding."""
        ...


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """What a provider says about a root key.

    Attributes:
        newest_version: The version that wraps today.
        detail: One line for people, such as the algorithm.
    """

    newest_version: str
    detail: str = ""


@runtime_checkable
class Authenticates(Protocol):
    """A provider that can show its credential to be good without using a key."""

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the credential that this key would be called with.

        Raises:
            CredentialsFailedError: It was not accepted.
            UnreachableError: Nobody could be asked.
        """
        ...


@runtime_checkable
class DescribesKeys(Protocol):
    """A provider that can describe a key without using it."""

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; raises as `wrap` does."""
        ...


@runtime_checkable
class HasRegions(Protocol):
    """A provider whose uris tell in which of its regions a key is."""

    def region(self, key: RootKey) -> str:
        """Returns the provider's own name of the region; asks nobody."""
        ...


@runtime_checkable
class PinsVersions(Protocol):
    """A provider whose uris may name one version of a key."""

    def pinned_version(self, key: RootKey) -> str | None:
        """Returns the version that a uri names, or None where it means the newest; asks nobody."""
        ...


@runtime_checkable
class HasReplicas(Protocol):
    """A provider whose keys may have replicas in other regions, under uris that can be told."""

    def replica(self, key: RootKey, region: str) -> RootKey:
        """Returns the key's replica in another of the provider's regions; asks nobody.

        Args:
            key: In canonical form.
            region: The provider's own name of the region.

        Raises:
            InvalidKeySpecError: The key can have no replica, or none there.
        """
        ...


@runtime_checkable
class TakesExternalIds(Protocol):
    """A provider that shows the customer what Keyfold issued for them (protocol C2)."""

    def needs_external_id(self, key: RootKey) -> bool:
        """Says whether a call with this key shows an external id; asks nobody."""
        ...


@dataclass(frozen=True, slots=True)
class AccessWanted:
    """For whom an access policy is.

    Attributes:
        cluster: The cluster's name, or None where every cluster of the organization is meant.
        region: The region's name, or None.
        organization: The organization, or None.
    """

    cluster: str | None
    region: str | None
    organization: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that the customer, or the vendor, puts in place.

    Attributes:
        title: What it is, for people.
        attach_to: Where it is attached: the key's uri, a role's name.
        language: How the text is written: `json`, `hcl` or `shell`.
        text: Ready to be used.
        permissions: What it permits, as the provider writes it.
        by_vendor: It is the vendor's to put in place, not the customer's.
    """

    title: str
    attach_to: str
    language: str
    text: str
    permissions: tuple[str, ...]
    by_vendor: bool = False


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What a customer attaches so that Keyfold may use a key, and no more.

    Attributes:
        principal: As whom Keyfold calls the key, as the provider writes it.
        bound_context: What is bound to each use, by the names that a policy may demand.
        statements: In the order in which they are put in place; each line is needed.
        notices: What an operator should know besides, one line each.
    """

    principal: str
    bound_context: dict[str, str]
    statements: tuple[Statement, ...]
    notices: tuple[str, ...] = ()


@runtime_checkable
class DescribesAccess(Protocol):
    """A provider that can tell what permits Keyfold to use a key, and no more."""

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns what is to be attached; asks nobody.

        Args:
            key: In canonical form, with its external id where the provider takes one.
            wanted: For whom.
        """
        ...
