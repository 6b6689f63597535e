package keyfold

import (
	"context"
	"iter"

	keyfoldv1 "keyfold/clients/go/v1"
)

// maxAnchors is the most anchors that one call takes.
const maxAnchors = 1000

// ListEvents yields events in the order of their numbers, and fetches one page after another.
func (c *Client) ListEvents(ctx context.Context, request *keyfoldv1.ListEventsRequest) iter.Seq2[*keyfoldv1.Event, error] {
	return each(ctx, request, c.stubs.Events.ListEvents, (*keyfoldv1.ListEventsResponse).GetEvents)
}

// ListUsage yields how often callers used keys, by time, and fetches one page after another.
func (c *Client) ListUsage(ctx context.Context, request *keyfoldv1.ListUsageRequest) iter.Seq2[*keyfoldv1.UsageCount, error] {
	return each(ctx, request, c.stubs.Events.ListUsage, (*keyfoldv1.ListUsageResponse).GetCounts)
}

// VerifyEvents verifies the server's whole log, and holds it against any number of anchors that were
// kept elsewhere. It makes one call after another and merges their answers. A broken link, or an anchor
// that speaks against the log, is a result and not an error.
func (c *Client) VerifyEvents(ctx context.Context, request *keyfoldv1.VerifyEventsRequest) (*keyfoldv1.VerifyEventsResponse, error) {
	whole := &keyfoldv1.VerifyEventsResponse{}
	anchors, token := request.GetAnchors(), request.GetPageToken()
	for {
		some := anchors[:min(len(anchors), maxAnchors)]
		anchors = anchors[len(some):]
		answer, err := c.stubs.Events.VerifyEvents(ctx, &keyfoldv1.VerifyEventsRequest{PageToken: token, Anchors: some})
		if err != nil {
			return nil, err
		}
		if whole.FirstNumber == 0 {
			whole.FirstNumber = answer.GetFirstNumber()
		}
		if whole.PrunedNumber == 0 {
			whole.PrunedNumber = answer.GetPrunedNumber()
		}
		whole.NewestNumber = answer.GetNewestNumber()
		whole.LastNumber = max(whole.LastNumber, answer.GetLastNumber())
		whole.Anchors = append(whole.Anchors, answer.GetAnchors()...)
		if whole.Broken == nil {
			whole.Broken = answer.GetBroken()
		}
		token = answer.GetNextPageToken()
		if token == "" && len(anchors) == 0 {
			return whole, nil
		}
	}
}

// GetAnchor returns a signed line about the newest entry of the server's log, to keep elsewhere.
func (c *Client) GetAnchor(ctx context.Context, request *keyfoldv1.GetAnchorRequest) (*keyfoldv1.GetAnchorResponse, error) {
	return c.stubs.Events.GetAnchor(ctx, request)
}

// AdvanceCursor says that everything up to a message of a watch is dealt with, so that pruning may pass
// it.
func (c *Client) AdvanceCursor(ctx context.Context, request *keyfoldv1.AdvanceCursorRequest) (*keyfoldv1.AdvanceCursorResponse, error) {
	return c.stubs.Events.AdvanceCursor(ctx, request)
}

// ListCursors lists the caller's cursors; for an auditor of everything, those of all callers.
func (c *Client) ListCursors(ctx context.Context, request *keyfoldv1.ListCursorsRequest) (*keyfoldv1.ListCursorsResponse, error) {
	return c.stubs.Events.ListCursors(ctx, request)
}

// DeleteCursor deletes a cursor of this caller, or, for an operator of everything, of another one.
func (c *Client) DeleteCursor(ctx context.Context, request *keyfoldv1.DeleteCursorRequest) (*keyfoldv1.DeleteCursorResponse, error) {
	return c.stubs.Events.DeleteCursor(ctx, request)
}
