package keyfold

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keyfoldv1 "keyfold/clients/go/v1"
)

type streamed = grpc.ServerStreamingServer[keyfoldv1.WatchEventsResponse]

func state(name string) *keyfoldv1.WatchEventsResponse {
	return &keyfoldv1.WatchEventsResponse{
		Message:     &keyfoldv1.WatchEventsResponse_State{State: &keyfoldv1.ClusterState{Cluster: name, Exists: true}},
		ResumeToken: "after " + name,
	}
}

func end() *keyfoldv1.WatchEventsResponse {
	return &keyfoldv1.WatchEventsResponse{
		Message:     &keyfoldv1.WatchEventsResponse_SnapshotEnd{SnapshotEnd: &keyfoldv1.SnapshotEnd{}},
		ResumeToken: "after the snapshot",
	}
}

func beat(age time.Duration) *keyfoldv1.WatchEventsResponse {
	return &keyfoldv1.WatchEventsResponse{
		Message:     &keyfoldv1.WatchEventsResponse_Heartbeat{Heartbeat: &keyfoldv1.Heartbeat{StoreAge: durationpb.New(age)}},
		ResumeToken: "after a heartbeat",
	}
}

// streams answers each watch in turn: with messages, and then an error, or silence for nil.
func (f *fake) streams(turns ...func(streamed) error) (tokens *[]string) {
	tokens = &[]string{}
	f.watch = func(request *keyfoldv1.WatchEventsRequest, stream streamed) error {
		*tokens = append(*tokens, request.GetResumeToken())
		turn := turns[min(len(*tokens), len(turns))-1]
		return turn(stream)
	}
	return tokens
}

func telling(err error, messages ...*keyfoldv1.WatchEventsResponse) func(streamed) error {
	return func(stream streamed) error {
		for _, message := range messages {
			if err := stream.Send(message); err != nil {
				return err
			}
		}
		if err == nil {
			<-stream.Context().Done()
		}
		return err
	}
}

// told returns what a watch tells, in words, until it has told so many things or ends.
func told(ctx context.Context, watch *Watch, count int) []string {
	var words []string
	for message, err := range watch.Messages(ctx) {
		switch message := message.GetMessage().(type) {
		case *keyfoldv1.WatchEventsResponse_State:
			words = append(words, fmt.Sprint(message.State.GetCluster(), message.State.GetExists()))
		case *keyfoldv1.WatchEventsResponse_SnapshotEnd:
			words = append(words, "end")
		case *keyfoldv1.WatchEventsResponse_Heartbeat:
			words = append(words, "beat")
		default:
			words = append(words, err.Error())
		}
		if len(words) == count {
			break
		}
	}
	return words
}

func check(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("got %q, not %q", got, want)
	}
}

// A watch goes on from the last message, and tells what vanished while no stream was open.
func TestWatchGoesOn(t *testing.T) {
	server := serve(t, nil)
	tokens := server.streams(
		telling(status.Error(codes.Unavailable, "stopping"), state("a"), state("b"), end()),
		telling(nil, state("b"), end()),
	)
	watch := server.open(t, Settings{}).Watch(&keyfoldv1.WatchEventsRequest{States: true})
	broke := 0
	watch.OnBreak = func(err error) {
		if !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		broke++
	}
	check(t, told(t.Context(), watch, 6), "atrue", "btrue", "end", "btrue", "afalse", "end")
	check(t, *tokens, "", "after the snapshot")
	if broke != 1 || watch.ResumeToken() != "after the snapshot" {
		t.Error(broke, watch.ResumeToken())
	}
}

// A stream that is silent for too long counts as dead.
func TestWatchDoesNotTrustSilence(t *testing.T) {
	server := serve(t, nil)
	server.streams(telling(nil, state("a")), telling(nil, state("b")))
	watch := server.open(t, Settings{}).Watch(&keyfoldv1.WatchEventsRequest{States: true})
	watch.patience = 50 * time.Millisecond
	check(t, told(t.Context(), watch, 2), "atrue", "btrue")
}

// Where going on is not allowed, or would lose something, the watch ends with the error.
func TestWatchEnds(t *testing.T) {
	denied := refusal(t, codes.PermissionDenied, ReasonNotAllowed)
	expired := refusal(t, codes.OutOfRange, ReasonResumeTokenExpired)
	away := status.Error(codes.Unavailable, "away")
	server := serve(t, nil)
	client := server.open(t, Settings{})
	for _, one := range []struct {
		request *keyfoldv1.WatchEventsRequest
		turns   []func(streamed) error
		want    []string
	}{
		{&keyfoldv1.WatchEventsRequest{}, []func(streamed) error{telling(away)}, []string{"away (UNAVAILABLE)"}},
		{&keyfoldv1.WatchEventsRequest{}, []func(streamed) error{telling(denied, state("a"))},
			[]string{"atrue", "cluster prod: it went wrong (NOT_ALLOWED)"}},
		{&keyfoldv1.WatchEventsRequest{Events: true, ResumeToken: "old"}, []func(streamed) error{telling(expired)},
			[]string{"cluster prod: it went wrong (RESUME_TOKEN_EXPIRED)"}},
		{&keyfoldv1.WatchEventsRequest{States: true, ResumeToken: "old"},
			[]func(streamed) error{telling(expired), telling(denied, state("a"), end())},
			[]string{"atrue", "end", "cluster prod: it went wrong (NOT_ALLOWED)"}},
	} {
		server.streams(one.turns...)
		check(t, told(t.Context(), client.Watch(one.request), -1), one.want...)
	}
	server.streams(telling(nil, state("a")))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for _, err := range client.Watch(&keyfoldv1.WatchEventsRequest{}).Messages(ctx) {
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
}

// The age counts from the server's look at its store, and grows while nothing comes.
func TestWatchAge(t *testing.T) {
	server := serve(t, nil)
	server.streams(telling(nil, beat(time.Second), beat(time.Minute)))
	watch := server.open(t, Settings{}).Watch(&keyfoldv1.WatchEventsRequest{})
	if watch.Age() != math.MaxInt64 {
		t.Error(watch.Age())
	}
	check(t, told(t.Context(), watch, 2), "beat", "beat")
	before := watch.Age()
	if before < time.Second || before > 30*time.Second {
		t.Error(before)
	}
	time.Sleep(time.Millisecond)
	if watch.Age() <= before {
		t.Error("the age stands still")
	}
}
