package keyfold

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc/codes"

	keyfoldv1 "keyfold/clients/go/v1"
)

// Context is names and values that wrapping binds to a key, such as {"table": "users"}. They are not
// secret. It has nothing to do with context.Context.
type Context = map[string]string

// Wrapped is the result of [Client.Wrap].
type Wrapped struct {
	// WrappedKey is the wrapped key, to store beside the data; 90 bytes longer than the plaintext.
	WrappedKey []byte
	// Generation is the generation that wrapped it.
	Generation uint32
	// MaxCacheAge is how long you may keep the plaintext in memory, from the beginning of the call;
	// zero: not at all.
	MaxCacheAge time.Duration
}

// Unwrapped is the result of [Client.Unwrap].
type Unwrapped struct {
	// Plaintext is the unwrapped key.
	Plaintext Plaintext
	// Region is the region that wrapped it.
	Region string
	// Generation is the generation that wrapped it.
	Generation uint32
	// MaxCacheAge is how long you may keep the plaintext in memory, from the beginning of the call;
	// zero: not at all.
	MaxCacheAge time.Duration
}

// DataKey is the result of [Client.GenerateDataKey].
type DataKey struct {
	// Plaintext is the key, to encrypt with and then to forget; empty with WrappedOnly.
	Plaintext Plaintext
	// WrappedKey is the wrapped key, to store beside the data.
	WrappedKey []byte
	// Generation is the generation that wrapped it.
	Generation uint32
	// MaxCacheAge is how long you may keep the plaintext in memory, from the beginning of the call;
	// zero: not at all.
	MaxCacheAge time.Duration
}

// Rewrapped is the result of [Client.Rewrap].
type Rewrapped struct {
	// WrappedKey is the wrapped key to store from now on.
	WrappedKey []byte
	// Generation is the generation that wraps it now.
	Generation uint32
	// AlreadyCurrent says that the newest generation had wrapped it already. Then WrappedKey is the one
	// that the caller sent.
	AlreadyCurrent bool
}

// Destination is the place that [Client.Rewrap] moves a wrapped key to.
type Destination struct {
	// Cluster is the new cluster; empty keeps the present one.
	Cluster string
	// Region is the new region; empty keeps the present one.
	Region string
	// Context is the new context. An empty one replaces the present context, too.
	Context Context
}

// DataKeyOption is an option of [Client.GenerateDataKey].
type DataKeyOption func(*keyfoldv1.GenerateDataKeyRequest)

// WithSize asks for a data key of 16, 24, 32 or 64 bytes in place of 32.
func WithSize(bytes uint32) DataKeyOption {
	return func(request *keyfoldv1.GenerateDataKeyRequest) { request.Size = bytes }
}

// WrappedOnly leaves the plaintext on the server, which suits a program that stores keys and never uses
// them.
func WrappedOnly() DataKeyOption {
	return func(request *keyfoldv1.GenerateDataKeyRequest) { request.WrappedOnly = true }
}

// Wrap wraps a key of 1 to 4,096 bytes under the newest generation of a region.
//
// Unwrapping it takes the same bound context, which has at most 16 pairs and 4,096 bytes. Nil binds
// nothing.
func (c *Client) Wrap(ctx context.Context, cluster, region string, plaintext []byte, bound Context) (*Wrapped, error) {
	answer, err := c.stubs.Keys.Wrap(ctx, &keyfoldv1.WrapRequest{
		Cluster: cluster, Region: region, Plaintext: plaintext, Context: bound,
	})
	if err != nil {
		return nil, err
	}
	wrapped := wrappedOf(answer)
	return &wrapped, nil
}

// Unwrap unwraps a wrapped key; the context must be the one that it was wrapped with.
func (c *Client) Unwrap(ctx context.Context, cluster string, wrappedKey []byte, bound Context) (*Unwrapped, error) {
	answer, err := c.stubs.Keys.Unwrap(ctx, &keyfoldv1.UnwrapRequest{
		Cluster: cluster, WrappedKey: wrappedKey, Context: bound,
	})
	if err != nil {
		return nil, err
	}
	unwrapped := unwrappedOf(answer)
	return &unwrapped, nil
}

// GenerateDataKey makes a new key of 32 bytes and wraps it.
func (c *Client) GenerateDataKey(
	ctx context.Context, cluster, region string, bound Context, options ...DataKeyOption,
) (*DataKey, error) {
	request := &keyfoldv1.GenerateDataKeyRequest{Cluster: cluster, Region: region, Context: bound}
	for _, option := range options {
		option(request)
	}
	answer, err := c.stubs.Keys.GenerateDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	return &DataKey{
		Plaintext:   NewPlaintext(answer.GetPlaintext()),
		WrappedKey:  answer.GetWrappedKey(),
		Generation:  answer.GetGeneration(),
		MaxCacheAge: answer.GetMaxCacheAge().AsDuration(),
	}, nil
}

// GenerateDataKeys makes any number of new keys of 16, 24, 32 or 64 bytes, and has the server wrap them.
//
// The client draws the keys from the operating system and wraps them as a batch, so that a thousand of
// them are one call, which the server counts as a BatchWrap. If a key cannot be wrapped, it returns its
// error and none of the keys.
func (c *Client) GenerateDataKeys(
	ctx context.Context, cluster, region string, count, size int, bound Context,
) ([]DataKey, error) {
	if count < 0 {
		return nil, unusable("count must not be negative, and is %d", count)
	}
	if size != 16 && size != 24 && size != 32 && size != 64 {
		wrong := local(ReasonInvalidSize, codes.InvalidArgument, nil,
			"a data key has 16, 24, 32 or 64 bytes, not %d", size)
		wrong.FieldViolations = []FieldViolation{{"size", wrong.Message}}
		wrong.Cluster = cluster
		return nil, wrong
	}
	items := make([]WrapItem, count)
	for i := range items {
		key := make([]byte, size)
		_, _ = rand.Read(key) // It never fails.
		items[i].Plaintext = NewPlaintext(key)
	}
	keys := make([]DataKey, count)
	for i, result := range c.BatchWrap(ctx, cluster, region, items, bound) {
		if result.Err != nil {
			return nil, result.Err
		}
		wrapped := result.Value
		keys[i] = DataKey{items[i].Plaintext, wrapped.WrappedKey, wrapped.Generation, wrapped.MaxCacheAge}
	}
	return keys, nil
}

// Rewrap moves a wrapped key to the newest generation or, if to is not nil, to a destination. The
// plaintext never leaves the server.
func (c *Client) Rewrap(
	ctx context.Context, cluster string, wrappedKey []byte, bound Context, to *Destination,
) (*Rewrapped, error) {
	answer, err := c.stubs.Keys.Rewrap(ctx, &keyfoldv1.RewrapRequest{
		Cluster: cluster, WrappedKey: wrappedKey, Context: bound, Destination: to.message(),
	})
	if err != nil {
		return nil, err
	}
	rewrapped := rewrappedOf(answer)
	return &rewrapped, nil
}

func (d *Destination) message() *keyfoldv1.Destination {
	if d == nil {
		return nil
	}
	return &keyfoldv1.Destination{Cluster: d.Cluster, Region: d.Region, Context: d.Context}
}

func wrappedOf(answer *keyfoldv1.WrapResponse) Wrapped {
	return Wrapped{answer.GetWrappedKey(), answer.GetGeneration(), answer.GetMaxCacheAge().AsDuration()}
}

func unwrappedOf(answer *keyfoldv1.UnwrapResponse) Unwrapped {
	return Unwrapped{
		Plaintext:   NewPlaintext(answer.GetPlaintext()),
		Region:      answer.GetRegion(),
		Generation:  answer.GetGeneration(),
		MaxCacheAge: answer.GetMaxCacheAge().AsDuration(),
	}
}

func rewrappedOf(answer *keyfoldv1.RewrapResponse) Rewrapped {
	return Rewrapped{answer.GetWrappedKey(), answer.GetGeneration(), answer.GetAlreadyCurrent()}
}
