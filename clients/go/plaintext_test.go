package keyfold

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const secret = "the secret of 32 bytes, all text"

// hides is a value that holds a key where fmt calls no methods.
type hides struct{ key Plaintext }

// Nothing that prints a value prints the key in it.
func TestPlaintextDoesNotPrintItself(t *testing.T) {
	key := NewPlaintext([]byte(secret))
	var logged bytes.Buffer
	for _, value := range []any{
		key, &key, hides{key}, &hides{key}, []hides{{key}}, map[string]any{"key": key},
		Unwrapped{Plaintext: key}, &DataKey{Plaintext: key}, WrapItem{Plaintext: key},
		[]WrapItem{{Plaintext: key}}, Result[Unwrapped]{Value: Unwrapped{Plaintext: key}},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%p"} {
			fmt.Fprintf(&logged, verb+"\n", value)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
			slog.New(handler).Info("a value", "value", value)
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		logged.Write(encoded)
	}
	for _, form := range []string{
		secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))),
		base64.StdEncoding.EncodeToString([]byte(secret)), strings.Trim(fmt.Sprint([]byte(secret)), "[]"),
		fmt.Sprintf("%#v", []byte(secret))[8:],
	} {
		if strings.Contains(logged.String(), form) {
			t.Errorf("printed %q", form)
		}
	}
	if !strings.Contains(logged.String(), "Plaintext(<32 bytes>)") {
		t.Error("the length is not told")
	}
}

// Wipe overwrites the bytes, for all copies of the key.
func TestPlaintextIsWiped(t *testing.T) {
	given := []byte(secret)
	key := NewPlaintext(given)
	other := key
	other.Wipe()
	if key.Len() != 0 || !bytes.Equal(given, make([]byte, len(given))) {
		t.Error("something is left")
	}
	Plaintext{}.Wipe()
}

// Equal tells keys apart.
func TestPlaintextEqual(t *testing.T) {
	key := NewPlaintext([]byte(secret))
	if !key.Equal(NewPlaintext([]byte(secret))) || key.Equal(NewPlaintext([]byte(secret[1:]))) || key.Equal(Plaintext{}) {
		t.Error("wrong")
	}
}
