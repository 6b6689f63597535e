package keyfold

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	keyfoldv1 "keyfold/clients/go/v1"
)

// vectors reads a file of test vectors.
func vectors[Vector any](t *testing.T, name string) []Vector {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "tests", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []Vector }
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) == 0 {
		t.Fatal("no vectors")
	}
	return file.Vectors
}

type hexed []byte

func (h *hexed) UnmarshalText(digits []byte) error {
	read, err := hex.DecodeString(string(digits))
	*h = read
	return err
}

// The cipher has the published vectors' ciphertexts, tags and commitments.
func TestCipherVectors(t *testing.T) {
	for _, one := range vectors[struct{ Key, Nonce, Plaintext, AAD, Ciphertext, Tag, Commitment hexed }](t, "xaes-256-gcm.json") {
		key, err := newCommittingKey(one.Key)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := key.seal(nil, one.Nonce, one.Plaintext, one.AAD)
		want := slices.Concat(one.Ciphertext, one.Tag, one.Commitment)
		if err != nil || !bytes.Equal(sealed, want) {
			t.Errorf("%x: %x, not %x", one.Nonce, sealed, want)
		}
	}
}

type messageVector struct {
	Name, Cluster, Expect string
	KeyContext            Context `json:"key_context"`
	Context               Context
	DataKey               hexed `json:"data_key"`
	Nonce, Data, Message  hexed
	WrappedKey            hexed `json:"wrapped_key"`
}

// Each message of the vectors opens to its data, or is refused for its reason; and sealing makes the
// same bytes.
func TestMessageVectors(t *testing.T) {
	for _, one := range vectors[messageVector](t, "envelope.json") {
		envelope, err := (*Client)(nil).NewEnvelope(one.Cluster, "eu", nil, EnvelopeBounds{})
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		parts, err := envelope.parsed(one.Message)
		if err == nil {
			data, err = envelope.opened(parts, one.DataKey)
		}
		var failed *Error
		switch {
		case one.Expect == "opens" && (err != nil || !bytes.Equal(data, one.Data)):
			t.Errorf("%s: %x, %v", one.Name, data, err)
		case one.Expect != "opens" && (!errors.As(err, &failed) || string(failed.Reason) != one.Expect || !errors.Is(err, ErrInvalidInput)):
			t.Errorf("%s: %v, not %s", one.Name, err, one.Expect)
		}
		if one.Expect != "opens" {
			continue
		}
		if !bytes.Equal(parts.moved(one.WrappedKey), one.Message) {
			t.Errorf("%s: moving to the same key changes it", one.Name)
		}
		bound, _ := encodeContext(one.KeyContext)
		own, _ := encodeOwnContext(one.Context, one.KeyContext)
		bound = append(bound, own...)
		key, _ := newCommittingKey(one.DataKey)
		begin := slices.Concat(head(one.WrappedKey), bound, one.Nonce)
		sealed, err := key.seal(begin, one.Nonce, one.Data, slices.Concat(envelope.header, bound))
		if err != nil || !bytes.Equal(sealed, one.Message) {
			t.Errorf("%s: sealed otherwise", one.Name)
		}
	}
}

// wrapping makes a fake answer GenerateDataKey with fresh keys, whose wrapped form is the key itself.
func (f *fake) wrapping(maxAge time.Duration) (calls *int) {
	calls = new(int)
	f.generate = func() *keyfoldv1.GenerateDataKeyResponse {
		*calls++
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		return &keyfoldv1.GenerateDataKeyResponse{Plaintext: key, WrappedKey: key, MaxCacheAge: durationpb.New(maxAge)}
	}
	return calls
}

// One data key seals messages until the first of its bounds, or for as long as the server says.
func TestEnvelopeBounds(t *testing.T) {
	for _, one := range []struct {
		bounds EnvelopeBounds
		age    time.Duration
		calls  int
	}{
		{EnvelopeBounds{}, time.Minute, 1},
		{EnvelopeBounds{MaxMessages: 2}, time.Minute, 3},
		{EnvelopeBounds{MaxBytes: 15}, time.Minute, 2},
		{EnvelopeBounds{MaxAge: time.Nanosecond}, time.Minute, 6},
		{EnvelopeBounds{}, 0, 6},
	} {
		server := serve(t, nil)
		calls := server.wrapping(one.age)
		envelope, err := server.open(t, Settings{}).NewEnvelope("prod", "eu", Context{"table": "cards"}, one.bounds)
		if err != nil {
			t.Fatal(err)
		}
		for range 6 {
			message, err := envelope.Seal(t.Context(), []byte("4111"), Context{"row": "17"})
			if err != nil {
				t.Fatal(err)
			}
			data, err := envelope.Open(t.Context(), message, Context{"row": "17", "table": "cards"})
			if err != nil || string(data) != "4111" {
				t.Error(err, data)
			}
		}
		if *calls != one.calls {
			t.Errorf("%+v: %d calls", one.bounds, *calls)
		}
	}
}

// What is wrong with a context or a message is found before any call.
func TestEnvelopeFindsFaultsItself(t *testing.T) {
	server := serve(t, nil)
	server.wrapping(time.Minute)
	client := server.open(t, Settings{})
	envelope, err := client.NewEnvelope("prod", "eu", Context{"table": "cards"}, EnvelopeBounds{})
	if err != nil {
		t.Fatal(err)
	}
	message, err := envelope.Seal(t.Context(), nil, Context{"row": "17", "table": "cards"})
	if err != nil {
		t.Fatal(err)
	}
	before := server.calls()
	other, _ := client.NewEnvelope("prod", "eu", Context{"table": "users"}, EnvelopeBounds{})
	for reason, fails := range map[Reason]func() error{
		ReasonMessageContextMismatch: func() error {
			_, otherErr := other.Rekey(t.Context(), message)
			_, rowErr := envelope.Open(t.Context(), message, Context{"row": "18"})
			if otherErr == nil {
				return nil
			}
			return rowErr
		},
		ReasonNotAMessage: func() error { _, err := envelope.Open(t.Context(), message[:40], nil); return err },
		ReasonInvalidContext: func() error {
			_, err := envelope.Seal(t.Context(), nil, Context{"table": "users"})
			return err
		},
		ReasonInvalidName:   func() error { _, err := client.NewEnvelope("prod€", "eu", nil, EnvelopeBounds{}); return err },
		ReasonArgumentValue: func() error { _, err := client.NewEnvelope("prod", "eu", nil, EnvelopeBounds{MaxAge: -1}); return err },
	} {
		var failed *Error
		if err := fails(); !errors.As(err, &failed) || failed.Reason != reason {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if server.calls() != before {
		t.Error("something was sent")
	}
}

// No bytes make parsing panic, and what it takes it would write in the same way.
func FuzzParse(f *testing.F) {
	f.Add([]byte("KFM\x01\x01\x00\x01k\x00\x00\x00\x00" + string(make([]byte, leastSealed))))
	f.Fuzz(func(t *testing.T, given []byte) {
		if parts, err := parse(given); err == nil && !bytes.Equal(parts.moved(parts.wrappedKey), given) {
			t.Error("written otherwise")
		}
	})
}
