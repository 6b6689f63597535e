package keyfold

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// Plaintext is a plaintext key that does not print itself. Whatever fmt, encoding/json or log/slog make
// of it, or of a value that holds it, shows only its length. This guards against accidents, not against
// the program itself, which can always ask for the bytes.
//
// The copies of a Plaintext share its bytes, so Wipe wipes all of them. Its zero value is empty.
type Plaintext struct {
	// fmt does not call the methods of a value in an unexported field of another value. There it prints
	// what the value consists of: of a function, the address. A pointer it would follow for some verbs.
	bytes func() *[]byte
}

// NewPlaintext returns a plaintext key with these bytes, which it does not copy.
func NewPlaintext(bytes []byte) Plaintext {
	return Plaintext{func() *[]byte { return &bytes }}
}

// Bytes returns the key itself, not a copy, and nothing after Wipe. Everything prints it.
func (p Plaintext) Bytes() []byte {
	if p.bytes == nil {
		return nil
	}
	return *p.bytes()
}

// Len returns the size of the key in bytes.
func (p Plaintext) Len() int { return len(p.Bytes()) }

// Equal reports whether another key has the same bytes. It takes the same time wherever the difference
// is.
func (p Plaintext) Equal(other Plaintext) bool {
	return subtle.ConstantTimeCompare(p.Bytes(), other.Bytes()) == 1
}

// Wipe overwrites the bytes with zeros and forgets them. Go may have made copies that nobody can reach,
// for example when gRPC read the answer from the network; those stay until their memory is used again.
func (p Plaintext) Wipe() {
	if p.bytes != nil {
		bytes := p.bytes()
		clear(*bytes)
		*bytes = nil
	}
}

// String returns the length alone, such as Plaintext(<32 bytes>).
func (p Plaintext) String() string { return fmt.Sprintf("Plaintext(<%d bytes>)", p.Len()) }

// GoString returns what String returns.
func (p Plaintext) GoString() string { return p.String() }

// Format writes what String returns, whatever the verb.
func (p Plaintext) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, p.String()) }

// LogValue returns what String returns.
func (p Plaintext) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalJSON returns what String returns: to store a key, wrap it, and store the wrapped key.
func (p Plaintext) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// MarshalText returns what String returns.
func (p Plaintext) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
