"""Every error that Keyfold knows, in one tree.

A leaf is one *reason*: a stable UPPER_SNAKE word that callers may branch on. A branch is one
kind of failure, and `rpc/messages/status.py` gives each branch its gRPC code in one table.

    KeyfoldError
    ├── InvalidInputError                       the request is wrong; nothing was changed
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
    │   ├── UnknownGeoError                     UNKNOWN_GEO
    │   ├── OrganizationMismatchError           ORGANIZATION_MISMATCH
    │   ├── InvalidOrganizationError            INVALID_ORGANIZATION
    │   ├── InvalidKeyLinkError                 INVALID_KEY_LINK
    │   ├── InvalidUpdateMaskError              INVALID_UPDATE_MASK
    │   ├── InvalidOperationError               INVALID_OPERATION
    │   ├── InvalidReasonError                  INVALID_REASON
    │   ├── InvalidSelectorError                INVALID_SELECTOR
    │   ├── InvalidWaitingPeriodError           INVALID_WAITING_PERIOD
    │   ├── RegionsNotChosenError               REGIONS_NOT_CHOSEN
    │   ├── RequestIdReusedError                REQUEST_ID_REUSED
    │   ├── NotAWrappedKeyError                 NOT_A_WRAPPED_KEY
    │   ├── UnsupportedWrappedKeyError          UNSUPPORTED_WRAPPED_KEY
    │   ├── UnknownKekError                     UNKNOWN_KEK
    │   ├── WrongClusterError                   WRONG_CLUSTER
    │   ├── WrappedKeyCorruptError              WRAPPED_KEY_CORRUPT
    │   ├── ContextMismatchError                CONTEXT_MISMATCH
    │   ├── ResumeTokenInvalidError             RESUME_TOKEN_INVALID
    │   └── ResumeTokenExpiredError             RESUME_TOKEN_EXPIRED
    ├── UnauthenticatedError                    the server does not know the caller
    │   ├── CallerUnknownError                  CALLER_UNKNOWN
    │   └── CallerCredentialError               CALLER_CREDENTIAL_INVALID
    ├── ForbiddenError                          the caller may not do this
    │   ├── NotAllowedError                     NOT_ALLOWED
    │   ├── KeyNotGrantedError                  KEY_NOT_GRANTED
    │   └── ContextNotGrantedError              CONTEXT_NOT_GRANTED
    ├── NotFoundError                           what the request names does not exist
    │   ├── ClusterNotFoundError                CLUSTER_NOT_FOUND
    │   ├── RegionNotFoundError                 REGION_NOT_FOUND
    │   ├── GenerationNotFoundError             GENERATION_NOT_FOUND
    │   ├── OrganizationNotFoundError           ORGANIZATION_NOT_FOUND
    │   ├── KeyLinkNotFoundError                KEY_LINK_NOT_FOUND
    │   ├── OperationNotFoundError              OPERATION_NOT_FOUND
    │   └── CursorNotFoundError                 CURSOR_NOT_FOUND
    ├── AlreadyExistsError                      it exists, and differs from the request
    │   ├── ClusterExistsError                  CLUSTER_EXISTS
    │   ├── RegionExistsError                   REGION_EXISTS
    │   ├── OrganizationExistsError             ORGANIZATION_EXISTS
    │   ├── KeyLinkExistsError                  KEY_LINK_EXISTS
    │   └── OperationExistsError                OPERATION_EXISTS
    ├── StateError                              the state forbids the call
    │   ├── RevokedError                        REVOKED
    │   ├── ClusterRevokedError                 CLUSTER_REVOKED
    │   ├── ClusterBannedError                  CLUSTER_BANNED
    │   ├── KeyDeletedError                     KEY_DELETED
    │   ├── NotRevokedError                     NOT_REVOKED
    │   ├── NotDeletedError                     NOT_DELETED
    │   ├── GenerationRetiredError              GENERATION_RETIRED
    │   ├── GenerationInUseError                GENERATION_IN_USE
    │   ├── ExternalIdNotIssuedError            EXTERNAL_ID_NOT_ISSUED
    │   ├── SeatNotReservedError                SEAT_NOT_RESERVED
    │   ├── SeatsExhaustedError                 SEATS_EXHAUSTED
    │   ├── KeyElsewhereError                   KEY_ELSEWHERE
    │   ├── WrongRegionError                    WRONG_REGION
    │   ├── KeyVersionPinnedError               KEY_VERSION_PINNED
    │   ├── OrganizationNotEmptyError           ORGANIZATION_NOT_EMPTY
    │   ├── KeyLinkInUseError                   KEY_LINK_IN_USE
    │   ├── KeyLinkMovingError                  KEY_LINK_MOVING
    │   ├── KeyLinkMissingError                 KEY_LINK_MISSING
    │   ├── KeyLinkAmbiguousError               KEY_LINK_AMBIGUOUS
    │   ├── KeyLinkElsewhereError               KEY_LINK_ELSEWHERE
    │   ├── ClusterNameNotAllowedError          CLUSTER_NAME_NOT_ALLOWED
    │   ├── TooManyClustersError                TOO_MANY_CLUSTERS
    │   ├── TooManyKeyLinksError                TOO_MANY_KEY_LINKS
    │   ├── OperationEndedError                 OPERATION_ENDED
    │   ├── OperationRunningError               OPERATION_RUNNING
    │   ├── TooManyOperationsError              TOO_MANY_OPERATIONS
    │   ├── CursorExpiredError                  CURSOR_EXPIRED
    │   └── TooManyCursorsError                 TOO_MANY_CURSORS
    ├── ConflictError                           another change came first; try again
    │   ├── ConcurrentChangeError               CONCURRENT_CHANGE
    │   ├── EtagMismatchError                   ETAG_MISMATCH
    │   ├── RequestInProgressError              REQUEST_IN_PROGRESS
    │   ├── CursorTakenError                    CURSOR_TAKEN
    │   └── WatchTooSlowError                   WATCH_TOO_SLOW
    ├── KmsError                                about the customer's KMS
    │   ├── RefusedError                        the KMS refused
    │   │   ├── AccessDeniedError               ACCESS_DENIED
    │   │   ├── KeyDisabledError                KEY_DISABLED
    │   │   ├── KeyPendingDeletionError         KEY_PENDING_DELETION
    │   │   ├── KeyNotFoundError                KEY_NOT_FOUND
    │   │   └── KeyInvalidError                 KEY_INVALID
    │   ├── CouldNotTellError                   the KMS gave no answer about the key
    │   │   ├── UnreachableError                UNREACHABLE
    │   │   ├── ThrottledError                  THROTTLED
    │   │   └── CredentialsFailedError          CREDENTIALS_FAILED
    │   └── KekMismatchError                    KEK_MISMATCH, a stored KEK does not open
    ├── OverloadedError                         OVERLOADED, too many calls at once
    ├── RateLimitedError                        RATE_LIMITED, calls come too fast
    ├── RowNotAuthenticError                    ROW_NOT_AUTHENTIC
    ├── UnavailableError                        Keyfold itself cannot answer now
    │   ├── StoreUnavailableError               STORE_UNAVAILABLE
    │   ├── StoreStaleError                     STORE_STALE
    │   ├── StoreRolledBackError                STORE_ROLLED_BACK
    │   ├── IssuerUnreachableError              ISSUER_UNREACHABLE
    │   ├── BusyError                           BUSY
    │   └── DrainingError                       DRAINING
    ├── DeadlineError                           DEADLINE_EXCEEDED
    └── SetupError                              a server that cannot start; never on the wire

"Refused" and "could not tell" are never mixed: a refusal takes keys out of use at once, an
outage does not. Messages are lower case, say what to do next, and hold no key material.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, TypeAlias


class KeyfoldError(Exception):
    """Base of the tree.

    Attributes:
        reason: Stable word for `google.rpc.ErrorInfo.reason`.
        remedy: The caller's or operator's next step, for the reference page.
        source: `kms` if the error is about the customer's KMS, else `keyfold`.
        message: One line for people: lower case, no full stop, no key material.
        cluster: The cluster that the error concerns, or None.
        region: The region that the error concerns, or None.
        regions: All regions that the message names, if it tells of several.
        field: The path of the wrong request field, such as `region_specs[1].key_spec.uri`.
        retry_after: Seconds after which a retry makes sense, or None.
        provider_request_id: The KMS's own id of the failed call, or None if it gave none.
        missing_permission: The permission that Keyfold lacks, or None if it is not known.
        while_unwrapping: Whether a wrap failed because the KMS did not open what it had wrapped.
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
        while_unwrapping: bool = False,
    ) -> None:
        """Makes an error; see the class for the meaning of each argument."""
        super().__init__(message)
        self.message = message
        self.cluster = cluster
        self.region = region
        self.regions: tuple[str, ...] = ()
        self.field = field
        self.retry_after = retry_after
        self.provider_request_id = provider_request_id
        self.missing_permission = missing_permission
        self.while_unwrapping = while_unwrapping

    def at(
        self, *, cluster: str | None = None, region: str | None = None, field: str | None = None
    ) -> Self:
        """Returns a copy of this error that also says where it happened.

        It is a copy because a remembered error is raised to many callers, and a raised exception
        collects tracebacks. Cluster and region are set only if the error lacks them; the field is
        put in front of the error's own.
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
            while_unwrapping=self.while_unwrapping,
        )


class InvalidInputError(KeyfoldError):
    """The request is wrong as it stands, and Keyfold changed nothing."""


class MalformedRequestError(InvalidInputError):
    """The request's bytes are not a message that this method takes."""

    reason = "MALFORMED_REQUEST"
    remedy = "Build the request with the generated stubs of this version of the contract."


class InvalidNameError(InvalidInputError):
    """A cluster's, region's or organization's name is empty, too long or has bad characters."""

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
    """The requested size of the data key is not 16, 24, 32 or 64 bytes."""

    reason = "INVALID_SIZE"
    remedy = "Ask for 16, 24, 32 or 64 bytes."


class InvalidPolicyError(InvalidInputError):
    """A duration in a region's policy is out of bounds."""

    reason = "INVALID_POLICY"
    remedy = "Keep cache_ttl within 0 to 15 minutes and outage_grace within 0 to 24 hours."


class InvalidRequestIdError(InvalidInputError):
    """A request_id is longer than 128 characters or not printable ASCII."""

    reason = "INVALID_REQUEST_ID"
    remedy = "Send 1 to 128 printable ASCII characters, such as a UUID, or leave it out."


class InvalidPageError(InvalidInputError):
    """The page_token did not come from this server, or the page_size is below zero."""

    reason = "INVALID_PAGE"
    remedy = "Send next_page_token back unchanged, with the same filters."


class InvalidBatchError(InvalidInputError):
    """The batch is empty, or has more than 1,000 items or 4 MiB, or an item more than 256 KiB."""

    reason = "INVALID_BATCH"
    remedy = "Send 1 to 1,000 items, and split a batch whose request or reply is larger than 4 MiB."


class InvalidKeySpecError(InvalidInputError):
    """A key spec is empty, or its uri, principal or options are not valid for its provider."""

    reason = "INVALID_KEY_SPEC"
    remedy = (
        "Write the type and the provider's own name of the key. The message says what is wrong."
    )


class UnknownProviderError(InvalidInputError):
    """The server has no provider of that type."""

    reason = "UNKNOWN_PROVIDER"
    remedy = "Use a type that the message lists, or have the operator install the provider's extra."


class KeySpecMissingError(InvalidInputError):
    """A region of the request has no key spec, or the request names no region."""

    reason = "KEY_SPEC_MISSING"
    remedy = "Add a region spec with a key spec for each region that the message names."


class DuplicateRegionError(InvalidInputError):
    """A region is named twice in one request."""

    reason = "DUPLICATE_REGION"
    remedy = "Name each region once."


class TooManyRegionsError(InvalidInputError):
    """The cluster would have more than 64 regions."""

    reason = "TOO_MANY_REGIONS"
    remedy = "Use at most 64 regions per cluster."


class RegionMismatchError(InvalidInputError):
    """A region spec is for a region that the request's own list of regions does not name.

    AddRegions counts the regions that the cluster has declared as named.
    """

    reason = "REGION_MISMATCH"
    remedy = "List the region in regions, or leave the list out."


class UnknownGeoError(InvalidInputError):
    """The server's settings have no geo of this name."""

    reason = "UNKNOWN_GEO"
    remedy = "Use a geo of the server's settings, or name the regions one by one."


class OrganizationMismatchError(InvalidInputError):
    """The cluster belongs to a different organization than the request says."""

    reason = "ORGANIZATION_MISMATCH"
    remedy = "Leave the organization out, or check the cluster's name."


class InvalidOrganizationError(InvalidInputError):
    """A value of an organization is out of bounds, or one of its patterns narrows nothing."""

    reason = "INVALID_ORGANIZATION"
    remedy = "Correct the field that the message names."


class InvalidKeyLinkError(InvalidInputError):
    """A key link has no place or two, a key that no link can have, or a value out of bounds."""

    reason = "INVALID_KEY_LINK"
    remedy = "Give a region or a geo, and a key of the customer's own. The message says what to do."


class InvalidUpdateMaskError(InvalidInputError):
    """The update_mask names a field that cannot be changed, or the request changes nothing."""

    reason = "INVALID_UPDATE_MASK"
    remedy = "Name fields that the message lists, or set at least one of them."


class InvalidOperationError(InvalidInputError):
    """The name, the scope or the action of an operation cannot be right."""

    reason = "INVALID_OPERATION"
    remedy = "Give a name, one action and one scope, as the message says."


class InvalidReasonError(InvalidInputError):
    """A reason for the audit trail is longer than 1,024 characters, or not one line of text."""

    reason = "INVALID_REASON"
    remedy = (
        "Give one line of at most 1,024 characters, such as the number of a ticket, without "
        "control characters and without those that change the direction of text."
    )


class InvalidRecheckError(InvalidInputError):
    """Recheck names both a cluster and a root key, or neither."""

    reason = "INVALID_RECHECK"
    remedy = "Name a cluster, with regions if you like, or the uri of a root key."


class InvalidSelectorError(InvalidInputError):
    """A selector of root keys is empty, contradicts itself, or has a version and no key."""

    reason = "INVALID_SELECTOR"
    remedy = "Name a root key's uri, a principal or a holder; the message says what is wrong."


class InvalidWaitingPeriodError(InvalidInputError):
    """A waiting period outside of its bounds, or one that is not a span of time."""

    reason = "INVALID_WAITING_PERIOD"
    remedy = "Give 0 to 90 days, or leave it out for 7 days."


class RegionsNotChosenError(InvalidInputError):
    """DeleteCluster names no regions and does not say all_regions, or it does both."""

    reason = "REGIONS_NOT_CHOSEN"
    remedy = "Name the regions one by one, or set all_regions to delete the whole cluster."


class RequestIdReusedError(InvalidInputError):
    """The caller sent the same request_id before, with a different request."""

    reason = "REQUEST_ID_REUSED"
    remedy = "Use a new request_id for each new request, and an old one only to repeat its request."


class NotAWrappedKeyError(InvalidInputError):
    """The bytes are not a wrapped key of Keyfold: they are empty, too short or too long."""

    reason = "NOT_A_WRAPPED_KEY"
    remedy = (
        "Send the wrapped key exactly as Wrap returned it; look for truncation or a text encoding."
    )


class UnsupportedWrappedKeyError(InvalidInputError):
    """The server's release does not know the format version or suite of the wrapped key."""

    reason = "UNSUPPORTED_WRAPPED_KEY"
    remedy = "Unwrap it with a release as new as the one that wrapped it."


class UnknownKekError(InvalidInputError):
    """The cluster has no key encryption key (KEK) of the id that the wrapped key names."""

    reason = "UNKNOWN_KEK"
    remedy = (
        "Check the cluster's name. If it is right, bytes 3 to 18 of the wrapped key may be changed."
    )


class WrongClusterError(InvalidInputError):
    """The wrapped key belongs to another cluster, which the caller may see."""

    reason = "WRONG_CLUSTER"
    remedy = "Unwrap it in the cluster that the message names, or move it with Rewrap."


class WrappedKeyCorruptError(InvalidInputError):
    """The wrapped key was changed after it was made: its key commitment does not match."""

    reason = "WRAPPED_KEY_CORRUPT"
    remedy = "Restore the wrapped key from a good copy."


class ContextMismatchError(InvalidInputError):
    """The context differs from the one of the Wrap call, or the wrapped key was changed."""

    reason = "CONTEXT_MISMATCH"
    remedy = (
        "Send the context of the Wrap call. If it is the same, restore the wrapped key from a copy."
    )


class ResumeTokenInvalidError(InvalidInputError):
    """A resume token that this store did not give out for what the request asks for."""

    reason = "RESUME_TOKEN_INVALID"
    remedy = "Begin without a token, or resume with the same request that the token came from."


class ResumeTokenExpiredError(InvalidInputError):
    """A resume token whose place in the log has been pruned."""

    reason = "RESUME_TOKEN_EXPIRED"
    remedy = "Begin without a token. What was pruned in between is lost to this reader."


class UnauthenticatedError(KeyfoldError):
    """The server does not know the caller, and did not look at the request."""


class CallerUnknownError(UnauthenticatedError):
    """The call carries no credential, neither a client certificate nor a token."""

    reason = "CALLER_UNKNOWN"
    remedy = (
        "Call with a client certificate or a token; docs/security.md says which the server takes."
    )


class CallerCredentialError(UnauthenticatedError):
    """The server does not accept the certificate or token that the call carries."""

    reason = "CALLER_CREDENTIAL_INVALID"
    remedy = "Renew the certificate or token, and check its issuer, audience and validity."


class ForbiddenError(KeyfoldError):
    """The server knows the caller, and its policy does not allow the call."""


class NotAllowedError(ForbiddenError):
    """No grant in the server's policy gives the caller a role for this call."""

    reason = "NOT_ALLOWED"
    remedy = "Ask the operator for a grant. `keyfold-server policy check` explains the decision."


class KeyNotGrantedError(ForbiddenError):
    """The policy does not let the caller use this root key, as this principal, for this cluster."""

    reason = "KEY_NOT_GRANTED"
    remedy = "Ask the operator to add the key's type, uri, principal and options to a grant's keys."


class ContextNotGrantedError(ForbiddenError):
    """The caller's grants allow these keys only with certain context entries."""

    reason = "CONTEXT_NOT_GRANTED"
    remedy = "Send the context entries that the grant demands; the message names them."


class NotFoundError(KeyfoldError):
    """What the request names does not exist, or the caller may not see it."""


class ClusterNotFoundError(NotFoundError):
    """The cluster does not exist, or the caller may not see it."""

    reason = "CLUSTER_NOT_FOUND"
    remedy = "Check the name with ListClusters, or make the cluster with Enable."


class RegionNotFoundError(NotFoundError):
    """The cluster has no such region, or the caller may not see it."""

    reason = "REGION_NOT_FOUND"
    remedy = "Check the cluster's regions with GetStatus, or add the region with AddRegions."


class KeyNotUsedError(NotFoundError):
    """No enabled region that the caller may recheck uses a root key of the uri."""

    reason = "KEY_NOT_USED"
    remedy = "Write the uri as GetStatus shows it; `keyfold clusters --key-uri` finds its users."


class GenerationNotFoundError(NotFoundError):
    """The region has no such generation."""

    reason = "GENERATION_NOT_FOUND"
    remedy = "Check the region's generations with GetStatus."


class OrganizationNotFoundError(NotFoundError):
    """The organization does not exist, or the caller may not see it."""

    reason = "ORGANIZATION_NOT_FOUND"
    remedy = "Check the name with ListOrganizations, or make it with CreateOrganization."


class KeyLinkNotFoundError(NotFoundError):
    """The organization has no key link of this name, or the caller may not see it."""

    reason = "KEY_LINK_NOT_FOUND"
    remedy = "Check the name with ListKeyLinks, or link the key with CreateKeyLink."


class OperationNotFoundError(NotFoundError):
    """There is no operation of this name, or the caller may not see it."""

    reason = "OPERATION_NOT_FOUND"
    remedy = (
        "Check the name with ListOperations. A name without its first part means an operation "
        "that the caller itself started."
    )


class CursorNotFoundError(NotFoundError):
    """The caller has no cursor of this name."""

    reason = "CURSOR_NOT_FOUND"
    remedy = "Check the name with ListCursors. WatchEvents makes a cursor at its first use."


class AlreadyExistsError(KeyfoldError):
    """What the request would make exists already, and differs from the request."""


class ClusterExistsError(AlreadyExistsError):
    """Enable of a cluster that exists with different region specs."""

    reason = "CLUSTER_EXISTS"
    remedy = "Change keys with Rotate, and add regions with AddRegions."


class RegionExistsError(AlreadyExistsError):
    """AddRegions of a region that exists with a different key spec."""

    reason = "REGION_EXISTS"
    remedy = "Move a region to another key with Rotate."


class OrganizationExistsError(AlreadyExistsError):
    """CreateOrganization of one that was made before, with other settings."""

    reason = "ORGANIZATION_EXISTS"
    remedy = "Change it with UpdateOrganization."


class KeyLinkExistsError(AlreadyExistsError):
    """The organization has a link of this name, or one of this provider for this region."""

    reason = "KEY_LINK_EXISTS"
    remedy = "Change the link that the message names with UpdateKeyLink, or delete it first."


class OperationExistsError(AlreadyExistsError):
    """The caller has an operation of this name already, with another scope or action."""

    reason = "OPERATION_EXISTS"
    remedy = "Use another name. With the same scope and action, the call returns that operation."


class StateError(KeyfoldError):
    """The state of what the request names forbids the call."""


class RevokedError(StateError):
    """The region's key is revoked."""

    reason = "REVOKED"
    remedy = "Call Restore once the key may be used again."


class ClusterRevokedError(StateError):
    """AddRegions to a cluster of which every region is revoked."""

    reason = "CLUSTER_REVOKED"
    remedy = (
        "Call Restore first, or repeat AddRegions with into_revoked if the new regions shall serve "
        "while the others stay revoked."
    )


class ClusterBannedError(StateError):
    """The cluster was revoked while its rows in the store were not authentic, or were gone."""

    reason = "CLUSTER_BANNED"
    remedy = (
        "Find out who wrote to the store. Have the operator run `keyfold-server seal` for the "
        "cluster, and then call Restore."
    )


class KeyDeletedError(StateError):
    """The region's key is deleted, and Keyfold erases it after its purge time."""

    reason = "KEY_DELETED"
    remedy = (
        "Call UndeleteCluster before the purge time, and then Restore. To change the waiting "
        "period, call UndeleteCluster and then DeleteCluster."
    )


class NotRevokedError(StateError):
    """DeleteCluster of a region whose key is in use."""

    reason = "NOT_REVOKED"
    remedy = "Make sure that nobody needs the key any more, call Revoke, and repeat the call."


class NotDeletedError(StateError):
    """UndeleteCluster of a region whose key is in use."""

    reason = "NOT_DELETED"
    remedy = "Read the status: nothing has to be taken back."


class GenerationRetiredError(StateError):
    """The generation that wrapped the key was taken out of use with RetireGeneration."""

    reason = "GENERATION_RETIRED"
    remedy = (
        "Bring the generation back with RetireGeneration, and move its wrapped keys with Rewrap."
    )


class GenerationInUseError(StateError):
    """RetireGeneration of the newest generation, which new wrapped keys need."""

    reason = "GENERATION_IN_USE"
    remedy = "First make a new generation: call Rotate with new_generation."


class ExternalIdNotIssuedError(StateError):
    """The key spec names an AWS role, and Keyfold has not issued an external id for it."""

    reason = "EXTERNAL_ID_NOT_ISSUED"
    remedy = "Call GetAccessPolicy, and put the external id into the role's trust policy."


class SeatNotReservedError(StateError):
    """The key spec asks for a seat, and no seat is reserved for the owner and the region."""

    reason = "SEAT_NOT_RESERVED"
    remedy = (
        "Call GetAccessPolicy with the same key spec, and have the customer put what it shows into "
        "the key's policy."
    )


class SeatsExhaustedError(StateError):
    """No seat is free for the provider and region, or the owner has reserved as many as it may."""

    reason = "SEATS_EXHAUSTED"
    remedy = (
        "The vendor adds seats to the server's settings; a used seat never becomes free. An owner "
        "that has too many reserved seats uses these first."
    )


class KeyHeldByAnotherError(StateError):
    """The key's account, project, vault or origin is another organization's (protocol C9)."""

    reason = "KEY_HELD_BY_ANOTHER"
    remedy = (
        "Check the key's uri and the organization. If both may use it, an administrator allows it: "
        "UpdateOrganization with holders."
    )


class KeyElsewhereError(StateError):
    """The root key is not known to be in the cluster's region, as the server requires."""

    reason = "KEY_ELSEWHERE"
    remedy = "Use a key in the provider region that the message names."


class WrongRegionError(StateError):
    """The replica that was called does not serve the region, or what needs every region."""

    reason = "WRONG_REGION"
    remedy = (
        "Call the address in `served_at`, or ask the operator which replicas serve the region. "
        "Nothing was changed, and no KMS was called."
    )

    def __init__(self, message: str, *, served_at: str | None = None, **place: Any) -> None:
        """Makes an error; `served_at` is the address to call, or None if it is not known."""
        super().__init__(message, **place)
        self.served_at = served_at

    def at(
        self, *, cluster: str | None = None, region: str | None = None, field: str | None = None
    ) -> Self:
        """Returns a copy that also says where it happened; see `KeyfoldError.at`."""
        copy = super().at(cluster=cluster, region=region, field=field)
        copy.served_at = self.served_at
        return copy


class KeyVersionPinnedError(StateError):
    """A key whose uri names one version is to be rotated, or followed: it never has a newer one."""

    reason = "KEY_VERSION_PINNED"
    remedy = (
        "Give a key spec with the newer version in its uri, or with no version. A key with a "
        "version in its uri cannot have auto_rotate."
    )


class OrganizationNotEmptyError(StateError):
    """DeleteOrganization of one that has clusters, key links or holders."""

    reason = "ORGANIZATION_NOT_EMPTY"
    remedy = (
        "First delete the clusters and key links that the message names, and release the holders "
        "with UpdateOrganization."
    )


class KeyLinkInUseError(StateError):
    """Regions use the key link, so it cannot be deleted or get another key."""

    reason = "KEY_LINK_IN_USE"
    remedy = (
        "To give the link another key, start an operation with the action move_link. To delete it, "
        "have the regions that the message names leave it with Rotate and a key_spec. A deleted "
        "region uses it until its waiting period is over and its keys are erased."
    )


class KeyLinkMovingError(StateError):
    """An operation is moving the key link to another key, and nothing else may change it."""

    reason = "KEY_LINK_MOVING"
    remedy = (
        "Wait for the end of the operation that the message names, or cancel it with "
        "CancelOperation."
    )


class KeyLinkMissingError(StateError):
    """A region is to use its organization's key link, and there is none for the region."""

    reason = "KEY_LINK_MISSING"
    remedy = "Link a key for the region with CreateKeyLink, or give the region a key spec."


class KeyLinkAmbiguousError(StateError):
    """A region is to use its organization's key link, and there are several for the region."""

    reason = "KEY_LINK_AMBIGUOUS"
    remedy = "Name one of the links that the message lists, as the region's key_link."


class KeyLinkElsewhereError(StateError):
    """The key link is for another region, or was not proven in this one."""

    reason = "KEY_LINK_ELSEWHERE"
    remedy = (
        "Name a key link for this region. If the link's geo has gained the region, replicate the "
        "key there, and call UpdateKeyLink with the key that the link has."
    )


class ClusterNameNotAllowedError(StateError):
    """The organization's cluster_patterns do not allow the name of the new cluster."""

    reason = "CLUSTER_NAME_NOT_ALLOWED"
    remedy = "Use a name that the patterns in the message allow, or have the patterns changed."


class TooManyClustersError(StateError):
    """The organization has as many clusters as it may."""

    reason = "TOO_MANY_CLUSTERS"
    remedy = "Delete a cluster, or have the organization's max_clusters raised."


class TooManyKeyLinksError(StateError):
    """The organization has as many key links as it may."""

    reason = "TOO_MANY_KEY_LINKS"
    remedy = "Delete a key link, or have the organization's max_key_links raised."


class TooManyHoldersError(StateError):
    """The organization has as many accounts, projects, vaults and origins as it may."""

    reason = "TOO_MANY_HOLDERS"
    remedy = "Have an administrator release some: UpdateOrganization with holders."


class OperationEndedError(StateError):
    """The operation has ended, so that nothing is left to cancel."""

    reason = "OPERATION_ENDED"
    remedy = "Read how it ended with GetOperation. To do the work again, start another operation."


class OperationRunningError(StateError):
    """The operation has not ended, so that it cannot be deleted."""

    reason = "OPERATION_RUNNING"
    remedy = "Call CancelOperation, wait for the end with WaitOperation, and delete it then."


class TooManyOperationsError(StateError):
    """As many operations have not ended as the caller, or all callers together, may have."""

    reason = "TOO_MANY_OPERATIONS"
    remedy = "Wait until some have ended, or cancel those that nobody needs."


class CursorExpiredError(StateError):
    """Nobody advanced the cursor for so long that pruning no longer waits for it."""

    reason = "CURSOR_EXPIRED"
    remedy = (
        "Find out what stopped the reader. Then call DeleteCursor, and begin anew: entries that "
        "were pruned since are lost to this reader."
    )


class TooManyCursorsError(StateError):
    """There are as many cursors as the caller, or all callers together, may have."""

    reason = "TOO_MANY_CURSORS"
    remedy = "Delete cursors that nobody uses any more with DeleteCursor."


class ConflictError(KeyfoldError):
    """Another change came first, and this request changed nothing."""


class ConcurrentChangeError(ConflictError):
    """The cluster changed while Keyfold carried out the request."""

    reason = "CONCURRENT_CHANGE"
    remedy = "Read the status, and repeat the request if you still want the change."


class SeatTakenError(ConcurrentChangeError):
    """Another change took a seat first; Keyfold itself tries again, so callers hardly see it."""


class EtagMismatchError(ConflictError):
    """The organization or key link has changed since it had the etag of the request."""

    reason = "ETAG_MISMATCH"
    remedy = "Read it, and repeat the request with its etag if you still want the change."


class RequestInProgressError(ConflictError):
    """Keyfold is still carrying out a request with the same request_id."""

    reason = "REQUEST_IN_PROGRESS"
    remedy = "Wait, and repeat the request with the same request_id."


class CursorTakenError(ConflictError):
    """Another reader has taken the cursor over, so this one must not go on with it."""

    reason = "CURSOR_TAKEN"
    remedy = "Let one reader alone use a cursor. To take it back, call WatchEvents with it again."


class WatchTooSlowError(ConflictError):
    """The reader of a watch reads more slowly than events come."""

    reason = "WATCH_TOO_SLOW"
    remedy = "Resume with the token of the last message, and read faster than events come."


class KmsError(KeyfoldError):
    """The customer's KMS returned an error, or did not answer."""

    source: ClassVar[Literal["keyfold", "kms"]] = "kms"


class RefusedError(KmsError):
    """The KMS refused. Keys in memory go out of use at once."""


class AccessDeniedError(RefusedError):
    """The KMS does not let Keyfold use the key."""

    reason = "ACCESS_DENIED"
    remedy = (
        "Have the key's policy grant the missing permission, for this cluster and region if it "
        "tells them apart, and repeat the call."
    )


class KeyDisabledError(RefusedError):
    """The key, or the version that the call needs, is disabled."""

    reason = "KEY_DISABLED"
    remedy = "Enable the key in the KMS. Keyfold uses it again within seconds."


class KeyPendingDeletionError(RefusedError):
    """The key is scheduled for deletion."""

    reason = "KEY_PENDING_DELETION"
    remedy = "Cancel the deletion and enable the key in the KMS before the waiting period ends."


class KeyNotFoundError(RefusedError):
    """The KMS has no such key."""

    reason = "KEY_NOT_FOUND"
    remedy = "Check the key's uri. A destroyed key cannot be brought back."


class KeyInvalidError(RefusedError):
    """The key exists, but its purpose, algorithm or material does not allow this use."""

    reason = "KEY_INVALID"
    remedy = "Use a symmetric encryption key, or another key that may wrap and unwrap."


class CouldNotTellError(KmsError):
    """The KMS gave no answer about the key. Keys in memory serve on for their outage grace."""


class UnreachableError(CouldNotTellError):
    """Keyfold could not reach the KMS, or the KMS failed."""

    reason = "UNREACHABLE"
    remedy = "Try again later; check the network path and the provider's status page."


class CredentialsFailedError(CouldNotTellError):
    """The KMS did not accept Keyfold's own credential."""

    reason = "CREDENTIALS_FAILED"
    remedy = "Ask the operator to renew the server's credential for this provider."


class ThrottledError(CouldNotTellError):
    """The KMS asks Keyfold to slow down."""

    reason = "THROTTLED"
    remedy = "Wait for the time given. If it happens often, raise the KMS's quota."


class KekMismatchError(KmsError):
    """The KMS did not open the stored KEK, or opened it to something that was not wrapped."""

    reason = "KEK_MISMATCH"
    remedy = "Restore the row of the store from a backup. The root key itself works."


class OverloadedError(KeyfoldError):
    """As many calls are waiting as Keyfold will hold."""

    reason = "OVERLOADED"
    remedy = "Wait for the time given. If it happens often, run more replicas."


class RateLimitedError(KeyfoldError):
    """Calls of a caller or organization, or to a KMS, come faster than the server allows."""

    reason = "RATE_LIMITED"
    remedy = "Wait for the time given and slow down, or have the operator raise the limit."


class RowNotAuthenticError(KeyfoldError):
    """A row of the store lacks a valid seal of the service key: something else wrote it."""

    reason = "ROW_NOT_AUTHENTIC"
    remedy = (
        "Restore the row from a backup, and find out who wrote to the store. If a newer release "
        "wrote it, go back to that release."
    )

    entry: int | None = None
    """The number of the entry of the log that is not as Keyfold wrote it, if it is about one."""


class UnavailableError(KeyfoldError):
    """Keyfold itself cannot answer now."""


class StoreUnavailableError(UnavailableError):
    """The store did not answer, or could not be written."""

    reason = "STORE_UNAVAILABLE"
    remedy = (
        "Check that the store is reachable, writable and not full. A change may have been made, so "
        "repeat it with the same request_id."
    )


class StoreStaleError(UnavailableError):
    """The replica has not reached the store for so long that it must not use keys."""

    reason = "STORE_STALE"
    remedy = "Call another replica. This one serves again once it reaches the store."


class StoreRolledBackError(UnavailableError):
    """The store lacks a change that the replica has seen: it was rolled back or replaced."""

    reason = "STORE_ROLLED_BACK"
    remedy = (
        "Find out which store is right, and have the operator run `keyfold-server reconcile` on it."
    )


class IssuerUnreachableError(UnavailableError):
    """The server cannot check tokens, because it cannot fetch their issuer's current keys."""

    reason = "ISSUER_UNREACHABLE"
    remedy = "Try again. If it lasts, check KEYFOLD_JWT_JWKS and the network path to it."


class BusyError(UnavailableError):
    """The cluster's keys kept changing under the call."""

    reason = "BUSY"
    remedy = "Try again."


class DrainingError(UnavailableError):
    """The replica is stopping, so it ends its watches."""

    reason = "DRAINING"
    remedy = "Resume at once, on another replica, with the token of the last message."


class DeadlineError(KeyfoldError):
    """The caller's deadline passed, or was too close, before Keyfold had the answer."""

    reason = "DEADLINE_EXCEEDED"
    remedy = "Allow more time: a key that is not in memory waits up to 5 seconds for the KMS."


class SetupError(KeyfoldError):
    """The server or command cannot start with its settings. No caller ever gets this error."""

    reason = "SETUP"
    remedy = "Change the setting that the message names."


Unusable: TypeAlias = RowNotAuthenticError | ClusterBannedError
"""Why the rows of a cluster in the store serve nobody."""

NotAsked: TypeAlias = OverloadedError | RateLimitedError
"""Why Keyfold did not call a KMS. It says nothing about the key, and is no outage (protocol F8)."""
