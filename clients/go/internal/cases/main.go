// Cases makes calls for the tests that all of Keyfold's clients share; tests/clients says how. It reads
// a JSON object from each line of its input, and prints what came of it on a line of its own:
//
//	{"open": {"target": "127.0.0.1:7443"}}                  {"value": null}
//	{"call": "wrap", "arguments": {…}, "timeout": 0.5}      {"value": {…}, "printed": "…"}
//	{"call": "get_status", "arguments": {…}}                {"error": {…}, "printed": "…"}
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// order is a line of the input.
type order struct {
	Open      *settings       `json:"open"`
	Call      string          `json:"call"`
	Arguments json.RawMessage `json:"arguments"`
	Timeout   float64         `json:"timeout"`
}

// outcome is a line of the output.
type outcome struct {
	Value   any    `json:"value,omitempty"`
	Error   any    `json:"error,omitempty"`
	Printed string `json:"printed,omitempty"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	encoder := json.NewEncoder(os.Stdout)
	var running session
	defer running.close()
	for lines.Scan() {
		var given order
		must(json.Unmarshal(lines.Bytes(), &given))
		must(encoder.Encode(running.carryOut(given)))
	}
	must(lines.Err())
}

func (s *session) carryOut(given order) outcome {
	if given.Open != nil {
		s.close()
		if err := s.open(*given.Open); err != nil {
			return outcome{Error: errorForm(err), Printed: printed(err)}
		}
		return outcome{}
	}
	ctx := context.Background()
	if given.Timeout > 0 {
		within, cancel := context.WithTimeout(ctx, time.Duration(given.Timeout*float64(time.Second)))
		defer cancel()
		ctx = within
	}
	value, err := s.call(ctx, given.Call, given.Arguments)
	if err != nil {
		return outcome{Error: errorForm(err), Printed: printed(err)}
	}
	return outcome{Value: form(value), Printed: printed(value)}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
