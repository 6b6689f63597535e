// Code generated from server/keyfold_server/domain/errors.py by `make client`. DO NOT EDIT.

package keyfold

// The reasons that the server sends.
const (
	// ReasonMalformedRequest: The request's bytes are not a message that this method takes.
	ReasonMalformedRequest Reason = "MALFORMED_REQUEST"
	// ReasonInvalidName: A cluster's, region's or organization's name is empty, too long or has bad
	// characters.
	ReasonInvalidName Reason = "INVALID_NAME"
	// ReasonInvalidPlaintext: The key to wrap is empty or larger than 4,096 bytes.
	ReasonInvalidPlaintext Reason = "INVALID_PLAINTEXT"
	// ReasonInvalidContext: The context has more than 16 pairs, more than 4 KiB, or an empty key.
	ReasonInvalidContext Reason = "INVALID_CONTEXT"
	// ReasonInvalidSize: The requested size of the data key is not 16, 24, 32 or 64 bytes.
	ReasonInvalidSize Reason = "INVALID_SIZE"
	// ReasonInvalidPolicy: A duration in a region's policy is out of bounds.
	ReasonInvalidPolicy Reason = "INVALID_POLICY"
	// ReasonInvalidRequestID: A request_id is longer than 128 characters or not printable ASCII.
	ReasonInvalidRequestID Reason = "INVALID_REQUEST_ID"
	// ReasonInvalidPage: The page_token did not come from this server, or the page_size is below zero.
	ReasonInvalidPage Reason = "INVALID_PAGE"
	// ReasonInvalidBatch: The batch is empty, or has more than 1,000 items or 4 MiB, or an item more
	// than 256 KiB.
	ReasonInvalidBatch Reason = "INVALID_BATCH"
	// ReasonInvalidKeySpec: A key spec is empty, or its uri, principal or options are not valid for its
	// provider.
	ReasonInvalidKeySpec Reason = "INVALID_KEY_SPEC"
	// ReasonUnknownProvider: The server has no provider of that type.
	ReasonUnknownProvider Reason = "UNKNOWN_PROVIDER"
	// ReasonKeySpecMissing: A region of the request has no key spec, or the request names no region.
	ReasonKeySpecMissing Reason = "KEY_SPEC_MISSING"
	// ReasonDuplicateRegion: A region is named twice in one request.
	ReasonDuplicateRegion Reason = "DUPLICATE_REGION"
	// ReasonTooManyRegions: The cluster would have more than 64 regions.
	ReasonTooManyRegions Reason = "TOO_MANY_REGIONS"
	// ReasonRegionMismatch: A region spec is for a region that the request's own list of regions does
	// not name.
	//
	// AddRegions counts the regions that the cluster has declared as named.
	ReasonRegionMismatch Reason = "REGION_MISMATCH"
	// ReasonUnknownGeo: The server's settings have no geo of this name.
	ReasonUnknownGeo Reason = "UNKNOWN_GEO"
	// ReasonOrganizationMismatch: The cluster belongs to a different organization than the request
	// says.
	ReasonOrganizationMismatch Reason = "ORGANIZATION_MISMATCH"
	// ReasonInvalidOrganization: A value of an organization is out of bounds, or one of its patterns
	// narrows nothing.
	ReasonInvalidOrganization Reason = "INVALID_ORGANIZATION"
	// ReasonInvalidKeyLink: A key link has no place or two, a key that no link can have, or a value out
	// of bounds.
	ReasonInvalidKeyLink Reason = "INVALID_KEY_LINK"
	// ReasonInvalidUpdateMask: The update_mask names a field that cannot be changed, or the request
	// changes nothing.
	ReasonInvalidUpdateMask Reason = "INVALID_UPDATE_MASK"
	// ReasonInvalidOperation: The name, the scope or the action of an operation cannot be right.
	ReasonInvalidOperation Reason = "INVALID_OPERATION"
	// ReasonInvalidReason: A reason for the audit trail is longer than 1,024 characters, or not one
	// line of text.
	ReasonInvalidReason Reason = "INVALID_REASON"
	// ReasonInvalidRecheck: Recheck names both a cluster and a root key, or neither.
	ReasonInvalidRecheck Reason = "INVALID_RECHECK"
	// ReasonInvalidSelector: A selector of root keys is empty, contradicts itself, or has a version and
	// no key.
	ReasonInvalidSelector Reason = "INVALID_SELECTOR"
	// ReasonInvalidWaitingPeriod: A waiting period outside of its bounds, or one that is not a span of
	// time.
	ReasonInvalidWaitingPeriod Reason = "INVALID_WAITING_PERIOD"
	// ReasonRegionsNotChosen: DeleteCluster names no regions and does not say all_regions, or it does
	// both.
	ReasonRegionsNotChosen Reason = "REGIONS_NOT_CHOSEN"
	// ReasonRequestIDReused: The caller sent the same request_id before, with a different request.
	ReasonRequestIDReused Reason = "REQUEST_ID_REUSED"
	// ReasonNotAWrappedKey: The bytes are not a wrapped key of Keyfold: they are empty, too short or
	// too long.
	ReasonNotAWrappedKey Reason = "NOT_A_WRAPPED_KEY"
	// ReasonUnsupportedWrappedKey: The server's release does not know the format version or suite of
	// the wrapped key.
	ReasonUnsupportedWrappedKey Reason = "UNSUPPORTED_WRAPPED_KEY"
	// ReasonUnknownKEK: The cluster has no key encryption key (KEK) of the id that the wrapped key
	// names.
	ReasonUnknownKEK Reason = "UNKNOWN_KEK"
	// ReasonWrongCluster: The wrapped key belongs to another cluster, which the caller may see.
	ReasonWrongCluster Reason = "WRONG_CLUSTER"
	// ReasonWrappedKeyCorrupt: The wrapped key was changed after it was made: its key commitment does
	// not match.
	ReasonWrappedKeyCorrupt Reason = "WRAPPED_KEY_CORRUPT"
	// ReasonContextMismatch: The context differs from the one of the Wrap call, or the wrapped key was
	// changed.
	ReasonContextMismatch Reason = "CONTEXT_MISMATCH"
	// ReasonResumeTokenInvalid: A resume token that this store did not give out for what the request
	// asks for.
	ReasonResumeTokenInvalid Reason = "RESUME_TOKEN_INVALID"
	// ReasonResumeTokenExpired: A resume token whose place in the log has been pruned.
	ReasonResumeTokenExpired Reason = "RESUME_TOKEN_EXPIRED"
	// ReasonCallerUnknown: The call carries no credential, neither a client certificate nor a token.
	ReasonCallerUnknown Reason = "CALLER_UNKNOWN"
	// ReasonCallerCredentialInvalid: The server does not accept the certificate or token that the call
	// carries.
	ReasonCallerCredentialInvalid Reason = "CALLER_CREDENTIAL_INVALID"
	// ReasonNotAllowed: No grant in the server's policy gives the caller a role for this call.
	ReasonNotAllowed Reason = "NOT_ALLOWED"
	// ReasonKeyNotGranted: The policy does not let the caller use this root key, as this principal, for
	// this cluster.
	ReasonKeyNotGranted Reason = "KEY_NOT_GRANTED"
	// ReasonContextNotGranted: The caller's grants allow these keys only with certain context entries.
	ReasonContextNotGranted Reason = "CONTEXT_NOT_GRANTED"
	// ReasonClusterNotFound: The cluster does not exist, or the caller may not see it.
	ReasonClusterNotFound Reason = "CLUSTER_NOT_FOUND"
	// ReasonRegionNotFound: The cluster has no such region, or the caller may not see it.
	ReasonRegionNotFound Reason = "REGION_NOT_FOUND"
	// ReasonKeyNotUsed: No enabled region that the caller may recheck uses a root key of the uri.
	ReasonKeyNotUsed Reason = "KEY_NOT_USED"
	// ReasonGenerationNotFound: The region has no such generation.
	ReasonGenerationNotFound Reason = "GENERATION_NOT_FOUND"
	// ReasonOrganizationNotFound: The organization does not exist, or the caller may not see it.
	ReasonOrganizationNotFound Reason = "ORGANIZATION_NOT_FOUND"
	// ReasonKeyLinkNotFound: The organization has no key link of this name, or the caller may not see
	// it.
	ReasonKeyLinkNotFound Reason = "KEY_LINK_NOT_FOUND"
	// ReasonOperationNotFound: There is no operation of this name, or the caller may not see it.
	ReasonOperationNotFound Reason = "OPERATION_NOT_FOUND"
	// ReasonCursorNotFound: The caller has no cursor of this name.
	ReasonCursorNotFound Reason = "CURSOR_NOT_FOUND"
	// ReasonClusterExists: Enable of a cluster that exists with different region specs.
	ReasonClusterExists Reason = "CLUSTER_EXISTS"
	// ReasonRegionExists: AddRegions of a region that exists with a different key spec.
	ReasonRegionExists Reason = "REGION_EXISTS"
	// ReasonOrganizationExists: CreateOrganization of one that was made before, with other settings.
	ReasonOrganizationExists Reason = "ORGANIZATION_EXISTS"
	// ReasonKeyLinkExists: The organization has a link of this name, or one of this provider for this
	// region.
	ReasonKeyLinkExists Reason = "KEY_LINK_EXISTS"
	// ReasonOperationExists: The caller has an operation of this name already, with another scope or
	// action.
	ReasonOperationExists Reason = "OPERATION_EXISTS"
	// ReasonRevoked: The region's key is revoked.
	ReasonRevoked Reason = "REVOKED"
	// ReasonClusterRevoked: AddRegions to a cluster of which every region is revoked.
	ReasonClusterRevoked Reason = "CLUSTER_REVOKED"
	// ReasonClusterBanned: The cluster was revoked while its rows in the store were not authentic, or
	// were gone.
	ReasonClusterBanned Reason = "CLUSTER_BANNED"
	// ReasonKeyDeleted: The region's key is deleted, and Keyfold erases it after its purge time.
	ReasonKeyDeleted Reason = "KEY_DELETED"
	// ReasonNotRevoked: DeleteCluster of a region whose key is in use.
	ReasonNotRevoked Reason = "NOT_REVOKED"
	// ReasonNotDeleted: UndeleteCluster of a region whose key is in use.
	ReasonNotDeleted Reason = "NOT_DELETED"
	// ReasonGenerationRetired: The generation that wrapped the key was taken out of use with
	// RetireGeneration.
	ReasonGenerationRetired Reason = "GENERATION_RETIRED"
	// ReasonGenerationInUse: RetireGeneration of the newest generation, which new wrapped keys need.
	ReasonGenerationInUse Reason = "GENERATION_IN_USE"
	// ReasonExternalIDNotIssued: The key spec names an AWS role, and Keyfold has not issued an external
	// id for it.
	ReasonExternalIDNotIssued Reason = "EXTERNAL_ID_NOT_ISSUED"
	// ReasonSeatNotReserved: The key spec asks for a seat, and no seat is reserved for the owner and
	// the region.
	ReasonSeatNotReserved Reason = "SEAT_NOT_RESERVED"
	// ReasonSeatsExhausted: No seat is free for the provider and region, or the owner has reserved as
	// many as it may.
	ReasonSeatsExhausted Reason = "SEATS_EXHAUSTED"
	// ReasonKeyHeldByAnother: The key's account, project, vault or origin is another organization's
	// (protocol C9).
	ReasonKeyHeldByAnother Reason = "KEY_HELD_BY_ANOTHER"
	// ReasonKeyElsewhere: The root key is not known to be in the cluster's region, as the server
	// requires.
	ReasonKeyElsewhere Reason = "KEY_ELSEWHERE"
	// ReasonWrongRegion: The replica that was called does not serve the region, or what needs every
	// region.
	ReasonWrongRegion Reason = "WRONG_REGION"
	// ReasonKeyVersionPinned: A key whose uri names one version is to be rotated, or followed: it never
	// has a newer one.
	ReasonKeyVersionPinned Reason = "KEY_VERSION_PINNED"
	// ReasonOrganizationNotEmpty: DeleteOrganization of one that has clusters, key links or holders.
	ReasonOrganizationNotEmpty Reason = "ORGANIZATION_NOT_EMPTY"
	// ReasonKeyLinkInUse: Regions use the key link, so it cannot be deleted or get another key.
	ReasonKeyLinkInUse Reason = "KEY_LINK_IN_USE"
	// ReasonKeyLinkMoving: An operation is moving the key link to another key, and nothing else may
	// change it.
	ReasonKeyLinkMoving Reason = "KEY_LINK_MOVING"
	// ReasonKeyLinkMissing: A region is to use its organization's key link, and there is none for the
	// region.
	ReasonKeyLinkMissing Reason = "KEY_LINK_MISSING"
	// ReasonKeyLinkAmbiguous: A region is to use its organization's key link, and there are several for
	// the region.
	ReasonKeyLinkAmbiguous Reason = "KEY_LINK_AMBIGUOUS"
	// ReasonKeyLinkElsewhere: The key link is for another region, or was not proven in this one.
	ReasonKeyLinkElsewhere Reason = "KEY_LINK_ELSEWHERE"
	// ReasonClusterNameNotAllowed: The organization's cluster_patterns do not allow the name of the new
	// cluster.
	ReasonClusterNameNotAllowed Reason = "CLUSTER_NAME_NOT_ALLOWED"
	// ReasonTooManyClusters: The organization has as many clusters as it may.
	ReasonTooManyClusters Reason = "TOO_MANY_CLUSTERS"
	// ReasonTooManyKeyLinks: The organization has as many key links as it may.
	ReasonTooManyKeyLinks Reason = "TOO_MANY_KEY_LINKS"
	// ReasonTooManyHolders: The organization has as many accounts, projects, vaults and origins as it
	// may.
	ReasonTooManyHolders Reason = "TOO_MANY_HOLDERS"
	// ReasonOperationEnded: The operation has ended, so that nothing is left to cancel.
	ReasonOperationEnded Reason = "OPERATION_ENDED"
	// ReasonOperationRunning: The operation has not ended, so that it cannot be deleted.
	ReasonOperationRunning Reason = "OPERATION_RUNNING"
	// ReasonTooManyOperations: As many operations have not ended as the caller, or all callers
	// together, may have.
	ReasonTooManyOperations Reason = "TOO_MANY_OPERATIONS"
	// ReasonCursorExpired: Nobody advanced the cursor for so long that pruning no longer waits for it.
	ReasonCursorExpired Reason = "CURSOR_EXPIRED"
	// ReasonTooManyCursors: There are as many cursors as the caller, or all callers together, may have.
	ReasonTooManyCursors Reason = "TOO_MANY_CURSORS"
	// ReasonConcurrentChange: The cluster changed while Keyfold carried out the request.
	ReasonConcurrentChange Reason = "CONCURRENT_CHANGE"
	// ReasonEtagMismatch: The organization or key link has changed since it had the etag of the
	// request.
	ReasonEtagMismatch Reason = "ETAG_MISMATCH"
	// ReasonRequestInProgress: Keyfold is still carrying out a request with the same request_id.
	ReasonRequestInProgress Reason = "REQUEST_IN_PROGRESS"
	// ReasonCursorTaken: Another reader has taken the cursor over, so this one must not go on with it.
	ReasonCursorTaken Reason = "CURSOR_TAKEN"
	// ReasonWatchTooSlow: The reader of a watch reads more slowly than events come.
	ReasonWatchTooSlow Reason = "WATCH_TOO_SLOW"
	// ReasonAccessDenied: The KMS does not let Keyfold use the key.
	ReasonAccessDenied Reason = "ACCESS_DENIED"
	// ReasonKeyDisabled: The key, or the version that the call needs, is disabled.
	ReasonKeyDisabled Reason = "KEY_DISABLED"
	// ReasonKeyPendingDeletion: The key is scheduled for deletion.
	ReasonKeyPendingDeletion Reason = "KEY_PENDING_DELETION"
	// ReasonKeyNotFound: The KMS has no such key.
	ReasonKeyNotFound Reason = "KEY_NOT_FOUND"
	// ReasonKeyInvalid: The key exists, but its purpose, algorithm or material does not allow this use.
	ReasonKeyInvalid Reason = "KEY_INVALID"
	// ReasonUnreachable: Keyfold could not reach the KMS, or the KMS failed.
	ReasonUnreachable Reason = "UNREACHABLE"
	// ReasonCredentialsFailed: The KMS did not accept Keyfold's own credential.
	ReasonCredentialsFailed Reason = "CREDENTIALS_FAILED"
	// ReasonThrottled: The KMS asks Keyfold to slow down.
	ReasonThrottled Reason = "THROTTLED"
	// ReasonKEKMismatch: The KMS did not open the stored KEK, or opened it to something that was not
	// wrapped.
	ReasonKEKMismatch Reason = "KEK_MISMATCH"
	// ReasonOverloaded: As many calls are waiting as Keyfold will hold.
	ReasonOverloaded Reason = "OVERLOADED"
	// ReasonRateLimited: Calls of a caller or organization, or to a KMS, come faster than the server
	// allows.
	ReasonRateLimited Reason = "RATE_LIMITED"
	// ReasonRowNotAuthentic: A row of the store lacks a valid seal of the service key: something else
	// wrote it.
	ReasonRowNotAuthentic Reason = "ROW_NOT_AUTHENTIC"
	// ReasonStoreUnavailable: The store did not answer, or could not be written.
	ReasonStoreUnavailable Reason = "STORE_UNAVAILABLE"
	// ReasonStoreStale: The replica has not reached the store for so long that it must not use keys.
	ReasonStoreStale Reason = "STORE_STALE"
	// ReasonStoreRolledBack: The store lacks a change that the replica has seen: it was rolled back or
	// replaced.
	ReasonStoreRolledBack Reason = "STORE_ROLLED_BACK"
	// ReasonIssuerUnreachable: The server cannot check tokens, because it cannot fetch their issuer's
	// current keys.
	ReasonIssuerUnreachable Reason = "ISSUER_UNREACHABLE"
	// ReasonBusy: The cluster's keys kept changing under the call.
	ReasonBusy Reason = "BUSY"
	// ReasonDraining: The replica is stopping, so it ends its watches.
	ReasonDraining Reason = "DRAINING"
	// ReasonDeadlineExceeded: The caller's deadline passed, or was too close, before Keyfold had the
	// answer.
	ReasonDeadlineExceeded Reason = "DEADLINE_EXCEEDED"
)

// kindOfReason returns the kind of a reason, or ErrUnknown if the client does not know the reason.
func kindOfReason(reason Reason) Kind {
	switch reason {
	case ReasonMalformedRequest,
		ReasonInvalidName,
		ReasonInvalidPlaintext,
		ReasonInvalidContext,
		ReasonInvalidSize,
		ReasonInvalidPolicy,
		ReasonInvalidRequestID,
		ReasonInvalidPage,
		ReasonInvalidBatch,
		ReasonInvalidKeySpec,
		ReasonUnknownProvider,
		ReasonKeySpecMissing,
		ReasonDuplicateRegion,
		ReasonTooManyRegions,
		ReasonRegionMismatch,
		ReasonUnknownGeo,
		ReasonOrganizationMismatch,
		ReasonInvalidOrganization,
		ReasonInvalidKeyLink,
		ReasonInvalidUpdateMask,
		ReasonInvalidOperation,
		ReasonInvalidReason,
		ReasonInvalidRecheck,
		ReasonInvalidSelector,
		ReasonInvalidWaitingPeriod,
		ReasonRegionsNotChosen,
		ReasonRequestIDReused,
		ReasonNotAWrappedKey,
		ReasonUnsupportedWrappedKey,
		ReasonUnknownKEK,
		ReasonWrongCluster,
		ReasonWrappedKeyCorrupt,
		ReasonContextMismatch,
		ReasonResumeTokenInvalid,
		ReasonResumeTokenExpired:
		return ErrInvalidInput
	case ReasonCallerUnknown,
		ReasonCallerCredentialInvalid:
		return ErrUnauthenticated
	case ReasonNotAllowed,
		ReasonKeyNotGranted,
		ReasonContextNotGranted:
		return ErrForbidden
	case ReasonClusterNotFound,
		ReasonRegionNotFound,
		ReasonKeyNotUsed,
		ReasonGenerationNotFound,
		ReasonOrganizationNotFound,
		ReasonKeyLinkNotFound,
		ReasonOperationNotFound,
		ReasonCursorNotFound:
		return ErrNotFound
	case ReasonClusterExists,
		ReasonRegionExists,
		ReasonOrganizationExists,
		ReasonKeyLinkExists,
		ReasonOperationExists:
		return ErrAlreadyExists
	case ReasonRevoked,
		ReasonClusterRevoked,
		ReasonClusterBanned,
		ReasonKeyDeleted,
		ReasonNotRevoked,
		ReasonNotDeleted,
		ReasonGenerationRetired,
		ReasonGenerationInUse,
		ReasonExternalIDNotIssued,
		ReasonSeatNotReserved,
		ReasonSeatsExhausted,
		ReasonKeyHeldByAnother,
		ReasonKeyElsewhere,
		ReasonWrongRegion,
		ReasonKeyVersionPinned,
		ReasonOrganizationNotEmpty,
		ReasonKeyLinkInUse,
		ReasonKeyLinkMoving,
		ReasonKeyLinkMissing,
		ReasonKeyLinkAmbiguous,
		ReasonKeyLinkElsewhere,
		ReasonClusterNameNotAllowed,
		ReasonTooManyClusters,
		ReasonTooManyKeyLinks,
		ReasonTooManyHolders,
		ReasonOperationEnded,
		ReasonOperationRunning,
		ReasonTooManyOperations,
		ReasonCursorExpired,
		ReasonTooManyCursors:
		return ErrState
	case ReasonConcurrentChange,
		ReasonEtagMismatch,
		ReasonRequestInProgress,
		ReasonCursorTaken,
		ReasonWatchTooSlow:
		return ErrConflict
	case ReasonAccessDenied,
		ReasonKeyDisabled,
		ReasonKeyPendingDeletion,
		ReasonKeyNotFound,
		ReasonKeyInvalid:
		return ErrRefused
	case ReasonUnreachable,
		ReasonCredentialsFailed,
		ReasonThrottled:
		return ErrCouldNotTell
	case ReasonKEKMismatch:
		return ErrKMS
	case ReasonOverloaded,
		ReasonRateLimited:
		return ErrLimit
	case ReasonRowNotAuthentic:
		return ErrRowNotAuthentic
	case ReasonStoreUnavailable,
		ReasonStoreStale,
		ReasonStoreRolledBack,
		ReasonIssuerUnreachable,
		ReasonBusy,
		ReasonDraining:
		return ErrUnavailable
	case ReasonDeadlineExceeded:
		return ErrDeadline
	}
	return ErrUnknown
}
