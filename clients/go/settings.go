package keyfold

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// DefaultTarget is where a server listens by default.
const DefaultTarget = "127.0.0.1:7443"

const (
	// DefaultTimeout is the deadline of a call that wraps or unwraps. One that needs a cold key waits up
	// to 5 s for the KMS.
	DefaultTimeout = 10 * time.Second
	// DefaultControlTimeout is the deadline of any other call, which may need the KMS of each region.
	DefaultControlTimeout = 30 * time.Second
)

// Settings say how a client reaches the servers. The zero value is for a server on this machine.
type Settings struct {
	// Target is host:port, unix:/path, or several host:port separated by commas, among which calls go
	// round. Empty means DefaultTarget.
	Target string
	// TLS has the certificates that secure the connection. Nil means plain text, which a server accepts
	// only from its own machine.
	TLS *TLS
	// TokenFile is the path of a file with the caller's token, which another program may rotate.
	TokenFile string
	// Token returns the caller's token for a call. Give this or TokenFile, or neither.
	Token func(context.Context) (string, error)
	// OnBehalfOf returns the name of the person for whom the caller makes a call, 1 to 256 printable
	// ASCII characters, or "" for nobody. Audit events show it.
	OnBehalfOf func(context.Context) string
	// Timeout is the deadline of a call that wraps or unwraps, and whose context has none; zero means
	// DefaultTimeout.
	Timeout time.Duration
	// ControlTimeout is the same for any other call; zero means DefaultControlTimeout.
	ControlTimeout time.Duration
	// DialOptions are further options of gRPC, such as a stats handler that traces calls.
	DialOptions []grpc.DialOption
}

func (s Settings) checked() (Settings, error) {
	if s.Target == "" {
		s.Target = DefaultTarget
	}
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if s.ControlTimeout == 0 {
		s.ControlTimeout = DefaultControlTimeout
	}
	if s.Timeout < 0 || s.ControlTimeout < 0 {
		return s, unusable("a timeout must not be negative")
	}
	if s.Token != nil && s.TokenFile != "" {
		return s, unusable("give Token or TokenFile, not both")
	}
	return s, nil
}
