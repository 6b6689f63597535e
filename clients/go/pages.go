package keyfold

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// each yields the items of a list, and fetches one page after another, from the request's own page_token
// on. It ends with an error if the server named things whose stored rows serve nobody.
func each[Request proto.Message, Response interface{ GetNextPageToken() string }, Item any](
	ctx context.Context, request Request,
	call func(context.Context, Request, ...grpc.CallOption) (Response, error),
	items func(Response) []Item,
) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		var none Item
		var left leftOut
		asked := copyOf(request).ProtoReflect()
		token := asked.Descriptor().Fields().ByName("page_token")
		for {
			response, err := call(ctx, asked.Interface().(Request))
			if err != nil {
				yield(none, err)
				return
			}
			for _, item := range items(response) {
				if !yield(item, nil) {
					return
				}
			}
			left.add(response)
			if response.GetNextPageToken() == "" {
				break
			}
			asked.Set(token, protoreflect.ValueOfString(response.GetNextPageToken()))
		}
		if err := left.err(); err != nil {
			yield(none, err)
		}
	}
}

// leftOut has the names of what a list leaves out, because its stored rows serve nobody.
type leftOut struct{ notAuthentic, banned []string }

func (u *leftOut) add(response any) {
	if named, ok := response.(interface{ GetNotAuthentic() []string }); ok {
		u.notAuthentic = append(u.notAuthentic, named.GetNotAuthentic()...)
	}
	if named, ok := response.(interface{ GetBanned() []string }); ok {
		u.banned = append(u.banned, named.GetBanned()...)
	}
}

func (u *leftOut) err() error {
	failed := &Error{Metadata: map[string]string{"source": sourceKeyfold}}
	switch {
	case len(u.notAuthentic) > 0:
		failed.Reason, failed.Code = ReasonRowNotAuthentic, codes.DataLoss
		failed.Message = fmt.Sprintf("the stored rows of %s do not carry the service key's seal; restore "+
			"them from a backup, and find out who writes to the store", strings.Join(u.notAuthentic, ", "))
	case len(u.banned) > 0:
		failed.Reason, failed.Code = ReasonClusterBanned, codes.FailedPrecondition
		failed.Message = fmt.Sprintf("%s: revoked while the stored rows were not authentic, or were gone; "+
			"find out who writes to the store, and have the operator run `keyfold-server seal`",
			strings.Join(u.banned, ", "))
	default:
		return nil
	}
	return failed
}
