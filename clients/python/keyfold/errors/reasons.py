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
    """The request's bytes are not the message that this method takes."""

    reason = "MALFORMED_REQUEST"


class InvalidNameError(InvalidInputError):
    """A cluster's, region's or organization's name is empty, too long or has odd characters."""

    reason = "INVALID_NAME"


class InvalidPlaintextError(InvalidInputError):
    """The key to wrap is empty or larger than 4,096 bytes."""

    reason = "INVALID_PLAINTEXT"


class InvalidContextError(InvalidInputError):
    """The context has more than 16 pairs, more than 4 KiB, or an empty key."""

    reason = "INVALID_CONTEXT"


class InvalidSizeError(InvalidInputError):
    """A data key of a size other than 16, 24, 32 or 64 bytes."""

    reason = "INVALID_SIZE"


class InvalidPolicyError(InvalidInputError):
    """A region policy's duration lies outside its bounds."""

    reason = "INVALID_POLICY"


class InvalidRequestIdError(InvalidInputError):
    """A request_id is longer than 128 characters or not printable ASCII."""

    reason = "INVALID_REQUEST_ID"


class InvalidPageError(InvalidInputError):
    """A page_token that the server did not give out, or a page_size below zero."""

    reason = "INVALID_PAGE"


class InvalidBatchError(InvalidInputError):
    """A batch of no items, of more than 1,000, or of more than 4 MiB in or out."""

    reason = "INVALID_BATCH"


class InvalidKeySpecError(InvalidInputError):
    """A key spec is empty, or its uri, principal or options do not fit its provider."""

    reason = "INVALID_KEY_SPEC"


class UnknownProviderError(InvalidInputError):
    """The server has no provider of that type."""

    reason = "UNKNOWN_PROVIDER"


class KeySpecMissingError(InvalidInputError):
    """A region of the request has no key spec, or no region was named."""

    reason = "KEY_SPEC_MISSING"


class DuplicateRegionError(InvalidInputError):
    """A region is named twice in one request."""

    reason = "DUPLICATE_REGION"


class TooManyRegionsError(InvalidInputError):
    """A cluster of more than 64 regions."""

    reason = "TOO_MANY_REGIONS"


class RegionMismatchError(InvalidInputError):
    """A region spec is for a region that the request's own list of regions does not name."""

    reason = "REGION_MISMATCH"


class OrganizationMismatchError(InvalidInputError):
    """The cluster belongs to another organization than the request says."""

    reason = "ORGANIZATION_MISMATCH"


class InvalidReasonError(InvalidInputError):
    """A reason for the audit trail is longer than 1,024 characters."""

    reason = "INVALID_REASON"


class RequestIdReusedError(InvalidInputError):
    """The same request_id came before with another request."""

    reason = "REQUEST_ID_REUSED"


class NotAWrappedKeyError(InvalidInputError):
    """The bytes are empty, too short or otherwise not a wrapped key of Keyfold."""

    reason = "NOT_A_WRAPPED_KEY"


class UnsupportedWrappedKeyError(InvalidInputError):
    """A wrapped key of a format version or suite that the server's release does not know."""

    reason = "UNSUPPORTED_WRAPPED_KEY"


class UnknownKekError(InvalidInputError):
    """No key encryption key of this cluster has the id that the wrapped key names."""

    reason = "UNKNOWN_KEK"


class WrongClusterError(InvalidInputError):
    """The wrapped key belongs to another cluster, which the caller may see."""

    reason = "WRONG_CLUSTER"


class WrappedKeyCorruptError(InvalidInputError):
    """The key commitment does not fit: the wrapped key was changed after it was made."""

    reason = "WRAPPED_KEY_CORRUPT"


class ContextMismatchError(InvalidInputError):
    """The authentication tag does not fit: another context, or a changed wrapped key."""

    reason = "CONTEXT_MISMATCH"


class CallerUnknownError(UnauthenticatedError):
    """The call carries no credential, neither a client certificate nor a token."""

    reason = "CALLER_UNKNOWN"


class CallerCredentialError(UnauthenticatedError):
    """The server does not accept the certificate or token that the call carries."""

    reason = "CALLER_CREDENTIAL_INVALID"


class NotAllowedError(ForbiddenError):
    """No grant of the server's policy gives the caller a role for this."""

    reason = "NOT_ALLOWED"


class KeyNotGrantedError(ForbiddenError):
    """The policy does not let the caller name this key, as this principal, for this cluster."""

    reason = "KEY_NOT_GRANTED"


class ContextNotGrantedError(ForbiddenError):
    """The caller may use these keys only with other context entries."""

    reason = "CONTEXT_NOT_GRANTED"


class ClusterNotFoundError(NotFoundError):
    """The cluster does not exist, or the caller may not see it."""

    reason = "CLUSTER_NOT_FOUND"


class RegionNotFoundError(NotFoundError):
    """The cluster has no such region, or the caller may not see it."""

    reason = "REGION_NOT_FOUND"


class GenerationNotFoundError(NotFoundError):
    """The region has no such generation."""

    reason = "GENERATION_NOT_FOUND"


class ClusterExistsError(AlreadyExistsError):
    """Enable of a cluster that is enabled with other region specs."""

    reason = "CLUSTER_EXISTS"


class RegionExistsError(AlreadyExistsError):
    """AddRegions of a region that has another key spec."""

    reason = "REGION_EXISTS"


class RevokedError(StateError):
    """The region's key is revoked."""

    reason = "REVOKED"


class GenerationRetiredError(StateError):
    """The wrapped key is under a generation that was taken out of use."""

    reason = "GENERATION_RETIRED"


class GenerationInUseError(StateError):
    """RetireGeneration of the newest generation, which wraps."""

    reason = "GENERATION_IN_USE"


class ExternalIdNotIssuedError(StateError):
    """An AWS role for which Keyfold has issued no external id (protocol C2)."""

    reason = "EXTERNAL_ID_NOT_ISSUED"


class KeyElsewhereError(StateError):
    """The root key is in another region than the cluster's, and the server demands residency."""

    reason = "KEY_ELSEWHERE"


class KeyVersionPinnedError(StateError):
    """Rotate of a key whose uri names one version: there is no newer one under that uri."""

    reason = "KEY_VERSION_PINNED"


class ConcurrentChangeError(ConflictError):
    """The cluster changed while the request was being carried out."""

    reason = "CONCURRENT_CHANGE"


class RequestInProgressError(ConflictError):
    """A request with the same request_id is still being carried out."""

    reason = "REQUEST_IN_PROGRESS"


class AccessDeniedError(RefusedError):
    """The KMS does not let Keyfold use the key."""

    reason = "ACCESS_DENIED"


class KeyDisabledError(RefusedError):
    """The key, or the version that is needed, is disabled."""

    reason = "KEY_DISABLED"


class KeyPendingDeletionError(RefusedError):
    """The key is scheduled for deletion."""

    reason = "KEY_PENDING_DELETION"


class KeyNotFoundError(RefusedError):
    """The KMS has no such key."""

    reason = "KEY_NOT_FOUND"


class KeyInvalidError(RefusedError):
    """The key exists but cannot be used for this: wrong purpose, algorithm or material."""

    reason = "KEY_INVALID"


class UnreachableError(CouldNotTellError):
    """The KMS could not be reached, or failed on its side."""

    reason = "UNREACHABLE"


class CredentialsFailedError(CouldNotTellError):
    """The KMS did not accept Keyfold's own credential."""

    reason = "CREDENTIALS_FAILED"


class ThrottledError(CouldNotTellError):
    """The KMS asks Keyfold to slow down."""

    reason = "THROTTLED"


class KekMismatchError(KmsError):
    """The KMS opened the stored KEK to something else than was wrapped, or not at all."""

    reason = "KEK_MISMATCH"


class OverloadedError(LimitError):
    """Keyfold has as many calls waiting as it will hold."""

    reason = "OVERLOADED"


class RateLimitedError(LimitError):
    """Calls of one caller, for one organization or to one root key come faster than they may."""

    reason = "RATE_LIMITED"


class RowNotAuthenticError(KeyfoldError):
    """A row of the store does not carry the service key's seal: somebody else wrote it."""

    reason = "ROW_NOT_AUTHENTIC"


class StoreUnavailableError(UnavailableError):
    """The store did not answer, or could not be written."""

    reason = "STORE_UNAVAILABLE"


class StoreStaleError(UnavailableError):
    """The replica has not seen the store for so long that it must not use keys."""

    reason = "STORE_STALE"


class StoreRolledBackError(UnavailableError):
    """The store lacks a change that the replica has seen: a rollback, or another database."""

    reason = "STORE_ROLLED_BACK"


class IssuerUnreachableError(UnavailableError):
    """The server cannot check tokens, because it cannot fetch their issuer's current keys."""

    reason = "ISSUER_UNREACHABLE"


class BusyError(UnavailableError):
    """The keys changed under the call again and again, or it could not be started."""

    reason = "BUSY"


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
        OrganizationMismatchError,
        InvalidReasonError,
        RequestIdReusedError,
        NotAWrappedKeyError,
        UnsupportedWrappedKeyError,
        UnknownKekError,
        WrongClusterError,
        WrappedKeyCorruptError,
        ContextMismatchError,
        CallerUnknownError,
        CallerCredentialError,
        NotAllowedError,
        KeyNotGrantedError,
        ContextNotGrantedError,
        ClusterNotFoundError,
        RegionNotFoundError,
        GenerationNotFoundError,
        ClusterExistsError,
        RegionExistsError,
        RevokedError,
        GenerationRetiredError,
        GenerationInUseError,
        ExternalIdNotIssuedError,
        KeyElsewhereError,
        KeyVersionPinnedError,
        ConcurrentChangeError,
        RequestInProgressError,
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
    )
}
"""The class of each reason that this client knows."""
