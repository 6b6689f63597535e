package keyfold

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What cannot be used is an error when the client is made, not at the first call.
func TestSettingsThatCannotBeUsed(t *testing.T) {
	token := func(context.Context) (string, error) { return "abc", nil }
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, settings := range map[string]Settings{
		"is not host:port":      {Target: "localhost"},
		"has an @":              {Target: "127.0.0.1:1,user:password@127.0.0.1:1"},
		"\"a:b\" is not":        {Target: "127.0.0.1:1,a:b"},
		"path/to:1":             {Target: "path/to:1"},
		"together, or neither":  {TLS: &TLS{CertFile: empty}},
		"no certificate in PEM": {TLS: &TLS{CAFile: empty}},
		"no such file":          {TLS: &TLS{CAFile: empty + "."}},
		"need a ServerName":     {Target: "127.0.0.1:1,127.0.0.2:1", TLS: &TLS{}},
		"use TLS":               {Target: "127.0.0.1:1,10.1.2.3:1", Token: token},
		"not both":              {Token: token, TokenFile: empty},
		"one line of ASCII":     {TokenFile: empty},
		"not be negative":       {Timeout: -time.Second},
	} {
		client, err := Open(settings)
		var failed *Error
		if !errors.As(err, &failed) || !strings.Contains(failed.Message, says) || !errors.Is(err, ErrInvalidInput) {
			t.Errorf("%s: %v", says, err)
		}
		if client != nil {
			t.Errorf("%s: a client", says)
		}
	}
}

// What can be used makes a client, which does not need a server yet.
func TestSettingsThatCanBeUsed(t *testing.T) {
	token := func(context.Context) (string, error) { return "abc", nil }
	for _, settings := range []Settings{
		{},
		{Target: "keyfold.example:7443"},
		{Target: "[::1]:7443", Token: token},
		{Target: "localhost:7443", Token: token},
		{Target: "unix:/run/keyfold.sock", Token: token},
		{Target: "dns:///keyfold.example:7443", TLS: &TLS{}, Token: token},
		{Target: "127.0.0.1:1, 127.0.0.1:2", TLS: &TLS{}},
		{Target: "10.1.2.3:1,10.1.2.4:1", TLS: &TLS{ServerName: "keyfold.example"}, Token: token},
	} {
		client, err := Open(settings)
		if err != nil {
			t.Errorf("%+v: %v", settings, err)
			continue
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Calls go round all servers, and pass by one that is down.
func TestSeveralServers(t *testing.T) {
	one, two, down := serve(t, nil), serve(t, nil), serve(t, nil)
	down.server.Stop()
	client, err := Open(Settings{Target: one.target + ", " + down.target + "," + two.target})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// The first calls may all go to the server whose connection is there first.
	for until := time.Now().Add(20 * time.Second); one.calls() < 5 || two.calls() < 5; {
		if err := ask(t, client); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(until) {
			t.Fatal(one.calls(), two.calls())
		}
	}
}
