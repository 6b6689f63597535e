"""The provider port: what Keyfold needs from a KMS, and what an adapter for one must do.

Every provider implements `KeyProvider`. What only some KMSs can do is a protocol of its own; the
service finds out with `isinstance`, so an adapter leaves out what its KMS cannot do and fakes
nothing.

How the service calls an adapter:

- `wrap`, `unwrap`, `describe` and `authenticate` call the KMS. Each runs in a thread, and up to 64
  threads of one provider run at once, so an adapter is safe for many threads and keeps no lock
  while it waits for the KMS. The adapter raises within `budget` seconds, whatever the KMS does
  (protocol C4).
- All other methods only look at the key. The service calls them on its event loop, so they must
  not call the KMS, nor wait for anything else.
- A method raises nothing but `KeyfoldError`s. An adapter translates every error of its SDK, and
  never passes on an SDK's or a KMS's text, since it may repeat what was sent.
- An adapter never logs plaintext, ciphertext or a credential, and sends a credential only to the
  origin that it is for (protocol C3).

What the errors of a call to the KMS mean. Choose with care: a `RefusedError` takes keys out of use
at once, and a `CouldNotTellError` never does.

    RefusedError         the KMS accepted the credential and said no; the leaf says why
      AccessDeniedError        the permission is missing; `missing_permission` names it
      KeyDisabledError         the key, or the version that is needed, is disabled
      KeyPendingDeletionError  the key will be deleted and can still be recovered
      KeyNotFoundError         the key, or the version that is needed, does not exist
      KeyInvalidError          the key exists and cannot do this: it is of another kind
    KekMismatchError     the key works, and the ciphertext does not open under it and the binding
    CouldNotTellError    everything else
      CredentialsFailedError   the KMS does not accept Keyfold's own credential (protocol F2a)
      ThrottledError           the KMS asks to slow down; `retry_after` only if the KMS gave it
      UnreachableError         no answer, a failure of the KMS, or an answer that is not clear
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.seats import Seat


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The result of `KeyProvider.wrap`.

    Attributes:
        ciphertext: Whatever bytes the adapter needs to unwrap. Keyfold stores them as they are.
        key_version: The version of the root key that wrapped, as the KMS writes it; never empty.
            Keyfold compares it to find out that a key has a newer version, so it must be the same
            for every wrap under one version, and another one under another version.
        request_id: The KMS's own id of the call; empty if the KMS does not give one.
    """

    ciphertext: bytes
    key_version: str
    request_id: str = ""


@dataclass(slots=True)
class Unwrapped:
    """The result of `KeyProvider.unwrap`.

    Attributes:
        plaintext: The bytes that were wrapped, in a buffer that the adapter does not keep. The
            caller wipes it.
        request_id: The KMS's own id of the call; empty if the KMS does not give one.
    """

    plaintext: bytearray = field(repr=False)
    request_id: str = ""


class KeyProvider(Protocol):
    """An adapter for a KMS that holds root keys. The module says how the service calls it.

    `canonical` sees a key as an operator wrote it. Every other method gets a key that `canonical`
    returned, though perhaps a year ago and under other settings: where the adapter may no longer
    call that key's KMS, it raises UnreachableError.
    """

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key with its uri, and its principal if it has one, in the one form.

        One key must have one uri: Keyfold compares uris as text, and binds grants and rates to
        them. A canonical key comes back unchanged.

        Raises:
            InvalidKeySpecError: The uri, the principal or an option is not one that this provider
                takes. The error's `field` is `key_spec.uri`, `key_spec.auth_principal` or
                `key_spec.options`.
        """
        ...

    def account(self, key: RootKey) -> str:
        """Returns a name for whatever shares the KMS's quota: an AWS account, a vault, a project.

        Keyfold bounds its calls per account, so that one customer's account that hangs does not
        take the calls of another. It also keeps the name with each wrap: ListKeyUsage finds by it
        who needs the keys of an account. And it belongs to the first organization that proves a
        key in it without an external id (protocol C9), so one account must have one name.
        """
        ...

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps a plaintext under the newest version of a root key, bound to a context.

        The adapter binds `binding.canonical()` as additional authenticated data, or
        `binding.as_map()` where the KMS takes a map. It must not create a key that does not exist.
        It makes sure that the ciphertext opens: by a checksum that the KMS returns, or by opening
        it at once. An error of that opening has `while_unwrapping`.

        Args:
            key: The root key, in canonical form.
            plaintext: 1 to 65 bytes.
            binding: The names that the ciphertext is bound to.
            budget: Seconds for the whole call.

        Raises:
            InvalidPlaintextError: The plaintext has another size. The KMS is not called.
            RefusedError: The KMS said no.
            CouldNotTellError: The KMS gave no answer that counts.
        """
        ...

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned.

        Args:
            key: The root key, in canonical form.
            key_version: The version that `wrap` returned.
            ciphertext: The bytes that `wrap` returned. Both may be damaged: what `wrap` cannot
                have returned is a KekMismatchError, and the KMS need not be called.
            binding: The names that the ciphertext was bound to.
            budget: Seconds for the whole call.

        Raises:
            KekMismatchError: The ciphertext does not open under this key, version and binding.
            RefusedError: The KMS said no.
            CouldNotTellError: The KMS gave no answer that counts.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """The result of `DescribesKeys.describe`.

    Attributes:
        detail: One line for people, such as the algorithm.
    """

    detail: str = ""


@runtime_checkable
class Authenticates(Protocol):
    """A provider that can show that its credential is accepted, without the use of a key.

    Only TestKey calls it, so that an operator sees whether a failure is the credential's.
    """

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the credential that the key's principal calls with; the key need not exist.

        Raises:
            CredentialsFailedError: The KMS did not accept it.
            AccessDeniedError: The customer has withdrawn the trust in the principal.
            CouldNotTellError: The KMS gave no answer that counts.
        """
        ...


@runtime_checkable
class TriesLogins(Protocol):
    """A provider that can try the credentials of the settings before any key needs them.

    `keyfold-server check` calls it for a provider that the settings or the environment set up.
    """

    def try_logins(self, *, budget: float) -> None:
        """Logs in with the server's own credentials, and as the canary if the settings name one.

        Raises:
            CredentialsFailedError: A login failed, and Keyfold's own side is at fault.
            SetupError: A file that the settings name cannot be used.
            CouldNotTellError: The login could not be tried.
        """
        ...


@runtime_checkable
class DescribesKeys(Protocol):
    """A provider that can describe a key without the use of it. Only TestKey calls it."""

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key.

        Raises:
            RefusedError: The KMS said no, or says that the key cannot wrap.
            CouldNotTellError: The KMS gave no answer that counts.
        """
        ...


@runtime_checkable
class HasRegions(Protocol):
    """A provider whose uris say in which region of the KMS a key is.

    Keyfold compares the region with the settings' table `[regions.NAME]`. For other providers it
    compares the uri's host, or the whole uri where that does not have a host.
    """

    def region(self, key: RootKey) -> str:
        """Returns the region as the KMS itself writes it, such as `eu-west-1`."""
        ...


@runtime_checkable
class PinsVersions(Protocol):
    """A provider whose uris may name one version of a key, which then always wraps."""

    def pinned_version(self, key: RootKey) -> str | None:
        """Returns the version that the uri names, or None if the newest one wraps."""
        ...


@runtime_checkable
class HasFamilies(Protocol):
    """A provider in which several uris may name parts of one key: its replicas or its versions."""

    def family(self, key: RootKey) -> str:
        """Returns the one name of the whole key, which no other key has.

        A key that has neither replicas nor versions of its own uri has its uri as its family. The
        store keeps the family with each wrap, so a release cannot change it.

        Args:
            key: The root key, in canonical form.
        """
        ...


@runtime_checkable
class HeldByVendor(Protocol):
    """A provider some of whose keys are the vendor's own, as those of LOCAL are.

    No organization holds what they are in (protocol C9).
    """

    def held_by_vendor(self, key: RootKey) -> bool:
        """Says whether a key, in canonical form, is the vendor's own."""
        ...


@runtime_checkable
class NamesHolders(Protocol):
    """A provider that knows what the names of accounts look like that `account` returns.

    An administrator writes such names, and a name in another form would stand for nothing.
    """

    holder_example: str
    """A name, for messages."""

    def holder(self, name: str) -> str | None:
        """Returns a name in the form that `account` returns, or None if it is not one."""
        ...


@runtime_checkable
class HasTenants(Protocol):
    """A provider whose principals belong to the customer's tenant, besides the key's account."""

    def tenant(self, key: RootKey) -> str:
        """Returns the tenant's id; empty if the key is used as the server's own identity."""
        ...


@runtime_checkable
class HasReplicas(Protocol):
    """A provider whose keys may have replicas in other regions, at uris that follow from theirs."""

    def replica(self, key: RootKey, region: str) -> RootKey:
        """Returns the key's replica in another region of the KMS, for the same principal.

        Args:
            key: The root key, in canonical form.
            region: The other region, as the KMS writes it.

        Raises:
            InvalidKeySpecError: The key cannot have a replica, or not there. The error's `field`
                is `replica_of`.
        """
        ...


@runtime_checkable
class TakesExternalIds(Protocol):
    """A provider that shows the customer an id that Keyfold issued for them (protocol C2)."""

    def needs_external_id(self, key: RootKey) -> bool:
        """Says whether calls with this key show an external id.

        If so, the service sets `RootKey.external_id` to the one that it issued.
        """
        ...


@dataclass(frozen=True, slots=True)
class AccessWanted:
    """Whom an access policy is for.

    Attributes:
        cluster: The cluster's name, or None for every cluster of the organization.
        region: The region's name, or None for every region.
        organization: The organization, or None.
        seat: The seat whose principal the key has, or None. Its principals are the vendor's, so
            what they need besides the key's own policy, the vendor puts in place.
    """

    cluster: str | None
    region: str | None
    organization: str | None
    seat: Seat | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that the customer, or the vendor, puts in place.

    Attributes:
        title: The statement's title, for people.
        attach_to: The place to attach it to: the key's uri, or a role's name.
        language: The language of the text: `json`, `hcl` or `shell`.
        text: The statement, ready for use.
        permissions: The permissions that it grants, as the KMS writes them.
        by_vendor: Whether the vendor, and not the customer, puts it in place.
    """

    title: str
    attach_to: str
    language: str
    text: str
    permissions: tuple[str, ...]
    by_vendor: bool = False


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What a customer attaches so that Keyfold may use a key, and nothing more.

    Attributes:
        principal: The identity that Keyfold calls the key as, as the KMS writes it.
        bound_context: The context of each use, by the names that a key policy may demand.
        statements: The statements to put in place, in this order. All of them are needed.
        notices: Facts that an operator should know, one line each.
    """

    principal: str
    bound_context: dict[str, str]
    statements: tuple[Statement, ...]
    notices: tuple[str, ...] = ()


@runtime_checkable
class DescribesAccess(Protocol):
    """A provider that can say what permits Keyfold to use a key, and nothing more."""

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns what to attach.

        Args:
            key: The root key, in canonical form, with its external id if it needs one.
            wanted: Whom the policy is for.
        """
        ...
