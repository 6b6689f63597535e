# Generated from server/keyfold_server/domain/errors.py by `make client`; never edited.

"""The error classes of all reasons that the server sends; `branches` has those they derive from.

Reasons are part of the API: no release renames one, and new ones may come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyfold.errors.branches import (
    AlreadyExistsError,
    ConflictError,
    CouldNotTellError,
    DeadlineError,
    ForbiddenError,
    InvalidInputError,
    KeyfoldError,
    KmsError,
    LimitError,
    NotFoundError,
    RefusedError,
    StateError,
    UnauthenticatedError,
    UnavailableError,
)


class MalformedRequestError(InvalidInputError):
    """The request's bytes are not a message that this method takes."""

    reason = "MALFORMED_REQUEST"


class InvalidNameError(InvalidInputError):
    """A cluster's, region's or organization's name is empty, too long or has bad characters."""

    reason = "INVALID_NAME"


class InvalidPlaintextError(InvalidInputError):
    """The key to wrap is empty or larger than 4,096 bytes."""

    reason = "INVALID_PLAINTEXT"


class InvalidContextError(InvalidInputError):
    """The context has more than 16 pairs, more than 4 KiB, or an empty key."""

    reason = "INVALID_CONTEXT"


class InvalidSizeError(InvalidInputError):
    """The requested size of the data key is not 16, 24, 32 or 64 bytes."""

    reason = "INVALID_SIZE"


class InvalidPolicyError(InvalidInputError):
    """A duration in a region's policy is out of bounds."""

    reason = "INVALID_POLICY"


class InvalidRequestIdError(InvalidInputError):
    """A request_id is longer than 128 characters or not printable ASCII."""

    reason = "INVALID_REQUEST_ID"


class InvalidPageError(InvalidInputError):
    """The page_token did not come from this server, or the page_size is below zero."""

    reason = "INVALID_PAGE"


class InvalidBatchError(InvalidInputError):
    """The batch is empty, or has more than 1,000 items or 4 MiB, or an item more than 256 KiB."""

    reason = "INVALID_BATCH"


class InvalidKeySpecError(InvalidInputError):
    """A key spec is empty, or its uri, principal or options are not valid for its provider."""

    reason = "INVALID_KEY_SPEC"


class UnknownProviderError(InvalidInputError):
    """The server has no provider of that type."""

    reason = "UNKNOWN_PROVIDER"


class KeySpecMissingError(InvalidInputError):
    """A region of the request has no key spec, or the request names no region."""

    reason = "KEY_SPEC_MISSING"


class DuplicateRegionError(InvalidInputError):
    """A region is named twice in one request."""

    reason = "DUPLICATE_REGION"


class TooManyRegionsError(InvalidInputError):
    """The cluster would have more than 64 regions."""

    reason = "TOO_MANY_REGIONS"


class RegionMismatchError(InvalidInputError):
    """A region spec is for a region that the request's own list of regions does not name.

    AddRegions counts the regions that the cluster has declared as named.
    """

    reason = "REGION_MISMATCH"


class UnknownGeoError(InvalidInputError):
    """The server's settings have no geo of this name."""

    reason = "UNKNOWN_GEO"


class OrganizationMismatchError(InvalidInputError):
    """The cluster belongs to a different organization than the request says."""

    reason = "ORGANIZATION_MISMATCH"


class InvalidOrganizationError(InvalidInputError):
    """A value of an organization is out of bounds, or one of its patterns narrows nothing."""

    reason = "INVALID_ORGANIZATION"


class InvalidKeyLinkError(InvalidInputError):
    """A key link has no place or two, a key that no link can have, or a value out of bounds."""

    reason = "INVALID_KEY_LINK"


class InvalidUpdateMaskError(InvalidInputError):
    """The update_mask names a field that cannot be changed, or the request changes nothing."""

    reason = "INVALID_UPDATE_MASK"


class InvalidOperationError(InvalidInputError):
    """The name, the scope or the action of an operation cannot be right."""

    reason = "INVALID_OPERATION"


class InvalidReasonError(InvalidInputError):
    """A reason for the audit trail is longer than 1,024 characters, or not one line of text."""

    reason = "INVALID_REASON"


class InvalidRecheckError(InvalidInputError):
    """Recheck names both a cluster and a root key, or neither."""

    reason = "INVALID_RECHECK"


class InvalidSelectorError(InvalidInputError):
    """A selector of root keys is empty, contradicts itself, or has a version and no key."""

    reason = "INVALID_SELECTOR"


class InvalidWaitingPeriodError(InvalidInputError):
    """A waiting period outside of its bounds, or one that is not a span of time."""

    reason = "INVALID_WAITING_PERIOD"


class RegionsNotChosenError(InvalidInputError):
    """DeleteCluster names no regions and does not say all_regions, or it does both."""

    reason = "REGIONS_NOT_CHOSEN"


class RequestIdReusedError(InvalidInputError):
    """The caller sent the same request_id before, with a different request."""

    reason = "REQUEST_ID_REUSED"


class NotAWrappedKeyError(InvalidInputError):
    """The bytes are not a wrapped key of Keyfold: they are empty, too short or too long."""

    reason = "NOT_A_WRAPPED_KEY"


class UnsupportedWrappedKeyError(InvalidInputError):
    """The server's release does not know the format version or suite of the wrapped key."""

    reason = "UNSUPPORTED_WRAPPED_KEY"


class UnknownKekError(InvalidInputError):
    """The cluster has no key encryption key (KEK) of the id that the wrapped key names."""

    reason = "UNKNOWN_KEK"


class WrongClusterError(InvalidInputError):
    """The wrapped key belongs to another cluster, which the caller may see."""

    reason = "WRONG_CLUSTER"


class WrappedKeyCorruptError(InvalidInputError):
    """The wrapped key was changed after it was made: its key commitment does not match."""

    reason = "WRAPPED_KEY_CORRUPT"


class ContextMismatchError(InvalidInputError):
    """The context differs from the one of the Wrap call, or the wrapped key was changed."""

    reason = "CONTEXT_MISMATCH"


class ResumeTokenInvalidError(InvalidInputError):
    """A resume token that this store did not give out for what the request asks for."""

    reason = "RESUME_TOKEN_INVALID"


class ResumeTokenExpiredError(InvalidInputError):
    """A resume token whose place in the log has been pruned."""

    reason = "RESUME_TOKEN_EXPIRED"


class CallerUnknownError(UnauthenticatedError):
    """The call carries no credential, neither a client certificate nor a token."""

    reason = "CALLER_UNKNOWN"


class CallerCredentialError(UnauthenticatedError):
    """The server does not accept the certificate or token that the call carries."""

    reason = "CALLER_CREDENTIAL_INVALID"


class NotAllowedError(ForbiddenError):
    """No grant in the server's policy gives the caller a role for this call."""

    reason = "NOT_ALLOWED"


class KeyNotGrantedError(ForbiddenError):
    """The policy does not let the caller use this root key, as this principal, for this cluster."""

    reason = "KEY_NOT_GRANTED"


class ContextNotGrantedError(ForbiddenError):
    """The caller's grants allow these keys only with certain context entries."""

    reason = "CONTEXT_NOT_GRANTED"


class ClusterNotFoundError(NotFoundError):
    """The cluster does not exist, or the caller may not see it."""

    reason = "CLUSTER_NOT_FOUND"


class RegionNotFoundError(NotFoundError):
    """The cluster has no such region, or the caller may not see it."""

    reason = "REGION_NOT_FOUND"


class KeyNotUsedError(NotFoundError):
    """No enabled region that the caller may recheck uses a root key of the uri."""

    reason = "KEY_NOT_USED"


class GenerationNotFoundError(NotFoundError):
    """The region has no such generation."""

    reason = "GENERATION_NOT_FOUND"


class OrganizationNotFoundError(NotFoundError):
    """The organization does not exist, or the caller may not see it."""

    reason = "ORGANIZATION_NOT_FOUND"


class KeyLinkNotFoundError(NotFoundError):
    """The organization has no key link of this name, or the caller may not see it."""

    reason = "KEY_LINK_NOT_FOUND"


class OperationNotFoundError(NotFoundError):
    """There is no operation of this name, or the caller may not see it."""

    reason = "OPERATION_NOT_FOUND"


class CursorNotFoundError(NotFoundError):
    """The caller has no cursor of this name."""

    reason = "CURSOR_NOT_FOUND"


class ClusterExistsError(AlreadyExistsError):
    """Enable of a cluster that exists with different region specs."""

    reason = "CLUSTER_EXISTS"


class RegionExistsError(AlreadyExistsError):
    """AddRegions of a region that exists with a different key spec."""

    reason = "REGION_EXISTS"


class OrganizationExistsError(AlreadyExistsError):
    """CreateOrganization of one that was made before, with other settings."""

    reason = "ORGANIZATION_EXISTS"


class KeyLinkExistsError(AlreadyExistsError):
    """The organization has a link of this name, or one of this provider for this region."""

    reason = "KEY_LINK_EXISTS"


class OperationExistsError(AlreadyExistsError):
    """The caller has an operation of this name already, with another scope or action."""

    reason = "OPERATION_EXISTS"


class RevokedError(StateError):
    """The region's key is revoked."""

    reason = "REVOKED"


class ClusterRevokedError(StateError):
    """AddRegions to a cluster of which every region is revoked."""

    reason = "CLUSTER_REVOKED"


class ClusterBannedError(StateError):
    """The cluster was revoked while its rows in the store were not authentic, or were gone."""

    reason = "CLUSTER_BANNED"


class KeyDeletedError(StateError):
    """The region's key is deleted, and Keyfold erases it after its purge time."""

    reason = "KEY_DELETED"


class NotRevokedError(StateError):
    """DeleteCluster of a region whose key is in use."""

    reason = "NOT_REVOKED"


class NotDeletedError(StateError):
    """UndeleteCluster of a region whose key is in use."""

    reason = "NOT_DELETED"


class GenerationRetiredError(StateError):
    """The generation that wrapped the key was taken out of use with RetireGeneration."""

    reason = "GENERATION_RETIRED"


class GenerationInUseError(StateError):
    """RetireGeneration of the newest generation, which new wrapped keys need."""

    reason = "GENERATION_IN_USE"


class ExternalIdNotIssuedError(StateError):
    """The key spec names an AWS role, and Keyfold has not issued an external id for it."""

    reason = "EXTERNAL_ID_NOT_ISSUED"


class SeatNotReservedError(StateError):
    """The key spec asks for a seat, and no seat is reserved for the owner and the region."""

    reason = "SEAT_NOT_RESERVED"


class SeatsExhaustedError(StateError):
    """No seat is free for the provider and region, or the owner has reserved as many as it may."""

    reason = "SEATS_EXHAUSTED"


class KeyHeldByAnotherError(StateError):
    """The key's account, project, vault or origin is another organization's (protocol C9)."""

    reason = "KEY_HELD_BY_ANOTHER"


class KeyElsewhereError(StateError):
    """The root key is not known to be in the cluster's region, as the server requires."""

    reason = "KEY_ELSEWHERE"


class WrongRegionError(StateError):
    """The replica that was called does not serve the region, or what needs every region."""

    reason = "WRONG_REGION"


class KeyVersionPinnedError(StateError):
    """A key whose uri names one version is to be rotated, or followed: it never has a newer one."""

    reason = "KEY_VERSION_PINNED"


class OrganizationNotEmptyError(StateError):
    """DeleteOrganization of one that has clusters, key links or holders."""

    reason = "ORGANIZATION_NOT_EMPTY"


class KeyLinkInUseError(StateError):
    """Regions use the key link, so it cannot be deleted or get another key."""

    reason = "KEY_LINK_IN_USE"


class KeyLinkMovingError(StateError):
    """An operation is moving the key link to another key, and nothing else may change it."""

    reason = "KEY_LINK_MOVING"


class KeyLinkMissingError(StateError):
    """A region is to use its organization's key link, and there is none for the region."""

    reason = "KEY_LINK_MISSING"


class KeyLinkAmbiguousError(StateError):
    """A region is to use its organization's key link, and there are several for the region."""

    reason = "KEY_LINK_AMBIGUOUS"


class KeyLinkElsewhereError(StateError):
    """The key link is for another region, or was not proven in this one."""

    reason = "KEY_LINK_ELSEWHERE"


class ClusterNameNotAllowedError(StateError):
    """The organization's cluster_patterns do not allow the name of the new cluster."""

    reason = "CLUSTER_NAME_NOT_ALLOWED"


class TooManyClustersError(StateError):
    """The organization has as many clusters as it may."""

    reason = "TOO_MANY_CLUSTERS"


class TooManyKeyLinksError(StateError):
    """The organization has as many key links as it may."""

    reason = "TOO_MANY_KEY_LINKS"


class TooManyHoldersError(StateError):
    """The organization has as many accounts, projects, vaults and origins as it may."""

    reason = "TOO_MANY_HOLDERS"


class OperationEndedError(StateError):
    """The operation has ended, so that nothing is left to cancel."""

    reason = "OPERATION_ENDED"


class OperationRunningError(StateError):
    """The operation has not ended, so that it cannot be deleted."""

    reason = "OPERATION_RUNNING"


class TooManyOperationsError(StateError):
    """As many operations have not ended as the caller, or all callers together, may have."""

    reason = "TOO_MANY_OPERATIONS"


class CursorExpiredError(StateError):
    """Nobody advanced the cursor for so long that pruning no longer waits for it."""

    reason = "CURSOR_EXPIRED"


class TooManyCursorsError(StateError):
    """There are as many cursors as the caller, or all callers together, may have."""

    reason = "TOO_MANY_CURSORS"


class ConcurrentChangeError(ConflictError):
    """The cluster changed while Keyfold carried out the request."""

    reason = "CONCURRENT_CHANGE"


class EtagMismatchError(ConflictError):
    """The organization or key link has changed since it had the etag of the request."""

    reason = "ETAG_MISMATCH"


class RequestInProgressError(ConflictError):
    """Keyfold is still carrying out a request with the same request_id."""

    reason = "REQUEST_IN_PROGRESS"


class CursorTakenError(ConflictError):
    """Another reader has taken the cursor over, so this one must not go on with it."""

    reason = "CURSOR_TAKEN"


class WatchTooSlowError(ConflictError):
    """The reader of a watch reads more slowly than events come."""

    reason = "WATCH_TOO_SLOW"


class AccessDeniedError(RefusedError):
    """The KMS does not let Keyfold use the key."""

    reason = "ACCESS_DENIED"


class KeyDisabledError(RefusedError):
    """The key, or the version that the call needs, is disabled."""

    reason = "KEY_DISABLED"


class KeyPendingDeletionError(RefusedError):
    """The key is scheduled for deletion."""

    reason = "KEY_PENDING_DELETION"


class KeyNotFoundError(RefusedError):
    """The KMS has no such key."""

    reason = "KEY_NOT_FOUND"


class KeyInvalidError(RefusedError):
    """The key exists, but its purpose, algorithm or material does not allow this use."""

    reason = "KEY_INVALID"


class UnreachableError(CouldNotTellError):
    """Keyfold could not reach the KMS, or the KMS failed."""

    reason = "UNREACHABLE"


class CredentialsFailedError(CouldNotTellError):
    """The KMS did not accept Keyfold's own credential."""

    reason = "CREDENTIALS_FAILED"


class ThrottledError(CouldNotTellError):
    """The KMS asks Keyfold to slow down."""

    reason = "THROTTLED"


class KekMismatchError(KmsError):
    """The KMS did not open the stored KEK, or opened it to something that was not wrapped."""

    reason = "KEK_MISMATCH"


class OverloadedError(LimitError):
    """As many calls are waiting as Keyfold will hold."""

    reason = "OVERLOADED"


class RateLimitedError(LimitError):
    """Calls of a caller or organization, or to a KMS, come faster than the server allows."""

    reason = "RATE_LIMITED"


class RowNotAuthenticError(KeyfoldError):
    """A row of the store lacks a valid seal of the service key: something else wrote it."""

    reason = "ROW_NOT_AUTHENTIC"


class StoreUnavailableError(UnavailableError):
    """The store did not answer, or could not be written."""

    reason = "STORE_UNAVAILABLE"


class StoreStaleError(UnavailableError):
    """The replica has not reached the store for so long that it must not use keys."""

    reason = "STORE_STALE"


class StoreRolledBackError(UnavailableError):
    """The store lacks a change that the replica has seen: it was rolled back or replaced."""

    reason = "STORE_ROLLED_BACK"


class IssuerUnreachableError(UnavailableError):
    """The server cannot check tokens, because it cannot fetch their issuer's current keys."""

    reason = "ISSUER_UNREACHABLE"


class BusyError(UnavailableError):
    """The cluster's keys kept changing under the call."""

    reason = "BUSY"


class DrainingError(UnavailableError):
    """The replica is stopping, so it ends its watches."""

    reason = "DRAINING"


BY_REASON: Final[Mapping[str, type[KeyfoldError]]] = {
    error.reason: error
    for error in (
        DeadlineError,
        MalformedRequestError,
        InvalidNameError,
        InvalidPlaintextError,
        InvalidContextError,
        InvalidSizeError,
        InvalidPolicyError,
        InvalidRequestIdError,
        InvalidPageError,
        InvalidBatchError,
        InvalidKeySpecError,
        UnknownProviderError,
        KeySpecMissingError,
        DuplicateRegionError,
        TooManyRegionsError,
        RegionMismatchError,
        UnknownGeoError,
        OrganizationMismatchError,
        InvalidOrganizationError,
        InvalidKeyLinkError,
        InvalidUpdateMaskError,
        InvalidOperationError,
        InvalidReasonError,
        InvalidRecheckError,
        InvalidSelectorError,
        InvalidWaitingPeriodError,
        RegionsNotChosenError,
        RequestIdReusedError,
        NotAWrappedKeyError,
        UnsupportedWrappedKeyError,
        UnknownKekError,
        WrongClusterError,
        WrappedKeyCorruptError,
        ContextMismatchError,
        ResumeTokenInvalidError,
        ResumeTokenExpiredError,
        CallerUnknownError,
        CallerCredentialError,
        NotAllowedError,
        KeyNotGrantedError,
        ContextNotGrantedError,
        ClusterNotFoundError,
        RegionNotFoundError,
        KeyNotUsedError,
        GenerationNotFoundError,
        OrganizationNotFoundError,
        KeyLinkNotFoundError,
        OperationNotFoundError,
        CursorNotFoundError,
        ClusterExistsError,
        RegionExistsError,
        OrganizationExistsError,
        KeyLinkExistsError,
        OperationExistsError,
        RevokedError,
        ClusterRevokedError,
        ClusterBannedError,
        KeyDeletedError,
        NotRevokedError,
        NotDeletedError,
        GenerationRetiredError,
        GenerationInUseError,
        ExternalIdNotIssuedError,
        SeatNotReservedError,
        SeatsExhaustedError,
        KeyHeldByAnotherError,
        KeyElsewhereError,
        WrongRegionError,
        KeyVersionPinnedError,
        OrganizationNotEmptyError,
        KeyLinkInUseError,
        KeyLinkMovingError,
        KeyLinkMissingError,
        KeyLinkAmbiguousError,
        KeyLinkElsewhereError,
        ClusterNameNotAllowedError,
        TooManyClustersError,
        TooManyKeyLinksError,
        TooManyHoldersError,
        OperationEndedError,
        OperationRunningError,
        TooManyOperationsError,
        CursorExpiredError,
        TooManyCursorsError,
        ConcurrentChangeError,
        EtagMismatchError,
        RequestInProgressError,
        CursorTakenError,
        WatchTooSlowError,
        AccessDeniedError,
        KeyDisabledError,
        KeyPendingDeletionError,
        KeyNotFoundError,
        KeyInvalidError,
        UnreachableError,
        CredentialsFailedError,
        ThrottledError,
        KekMismatchError,
        OverloadedError,
        RateLimitedError,
        RowNotAuthenticError,
        StoreUnavailableError,
        StoreStaleError,
        StoreRolledBackError,
        IssuerUnreachableError,
        BusyError,
        DrainingError,
    )
}
"""The class of each reason that this client knows."""
