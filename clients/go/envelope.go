package keyfold

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// EnvelopeBounds say how long one data key seals messages; the first bound that is reached ends it. A
// zero means the default.
type EnvelopeBounds struct {
	// MaxMessages is the most messages; by default 1,000,000.
	MaxMessages int
	// MaxBytes is the most bytes of data in all its messages; by default 64 GiB. A larger message has a
	// key of its own.
	MaxBytes int64
	// MaxAge is the longest time from the call that made it, and so the longest time for which sealing
	// goes on after a revocation; by default 60 s. The server's answer may say less.
	MaxAge time.Duration
}

// Envelope seals data into messages under data keys of one cluster, and opens that cluster's messages.
// docs/envelope.md describes the format, which all of Keyfold's clients share.
//
// A message carries its wrapped data key and its context, so that opening takes nothing else. One data
// key seals many messages: within its bounds, sealing makes no call. Opening asks the server each time,
// so a revocation reaches it at once. Any number of goroutines may share an envelope.
type Envelope struct {
	client           *Client
	cluster, region  string
	context          Context
	boundKey, header []byte
	bounds           EnvelopeBounds

	mutex sync.Mutex
	held  *sealingKey
}

// sealingKey is a data key, with what it has sealed.
type sealingKey struct {
	key        *committingKey
	wrappedKey []byte
	askedAt    time.Time
	maxAge     time.Duration
	messages   int
	bytes      int64
}

// NewEnvelope returns an envelope. The context is wrapped with its data keys: only messages whose data
// keys have all these pairs open.
func (c *Client) NewEnvelope(cluster, region string, bound Context, bounds EnvelopeBounds) (*Envelope, error) {
	if bounds.MaxMessages < 0 || bounds.MaxBytes < 0 || bounds.MaxAge < 0 {
		return nil, unusable("a bound must not be negative")
	}
	if bounds.MaxMessages == 0 {
		bounds.MaxMessages = 1_000_000
	}
	if bounds.MaxBytes == 0 {
		bounds.MaxBytes = 1 << 36
	}
	if bounds.MaxAge == 0 {
		bounds.MaxAge = time.Minute
	}
	boundKey, err := encodeContext(bound)
	if err != nil {
		return nil, err
	}
	header, err := boundTo(cluster)
	if err != nil {
		return nil, err
	}
	return &Envelope{
		client: c, cluster: cluster, region: region, context: maps.Clone(bound),
		boundKey: boundKey, header: header, bounds: bounds,
	}, nil
}

// Seal returns a message that holds up to 1 GiB of data: about 200 bytes more, and the contexts'.
//
// The context has pairs that this message has besides the envelope's, such as {"row": "17"}. They stand
// readable in the message, which does not open if somebody changes them.
func (e *Envelope) Seal(ctx context.Context, data []byte, own Context) ([]byte, error) {
	if len(data) > maxMessageData {
		return nil, local(ReasonDataTooLarge, codes.InvalidArgument, nil,
			"the data has %d bytes, and a message holds at most %d; divide it", len(data), maxMessageData)
	}
	encoded, err := encodeOwnContext(own, e.context)
	if err != nil {
		return nil, err
	}
	key, err := e.keyFor(ctx, int64(len(data)))
	if err != nil {
		return nil, err
	}
	bound := slices.Concat(e.boundKey, encoded)
	made := head(key.wrappedKey)
	made = slices.Grow(made, len(bound)+leastSealed+len(data))
	made = append(made, bound...)
	nonce := make([]byte, xaesNonceSize)
	_, _ = rand.Read(nonce) // It never fails.
	return key.key.seal(append(made, nonce...), nonce, data, slices.Concat(e.header, bound))
}

// Open returns the data of a message. Pass the pairs that the message must have, such as the row that
// you read it from: only then does another row's message not open here.
func (e *Envelope) Open(ctx context.Context, given []byte, demanded Context) ([]byte, error) {
	parts, err := e.parsed(given)
	if err != nil {
		return nil, err
	}
	found := maps.Clone(parts.keyContext)
	maps.Copy(found, parts.context)
	if err := demand(demanded, found); err != nil {
		return nil, err
	}
	unwrapped, err := e.client.Unwrap(ctx, e.cluster, parts.wrappedKey, parts.keyContext)
	if err != nil {
		return nil, err
	}
	defer unwrapped.Plaintext.Wipe()
	return e.opened(parts, unwrapped.Plaintext.Bytes())
}

// Rekey moves a message's wrapped key to the newest generation, and leaves the rest as it is. The data
// stays sealed, so a message that does not open is not noticed.
func (e *Envelope) Rekey(ctx context.Context, given []byte) ([]byte, error) {
	parts, err := e.parsed(given)
	if err != nil {
		return nil, err
	}
	moved, err := e.client.Rewrap(ctx, e.cluster, parts.wrappedKey, parts.keyContext, nil)
	if err != nil {
		return nil, err
	}
	return parts.moved(moved.WrappedKey), nil
}

// parsed returns the parts of a message whose data key has the envelope's pairs.
func (e *Envelope) parsed(given []byte) (*message, error) {
	parts, err := parse(given)
	if err != nil {
		return nil, err
	}
	// In the key's context, which the server vouches for. In the message's own, anybody could put these
	// pairs who may make data keys with some other context.
	if err := demand(e.context, parts.keyContext); err != nil {
		return nil, err
	}
	return parts, nil
}

// opened returns the data of a message under its data key.
func (e *Envelope) opened(parts *message, secret []byte) ([]byte, error) {
	key, err := newCommittingKey(secret)
	if err == nil {
		var data []byte
		aad := slices.Concat(e.header, parts.bound)
		if data, err = key.open(parts.nonce, parts.sealed, parts.commitment, aad); err == nil {
			return data, nil
		}
	}
	return nil, local(ReasonMessageCorrupt, codes.InvalidArgument, err,
		"the message was changed, or was sealed for another cluster; restore it from a backup")
}

// keyFor returns a data key for one more message, and counts that message.
func (e *Envelope) keyFor(ctx context.Context, size int64) (*sealingKey, error) {
	e.mutex.Lock()
	if held := e.held; held != nil && held.maySeal(size, e.bounds) {
		held.messages++
		held.bytes += size
		e.mutex.Unlock()
		return held, nil
	}
	e.mutex.Unlock()
	// Not under the lock: each caller waits for its own call, under its own deadline. That several make
	// a key at the same time does no harm.
	askedAt := time.Now()
	made, err := e.client.GenerateDataKey(ctx, e.cluster, e.region, e.context)
	if err != nil {
		return nil, err
	}
	defer made.Plaintext.Wipe()
	key, err := newCommittingKey(made.Plaintext.Bytes())
	if err != nil {
		return nil, local(Reason(nameOf(codes.Internal)), codes.Internal, err, "the server made a key of %d bytes", made.Plaintext.Len())
	}
	fresh := &sealingKey{
		key: key, wrappedKey: made.WrappedKey, askedAt: askedAt,
		maxAge: min(e.bounds.MaxAge, made.MaxCacheAge), messages: 1, bytes: size,
	}
	e.mutex.Lock()
	e.held = fresh
	e.mutex.Unlock()
	return fresh, nil
}

func (k *sealingKey) maySeal(size int64, bounds EnvelopeBounds) bool {
	return k.messages < bounds.MaxMessages && k.bytes+size <= bounds.MaxBytes && since(k.askedAt) < k.maxAge
}

func demand(pairs, found Context) error {
	for name, value := range pairs {
		if held, ok := found[name]; !ok || held != value {
			return local(ReasonMessageContextMismatch, codes.InvalidArgument, nil,
				"the message does not have the pair %q that is demanded of it; check that it belongs here", name)
		}
	}
	return nil
}
