package keyfold

import "google.golang.org/grpc/codes"

// Kind is a kind of failure: a branch of the tree of errors, whose leaves are the reasons. It is the
// target of errors.Is:
//
//	if errors.Is(err, keyfold.ErrRefused) { … }
//
// Keyfold never mixes "refused" and "could not tell": the first is the customer's decision, the second
// an outage that passes.
type Kind string

const (
	// ErrInvalidInput says that the request is wrong as it stands, and that Keyfold changed nothing.
	ErrInvalidInput Kind = "the request is wrong"
	// ErrNotFound says that what the request names does not exist, or that the caller may not see it.
	ErrNotFound Kind = "not found"
	// ErrAlreadyExists says that the thing exists, and differs from what the request describes.
	ErrAlreadyExists Kind = "it exists already"
	// ErrState says that the state of the cluster or region forbids the call.
	ErrState Kind = "the state forbids the call"
	// ErrConflict says that another change came first, and that nothing was changed.
	ErrConflict Kind = "another change came first"
	// ErrKMS says that the customer's KMS, or the way to it, failed. It includes ErrRefused and
	// ErrCouldNotTell.
	ErrKMS Kind = "the customer's KMS failed"
	// ErrRefused says that the KMS answered no: the customer has taken the key away, or it cannot be
	// used.
	ErrRefused Kind = "the customer's KMS refused"
	// ErrCouldNotTell says that the KMS gave no answer that counts, which says nothing about the
	// customer's will.
	ErrCouldNotTell Kind = "the customer's KMS gave no answer"
	// ErrLimit says that there were too many calls, or that a message was too large.
	ErrLimit Kind = "over a limit"
	// ErrRowNotAuthentic says that somebody else wrote into the server's store.
	ErrRowNotAuthentic Kind = "a stored row is not authentic"
	// ErrUnavailable says that Keyfold cannot answer now, or that the client could not reach it.
	ErrUnavailable Kind = "Keyfold is unavailable"
	// ErrDeadline says that no answer came within the deadline. A change may or may not have been made.
	ErrDeadline Kind = "no answer within the deadline"
	// ErrForbidden says that the server's policy does not let this caller do that.
	ErrForbidden Kind = "the policy forbids the call"
	// ErrUnauthenticated says that the server does not know who is calling.
	ErrUnauthenticated Kind = "the server does not know the caller"
	// ErrUnimplemented says that the server does not have this method: it is older than the client, or
	// something else.
	ErrUnimplemented Kind = "the server does not have this method"
	// ErrCancelled says that the caller, or a server that was stopping, cancelled the call.
	ErrCancelled Kind = "the call was cancelled"
	// ErrClosed says that the client was closed before the call, or during it.
	ErrClosed Kind = "the client is closed"
	// ErrInternal says that the server met a fault; the message names the incident.
	ErrInternal Kind = "a fault in the server"
	// ErrUnknown is the kind of an error that this client cannot place.
	ErrUnknown Kind = "an unknown error"
)

// Error returns what the kind means.
func (k Kind) Error() string { return string(k) }

// The reasons that the client finds itself, before it sends anything.
const (
	// ReasonArgumentValue: nothing can be done with a value that the client was given.
	ReasonArgumentValue Reason = "ARGUMENT_VALUE"
	// ReasonFileUnreadable: the file of a token, certificate or key cannot be read.
	ReasonFileUnreadable Reason = "FILE_UNREADABLE"
	// ReasonCallerSourceFailed: the program's own function for Token failed; the cause says how.
	ReasonCallerSourceFailed Reason = "CALLER_SOURCE_FAILED"
	// ReasonClosed: the client was closed before the call, or during it.
	ReasonClosed Reason = "CLOSED"
	// ReasonDataTooLarge: the data is too large for one message. Divide it.
	ReasonDataTooLarge Reason = "DATA_TOO_LARGE"
	// ReasonNotAMessage: the bytes are not a message: they were cut, or are still in a text encoding.
	ReasonNotAMessage Reason = "NOT_A_MESSAGE"
	// ReasonUnsupportedMessage: the message has a version or suite that this release does not know.
	ReasonUnsupportedMessage Reason = "UNSUPPORTED_MESSAGE"
	// ReasonMessageContextMismatch: the message does not have the pairs that the caller demands.
	ReasonMessageContextMismatch Reason = "MESSAGE_CONTEXT_MISMATCH"
	// ReasonMessageCorrupt: the message was changed after it was sealed, or was sealed for another
	// cluster.
	ReasonMessageCorrupt Reason = "MESSAGE_CORRUPT"
)

// kindOf returns the kind of an error.
func kindOf(reason Reason, code codes.Code, source string) Kind {
	switch reason {
	case ReasonArgumentValue, ReasonFileUnreadable, ReasonDataTooLarge, ReasonNotAMessage,
		ReasonUnsupportedMessage, ReasonMessageContextMismatch, ReasonMessageCorrupt:
		return ErrInvalidInput
	case ReasonCallerSourceFailed:
		return ErrUnauthenticated
	case ReasonClosed:
		return ErrClosed
	}
	if kind := kindOfReason(reason); kind != ErrUnknown {
		return kind
	}
	return kindOfCode(code, source)
}

// includes reports whether an error of another kind is one of this kind, too.
func (k Kind) includes(other Kind) bool {
	return k == other || k == ErrKMS && (other == ErrRefused || other == ErrCouldNotTell)
}

// kindOfCode returns the kind of an error whose reason this client does not know.
func kindOfCode(code codes.Code, source string) Kind {
	if source == sourceKMS {
		switch code {
		case codes.FailedPrecondition:
			return ErrRefused
		case codes.ResourceExhausted, codes.Unavailable:
			return ErrCouldNotTell
		case codes.DataLoss:
			return ErrKMS
		}
	}
	switch code {
	case codes.Aborted:
		return ErrConflict
	case codes.AlreadyExists:
		return ErrAlreadyExists
	case codes.Canceled:
		return ErrCancelled
	case codes.DeadlineExceeded:
		return ErrDeadline
	case codes.FailedPrecondition:
		return ErrState
	case codes.Internal:
		return ErrInternal
	case codes.InvalidArgument, codes.OutOfRange:
		return ErrInvalidInput
	case codes.NotFound:
		return ErrNotFound
	case codes.PermissionDenied:
		return ErrForbidden
	case codes.ResourceExhausted:
		return ErrLimit
	case codes.Unauthenticated:
		return ErrUnauthenticated
	case codes.Unavailable:
		return ErrUnavailable
	case codes.Unimplemented:
		return ErrUnimplemented
	}
	return ErrUnknown
}
