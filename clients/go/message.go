package keyfold

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
)

// The bytes of a message, which docs/envelope.md describes and tests/vectors/envelope.json pins:
//
//	"KFM" ‖ version(1) ‖ suite(1) ‖ lp(wrapped key) ‖ key's context ‖ message's context
//	‖ nonce(24) ‖ ciphertext ‖ tag(16) ‖ commitment(32)
//
// The additional authenticated data (AAD) is what stands before the nonce, with the cluster's name in
// the place of the wrapped key.
const (
	messageMagic  = "KFM"
	messagePrefix = messageMagic + "\x01\x01"
	// maxMessageData is the most bytes of data in one message.
	maxMessageData  = 1 << 30
	maxWrappedKey   = 4186
	maxNameLength   = 128
	maxContextPairs = 16
	maxContextBytes = 4096
	leastSealed     = xaesNonceSize + xaesTagSize + xaesCommitmentSize
)

// message has the parts of a well-formed message. Only its data key can tell whether it opens.
type message struct {
	wrappedKey          []byte
	keyContext, context Context
	// bound are both contexts as they stand in the message.
	bound                     []byte
	nonce, sealed, commitment []byte
	// rest is what stands behind the wrapped key.
	rest []byte
}

func notAMessage(fault string) *Error {
	return local(ReasonNotAMessage, codes.InvalidArgument, nil, "the bytes are not a message: %s", fault)
}

func badContext(format string, arguments ...any) *Error {
	return local(ReasonInvalidContext, codes.InvalidArgument, nil, "the context "+format, arguments...)
}

// parse returns the parts of a message, without authenticating it.
func parse(given []byte) (*message, error) {
	if len(given) < len(messagePrefix) || !bytes.HasPrefix(given, []byte(messageMagic)) {
		return nil, notAMessage("they begin otherwise; look for a text encoding")
	}
	if !bytes.HasPrefix(given, []byte(messagePrefix)) {
		return nil, local(ReasonUnsupportedMessage, codes.InvalidArgument, nil,
			"the message begins with version %d and suite %d, and this release knows version 1 and suite 1; "+
				"open it with a newer release", given[3], given[4])
	}
	wrappedKey, rest, ok := prefixed(given[len(messagePrefix):])
	if !ok || len(wrappedKey) == 0 || len(wrappedKey) > maxWrappedKey {
		return nil, notAMessage("they do not hold a wrapped key")
	}
	keyContext, after, ok := decodeContext(rest)
	if !ok {
		return nil, notAMessage("they do not hold a context")
	}
	own, sealed, ok := decodeContext(after)
	if !ok {
		return nil, notAMessage("they do not hold a context")
	}
	for name := range own {
		// Otherwise it would depend on the reader which value counts.
		if _, both := keyContext[name]; both {
			return nil, notAMessage("their two contexts have a key in common")
		}
	}
	if len(sealed) < leastSealed || len(sealed) > leastSealed+maxMessageData {
		return nil, notAMessage("what is sealed is too short or too long; look for truncation")
	}
	commitmentAt := len(sealed) - xaesCommitmentSize
	return &message{
		wrappedKey: wrappedKey, keyContext: keyContext, context: own,
		bound: rest[:len(rest)-len(sealed)],
		nonce: sealed[:xaesNonceSize], sealed: sealed[xaesNonceSize:commitmentAt],
		commitment: sealed[commitmentAt:], rest: rest,
	}, nil
}

// moved returns a message with another wrapped key, and all else as it was.
func (m *message) moved(wrappedKey []byte) []byte { return append(head(wrappedKey), m.rest...) }

// head returns the begin of a message, up to the contexts.
func head(wrappedKey []byte) []byte { return appendPrefixed([]byte(messagePrefix), wrappedKey) }

// boundTo returns the AAD of all messages of a cluster, up to the contexts.
func boundTo(cluster string) ([]byte, error) {
	if cluster == "" || len(cluster) > maxNameLength || bytes.ContainsFunc([]byte(cluster), notASCII) {
		return nil, local(ReasonInvalidName, codes.InvalidArgument, nil,
			"a cluster's name has 1 to %d ASCII characters", maxNameLength)
	}
	return appendPrefixed([]byte(messagePrefix), []byte(cluster)), nil
}

func notASCII(one rune) bool { return one >= utf8.RuneSelf }

// encodeContext returns the one encoding of a context: its pairs in the order of their keys.
func encodeContext(context Context) ([]byte, error) {
	if len(context) > maxContextPairs {
		return nil, badContext("has %d pairs; send at most %d", len(context), maxContextPairs)
	}
	encoded := binary.BigEndian.AppendUint16(nil, uint16(len(context)))
	room := maxContextBytes
	for _, name := range slices.Sorted(maps.Keys(context)) {
		value := context[name]
		room -= len(name) + len(value)
		switch {
		case name == "":
			return nil, badContext("has an empty key; give each pair a key")
		case room < 0:
			return nil, badContext("is too large; keep keys and values within %d bytes together", maxContextBytes)
		case !utf8.ValidString(name) || !utf8.ValidString(value):
			return nil, badContext("has bytes that are not UTF-8; send text")
		}
		encoded = appendPrefixed(appendPrefixed(encoded, []byte(name)), []byte(value))
	}
	return encoded, nil
}

// encodeOwnContext returns the encoding of the pairs that a message has besides its key's.
func encodeOwnContext(own, keyContext Context) ([]byte, error) {
	besides := Context{}
	for name, value := range own {
		held, both := keyContext[name]
		if both && held != value {
			return nil, badContext("has another value of %q than the envelope's context; use another envelope", name)
		}
		if !both {
			besides[name] = value
		}
	}
	return encodeContext(besides)
}

// decodeContext reads a context, and returns it with what follows it.
func decodeContext(from []byte) (context Context, rest []byte, ok bool) {
	if len(from) < 2 {
		return nil, nil, false
	}
	count, rest := int(binary.BigEndian.Uint16(from)), from[2:]
	if count > maxContextPairs {
		return nil, nil, false
	}
	context = Context{}
	for range count {
		var name, value []byte
		if name, rest, ok = prefixed(rest); !ok {
			return nil, nil, false
		}
		if value, rest, ok = prefixed(rest); !ok {
			return nil, nil, false
		}
		context[string(name)] = string(value)
	}
	// Encoding it again checks everything else: order, repeated and empty keys, UTF-8, and the size.
	again, err := encodeContext(context)
	return context, rest, err == nil && bytes.Equal(again, from[:len(from)-len(rest)])
}

// prefixed reads bytes that stand behind their length.
func prefixed(from []byte) (part, rest []byte, ok bool) {
	if len(from) < 2 {
		return nil, nil, false
	}
	size := int(binary.BigEndian.Uint16(from))
	if len(from)-2 < size {
		return nil, nil, false
	}
	return from[2 : 2+size], from[2+size:], true
}

func appendPrefixed(to, part []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(part))), part...)
}
