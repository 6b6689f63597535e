package keyfold

import (
	"sync/atomic"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	keyfoldv1 "keyfold/clients/go/v1"
)

const (
	// maxResponse is the most bytes of a response. A page of large clusters is more than gRPC's default
	// of 4 MiB.
	maxResponse = 64 * 1024 * 1024
	// maxRepeated is the most bytes of a request that gRPC keeps to repeat it. By default gRPC would
	// repeat no batch of more than 256 KiB.
	maxRepeated = 5 * 1024 * 1024
	// connectBackoff is the longest wait before another attempt to connect. By default a channel would
	// ignore a restarted replica for up to two minutes.
	connectBackoff = 3 * time.Second
	connectTimeout = 20 * time.Second
)

// policy are gRPC's rules: calls go round all servers, and gRPC repeats an unavailable one.
//
// Repeating is safe for every method. Data-plane calls and reads change nothing, and a change always
// carries a request_id, by which the server recognizes a repetition. UNAVAILABLE means only "not now".
// A server that is stopping answers CANCELLED to calls that still arrive. Of operations gRPC repeats
// reads alone: to cancel or delete again what is cancelled or deleted is an error.
//
// Once failures have used up half of the tokens, gRPC repeats nothing until calls succeed again:
// repetitions must not bury a server that is down already.
const policy = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [
      {"service": "keyfold.v1.KeyManagementService"},
      {"service": "keyfold.v1.EventService"},
      {"service": "keyfold.v1.OrganizationService"},
      {"service": "google.longrunning.Operations", "method": "GetOperation"},
      {"service": "google.longrunning.Operations", "method": "ListOperations"},
      {"service": "google.longrunning.Operations", "method": "WaitOperation"}
    ],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "1s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
    }
  }],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5}
}`

// Client is a connection to Keyfold's servers. Any number of goroutines may share it.
type Client struct {
	connection *grpc.ClientConn
	stubs      Stubs
	caller     caller
	settings   Settings
	closed     atomic.Bool
}

// Stubs are gRPC's own stubs of the services. Their calls have the client's deadlines, credentials,
// request_ids, repetitions and errors, but a message that holds a plaintext key prints it.
type Stubs struct {
	Keys          keyfoldv1.KeyManagementServiceClient
	Events        keyfoldv1.EventServiceClient
	Organizations keyfoldv1.OrganizationServiceClient
	Operations    longrunningpb.OperationsClient
}

// Open makes a client, which connects when it makes its first call. It fails if the settings cannot be
// used, a file cannot be read, or a token would go over plain text to another machine.
func Open(settings Settings) (*Client, error) {
	settings, err := settings.checked()
	if err != nil {
		return nil, err
	}
	who, err := callerOf(settings)
	if err != nil {
		return nil, err
	}
	where, options, err := target(settings.Target, settings.TLS)
	if err != nil {
		return nil, err
	}
	client := &Client{caller: who, settings: settings}
	options = append(options,
		grpc.WithDefaultServiceConfig(policy),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxResponse), grpc.MaxRetryRPCBufferSize(maxRepeated),
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: connectBackoff},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithChainUnaryInterceptor(client.unary),
		grpc.WithChainStreamInterceptor(client.stream),
	)
	if settings.TLS != nil {
		secure, err := settings.TLS.credentials()
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithTransportCredentials(secure))
	} else {
		if who.token != nil && !allLocal(settings.Target) {
			return nil, unusable("over plain text a token goes only to a loopback address or a unix socket, " +
				"because anybody who reads it can use it; use TLS")
		}
		// Proxies that the environment names would see plaintext keys.
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	}
	connection, err := grpc.NewClient(where, append(options, settings.DialOptions...)...)
	if err != nil {
		return nil, unusable("gRPC cannot use the target or an option: %s", err)
	}
	client.connection = connection
	client.stubs = Stubs{
		Keys:          keyfoldv1.NewKeyManagementServiceClient(connection),
		Events:        keyfoldv1.NewEventServiceClient(connection),
		Organizations: keyfoldv1.NewOrganizationServiceClient(connection),
		Operations:    longrunningpb.NewOperationsClient(connection),
	}
	return client, nil
}

// Close closes the connection and cancels the calls that are under way.
func (c *Client) Close() error {
	c.closed.Store(true)
	return c.connection.Close()
}

// Stubs returns gRPC's own stubs, for what the client's methods do not do.
func (c *Client) Stubs() Stubs { return c.stubs }

func allLocal(target string) bool {
	for _, address := range addressesOf(target) {
		if !isLocal(address) {
			return false
		}
	}
	return true
}
