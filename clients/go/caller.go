package keyfold

import (
	"bytes"
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// maxTokenFile is the most bytes of a token's file: servers take tokens of 8 KiB at most.
const maxTokenFile = 64 * 1024

// maxName is the most characters of a name that a server takes.
const maxName = 256

const notAToken = "%s is not a token: one line of ASCII without spaces"

// caller is what each call says of its caller. A token leaves it only as the metadata of a call, and
// stands in no error.
type caller struct {
	token      func(context.Context) (string, error)
	onBehalfOf func(context.Context) string
}

func callerOf(settings Settings) (caller, error) {
	who := caller{settings.Token, settings.OnBehalfOf}
	if settings.TokenFile != "" {
		file, err := watch([]string{settings.TokenFile}, maxTokenFile, func(contents [][]byte) (string, error) {
			token := string(bytes.TrimSpace(contents[0]))
			if !isToken(token) {
				return "", unusable(notAToken, "the content of "+settings.TokenFile)
			}
			return token, nil
		})
		if err != nil {
			return who, err
		}
		who.token = func(context.Context) (string, error) { return file.current(), nil }
	}
	return who, nil
}

// named returns the context of a call with the metadata that says who makes it.
func (c caller) named(ctx context.Context) (context.Context, error) {
	if c.token != nil {
		token, err := c.token(ctx)
		if err != nil {
			// Not its text, which may quote a token.
			return ctx, local(ReasonCallerSourceFailed, codes.Unauthenticated, err,
				"the function that the client was given as Token failed with %T", err)
		}
		if !isToken(token) {
			return ctx, unusable(notAToken, "what Token returned")
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	if c.onBehalfOf != nil {
		if name := c.onBehalfOf(ctx); name != "" {
			if !isName(name) {
				return ctx, unusable("what OnBehalfOf returned is not 1 to %d printable ASCII characters "+
					"without spaces at either end", maxName)
			}
			ctx = metadata.AppendToOutgoingContext(ctx, "on-behalf-of", name)
		}
	}
	return ctx, nil
}

// isToken reports whether gRPC can send a token; gRPC's own error would quote it.
func isToken(text string) bool { return text != "" && printable(text, '!') }

func isName(text string) bool {
	return len(text) <= maxName && printable(text, ' ') && text[0] != ' ' && text[len(text)-1] != ' '
}

// printable reports whether a text is ASCII from the first character on that is allowed, to the last
// that prints.
func printable(text string, first byte) bool {
	for i := range len(text) {
		if text[i] < first || text[i] > '~' {
			return false
		}
	}
	return true
}
