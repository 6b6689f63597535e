package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	codepb "google.golang.org/genproto/googleapis/rpc/code"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	keyfold "keyfold/clients/go"
	keyfoldv1 "keyfold/clients/go/v1"
)

// form returns a result in the form that the cases have: bytes are hexadecimal digits, durations are
// seconds, and an enum's value is its name without the enum's own.
func form(value any) any {
	switch value := value.(type) {
	case nil:
		return nil
	case []byte:
		return digits(value)
	case *keyfold.Wrapped:
		return form(*value)
	case keyfold.Wrapped:
		return map[string]any{
			"wrapped_key": digits(value.WrappedKey), "generation": value.Generation,
			"max_cache_age": value.MaxCacheAge.Seconds(),
		}
	case *keyfold.Unwrapped:
		return form(*value)
	case keyfold.Unwrapped:
		return map[string]any{
			"plaintext": digits(value.Plaintext.Bytes()), "region": value.Region,
			"generation": value.Generation, "max_cache_age": value.MaxCacheAge.Seconds(),
		}
	case *keyfold.DataKey:
		return form(*value)
	case []keyfold.DataKey:
		made := []any{}
		for _, one := range value {
			made = append(made, form(one))
		}
		return made
	case keyfold.DataKey:
		return map[string]any{
			"plaintext": digits(value.Plaintext.Bytes()), "wrapped_key": digits(value.WrappedKey),
			"generation": value.Generation, "max_cache_age": value.MaxCacheAge.Seconds(),
		}
	case *keyfold.Rewrapped:
		return form(*value)
	case keyfold.Rewrapped:
		return map[string]any{
			"wrapped_key": digits(value.WrappedKey), "generation": value.Generation,
			"already_current": value.AlreadyCurrent,
		}
	case []keyfold.Result[keyfold.Wrapped]:
		return forms(value)
	case []keyfold.Result[keyfold.Unwrapped]:
		return forms(value)
	case []keyfold.Result[keyfold.Rewrapped]:
		return forms(value)
	case []any:
		made := []any{}
		for _, one := range value {
			made = append(made, form(one))
		}
		return made
	case *keyfoldv1.GetStatusResponse:
		return form(value.GetStatus())
	case proto.Message:
		return messageForm(value.ProtoReflect())
	}
	panic(fmt.Sprintf("no form for %T", value))
}

func forms[T any](results []keyfold.Result[T]) any {
	made := []any{}
	for _, one := range results {
		if one.Err != nil {
			made = append(made, map[string]any{"error": errorForm(one.Err)})
		} else {
			made = append(made, form(one.Value))
		}
	}
	return made
}

func digits(bytes []byte) string { return hex.EncodeToString(bytes) }

func messageForm(message protoreflect.Message) any {
	switch known := message.Interface().(type) {
	case *durationpb.Duration:
		return known.AsDuration().Seconds()
	case *timestamppb.Timestamp:
		return known.AsTime().Format(time.RFC3339)
	case *statuspb.Status:
		return map[string]any{"error": errorForm(keyfold.ErrorOf(known))}
	}
	made := map[string]any{}
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name, value := string(field.Name()), message.Get(field)
		switch {
		case field.HasPresence() && !message.Has(field):
		case field.IsMap():
			pairs := map[string]any{}
			value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				pairs[key.String()] = fieldForm(field.MapValue(), value)
				return true
			})
			made[name] = pairs
		case field.IsList():
			items := []any{}
			for j := range value.List().Len() {
				items = append(items, fieldForm(field, value.List().Get(j)))
			}
			made[name] = items
		default:
			made[name] = fieldForm(field, value)
		}
	}
	return made
}

func fieldForm(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return messageForm(value.Message())
	case protoreflect.BytesKind:
		return digits(value.Bytes())
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		prefix := strings.TrimSuffix(string(values.ByNumber(0).Name()), "UNSPECIFIED")
		if named := values.ByNumber(value.Enum()); named != nil {
			return strings.TrimPrefix(string(named.Name()), prefix)
		}
		return int(value.Enum())
	}
	return value.Interface()
}

// kinds are the kinds of errors, by the names that the cases have.
var kinds = map[string]keyfold.Kind{
	"AlreadyExists": keyfold.ErrAlreadyExists, "Cancelled": keyfold.ErrCancelled, "Closed": keyfold.ErrClosed,
	"Conflict": keyfold.ErrConflict, "CouldNotTell": keyfold.ErrCouldNotTell, "Deadline": keyfold.ErrDeadline,
	"Forbidden": keyfold.ErrForbidden, "Internal": keyfold.ErrInternal, "InvalidInput": keyfold.ErrInvalidInput,
	"Kms": keyfold.ErrKMS, "Limit": keyfold.ErrLimit, "NotFound": keyfold.ErrNotFound,
	"Refused": keyfold.ErrRefused, "State": keyfold.ErrState, "Unauthenticated": keyfold.ErrUnauthenticated,
	"Unavailable": keyfold.ErrUnavailable, "Unimplemented": keyfold.ErrUnimplemented,
}

func errorForm(err error) any {
	var failed *keyfold.Error
	if !errors.As(err, &failed) {
		panic(fmt.Sprintf("%T is not an error of a call", err))
	}
	of := []string{}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			of = append(of, name)
		}
	}
	slices.Sort(of)
	fields := []string{}
	for _, violation := range failed.FieldViolations {
		fields = append(fields, violation.Field)
	}
	return map[string]any{
		"reason": failed.Reason, "code": codepb.Code_name[int32(failed.Code)], "kinds": of,
		"cluster": failed.Cluster, "region": failed.Region(), "source": failed.Source(),
		"retryable": failed.Retryable(), "retry_after": failed.RetryAfter.Seconds(), "fields": fields,
		"has_request_id": failed.RequestID != "", "message": failed.Message,
	}
}

// printed returns what a program prints that prints a value in every way; of a list, some of it.
func printed(value any) string {
	if _, ok := value.(proto.Message); ok {
		return "" // None of those that cases ask for has a key.
	}
	if list := reflect.ValueOf(value); list.Kind() == reflect.Slice && list.Len() > 20 {
		value = list.Slice(0, 20).Interface()
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", value)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "value", value)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("", "value", value)
	if encoded, err := json.Marshal(value); err == nil {
		out.Write(encoded)
	}
	return out.String()
}
