package keyfold

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	keyfoldv1 "keyfold/clients/go/v1"
)

// The client has a method for each call of the contract.
func TestEveryCallHasAMethod(t *testing.T) {
	renamed := map[protoreflect.Name]string{"WatchEvents": "Watch"}
	client := reflect.TypeFor[*Client]()
	for _, file := range []protoreflect.FileDescriptor{
		keyfoldv1.File_keyfold_v1_key_management_service_proto,
		keyfoldv1.File_keyfold_v1_event_service_proto,
		keyfoldv1.File_keyfold_v1_organization_service_proto,
		longrunningpb.File_google_longrunning_operations_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				name := methods.Get(j).Name()
				method := string(name)
				if other, ok := renamed[name]; ok {
					method = other
				}
				if _, ok := client.MethodByName(method); !ok {
					t.Errorf("there is no %s", method)
				}
			}
		}
	}
}

// Every request that takes a request_id gets one from the client: it is a text field of that name.
func TestRequestIDs(t *testing.T) {
	count := 0
	protoregistry.GlobalTypes.RangeMessages(func(kind protoreflect.MessageType) bool {
		field := kind.Descriptor().Fields().ByName("request_id")
		if field == nil || kind.Descriptor().ParentFile().Package() != "keyfold.v1" || kind.Descriptor().Name() == "Event" {
			return true
		}
		count++
		made := identified(kind.New().Interface()).(protoreflect.ProtoMessage)
		if textField(made, "request_id") == "" {
			t.Errorf("%s has no request_id", kind.Descriptor().Name())
		}
		return true
	})
	if count < 10 {
		t.Errorf("only %d requests take a request_id", count)
	}
}
