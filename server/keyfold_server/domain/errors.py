"""Every error that Keyfold knows, in one tree.

A leaf is one *reason*: a stable UPPER_SNAKE word that callers may branch on. A branch is one
kind of failure, and `rpc/messages/status.py` gives each branch its gRPC code in one table.

    KeyfoldError
    ├── InvalidInputError                       the request cannot be right; nothing was tried
    │   ├── MalformedRequestError               MALFORMED_REQUEST
    │   ├── InvalidNameError                    INVALID_NAME
    │   ├── InvalidPlaintextError               INVALID_PLAINTEXT
    │   ├── InvalidContextError                 INVALID_CONTEXT
    │   ├── InvalidSizeError                    INVALID_SIZE
    │   ├── InvalidPolicyError                  INVALID_POLICY
    │   ├── InvalidRequestIdError               INVALID_REQUEST_ID
    │   ├── InvalidPageError                    INVALID_PAGE
    │   ├── InvalidBatchError                   INVALID_BATCH
    │   ├── InvalidKeySpecError                 INVALID_KEY_SPEC
    │   ├── UnknownProviderError                UNKNOWN_PROVIDER
    │   ├── KeySpecMissingError                 KEY_SPEC_MISSING
    │   ├── DuplicateRegionError                DUPLICATE_REGION
    │   ├── TooManyRegionsError                 TOO_MANY_REGIONS
    │   ├── RegionMismatchError                 REGION_MISMATCH
    │   ├── OrganizationMismatchError           ORGANIZATION_MISMATCH
    │   ├── InvalidReasonError                  INVALID_REASON
    │   ├── RequestIdReusedError                REQUEST_ID_REUSED
    │   ├── NotAWrappedKeyError                 NOT_A_WRAPPED_KEY
    │   ├── UnsupportedWrappedKeyError          UNSUPPORTED_WRAPPED_KEY
    │   ├── UnknownKekError                     UNKNOWN_KEK
    │   ├── WrongClusterError                   WRONG_CLUSTER
    │   ├── WrappedKeyCorruptError              WRAPPED_KEY_CORRUPT
    │   └── ContextMismatchError                CONTEXT_MISMATCH
    ├── UnauthenticatedError                    who calls is not known
    │   ├── CallerUnknownError                  CALLER_UNKNOWN
    │   └── CallerCredentialError               CALLER_CREDENTIAL_INVALID
    ├── ForbiddenError                          the caller may not do this
    │   ├── NotAllowedError                     NOT_ALLOWED
    │   ├── KeyNotGrantedError                  KEY_NOT_GRANTED
    │   └── ContextNotGrantedError              CONTEXT_NOT_GRANTED
    ├── NotFoundError                           what was named does not exist, or is hidden
    │   ├── ClusterNotFoundError                CLUSTER_NOT_FOUND
    │   ├── RegionNotFoundError                 REGION_NOT_FOUND
    │   └── GenerationNotFoundError             GENERATION_NOT_FOUND
    ├── AlreadyExistsError                      it exists, and differs from what was asked
    │   ├── ClusterExistsError                  CLUSTER_EXISTS
    │   └── RegionExistsError                   REGION_EXISTS
    ├── StateError                              the lifecycle forbids it
    │   ├── RevokedError                        REVOKED
    │   ├── GenerationRetiredError              GENERATION_RETIRED
    │   ├── GenerationInUseError                GENERATION_IN_USE
    │   ├── ExternalIdNotIssuedError            EXTERNAL_ID_NOT_ISSUED
    │   ├── KeyElsewhereError                   KEY_ELSEWHERE
    │   └── KeyVersionPinnedError               KEY_VERSION_PINNED
    ├── ConflictError                           another change came first; ask again
    │   ├── ConcurrentChangeError               CONCURRENT_CHANGE
    │   └── RequestInProgressError              REQUEST_IN_PROGRESS
    ├── KmsError                                about the customer's KMS
    │   ├── RefusedError                        it answered no
    │   │   ├── AccessDeniedError               ACCESS_DENIED
    │   │   ├── KeyDisabledError                KEY_DISABLED
    │   │   ├── KeyPendingDeletionError         KEY_PENDING_DELETION
    │   │   ├── KeyNotFoundError                KEY_NOT_FOUND
    │   │   └── KeyInvalidError                 KEY_INVALID
    │   ├── CouldNotTellError                   it gave no answer that counts
    │   │   ├── UnreachableError                UNREACHABLE
    │   │   ├── ThrottledError                  THROTTLED
    │   │   └── CredentialsFailedError          CREDENTIALS_FAILED
    │   └── KekMismatchError                    KEK_MISMATCH, a stored KEK does not open
    ├── OverloadedError                         OVERLOADED, too much at once for Keyfold
    ├── RateLimitedError                        RATE_LIMITED, calls come too fast
    ├── RowNotAuthenticError                    ROW_NOT_AUTHENTIC
    ├── UnavailableError                        Keyfold itself cannot answer now
    │   ├── StoreUnavailableError               STORE_UNAVAILABLE
    │   ├── StoreStaleError                     STORE_STALE
    │   ├── StoreRolledBackError                STORE_ROLLED_BACK
    │   ├── IssuerUnreachableError              ISSUER_UNREACHABLE
    │   └── BusyError                           BUSY
    ├── DeadlineError                           DEADLINE_EXCEEDED
    └── SetupError                              a server that cannot start; never on the wire

"Refused" and "could not tell" are never mixed: a refusal takes keys out of use at once, an
outage does not. Messages are lower case, say what to do next, and hold no key material.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self, TypeAlias


class KeyfoldError(Exception):
    """Base of the tree.

    Attributes:
        reason: Stable word for `google.rpc.ErrorInfo.reason`.
        remedy: What the caller does next, for the reference page.
        source: Whose answer it is: Keyfold's own, or the customer's KMS.
        message: One line for people: lower case, no full stop, no key material.
        cluster: The cluster concerned, where there is one.
        region: The region concerned, where there is one.
        field: Path of the offending request field, such as `region_specs[1].key_spec.uri`.
        retry_after: Seconds after which asking again makes sense, or None.
        provider_request_id: The KMS's own id of the failed call, where it gave one.
        missing_permission: The permission that is missing, where the KMS or the call tells it.
    """

    reason: ClassVar[str]
    remedy: ClassVar[str]
    source: ClassVar[Literal["keyfold", "kms"]] = "keyfold"

    def __init__(
        self,
        message: str,
        *,
        cluster: str | None = None,
        region: str | None = None,
        field: str | None = None,
        retry_after: float | None = None,
        provider_request_id: str | None = None,
        missing_permission: str | None = None,
    ) -> None:
        """Makes an error; see the class for the meaning of each argument."""
        super().__init__(message)
        self.message = message
        self.cluster = cluster
        self.region = region
        self.field = field
        self.retry_after = retry_after
        self.provider_request_id = provider_request_id
        self.missing_permission = missing_permission

    def at(
        self, *, cluster: str | None = None, region: str | None = None, field: str | None = None
    ) -> Self:
        """Returns a copy of this error that also says where it happened.

        A copy, because a remembered error is raised to many callers, and a raised exception
        collects tracebacks. Arguments only fill what is still unknown; a field is prefixed.
        """
        path = self.field
        if field is not None:
            path = field if path is None else f"{field}.{path}"
        return type(self)(
            self.message,
            cluster=self.cluster or cluster,
            region=self.region or region,
            field=path,
            retry_after=self.retry_after,
            provider_request_id=self.provider_request_id,
            missing_permission=self.missing_permission,
        )


class InvalidInputError(KeyfoldError):
    """The request cannot be right as it stands; nothing was tried and nothing changed."""


class MalformedRequestError(InvalidInputError):
    """The request's bytes are not the message that this method takes."""

    reason = "MALFORMED_REQUEST"
    remedy = "Build the request with the generated stubs of this version of the contract."


class InvalidNameError(InvalidInputError):
    """A cluster's, region's or organization's name is empty, too long or has odd characters."""

    reason = "INVALID_NAME"
    remedy = "Use 1 to 128 characters of A-Z a-z 0-9 . _ - beginning with a letter or digit."


class InvalidPlaintextError(InvalidInputError):
    """The key to wrap is empty or larger than 4,096 bytes."""

    reason = "INVALID_PLAINTEXT"
    remedy = "Wrap a data key of 1 to 4,096 bytes, and encrypt the data itself with that key."


class InvalidContextError(InvalidInputError):
    """The context has more than 16 pairs, more than 4 KiB, or an empty key."""

    reason = "INVALID_CONTEXT"
    remedy = "Send at most 16 pairs whose keys and values add up to at most 4,096 bytes."


class InvalidSizeError(InvalidInputError):
    """A data key of a size other than 16, 24, 32 or 64 bytes."""

    reason = "INVALID_SIZE"
    remedy = "Ask for 16, 24, 32 or 64 bytes."


class InvalidPolicyError(InvalidInputError):
    """A region policy's duration lies outside its bounds."""

    reason = "INVALID_POLICY"
    remedy = "Keep cache_ttl within 0 to 15 minutes and outage_grace within 0 to 24 hours."


class InvalidRequestIdError(InvalidInputError):
    """A request_id is longer than 128 characters or not printable ASCII."""

    reason = "INVALID_REQUEST_ID"
    remedy = "Send 1 to 128 printable ASCII characters, such as a UUID, or leave it out."


class InvalidPageError(InvalidInputError):
    """A page_token that the server did not give out, or a page_size below zero."""

    reason = "INVALID_PAGE"
    remedy = "Pass next_page_token back as it came, with the same filters."


class InvalidBatchError(InvalidInputError):
    """A batch of no items, of more than 1,000, or of more than 4 MiB in or out."""

    reason = "INVALID_BATCH"
    remedy = "Send 1 to 1,000 items; split what is larger than 4 MiB."


class InvalidKeySpecError(InvalidInputError):
    """A key spec is empty, or its uri, principal or options do not fit its provider."""

    reason = "INVALID_KEY_SPEC"
    remedy = "Give type and uri as the provider itself writes them; the message names the fault."


class UnknownProviderError(InvalidInputError):
    """The server has no provider of that type."""

    reason = "UNKNOWN_PROVIDER"
    remedy = "Use one of the types that the message lists, or install the provider's extra."


class KeySpecMissingError(InvalidInputError):
    """A region of the request has no key spec, or no region was named."""

    reason = "KEY_SPEC_MISSING"
    remedy = "Give one region spec with a key spec for each region that the message names."


class DuplicateRegionError(InvalidInputError):
    """A region is named twice in one request."""

    reason = "DUPLICATE_REGION"
    remedy = "Name each region once."


class TooManyRegionsError(InvalidInputError):
    """A cluster of more than 64 regions."""

    reason = "TOO_MANY_REGIONS"
    remedy = "Keep a cluster within 64 regions."


class RegionMismatchError(InvalidInputError):
    """A region spec is for a region that the request's own list of regions does not name."""

    reason = "REGION_MISMATCH"
    remedy = "List the region in regions, or leave the list out."


class OrganizationMismatchError(InvalidInputError):
    """The cluster belongs to another organization than the request says."""

    reason = "ORGANIZATION_MISMATCH"
    remedy = "Leave the organization out, or check the cluster's name."


class InvalidReasonError(InvalidInputError):
    """A reason for the audit trail is longer than 1,024 characters."""

    reason = "INVALID_REASON"
    remedy = "Shorten the reason to 1,024 characters, and put the rest where you keep tickets."


class RequestIdReusedError(InvalidInputError):
    """The same request_id came before with another request."""

    reason = "REQUEST_ID_REUSED"
    remedy = "Use a new request_id for a new request; repeat the old one only unchanged."


class NotAWrappedKeyError(InvalidInputError):
    """The bytes are empty, too short or otherwise not a wrapped key of Keyfold."""

    reason = "NOT_A_WRAPPED_KEY"
    remedy = "Pass the wrapped key exactly as Wrap returned it; look for truncation or encoding."


class UnsupportedWrappedKeyError(InvalidInputError):
    """A wrapped key of a format version or suite that the server's release does not know."""

    reason = "UNSUPPORTED_WRAPPED_KEY"
    remedy = "Unwrap it with the newer release that wrapped it."


class UnknownKekError(InvalidInputError):
    """No key encryption key of this cluster has the id that the wrapped key names."""

    reason = "UNKNOWN_KEK"
    remedy = "Check the cluster's name; a change in bytes 3 to 18 of a wrapped key shows as this."


class WrongClusterError(InvalidInputError):
    """The wrapped key belongs to another cluster, which the caller may see."""

    reason = "WRONG_CLUSTER"
    remedy = "Unwrap it in the cluster that wrapped it, or move it there with Rewrap."


class WrappedKeyCorruptError(InvalidInputError):
    """The key commitment does not fit: the wrapped key was changed after it was made."""

    reason = "WRAPPED_KEY_CORRUPT"
    remedy = "Restore the wrapped key from where it was stored first."


class ContextMismatchError(InvalidInputError):
    """The authentication tag does not fit: another context, or a changed wrapped key."""

    reason = "CONTEXT_MISMATCH"
    remedy = "Send the context of the Wrap call; if it is the same, the wrapped key was changed."


class UnauthenticatedError(KeyfoldError):
    """Who calls is not known; nothing was looked at."""


class CallerUnknownError(UnauthenticatedError):
    """The call carries no credential, neither a client certificate nor a token."""

    reason = "CALLER_UNKNOWN"
    remedy = "Call with a client certificate or a token; docs/security.md says which."


class CallerCredentialError(UnauthenticatedError):
    """The server does not accept the certificate or token that the call carries."""

    reason = "CALLER_CREDENTIAL_INVALID"
    remedy = "Renew the certificate or token, and check its issuer, audience and time."


class ForbiddenError(KeyfoldError):
    """The caller is known, and the policy does not let it do this."""


class NotAllowedError(ForbiddenError):
    """No grant of the server's policy gives the caller a role for this."""

    reason = "NOT_ALLOWED"
    remedy = "Ask for a grant; `keyfold-server policy check` says what the policy answers and why."


class KeyNotGrantedError(ForbiddenError):
    """The policy does not let the caller name this key, as this principal, for this cluster."""

    reason = "KEY_NOT_GRANTED"
    remedy = "Have the key's type, uri, principal and options added to a grant's keys."


class ContextNotGrantedError(ForbiddenError):
    """The caller may use these keys only with other context entries."""

    reason = "CONTEXT_NOT_GRANTED"
    remedy = "Send the context entries that the caller's grant demands."


class NotFoundError(KeyfoldError):
    """What the request names does not exist, or the caller may not see it."""


class ClusterNotFoundError(NotFoundError):
    """The cluster does not exist, or the caller may not see it."""

    reason = "CLUSTER_NOT_FOUND"
    remedy = "Check the name with ListClusters; Enable makes a cluster."


class RegionNotFoundError(NotFoundError):
    """The cluster has no such region, or the caller may not see it."""

    reason = "REGION_NOT_FOUND"
    remedy = "Check the cluster's regions with GetStatus; AddRegions adds one."


class GenerationNotFoundError(NotFoundError):
    """The region has no such generation."""

    reason = "GENERATION_NOT_FOUND"
    remedy = "Check the region's generations with GetStatus."


class AlreadyExistsError(KeyfoldError):
    """It exists, and is not what the request describes."""


class ClusterExistsError(AlreadyExistsError):
    """Enable of a cluster that is enabled with other region specs."""

    reason = "CLUSTER_EXISTS"
    remedy = "Change keys with Rotate, add regions with AddRegions."


class RegionExistsError(AlreadyExistsError):
    """AddRegions of a region that has another key spec."""

    reason = "REGION_EXISTS"
    remedy = "Move a region to another key with Rotate."


class StateError(KeyfoldError):
    """The state of the cluster or region forbids the call."""


class RevokedError(StateError):
    """The region's key is revoked."""

    reason = "REVOKED"
    remedy = "Call Restore once the key may be used again."


class GenerationRetiredError(StateError):
    """The wrapped key is under a generation that was taken out of use."""

    reason = "GENERATION_RETIRED"
    remedy = "Bring the generation back with RetireGeneration, and rewrap what is under it."


class GenerationInUseError(StateError):
    """RetireGeneration of the newest generation, which wraps."""

    reason = "GENERATION_IN_USE"
    remedy = "Make a new generation first: Rotate with new_generation."


class ExternalIdNotIssuedError(StateError):
    """An AWS role for which Keyfold has issued no external id (protocol C2)."""

    reason = "EXTERNAL_ID_NOT_ISSUED"
    remedy = "Call GetAccessPolicy, and put the external id into the role's trust policy."


class KeyElsewhereError(StateError):
    """The root key is in another region than the cluster's, and the server demands residency."""

    reason = "KEY_ELSEWHERE"
    remedy = "Name a key in the provider region that the message names."


class KeyVersionPinnedError(StateError):
    """Rotate of a key whose uri names one version: there is no newer one under that uri."""

    reason = "KEY_VERSION_PINNED"
    remedy = "Name the newer version, or the key without one."


class ConflictError(KeyfoldError):
    """Another change came first; nothing was changed."""


class ConcurrentChangeError(ConflictError):
    """The cluster changed while the request was being carried out."""

    reason = "CONCURRENT_CHANGE"
    remedy = "Read the status, and ask again if the change is still wanted."


class RequestInProgressError(ConflictError):
    """A request with the same request_id is still being carried out."""

    reason = "REQUEST_IN_PROGRESS"
    remedy = "Wait, and repeat the request with the same request_id."


class KmsError(KeyfoldError):
    """What the customer's KMS said, or that it said nothing."""

    source: ClassVar[Literal["keyfold", "kms"]] = "kms"


class RefusedError(KmsError):
    """The KMS answered no. Cached keys go out of use at once."""


class AccessDeniedError(RefusedError):
    """The KMS does not let Keyfold use the key."""

    reason = "ACCESS_DENIED"
    remedy = "Grant the missing permission on the key, then call Restore or just try again."


class KeyDisabledError(RefusedError):
    """The key, or the version that is needed, is disabled."""

    reason = "KEY_DISABLED"
    remedy = "Enable the key in the KMS; service resumes by itself."


class KeyPendingDeletionError(RefusedError):
    """The key is scheduled for deletion."""

    reason = "KEY_PENDING_DELETION"
    remedy = "Cancel the deletion in the KMS and enable the key before the waiting period ends."


class KeyNotFoundError(RefusedError):
    """The KMS has no such key."""

    reason = "KEY_NOT_FOUND"
    remedy = "Check the key's uri; a key that was destroyed cannot be brought back."


class KeyInvalidError(RefusedError):
    """The key exists but cannot be used for this: wrong purpose, algorithm or material."""

    reason = "KEY_INVALID"
    remedy = "Use a symmetric encryption key, or one with the wrapping operations allowed."


class CouldNotTellError(KmsError):
    """The KMS gave no answer that counts. Cached keys serve on for their outage grace."""


class UnreachableError(CouldNotTellError):
    """The KMS could not be reached, or failed on its side."""

    reason = "UNREACHABLE"
    remedy = "Wait and try again; look at the network path and the provider's status page."


class CredentialsFailedError(CouldNotTellError):
    """The KMS did not accept Keyfold's own credential."""

    reason = "CREDENTIALS_FAILED"
    remedy = "Renew the credential that the server uses for this provider."


class ThrottledError(CouldNotTellError):
    """The KMS asks Keyfold to slow down."""

    reason = "THROTTLED"
    remedy = "Wait for the time given, and raise the KMS's quota if it happens often."


class KekMismatchError(KmsError):
    """The KMS opened the stored KEK to something else than was wrapped, or not at all."""

    reason = "KEK_MISMATCH"
    remedy = "Restore the store's row from a backup; the root key itself answers."


class OverloadedError(KeyfoldError):
    """Keyfold has as many calls waiting as it will hold."""

    reason = "OVERLOADED"
    remedy = "Wait for the time given; run more replicas if it happens often."


class RateLimitedError(KeyfoldError):
    """Calls of one caller, for one organization or to one root key come faster than they may."""

    reason = "RATE_LIMITED"
    remedy = "Wait for the time given and slow down; the limits are settings of the server."


class RowNotAuthenticError(KeyfoldError):
    """A row of the store does not carry the service key's seal: somebody else wrote it."""

    reason = "ROW_NOT_AUTHENTIC"
    remedy = (
        "Restore the row from a backup, and find out who writes to the store; or, after a newer "
        "release has used it, go back to that release."
    )


class UnavailableError(KeyfoldError):
    """Keyfold itself cannot answer now."""


class StoreUnavailableError(UnavailableError):
    """The store did not answer, or could not be written."""

    reason = "STORE_UNAVAILABLE"
    remedy = "Look at the store: reachable, writable, not full? The call changed nothing."


class StoreStaleError(UnavailableError):
    """The replica has not seen the store for so long that it must not use keys."""

    reason = "STORE_STALE"
    remedy = "Call another replica; this one serves again when it sees the store."


class StoreRolledBackError(UnavailableError):
    """The store lacks a change that the replica has seen: a rollback, or another database."""

    reason = "STORE_ROLLED_BACK"
    remedy = "Find out which store is right, and restart the replica on it."


class IssuerUnreachableError(UnavailableError):
    """The server cannot check tokens, because it cannot fetch their issuer's current keys."""

    reason = "ISSUER_UNREACHABLE"
    remedy = "Try again; look at KEYFOLD_JWT_JWKS and the way to it if it lasts."


class BusyError(UnavailableError):
    """The keys changed under the call again and again, or it could not be started."""

    reason = "BUSY"
    remedy = "Try again."


class DeadlineError(KeyfoldError):
    """The caller's deadline passed, or would have, before the answer was there."""

    reason = "DEADLINE_EXCEEDED"
    remedy = "Allow more time: a cold key waits for the customer's KMS, up to 5 seconds."


class SetupError(KeyfoldError):
    """A server or command that cannot start as it is set up. Never sent to a caller."""

    reason = "SETUP"
    remedy = "Change the setting that the message names."


NotAsked: TypeAlias = OverloadedError | RateLimitedError
"""Why Keyfold itself did not ask a KMS, which tells as little of the key as an outage does."""
