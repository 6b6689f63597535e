package keyfold

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keyfoldv1 "keyfold/clients/go/v1"
)

// An error has what the server sent, and wrapping it hides nothing.
func TestErrorHasTheServersDetails(t *testing.T) {
	server := serve(t, nil)
	server.failures = []error{refusal(t, codes.FailedPrecondition, ReasonKeyDisabled,
		&errdetails.RetryInfo{RetryDelay: durationpb.New(5 * time.Second)},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "uri", Description: "bad"}}},
	)}
	err := fmt.Errorf("reading a row: %w", ask(t, server.open(t, Settings{})))
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatalf("%T", err)
	}
	if failed.Reason != ReasonKeyDisabled || failed.Code != codes.FailedPrecondition || failed.Cluster != "prod" ||
		failed.RetryAfter != 5*time.Second || failed.Source() != "kms" || failed.Retryable() || failed.RequestID != "" ||
		!reflect.DeepEqual(failed.FieldViolations, []FieldViolation{{"uri", "bad"}}) {
		t.Errorf("%+v", failed)
	}
	if failed.Error() != "cluster prod: it went wrong (KEY_DISABLED)" {
		t.Error(failed.Error())
	}
	if !errors.Is(err, ErrRefused) || !errors.Is(err, ErrKMS) || errors.Is(err, ErrCouldNotTell) || errors.Is(err, ErrState) {
		t.Error("of another kind")
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Error("gRPC's own functions do not see the code")
	}
	if server.calls() != 1 {
		t.Error("a refusal was repeated")
	}
}

// A reason that is newer than the client has the kind of its code, and of its source.
func TestUnknownReasons(t *testing.T) {
	for code, kind := range map[codes.Code]Kind{
		codes.InvalidArgument: ErrInvalidInput, codes.NotFound: ErrNotFound, codes.Aborted: ErrConflict,
		codes.AlreadyExists: ErrAlreadyExists, codes.FailedPrecondition: ErrState, codes.ResourceExhausted: ErrLimit,
		codes.PermissionDenied: ErrForbidden, codes.Unauthenticated: ErrUnauthenticated, codes.Internal: ErrInternal,
		codes.Unimplemented: ErrUnimplemented, codes.OutOfRange: ErrInvalidInput, codes.Unknown: ErrUnknown,
		codes.Unavailable: ErrUnavailable, codes.DeadlineExceeded: ErrDeadline, codes.Canceled: ErrCancelled,
	} {
		failed := ErrorOf(status.Convert(refusal(t, code, "OF_TOMORROW")).Proto())
		if failed.Kind() != kind || failed.Reason != "OF_TOMORROW" {
			t.Errorf("%s: %s %s", code, failed.Kind(), failed.Reason)
		}
	}
	for code, kind := range map[codes.Code]Kind{
		codes.FailedPrecondition: ErrRefused, codes.Unavailable: ErrCouldNotTell,
		codes.ResourceExhausted: ErrCouldNotTell, codes.DataLoss: ErrKMS,
	} {
		failed := ErrorOf(status.Convert(refusal(t, code, "OF_TOMORROW")).Proto())
		failed.Metadata["source"] = "kms"
		if failed.Kind() != kind {
			t.Errorf("%s: %s", code, failed.Kind())
		}
	}
}

// A word of another domain is no reason, and an error without a reason has its code's name.
func TestReasonsOfOthers(t *testing.T) {
	made, _ := status.New(codes.PermissionDenied, "").WithDetails(&errdetails.ErrorInfo{Reason: "X", Domain: "proxy"})
	failed := ErrorOf(made.Proto())
	if failed.Reason != "PERMISSION_DENIED" || failed.Message == "" || failed.Kind() != ErrForbidden {
		t.Errorf("%+v", failed)
	}
}

// Which errors may go away by themselves: not the customer's decisions.
func TestRetryable(t *testing.T) {
	for reason, want := range map[Reason]bool{
		ReasonUnreachable: true, ReasonThrottled: true, ReasonBusy: true, ReasonConcurrentChange: true,
		ReasonDeadlineExceeded: true, ReasonEtagMismatch: false, ReasonCursorTaken: false,
		ReasonRevoked: false, ReasonKeyDisabled: false, ReasonContextMismatch: false, ReasonNotAllowed: false,
	} {
		if got := (&Error{Reason: reason}).Retryable(); got != want {
			t.Errorf("%s: %t", reason, got)
		}
	}
	if !(&Error{Reason: ReasonOverloaded, RetryAfter: time.Second}).Retryable() {
		t.Error("OVERLOADED")
	}
	if (&Error{Reason: "RESOURCE_EXHAUSTED", Code: codes.ResourceExhausted}).Retryable() {
		t.Error("a message that is too large stays too large")
	}
}

// A call that the caller cancels, or whose deadline passes, says so in Go's own way, too.
func TestContextErrors(t *testing.T) {
	server := serve(t, nil)
	client := server.open(t, Settings{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.GetStatus(ctx, &keyfoldv1.GetStatusRequest{Cluster: "prod"})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err = client.GetStatus(ctx, &keyfoldv1.GetStatusRequest{Cluster: "prod"})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrDeadline) {
		t.Error(err)
	}
	var failed *Error
	if !errors.As(err, &failed) || failed.Cluster != "prod" {
		t.Error("the error does not name the request's cluster")
	}
}

// A call on a closed client says so, and is not worth repeating.
func TestClosed(t *testing.T) {
	client := serve(t, nil).open(t, Settings{})
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	err := ask(t, client)
	var failed *Error
	if !errors.As(err, &failed) || failed.Reason != ReasonClosed || !errors.Is(err, ErrClosed) || failed.Retryable() {
		t.Error(err)
	}
}
