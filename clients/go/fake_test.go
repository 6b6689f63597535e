package keyfold

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	keyfoldv1 "keyfold/clients/go/v1"
)

// fake is a server that answers as a test wants, and notes what it is asked.
type fake struct {
	keyfoldv1.UnimplementedKeyManagementServiceServer
	keyfoldv1.UnimplementedEventServiceServer
	target string
	server *grpc.Server

	mutex    sync.Mutex
	metadata []metadata.MD
	revokes  []*keyfoldv1.RevokeRequest
	// left is the time that the last call had left.
	left time.Duration
	// failures are the errors of the next calls, in order.
	failures []error
	wrap     func(*keyfoldv1.BatchWrapRequest) *keyfoldv1.BatchWrapResponse
	generate func() *keyfoldv1.GenerateDataKeyResponse
	list     func(*keyfoldv1.ListClustersRequest) *keyfoldv1.ListClustersResponse
	watch    func(*keyfoldv1.WatchEventsRequest, grpc.ServerStreamingServer[keyfoldv1.WatchEventsResponse]) error
}

// serve starts a fake on a free port, until the test ends.
func serve(t *testing.T, secure credentials.TransportCredentials) *fake {
	t.Helper()
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{target: listening.Addr().String()}
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(8 << 20)}
	if secure != nil {
		options = append(options, grpc.Creds(secure))
	}
	f.server = grpc.NewServer(options...)
	keyfoldv1.RegisterKeyManagementServiceServer(f.server, f)
	keyfoldv1.RegisterEventServiceServer(f.server, f)
	go func() { _ = f.server.Serve(listening) }()
	t.Cleanup(f.server.Stop)
	return f
}

// open makes a client of the fake, until the test ends.
func (f *fake) open(t *testing.T, settings Settings) *Client {
	t.Helper()
	settings.Target = f.target
	client, err := Open(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (f *fake) calls() int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return len(f.metadata)
}

func (f *fake) note(ctx context.Context) error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	sent, _ := metadata.FromIncomingContext(ctx)
	f.metadata = append(f.metadata, sent)
	if until, ok := ctx.Deadline(); ok {
		f.left = time.Until(until)
	}
	if len(f.failures) == 0 {
		return nil
	}
	failure := f.failures[0]
	f.failures = f.failures[1:]
	return failure
}

func (f *fake) GetStatus(ctx context.Context, request *keyfoldv1.GetStatusRequest) (*keyfoldv1.GetStatusResponse, error) {
	if err := f.note(ctx); err != nil {
		return nil, err
	}
	return &keyfoldv1.GetStatusResponse{Status: &keyfoldv1.ClusterStatus{Cluster: request.GetCluster()}}, nil
}

func (f *fake) Unwrap(ctx context.Context, request *keyfoldv1.UnwrapRequest) (*keyfoldv1.UnwrapResponse, error) {
	if err := f.note(ctx); err != nil {
		return nil, err
	}
	return &keyfoldv1.UnwrapResponse{Plaintext: request.GetWrappedKey()}, nil
}

func (f *fake) GenerateDataKey(ctx context.Context, _ *keyfoldv1.GenerateDataKeyRequest) (*keyfoldv1.GenerateDataKeyResponse, error) {
	if err := f.note(ctx); err != nil {
		return nil, err
	}
	return f.generate(), nil
}

func (f *fake) Revoke(ctx context.Context, request *keyfoldv1.RevokeRequest) (*keyfoldv1.RevokeResponse, error) {
	f.mutex.Lock()
	f.revokes = append(f.revokes, request)
	f.mutex.Unlock()
	return &keyfoldv1.RevokeResponse{}, f.note(ctx)
}

func (f *fake) BatchWrap(ctx context.Context, request *keyfoldv1.BatchWrapRequest) (*keyfoldv1.BatchWrapResponse, error) {
	if err := f.note(ctx); err != nil {
		return nil, err
	}
	return f.wrap(request), nil
}

func (f *fake) ListClusters(ctx context.Context, request *keyfoldv1.ListClustersRequest) (*keyfoldv1.ListClustersResponse, error) {
	if err := f.note(ctx); err != nil {
		return nil, err
	}
	return f.list(request), nil
}

func (f *fake) WatchEvents(request *keyfoldv1.WatchEventsRequest, stream grpc.ServerStreamingServer[keyfoldv1.WatchEventsResponse]) error {
	if err := f.note(stream.Context()); err != nil {
		return err
	}
	return f.watch(request, stream)
}

// refusal returns an error with a reason of Keyfold's.
func refusal(t *testing.T, code codes.Code, reason Reason, details ...protoadapt.MessageV1) error {
	t.Helper()
	info := &errdetails.ErrorInfo{
		Reason: string(reason), Domain: "keyfold", Metadata: map[string]string{"cluster": "prod"},
	}
	made, err := status.New(code, "it went wrong").WithDetails(append(details, info)...)
	if err != nil {
		t.Fatal(err)
	}
	return made.Err()
}

var busy = status.Error(codes.Unavailable, "try again")

func ask(t *testing.T, client *Client) error {
	t.Helper()
	_, err := client.GetStatus(t.Context(), &keyfoldv1.GetStatusRequest{Cluster: "prod"})
	return err
}
