package keyfold

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keyfoldv1 "keyfold/clients/go/v1"
)

// A call for which no server is available is repeated, at most three times.
func TestUnavailableIsRepeated(t *testing.T) {
	server := serve(t, nil)
	client := server.open(t, Settings{})
	server.failures = []error{busy, busy, status.Error(codes.Canceled, "stopping")}
	if err := ask(t, client); err != nil || server.calls() != 4 {
		t.Error(err, server.calls())
	}
	server.failures = []error{busy, busy, busy, busy, busy}
	if err := ask(t, client); !errors.Is(err, ErrUnavailable) || server.calls() != 8 {
		t.Error(err, server.calls())
	}
}

// No other failure is repeated.
func TestOthersAreNotRepeated(t *testing.T) {
	server := serve(t, nil)
	client := server.open(t, Settings{})
	for _, code := range []codes.Code{
		codes.Aborted, codes.DeadlineExceeded, codes.FailedPrecondition, codes.Internal,
		codes.ResourceExhausted, codes.Unauthenticated, codes.Unknown,
	} {
		before := server.calls()
		server.failures = []error{status.Error(code, "no")}
		if err := ask(t, client); err == nil || server.calls() != before+1 {
			t.Error(code, err, server.calls()-before)
		}
	}
}

// A request of several megabytes is repeated as a small one is.
func TestLargeRequestsAreRepeated(t *testing.T) {
	server := serve(t, nil)
	server.failures = []error{busy}
	_, err := server.open(t, Settings{}).Unwrap(t.Context(), "prod", bytes.Repeat([]byte("k"), 3<<20), nil)
	if err != nil || server.calls() != 2 {
		t.Error(err, server.calls())
	}
}

// A change has a request_id, the same for each repetition, and another for each call.
func TestChangesHaveARequestID(t *testing.T) {
	server := serve(t, nil)
	client := server.open(t, Settings{})
	server.failures = []error{busy}
	request := &keyfoldv1.RevokeRequest{Cluster: "prod"}
	for range 2 {
		if _, err := client.Revoke(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	first, repeated, second := server.revokes[0].GetRequestId(), server.revokes[1].GetRequestId(), server.revokes[2].GetRequestId()
	if len(first) < 20 || repeated != first || second == first || request.GetRequestId() != "" {
		t.Error(first, repeated, second, request)
	}
	server.failures = []error{status.Error(codes.Internal, "lost")}
	_, err := client.Revoke(t.Context(), &keyfoldv1.RevokeRequest{Cluster: "prod", RequestId: "mine"})
	var failed *Error
	if !errors.As(err, &failed) || failed.RequestID != "mine" || failed.Cluster != "prod" {
		t.Errorf("%+v", failed)
	}
}

// A call without a deadline has that of its plane; the caller's own comes first.
func TestDeadlines(t *testing.T) {
	server := serve(t, nil)
	client := server.open(t, Settings{ControlTimeout: 20 * time.Second})
	near := func(want time.Duration) {
		t.Helper()
		if server.left > want || server.left < want-5*time.Second {
			t.Errorf("%s left, not %s", server.left, want)
		}
	}
	_ = ask(t, client)
	near(20 * time.Second)
	_, _ = client.Unwrap(t.Context(), "prod", []byte("k"), nil)
	near(DefaultTimeout)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, _ = client.Unwrap(ctx, "prod", []byte("k"), nil)
	near(time.Hour)
}

// A token's file is read again when it has changed; half a rotation leaves the last token in use.
func TestTokenFile(t *testing.T) {
	server := serve(t, nil)
	path := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	client := server.open(t, Settings{TokenFile: path})
	for _, step := range []struct{ content, sent string }{
		{"first\n", "Bearer first"}, {"the-second\n", "Bearer the-second"}, {"", "Bearer the-second"},
		{"two lines\nof text\n", "Bearer the-second"}, {"third", "Bearer third"},
	} {
		write(step.content)
		if err := ask(t, client); err != nil {
			t.Fatal(err)
		}
		sent := server.metadata[len(server.metadata)-1].Get("authorization")
		if len(sent) != 1 || sent[0] != step.sent {
			t.Errorf("after %q sent %q", step.content, sent)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, client); err != nil {
		t.Error(err)
	}
}

// A token and a name come from the program with each call; nothing is sent if they cannot be.
func TestCallers(t *testing.T) {
	server := serve(t, nil)
	token, name := "abc", ""
	broken := errors.New("the issuer is away")
	client := server.open(t, Settings{
		Token: func(context.Context) (string, error) {
			if token == "" {
				return "", broken
			}
			return token, nil
		},
		OnBehalfOf: func(context.Context) string { return name },
	})
	if err := ask(t, client); err != nil || len(server.metadata[0].Get("on-behalf-of")) != 0 {
		t.Error(err, server.metadata)
	}
	name = "ann@example.org"
	if err := ask(t, client); err != nil || server.metadata[1].Get("on-behalf-of")[0] != name {
		t.Error(err, server.metadata)
	}
	for _, wrong := range []struct{ token, name string }{
		{"", "ann"}, {"a\nb", "ann"}, {"a b", "ann"}, {"schlüssel", "ann"}, {"abc", " ann"}, {"abc", strings.Repeat("n", 257)},
	} {
		token, name = wrong.token, wrong.name
		err := ask(t, client)
		var failed *Error
		if !errors.As(err, &failed) || wrong.token != "" && strings.Contains(err.Error(), "schl") {
			t.Errorf("%q: %v", wrong, err)
		}
		if wrong.token == "" && !errors.Is(err, broken) {
			t.Error("the issuer's error is hidden")
		}
	}
	if server.calls() != 2 {
		t.Error("something was sent")
	}
}

// A list goes on to its end, and names at the end what it leaves out.
func TestPages(t *testing.T) {
	server := serve(t, nil)
	answers := map[string]*keyfoldv1.ListClustersResponse{
		"":  {Clusters: []*keyfoldv1.ClusterStatus{{Cluster: "a"}, {Cluster: "b"}}, NextPageToken: "2", NotAuthentic: []string{"x"}},
		"2": {NextPageToken: "3", Banned: []string{"y"}},
		"3": {Clusters: []*keyfoldv1.ClusterStatus{{Cluster: "c"}}},
	}
	server.list = func(request *keyfoldv1.ListClustersRequest) *keyfoldv1.ListClustersResponse {
		return answers[request.GetPageToken()]
	}
	client := server.open(t, Settings{})
	var names []string
	var failed *Error
	for cluster, err := range client.ListClusters(t.Context(), nil) {
		if err != nil {
			errors.As(err, &failed)
			break
		}
		names = append(names, cluster.GetCluster())
	}
	if strings.Join(names, "") != "abc" || failed == nil || failed.Reason != ReasonRowNotAuthentic || !strings.Contains(failed.Message, "x") {
		t.Error(names, failed)
	}
	for range client.ListClusters(t.Context(), nil) {
		break
	}
	if server.calls() != 4 {
		t.Error("a page was fetched that nobody asked for")
	}
}
