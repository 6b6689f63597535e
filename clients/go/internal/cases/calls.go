package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	keyfold "keyfold/clients/go"
	keyfoldv1 "keyfold/clients/go/v1"
)

// settings are those of a client, as the cases write them.
type settings struct {
	Target     string  `json:"target"`
	CA         string  `json:"ca"`
	Cert       string  `json:"cert"`
	Key        string  `json:"key"`
	ServerName string  `json:"server_name"`
	Token      string  `json:"token"`
	TokenFile  string  `json:"token_file"`
	OnBehalfOf string  `json:"on_behalf_of"`
	Timeout    float64 `json:"timeout"`
	TLS        bool    `json:"tls"`
}

// session is the client of a case, and the watch that it has begun.
type session struct {
	client *keyfold.Client
	next   func() (*keyfoldv1.WatchEventsResponse, error, bool)
	stop   func()
}

func (s *session) open(given settings) error {
	made := keyfold.Settings{
		Target: given.Target, TokenFile: given.TokenFile,
		Timeout: time.Duration(given.Timeout * float64(time.Second)),
	}
	if given.TLS {
		made.TLS = &keyfold.TLS{
			CAFile: given.CA, CertFile: given.Cert, KeyFile: given.Key, ServerName: given.ServerName,
		}
	}
	if given.Token != "" {
		made.Token = func(context.Context) (string, error) { return given.Token, nil }
	}
	if given.OnBehalfOf != "" {
		made.OnBehalfOf = func(context.Context) string { return given.OnBehalfOf }
	}
	client, err := keyfold.Open(made)
	s.client = client
	return err
}

func (s *session) close() {
	if s.stop != nil {
		s.stop()
	}
	if s.client != nil {
		_ = s.client.Close()
	}
	*s = session{}
}

// text is bytes in hexadecimal digits.
type text []byte

// UnmarshalText reads the digits.
func (t *text) UnmarshalText(digits []byte) error {
	read, err := hex.DecodeString(string(digits))
	*t = read
	return err
}

// arguments are those of the calls that have values of their own.
type arguments struct {
	Cluster     string
	Region      string
	Plaintext   text
	WrappedKey  text `json:"wrapped_key"`
	Context     keyfold.Context
	Size        int
	Count       int
	WrappedOnly bool `json:"wrapped_only"`
	Destination *keyfold.Destination
	Items       []arguments
	// Data is what to seal, or a message; Own is the message's context.
	Data text
	Own  keyfold.Context
}

func (s *session) call(ctx context.Context, name string, given json.RawMessage) (any, error) {
	var with arguments
	switch name {
	case "wrap", "unwrap", "generate_data_key", "generate_data_keys", "rewrap", "batch_wrap", "batch_unwrap", "batch_rewrap",
		"seal", "open", "rekey":
		must(json.Unmarshal(given, &with))
	case "watch":
		request := &keyfoldv1.WatchEventsRequest{}
		must(protojson.Unmarshal(given, request))
		request.States = true
		s.next, s.stop = iter.Pull2(s.client.Watch(request).Messages(context.Background()))
		return nil, nil
	case "next":
		return s.nextOfWatch()
	case "close":
		return nil, s.client.Close()
	}
	switch name {
	case "wrap":
		return s.client.Wrap(ctx, with.Cluster, with.Region, with.Plaintext, with.Context)
	case "unwrap":
		return s.client.Unwrap(ctx, with.Cluster, with.WrappedKey, with.Context)
	case "generate_data_key":
		var options []keyfold.DataKeyOption
		if with.Size != 0 {
			options = append(options, keyfold.WithSize(uint32(with.Size)))
		}
		if with.WrappedOnly {
			options = append(options, keyfold.WrappedOnly())
		}
		return s.client.GenerateDataKey(ctx, with.Cluster, with.Region, with.Context, options...)
	case "generate_data_keys":
		return s.client.GenerateDataKeys(ctx, with.Cluster, with.Region, with.Count, with.Size, with.Context)
	case "rewrap":
		return s.client.Rewrap(ctx, with.Cluster, with.WrappedKey, with.Context, with.Destination)
	case "batch_wrap":
		var items []keyfold.WrapItem
		for _, one := range with.Items {
			items = append(items, keyfold.WrapItem{
				Plaintext: keyfold.NewPlaintext(one.Plaintext), Region: one.Region, Context: one.Context,
			})
		}
		return s.client.BatchWrap(ctx, with.Cluster, with.Region, items, with.Context), nil
	case "batch_unwrap":
		var items []keyfold.UnwrapItem
		for _, one := range with.Items {
			items = append(items, keyfold.UnwrapItem{WrappedKey: one.WrappedKey, Context: one.Context})
		}
		return s.client.BatchUnwrap(ctx, with.Cluster, items, with.Context), nil
	case "batch_rewrap":
		var items []keyfold.RewrapItem
		for _, one := range with.Items {
			items = append(items, keyfold.RewrapItem{
				WrappedKey: one.WrappedKey, Context: one.Context, Destination: one.Destination,
			})
		}
		return s.client.BatchRewrap(ctx, with.Cluster, items, with.Context, with.Destination), nil
	case "seal", "open", "rekey":
		return s.envelope(ctx, name, with)
	}
	return s.control(ctx, name, given)
}

func (s *session) envelope(ctx context.Context, name string, with arguments) (any, error) {
	envelope, err := s.client.NewEnvelope(with.Cluster, "eu", with.Context, keyfold.EnvelopeBounds{})
	if err != nil {
		return nil, err
	}
	switch name {
	case "seal":
		return bytesOrError(envelope.Seal(ctx, with.Data, with.Own))
	case "open":
		return bytesOrError(envelope.Open(ctx, with.Data, with.Own))
	}
	return bytesOrError(envelope.Rekey(ctx, with.Data))
}

func bytesOrError(data []byte, err error) (any, error) { return data, err }

// control makes a call that takes a message of the contract; the arguments are its JSON form.
func (s *session) control(ctx context.Context, name string, given json.RawMessage) (any, error) {
	var method string
	for word := range strings.SplitSeq(name, "_") {
		method += strings.ToUpper(word[:1]) + word[1:]
	}
	called := reflect.ValueOf(s.client).MethodByName(method)
	request := reflect.New(called.Type().In(1).Elem())
	must(protojson.Unmarshal(given, request.Interface().(proto.Message)))
	results := called.Call([]reflect.Value{reflect.ValueOf(ctx), request})
	if len(results) == 2 {
		err, _ := results[1].Interface().(error)
		return results[0].Interface(), err
	}
	if results[0].Kind() != reflect.Func {
		err, _ := results[0].Interface().(error)
		return nil, err
	}
	items := []any{}
	for item, failed := range results[0].Seq2() {
		if err, _ := failed.Interface().(error); err != nil {
			return nil, err
		}
		items = append(items, item.Interface())
	}
	return items, nil
}

// nextOfWatch returns the next message of the watch that is not a heartbeat.
func (s *session) nextOfWatch() (any, error) {
	for {
		message, err, ok := s.next()
		if err != nil || !ok {
			return nil, err
		}
		switch message := message.GetMessage().(type) {
		case *keyfoldv1.WatchEventsResponse_State:
			return message.State, nil
		case *keyfoldv1.WatchEventsResponse_SnapshotEnd:
			return message.SnapshotEnd, nil
		case *keyfoldv1.WatchEventsResponse_Event:
			return nil, fmt.Errorf("an event, which no case asks for")
		}
	}
}
