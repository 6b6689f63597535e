package keyfold

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	keyfoldv1 "keyfold/clients/go/v1"
)

// dataPlane are the methods of the data plane, whose deadline is shorter.
var dataPlane = map[string]bool{
	keyfoldv1.KeyManagementService_Wrap_FullMethodName:            true,
	keyfoldv1.KeyManagementService_Unwrap_FullMethodName:          true,
	keyfoldv1.KeyManagementService_GenerateDataKey_FullMethodName: true,
	keyfoldv1.KeyManagementService_Rewrap_FullMethodName:          true,
	keyfoldv1.KeyManagementService_BatchWrap_FullMethodName:       true,
	keyfoldv1.KeyManagementService_BatchUnwrap_FullMethodName:     true,
	keyfoldv1.KeyManagementService_BatchRewrap_FullMethodName:     true,
}

// unary carries out one call: with a deadline, the caller's credential and a request_id, and with an
// Error where it fails.
func (c *Client) unary(
	ctx context.Context, method string, request, response any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if _, set := ctx.Deadline(); !set {
		within, cancel := context.WithTimeout(ctx, c.timeoutOf(method))
		defer cancel()
		ctx = within
	}
	request = identified(request)
	named, err := c.caller.named(ctx)
	if err != nil {
		return c.failed(ctx, err, request)
	}
	err = invoke(named, method, request, response, connection, options...)
	return c.failed(ctx, err, request)
}

// failed returns the error of a call; nil for nil.
func (c *Client) failed(ctx context.Context, err error, request any) error {
	if err == nil {
		return nil
	}
	failed := errorOfCall(ctx, err)
	if failed.Code == codes.Canceled && c.closed.Load() {
		failed = local(ReasonClosed, codes.Canceled, err, "the client is closed")
	}
	if message, ok := request.(proto.Message); ok {
		failed.RequestID = textField(message, "request_id")
		if failed.Cluster == "" {
			failed.Cluster = textField(message, "cluster")
		}
	}
	return failed
}

// stream begins a call whose response is a stream. It has no deadline of its own.
func (c *Client) stream(
	ctx context.Context, described *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	begin grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	named, err := c.caller.named(ctx)
	if err != nil {
		return nil, c.failed(ctx, err, nil)
	}
	begun, err := begin(named, described, connection, method, options...)
	if err != nil {
		return nil, c.failed(ctx, err, nil)
	}
	return &failing{begun, c}, nil
}

// failing is a stream whose failures are Errors.
type failing struct {
	grpc.ClientStream
	client *Client
}

// RecvMsg receives a message.
func (f *failing) RecvMsg(message any) error { return f.of(f.ClientStream.RecvMsg(message)) }

// SendMsg sends a message.
func (f *failing) SendMsg(message any) error { return f.of(f.ClientStream.SendMsg(message)) }

func (f *failing) of(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return f.client.failed(f.Context(), err, nil)
}

func (c *Client) timeoutOf(method string) time.Duration {
	if dataPlane[method] {
		return c.settings.Timeout
	}
	return c.settings.ControlTimeout
}

// identified returns a request that has a request_id, if it is of a kind that takes one. The caller's
// own message stays as it is, so that sending it twice asks for two changes.
func identified(request any) any {
	message, ok := request.(proto.Message)
	if !ok {
		return request
	}
	field := message.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if field == nil || textField(message, "request_id") != "" {
		return request
	}
	copied := copyOf(message)
	copied.ProtoReflect().Set(field, protoreflect.ValueOfString(strings.ToLower(rand.Text())))
	return copied
}

// copyOf returns a copy of a message; of nil, an empty message.
func copyOf[Message proto.Message](message Message) Message {
	copied := message.ProtoReflect().New().Interface().(Message)
	proto.Merge(copied, message)
	return copied
}
