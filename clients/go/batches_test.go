package keyfold

import (
	"errors"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	keyfoldv1 "keyfold/clients/go/v1"
)

// echo answers each item with its own plaintext, and an empty one with an error.
func echo(request *keyfoldv1.BatchWrapRequest) *keyfoldv1.BatchWrapResponse {
	answer := &keyfoldv1.BatchWrapResponse{}
	for _, item := range request.GetItems() {
		result := &keyfoldv1.BatchWrapResult{Result: &keyfoldv1.BatchWrapResult_Answer{
			Answer: &keyfoldv1.WrapResponse{WrappedKey: item.GetPlaintext()},
		}}
		if len(item.GetPlaintext()) == 0 {
			result.Result = &keyfoldv1.BatchWrapResult_Error{Error: &status.Status{Code: int32(codes.InvalidArgument)}}
		}
		answer.Results = append(answer.Results, result)
	}
	return answer
}

func keys(count, size int) []WrapItem {
	items := make([]WrapItem, count)
	for i := range items {
		key := make([]byte, size)
		key[0], key[1] = byte(i>>8), byte(i)
		items[i] = WrapItem{Plaintext: NewPlaintext(key)}
	}
	return items
}

// A batch of any size is cut into calls within the limits, and each result is at its item's place.
func TestBatchesAreCut(t *testing.T) {
	for _, batch := range []struct{ count, size, calls int }{{0, 2, 0}, {1000, 32, 1}, {1001, 32, 2}, {2000, 4096, 3}} {
		server := serve(t, nil)
		server.wrap = func(request *keyfoldv1.BatchWrapRequest) *keyfoldv1.BatchWrapResponse {
			if proto.Size(request) > maxBytes || len(request.GetItems()) > maxItems {
				t.Errorf("%d items of %d bytes", len(request.GetItems()), proto.Size(request))
			}
			return echo(request)
		}
		items := keys(batch.count, batch.size)
		results := server.open(t, Settings{}).BatchWrap(t.Context(), "prod", "eu", items, Context{"table": "users"})
		if len(results) != batch.count || server.calls() != batch.calls {
			t.Errorf("%d results in %d calls", len(results), server.calls())
		}
		for i, result := range results {
			if result.Err != nil || !NewPlaintext(result.Value.WrappedKey).Equal(items[i].Plaintext) {
				t.Fatalf("item %d: %v", i, result)
			}
		}
	}
}

// One bad item fails alone, and a call that fails fails its own items.
func TestBatchesFailInPart(t *testing.T) {
	server := serve(t, nil)
	server.wrap = echo
	client := server.open(t, Settings{})
	items := keys(1001, 32)
	items[7].Plaintext = Plaintext{}
	server.failures = []error{nil, refusal(t, codes.FailedPrecondition, ReasonRevoked)}
	for i, result := range client.BatchWrap(t.Context(), "prod", "eu", items, nil) {
		var failed *Error
		switch wrong := errors.As(result.Err, &failed); {
		case i == 7 && (!wrong || failed.Code != codes.InvalidArgument || failed.Cluster != "prod"),
			i == 1000 && (!wrong || failed.Reason != ReasonRevoked),
			i != 7 && i != 1000 && wrong:
			t.Errorf("item %d: %v", i, result.Err)
		}
	}
}

// If the number of results is wrong, no item gets one: it might be another item's.
func TestMissingResults(t *testing.T) {
	server := serve(t, nil)
	server.wrap = func(request *keyfoldv1.BatchWrapRequest) *keyfoldv1.BatchWrapResponse {
		answer := echo(request)
		answer.Results = answer.Results[1:]
		return answer
	}
	for _, result := range server.open(t, Settings{}).BatchWrap(t.Context(), "prod", "eu", keys(3, 32), nil) {
		if !errors.Is(result.Err, ErrInternal) || result.Value.WrappedKey != nil {
			t.Error(result)
		}
	}
}
