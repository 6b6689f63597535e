package keyfold

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	codepb "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// domain is the ErrorInfo.domain of Keyfold's reasons. A word of another domain means something else.
const domain = "keyfold"

// The sources of errors; see [Error.Source].
const (
	sourceKeyfold = "keyfold"
	sourceKMS     = "kms"
)

// Reason is the stable word of an error. No release renames one, and new ones may come. Where gRPC
// itself made the error, as for an address that nothing listens on, it is the name of the gRPC code.
type Reason string

// FieldViolation is one field of the request that is wrong.
type FieldViolation struct {
	// Field is the field's path, such as region_specs[1].key_spec.uri.
	Field string
	// Description is the fault, in one line.
	Description string
}

// Error is what every call that fails returns, and Open, too. It never holds key material or a token.
type Error struct {
	// Reason is a stable word; see [Reason].
	Reason Reason
	// Code is the gRPC code.
	Code codes.Code
	// Message is one line for people.
	Message string
	// Cluster is the cluster that the error concerns, or that the request named; it may be empty.
	Cluster string
	// Metadata has further facts from the server, such as provider_request_id and missing_permission.
	Metadata map[string]string
	// FieldViolations are the fields of the request that are wrong, for ErrInvalidInput.
	FieldViolations []FieldViolation
	// RetryAfter is how long to wait before trying again; zero if the server did not say.
	RetryAfter time.Duration
	// RequestID is the request_id of a change, and empty for other calls. If it is unknown whether the
	// change was made, sending it again with this id is safe.
	RequestID string

	status *statuspb.Status
	cause  error
}

// Error returns the message, the cluster where the message does not name it, and the reason.
func (e *Error) Error() string {
	if named := "cluster " + e.Cluster; e.Cluster != "" && !strings.Contains(e.Message, named) {
		return fmt.Sprintf("%s: %s (%s)", named, e.Message, e.Reason)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Reason)
}

// Kind returns the kind of failure that the reason belongs to.
func (e *Error) Kind() Kind {
	return kindOf(e.Reason, e.Code, e.Metadata["source"])
}

// Is reports whether target is the error's Kind, or a kind that includes it.
func (e *Error) Is(target error) bool {
	kind, ok := target.(Kind)
	return ok && kind.includes(e.Kind())
}

// Unwrap returns what made the call fail on this side, such as context.Canceled, or nil.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus returns the status as the server sent it, for programs that look at gRPC's codes.
func (e *Error) GRPCStatus() *status.Status { return status.FromProto(e.status) }

// Region returns the region that the error concerns, or "".
func (e *Error) Region() string { return e.Metadata["region"] }

// Source returns where the error comes from: "keyfold", or "kms" for the customer's KMS.
func (e *Error) Source() string {
	if source := e.Metadata["source"]; source != "" {
		return source
	}
	if ErrKMS.includes(e.Kind()) {
		return sourceKMS
	}
	return sourceKeyfold
}

// Retryable reports whether the same call may succeed later although nobody changes anything: Keyfold
// or the KMS could not be asked, there were too many calls, or another change was under way. A refusal
// is the customer's decision, so it is not retryable, even if RetryAfter says when Keyfold asks again.
func (e *Error) Retryable() bool {
	switch e.Kind() {
	case ErrUnavailable, ErrCouldNotTell, ErrDeadline:
		return true
	case ErrCancelled:
		return !errors.Is(e.cause, context.Canceled) // Else the caller does not want it.
	case ErrConflict:
		return e.Reason != ReasonEtagMismatch && e.Reason != ReasonCursorTaken
	case ErrLimit:
		return e.RetryAfter > 0
	}
	return false
}

// ErrorOf returns the error of a status that is part of an answer, as RestoreResponse has them, without
// the details that cannot be read.
func ErrorOf(told *statuspb.Status) *Error {
	failed := &Error{Code: codes.Code(told.GetCode()), Message: told.GetMessage(), status: told}
	for _, packed := range told.GetDetails() {
		detail, err := packed.UnmarshalNew()
		if err != nil {
			continue
		}
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == domain {
				failed.Reason = Reason(detail.GetReason())
				failed.Metadata = maps.Clone(detail.GetMetadata())
			}
		case *errdetails.BadRequest:
			for _, one := range detail.GetFieldViolations() {
				failed.FieldViolations = append(
					failed.FieldViolations, FieldViolation{one.GetField(), one.GetDescription()},
				)
			}
		case *errdetails.RetryInfo:
			failed.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	if failed.Reason == "" {
		failed.Reason = Reason(nameOf(failed.Code))
	}
	if failed.Message == "" {
		failed.Message = failed.Kind().Error()
	}
	failed.Cluster = failed.Metadata["cluster"]
	return failed
}

// errorOfCall returns the error of a failed call.
func errorOfCall(ctx context.Context, err error) *Error {
	var found *Error
	if errors.As(err, &found) {
		return found
	}
	told := status.FromContextError(err)
	// gRPC wraps the error of a call that it has repeated. The message is the one of the server.
	var own interface{ GRPCStatus() *status.Status }
	if errors.As(err, &own) {
		told = own.GRPCStatus()
	}
	failed := ErrorOf(told.Proto())
	switch {
	case failed.Code == codes.DeadlineExceeded:
		failed.cause = context.DeadlineExceeded
	case failed.Code == codes.Canceled && ctx.Err() != nil:
		failed.cause = context.Canceled
	}
	return failed
}

// unusable returns the error of a value that nothing can be done with.
func unusable(format string, arguments ...any) *Error {
	return local(ReasonArgumentValue, codes.InvalidArgument, nil, format, arguments...)
}

// local returns an error that the client finds itself.
func local(reason Reason, code codes.Code, cause error, format string, arguments ...any) *Error {
	message := fmt.Sprintf(format, arguments...)
	return &Error{
		Reason: reason, Code: code, Message: message, cause: cause,
		status: &statuspb.Status{Code: int32(code), Message: message},
	}
}

// textField returns a text field of a message, or "" if it has no such field.
func textField(message proto.Message, name protoreflect.Name) string {
	field := message.ProtoReflect().Descriptor().Fields().ByName(name)
	if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
		return ""
	}
	return message.ProtoReflect().Get(field).String()
}

// nameOf returns a code's name as the contract writes it, such as FAILED_PRECONDITION.
func nameOf(code codes.Code) string {
	if name, ok := codepb.Code_name[int32(code)]; ok {
		return name
	}
	return codepb.Code_UNKNOWN.String()
}
