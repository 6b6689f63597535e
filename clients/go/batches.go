package keyfold

import (
	"context"
	"fmt"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	keyfoldv1 "keyfold/clients/go/v1"
)

const (
	// maxItems is the most items of one call.
	maxItems = 1000
	// maxBytes is the most bytes of one request, and of one response.
	maxBytes = 4 * 1024 * 1024
	// resultOverhead is the bytes that an item's result may have beyond the key in the item: the 90
	// bytes by which a wrapped key is longer than its plaintext, or a region's name of 128 bytes, and
	// protobuf's framing.
	resultOverhead = 192
	// errorSize is the bytes to reserve for an item's error, which may stand in place of its result.
	errorSize = 1024
)

// Result is the result of one item of a batch.
type Result[T any] struct {
	// Value is the item's result, if Err is nil.
	Value T
	// Err is what made the item fail: an *Error, or nil.
	Err error
}

// WrapItem is one key of [Client.BatchWrap].
type WrapItem struct {
	// Plaintext is the key, 1 to 4,096 bytes.
	Plaintext Plaintext
	// Region is the item's own region; empty means the batch's.
	Region string
	// Context is the item's own context; empty means the batch's.
	Context Context
}

// UnwrapItem is one wrapped key of [Client.BatchUnwrap].
type UnwrapItem struct {
	// WrappedKey is the wrapped key, as Wrap returned it.
	WrappedKey []byte
	// Context is the item's own context; empty means the batch's.
	Context Context
}

// RewrapItem is one wrapped key of [Client.BatchRewrap].
type RewrapItem struct {
	// WrappedKey is the wrapped key, as Wrap returned it.
	WrappedKey []byte
	// Context is the item's own context; empty means the batch's.
	Context Context
	// Destination is the item's own destination; nil means the batch's.
	Destination *Destination
}

// BatchWrap wraps any number of keys and returns, in their order, a result for each.
//
// The region and the context apply to items that do not set their own. The client sends calls of at
// most 1,000 items and 4 MiB, one after another, and its Timeout is the deadline of each if ctx has
// none. If a call fails, its error is the result of each of its items; the results of the other calls
// stay.
func (c *Client) BatchWrap(
	ctx context.Context, cluster, region string, items []WrapItem, bound Context,
) []Result[Wrapped] {
	made := make([]*keyfoldv1.BatchWrapItem, len(items))
	for i, item := range items {
		made[i] = &keyfoldv1.BatchWrapItem{
			Plaintext: item.Plaintext.Bytes(), Region: item.Region, Context: item.Context,
		}
	}
	request := func(part []*keyfoldv1.BatchWrapItem) *keyfoldv1.BatchWrapRequest {
		return &keyfoldv1.BatchWrapRequest{Cluster: cluster, Region: region, Context: bound, Items: part}
	}
	results := make([]Result[Wrapped], 0, len(items))
	for _, part := range split(request(nil), made, (*keyfoldv1.BatchWrapItem).GetPlaintext) {
		answer, err := c.stubs.Keys.BatchWrap(ctx, request(part))
		results = append(results, read(cluster, len(part), answer.GetResults(), err, wrappedOf)...)
	}
	return results
}

// BatchUnwrap unwraps any number of wrapped keys; [Client.BatchWrap] describes results and limits.
func (c *Client) BatchUnwrap(
	ctx context.Context, cluster string, items []UnwrapItem, bound Context,
) []Result[Unwrapped] {
	made := make([]*keyfoldv1.BatchUnwrapItem, len(items))
	for i, item := range items {
		made[i] = &keyfoldv1.BatchUnwrapItem{WrappedKey: item.WrappedKey, Context: item.Context}
	}
	request := func(part []*keyfoldv1.BatchUnwrapItem) *keyfoldv1.BatchUnwrapRequest {
		return &keyfoldv1.BatchUnwrapRequest{Cluster: cluster, Context: bound, Items: part}
	}
	results := make([]Result[Unwrapped], 0, len(items))
	for _, part := range split(request(nil), made, (*keyfoldv1.BatchUnwrapItem).GetWrappedKey) {
		answer, err := c.stubs.Keys.BatchUnwrap(ctx, request(part))
		results = append(results, read(cluster, len(part), answer.GetResults(), err, unwrappedOf)...)
	}
	return results
}

// BatchRewrap rewraps any number of wrapped keys; [Client.BatchWrap] describes results and limits.
func (c *Client) BatchRewrap(
	ctx context.Context, cluster string, items []RewrapItem, bound Context, to *Destination,
) []Result[Rewrapped] {
	made := make([]*keyfoldv1.BatchRewrapItem, len(items))
	for i, item := range items {
		made[i] = &keyfoldv1.BatchRewrapItem{
			WrappedKey: item.WrappedKey, Context: item.Context, Destination: item.Destination.message(),
		}
	}
	request := func(part []*keyfoldv1.BatchRewrapItem) *keyfoldv1.BatchRewrapRequest {
		return &keyfoldv1.BatchRewrapRequest{
			Cluster: cluster, Context: bound, Destination: to.message(), Items: part,
		}
	}
	results := make([]Result[Rewrapped], 0, len(items))
	for _, part := range split(request(nil), made, (*keyfoldv1.BatchRewrapItem).GetWrappedKey) {
		answer, err := c.stubs.Keys.BatchRewrap(ctx, request(part))
		results = append(results, read(cluster, len(part), answer.GetResults(), err, rewrappedOf)...)
	}
	return results
}

// split cuts items, in their order, into as few parts as possible that each fit into one call. An item
// that is too large for any call becomes a part of its own, which the server refuses.
func split[Item proto.Message](base proto.Message, items []Item, key func(Item) []byte) [][]Item {
	var parts [][]Item
	first := 0
	request, response := proto.Size(base), 0
	for i, item := range items {
		size := 1 + protowire.SizeBytes(proto.Size(item))
		result := max(len(key(item))+resultOverhead, errorSize)
		full := i-first == maxItems || request+size > maxBytes || response+result > maxBytes
		if full && i > first {
			parts = append(parts, items[first:i])
			first, request, response = i, proto.Size(base), 0
		}
		request += size
		response += result
	}
	if first < len(items) {
		parts = append(parts, items[first:])
	}
	return parts
}

// itemResult is the result message of an item, whatever the batch does.
type itemResult[Answer any] interface {
	GetAnswer() Answer
	GetError() *statuspb.Status
}

// read returns a result for each item of one call.
func read[Answer comparable, Message itemResult[Answer], T any](
	cluster string, count int, messages []Message, err error, value func(Answer) T,
) []Result[T] {
	results := make([]Result[T], count)
	if err == nil && len(messages) != count {
		// Only its place says which item a result belongs to, so a missing or extra result could give an
		// item another item's key.
		err = &Error{
			Reason: Reason(nameOf(codes.Internal)), Code: codes.Internal, Cluster: cluster,
			Message: fmt.Sprintf("the server sent %d results for %d items", len(messages), count),
		}
	}
	var none Answer
	for i := range results {
		switch {
		case err != nil:
			results[i].Err = err
		case messages[i].GetAnswer() != none:
			results[i].Value = value(messages[i].GetAnswer())
		default:
			failed := ErrorOf(messages[i].GetError())
			if failed.Cluster == "" {
				failed.Cluster = cluster
			}
			results[i].Err = failed
		}
	}
	return results
}
