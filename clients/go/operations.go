package keyfold

import (
	"context"
	"iter"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	keyfoldv1 "keyfold/clients/go/v1"
)

// StartOperation starts an operation, which goes on when the call has ended. Each caller has names of
// its own: the same name with the same work returns the operation as it is.
func (c *Client) StartOperation(ctx context.Context, request *keyfoldv1.StartOperationRequest) (*keyfoldv1.StartOperationResponse, error) {
	return c.stubs.Keys.StartOperation(ctx, request)
}

// GetOperation returns an operation, with the first of its failures. A short name means an operation
// that the caller started.
func (c *Client) GetOperation(ctx context.Context, request *longrunningpb.GetOperationRequest) (*longrunningpb.Operation, error) {
	return c.stubs.Operations.GetOperation(ctx, request)
}

// ListOperations yields the operations that the caller may see, and fetches one page after another.
func (c *Client) ListOperations(ctx context.Context, request *longrunningpb.ListOperationsRequest) iter.Seq2[*longrunningpb.Operation, error] {
	if request.GetName() == "" {
		request = &longrunningpb.ListOperationsRequest{
			Name: "operations", Filter: request.GetFilter(),
			PageSize: request.GetPageSize(), PageToken: request.GetPageToken(),
		}
	}
	return each(ctx, request, c.stubs.Operations.ListOperations,
		(*longrunningpb.ListOperationsResponse).GetOperations)
}

// WaitOperation returns an operation once it has ended, or as it is when the time is up.
func (c *Client) WaitOperation(ctx context.Context, request *longrunningpb.WaitOperationRequest) (*longrunningpb.Operation, error) {
	return c.stubs.Operations.WaitOperation(ctx, request)
}

// CancelOperation cancels an operation, which ends once the regions under way have ended.
func (c *Client) CancelOperation(ctx context.Context, request *longrunningpb.CancelOperationRequest) error {
	_, err := c.stubs.Operations.CancelOperation(ctx, request)
	return err
}

// DeleteOperation deletes an operation that has ended; its entries in the log stay.
func (c *Client) DeleteOperation(ctx context.Context, request *longrunningpb.DeleteOperationRequest) error {
	_, err := c.stubs.Operations.DeleteOperation(ctx, request)
	return err
}
