// A client of Keyfold on grpc-go: `interop TARGET CREDENTIALS DESCRIPTORS`.
//
// TARGET is HOST:PORT. CREDENTIALS is a folder with ca.pem, client.pem and client.key, or - for a
// connection without TLS. DESCRIPTORS is a file with the contract as a FileDescriptorSet. Prints a line
// for each check that passes, and ends with an error at the first one that does not.
// tests/e2e/test_interop.py says what each check promises.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	keys   = "/keyfold.v1.KeyManagementService/"
	health = "/grpc.health.v1.Health/"
)

type client struct {
	*grpc.ClientConn
	files *protoregistry.Files
}

func main() {
	c := connect(os.Args[1], os.Args[2], os.Args[3])
	defer c.Close()
	for _, check := range []struct {
		name string
		run  func(client) error
	}{
		{"a key and back", aKeyAndBack},
		{"an error with details", anErrorWithDetails},
		{"a deadline", aDeadline},
		{"a cancel", aCancel},
		{"a large message", aLargeMessage},
		{"many calls at once", manyCallsAtOnce},
	} {
		if err := check.run(c); err != nil {
			fmt.Fprintln(os.Stderr, check.name+":", err)
			os.Exit(1)
		}
		fmt.Println(check.name)
	}
}

func aKeyAndBack(c client) error {
	wrapped, err := c.wrap()
	if err != nil {
		return err
	}
	asked := c.message("keyfold.v1.UnwrapRequest", `cluster: "prod"`)
	set(asked, "wrapped_key", get(wrapped, "wrapped_key"))
	opened, err := c.call(context.Background(), keys+"Unwrap", asked, "keyfold.v1.UnwrapResponse")
	if err != nil {
		return err
	}
	if !bytes.Equal(get(opened, "plaintext").Bytes(), []byte("0123456789abcdef")) {
		return fmt.Errorf("another key came back")
	}
	return nil
}

func anErrorWithDetails(c client) error {
	asked := c.message("keyfold.v1.WrapRequest", `cluster: "nope" region: "eu" plaintext: "k"`)
	_, err := c.call(context.Background(), keys+"Wrap", asked, "keyfold.v1.WrapResponse")
	told := status.Convert(err)
	for _, detail := range told.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && told.Code() == codes.NotFound &&
			info.Reason == "CLUSTER_NOT_FOUND" && info.Metadata["cluster"] == "nope" {
			return nil
		}
	}
	return fmt.Errorf("told %v with %v", err, told.Details())
}

func aDeadline(c client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	watch, err := c.watch(ctx)
	if err != nil {
		return err
	}
	return ends(watch, c, codes.DeadlineExceeded)
}

func aCancel(c client) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch, err := c.watch(ctx)
	if err != nil {
		return err
	}
	cancel()
	if err := ends(watch, c, codes.Canceled); err != nil {
		return err
	}
	_, err = c.wrap()
	return err
}

func aLargeMessage(c client) error {
	asked := c.message("keyfold.v1.BatchWrapRequest", `cluster: "prod" region: "eu"`)
	items := asked.Mutable(field(asked, "items")).List()
	for i := 0; i < 1000; i++ {
		item := items.AppendMutable().Message()
		item.Set(item.Descriptor().Fields().ByName("plaintext"), protoreflect.ValueOfBytes(bytes.Repeat([]byte("k"), 3000)))
	}
	answer, err := c.call(context.Background(), keys+"BatchWrap", asked, "keyfold.v1.BatchWrapResponse")
	if err != nil {
		return err
	}
	if n := get(answer, "results").List().Len(); n != 1000 || proto.Size(answer) < 3_000_000 {
		return fmt.Errorf("%d results of %d bytes", n, proto.Size(answer))
	}
	return nil
}

func manyCallsAtOnce(c client) error {
	var all sync.WaitGroup
	faults := make(chan error, 200)
	for i := 0; i < 200; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			if _, err := c.wrap(); err != nil {
				faults <- err
			}
		}()
	}
	all.Wait()
	close(faults)
	return <-faults
}

func connect(target, folder, descriptors string) client {
	with := insecure.NewCredentials()
	if folder != "-" {
		own, err := tls.LoadX509KeyPair(folder+"/client.pem", folder+"/client.key")
		must(err)
		authority, err := os.ReadFile(folder + "/ca.pem")
		must(err)
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(authority)
		with = credentials.NewTLS(&tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}})
	}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(with))
	must(err)
	data, err := os.ReadFile(descriptors)
	must(err)
	var set descriptorpb.FileDescriptorSet
	must(proto.Unmarshal(data, &set))
	files, err := protodesc.NewFiles(&set)
	must(err)
	return client{conn, files}
}

func (c client) message(name, text string) *dynamicpb.Message {
	kind, err := c.files.FindDescriptorByName(protoreflect.FullName(name))
	must(err)
	made := dynamicpb.NewMessage(kind.(protoreflect.MessageDescriptor))
	must(prototext.Unmarshal([]byte(text), made))
	return made
}

func (c client) call(ctx context.Context, method string, asked proto.Message, kind string) (*dynamicpb.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	answer := c.message(kind, "")
	return answer, c.Invoke(ctx, method, asked, answer)
}

func (c client) wrap() (*dynamicpb.Message, error) {
	asked := c.message("keyfold.v1.WrapRequest", `cluster: "prod" region: "eu" plaintext: "0123456789abcdef"`)
	return c.call(context.Background(), keys+"Wrap", asked, "keyfold.v1.WrapResponse")
}

// watch begins a stream, and returns once its first message has come.
func (c client) watch(ctx context.Context) (grpc.ClientStream, error) {
	watch, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, health+"Watch")
	if err != nil {
		return nil, err
	}
	if err := watch.SendMsg(c.message("grpc.health.v1.HealthCheckRequest", "")); err != nil {
		return nil, err
	}
	if err := watch.CloseSend(); err != nil {
		return nil, err
	}
	return watch, watch.RecvMsg(c.message("grpc.health.v1.HealthCheckResponse", ""))
}

// ends waits until a stream ends, and says whether it did so with a code.
func ends(watch grpc.ClientStream, c client, code codes.Code) error {
	err := watch.RecvMsg(c.message("grpc.health.v1.HealthCheckResponse", ""))
	if status.Code(err) != code {
		return fmt.Errorf("ended with %v", err)
	}
	return nil
}

func field(m *dynamicpb.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

func get(m *dynamicpb.Message, name protoreflect.Name) protoreflect.Value {
	return m.Get(field(m, name))
}

func set(m *dynamicpb.Message, name protoreflect.Name, value protoreflect.Value) {
	m.Set(field(m, name), value)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
