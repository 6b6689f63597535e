package keyfold

import (
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	keyfoldv1 "keyfold/clients/go/v1"
)

const (
	// patience is how long a stream may be silent until it counts as dead: the time of four heartbeats.
	// A server whose machine has vanished ends no stream, and gRPC may not notice for long.
	patience = 20 * time.Second
	// shortestPause is the wait before a stream is begun again, twice as long after each failure.
	shortestPause = 100 * time.Millisecond
	// longestPause is the longest such wait.
	longestPause = 5 * time.Second
	// waited is a wait after which a message counts as one that has just come. What is there at once may
	// have been there for long.
	waited = 20 * time.Millisecond
)

// Watch follows the states of clusters, the events about them, or both. Make one with [Client.Watch].
//
// When a stream ends because a server stops, is stale or cannot be reached, the watch goes on from the
// last message, on whichever server answers.
type Watch struct {
	// OnBreak, if it is set, is called with what has ended a stream that the watch will begin again: an
	// *Error, or nil if the stream ended without one or was silent for too long.
	OnBreak func(error)

	client   *Client
	request  *keyfoldv1.WatchEventsRequest
	patience time.Duration
	pause    time.Duration
	// began says that the present stream has told something, ever that any stream has.
	began, ever bool
	alive, told map[string]bool

	mutex   sync.Mutex
	token   string
	session string
	heard   bool
	toldAt  time.Time
}

// Watch prepares a watch, which begins when somebody ranges over its messages.
func (c *Client) Watch(request *keyfoldv1.WatchEventsRequest) *Watch {
	return &Watch{
		client:   c,
		request:  copyOf(request),
		patience: patience,
		alive:    map[string]bool{},
		token:    request.GetResumeToken(),
	}
}

// ResumeToken returns the token of the last message, for a later watch with the same request.
func (w *Watch) ResumeToken() string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.token
}

// CursorSession returns what AdvanceCursor has to present; empty without a cursor.
func (w *Watch) CursorSession() string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.session
}

// Age returns the time since a look of the server at its store of which this watch has told everything.
// It grows while nothing comes, whatever the reason, and is the longest Duration before the first
// heartbeat. A cache of keys counts from it, and not from the arrival of a message.
func (w *Watch) Age() time.Duration {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if !w.heard {
		return math.MaxInt64
	}
	return since(w.toldAt)
}

// Messages yields the messages of the watch, which is over when ctx ends or the loop is left. Range over
// it once at a time.
//
// First come the states of all clusters that the request means, then a SnapshotEnd, then each change. A
// cluster that vanished while no stream was open is told as one that does not exist, before the
// SnapshotEnd. Events are told each, in the order of the log. Every few seconds comes a Heartbeat.
//
// The last message is an error where the first stream cannot be begun, and later where going on would
// lose something or is not allowed any more.
func (w *Watch) Messages(ctx context.Context) iter.Seq2[*keyfoldv1.WatchEventsResponse, error] {
	return func(yield func(*keyfoldv1.WatchEventsResponse, error) bool) {
		for {
			ended, left := w.oneStream(ctx, yield)
			if left {
				return
			}
			if err := ctx.Err(); err != nil {
				yield(nil, errorOfCall(ctx, err))
				return
			}
			wait, again := w.failed(ended)
			if !again {
				yield(nil, ended)
				return
			}
			if w.OnBreak != nil {
				w.OnBreak(ended)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}
}

// oneStream yields the messages of one stream. It returns what ended the stream, nil if that was no
// error; and whether the loop was left.
func (w *Watch) oneStream(
	ctx context.Context, yield func(*keyfoldv1.WatchEventsResponse, error) bool,
) (ended error, left bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.told, w.began = map[string]bool{}, false
	request := copyOf(w.request)
	request.ResumeToken = w.ResumeToken()
	begunAt := time.Now()
	stream, err := w.client.stubs.Events.WatchEvents(ctx, request)
	if err != nil {
		return err, false
	}
	for {
		askedAt := time.Now()
		silent := time.AfterFunc(w.patience, cancel)
		response, err := stream.Recv()
		if !silent.Stop() && err != nil {
			return nil, false
		}
		if errors.Is(err, io.EOF) {
			return nil, false
		}
		if err != nil {
			return err, false
		}
		for _, message := range w.take(response, begunAt, askedAt) {
			if !yield(message, nil) {
				return nil, true
			}
		}
	}
}

// take takes a message of the stream, and returns what the caller gets for it.
func (w *Watch) take(response *keyfoldv1.WatchEventsResponse, begunAt, askedAt time.Time) []*keyfoldv1.WatchEventsResponse {
	w.pause, w.began, w.ever = 0, true, true
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if session := response.GetCursorSession(); session != "" {
		w.session = session
	}
	// The stream is begun again only when the caller asks for more, and so has dealt with this.
	w.token = response.GetResumeToken()
	var messages []*keyfoldv1.WatchEventsResponse
	switch message := response.GetMessage().(type) {
	case *keyfoldv1.WatchEventsResponse_State:
		name := message.State.GetCluster()
		w.told[name] = true
		if message.State.GetExists() {
			w.alive[name] = true
		} else {
			delete(w.alive, name)
		}
	case *keyfoldv1.WatchEventsResponse_SnapshotEnd:
		// What the stream has not told does not exist any more.
		for _, name := range slices.Sorted(maps.Keys(w.alive)) {
			if w.told[name] {
				continue
			}
			delete(w.alive, name)
			messages = append(messages, &keyfoldv1.WatchEventsResponse{
				Message:     &keyfoldv1.WatchEventsResponse_State{State: &keyfoldv1.ClusterState{Cluster: name}},
				ResumeToken: response.GetResumeToken(),
			})
		}
	case *keyfoldv1.WatchEventsResponse_Heartbeat:
		if age := message.Heartbeat.GetStoreAge(); age != nil {
			// From when the wait began: a program that was stopped meanwhile must not take an old
			// heartbeat for a new one. One that was there at once came at some time after the stream was
			// asked for.
			heardAt := begunAt
			if time.Since(askedAt) > waited {
				heardAt = askedAt
			}
			if toldAt := heardAt.Add(-age.AsDuration()); !w.heard || toldAt.After(w.toldAt) {
				w.heard, w.toldAt = true, toldAt
			}
		}
	case nil:
		return nil // A kind that is newer than this client.
	}
	return append(messages, response)
}

// failed returns the wait before the stream is begun again, and whether it may be.
func (w *Watch) failed(err error) (time.Duration, bool) {
	var ended *Error
	if err != nil && !errors.As(err, &ended) {
		return 0, false
	}
	if ended != nil {
		switch ended.Reason {
		case ReasonResumeTokenExpired, ReasonResumeTokenInvalid:
			if w.request.GetEvents() || w.ResumeToken() == "" {
				return 0, false
			}
			// States are told anew from a snapshot, and nothing is lost.
			w.mutex.Lock()
			w.token = ""
			w.mutex.Unlock()
			return 0, true
		}
		// A credential that expired during the stream may be replaced by now.
		renewed := w.began && errors.Is(err, ErrUnauthenticated)
		if !renewed && !(w.ever && mayGoOn(ended)) {
			return 0, false
		}
	}
	w.pause = min(max(shortestPause, 2*w.pause), longestPause)
	wait := w.pause/2 + time.Duration(rand.Int64N(int64(w.pause/2)))
	if ended != nil {
		wait = max(wait, ended.RetryAfter)
	}
	return wait, true
}

// mayGoOn reports whether a watch begins its stream again after an error, on whichever server answers.
func mayGoOn(ended *Error) bool {
	switch ended.Kind() {
	case ErrCancelled, ErrDeadline, ErrInternal, ErrLimit, ErrUnavailable:
		return true
	}
	return ended.Reason == ReasonWatchTooSlow
}

// since returns the time since a moment, by the clock that shows more. The monotonic clock stands still
// while the machine sleeps, and the wall clock can be set back; hardly ever both.
func since(moment time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(moment), now.Round(0).Sub(moment.Round(0)))
}
