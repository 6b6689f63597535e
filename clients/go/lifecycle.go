package keyfold

import (
	"context"
	"iter"

	keyfoldv1 "keyfold/clients/go/v1"
)

// Enable enables a cluster: it gives all of the regions their root keys, or none of them. The server
// proves each key before it stores anything.
func (c *Client) Enable(ctx context.Context, request *keyfoldv1.EnableRequest) (*keyfoldv1.EnableResponse, error) {
	return c.stubs.Keys.Enable(ctx, request)
}

// AddRegions gives root keys to further regions of a cluster, to all of them or to none.
func (c *Client) AddRegions(ctx context.Context, request *keyfoldv1.AddRegionsRequest) (*keyfoldv1.AddRegionsResponse, error) {
	return c.stubs.Keys.AddRegions(ctx, request)
}

// Rotate moves regions to their key's newest version, or to the key that a spec names. All of these
// regions move or none does, and every wrapped key stays valid.
func (c *Client) Rotate(ctx context.Context, request *keyfoldv1.RotateRequest) (*keyfoldv1.RotateResponse, error) {
	return c.stubs.Keys.Rotate(ctx, request)
}

// Revoke stops all use of keys at once in the named regions; without regions, in the cluster.
func (c *Client) Revoke(ctx context.Context, request *keyfoldv1.RevokeRequest) (*keyfoldv1.RevokeResponse, error) {
	return c.stubs.Keys.Revoke(ctx, request)
}

// Restore proves the keys of revoked regions again and resumes service, region by region. A region
// whose key cannot be proven stays revoked, which is a result and not an error: see not_restored.
func (c *Client) Restore(ctx context.Context, request *keyfoldv1.RestoreRequest) (*keyfoldv1.RestoreResponse, error) {
	return c.stubs.Keys.Restore(ctx, request)
}

// RetireGeneration retires an old generation, so that it no longer unwraps, or brings it back.
func (c *Client) RetireGeneration(ctx context.Context, request *keyfoldv1.RetireGenerationRequest) (*keyfoldv1.RetireGenerationResponse, error) {
	return c.stubs.Keys.RetireGeneration(ctx, request)
}

// DeleteCluster deletes the keys of revoked regions after a waiting period, so that nothing opens any
// more what they wrapped.
func (c *Client) DeleteCluster(ctx context.Context, request *keyfoldv1.DeleteClusterRequest) (*keyfoldv1.DeleteClusterResponse, error) {
	return c.stubs.Keys.DeleteCluster(ctx, request)
}

// UndeleteCluster takes deletions back, of the named regions or of all; the regions are then revoked.
func (c *Client) UndeleteCluster(ctx context.Context, request *keyfoldv1.UndeleteClusterRequest) (*keyfoldv1.UndeleteClusterResponse, error) {
	return c.stubs.Keys.UndeleteCluster(ctx, request)
}

// TestKey tries a root key step by step and stores nothing. A key that does not work is a result and not
// an error.
func (c *Client) TestKey(ctx context.Context, request *keyfoldv1.TestKeyRequest) (*keyfoldv1.TestKeyResponse, error) {
	return c.stubs.Keys.TestKey(ctx, request)
}

// GetAccessPolicy returns what a customer attaches to a root key so that Keyfold may use it, and no
// more.
func (c *Client) GetAccessPolicy(ctx context.Context, request *keyfoldv1.GetAccessPolicyRequest) (*keyfoldv1.GetAccessPolicyResponse, error) {
	return c.stubs.Keys.GetAccessPolicy(ctx, request)
}

// Recheck has the KMS prove root keys now, ahead of the server's regular check.
func (c *Client) Recheck(ctx context.Context, request *keyfoldv1.RecheckRequest) (*keyfoldv1.RecheckResponse, error) {
	return c.stubs.Keys.Recheck(ctx, request)
}

// GetCaller returns who the caller is to the server, and which grants it has.
func (c *Client) GetCaller(ctx context.Context, request *keyfoldv1.GetCallerRequest) (*keyfoldv1.GetCallerResponse, error) {
	return c.stubs.Keys.GetCaller(ctx, request)
}

// GetStatus returns what the server knows of a cluster.
func (c *Client) GetStatus(ctx context.Context, request *keyfoldv1.GetStatusRequest) (*keyfoldv1.GetStatusResponse, error) {
	return c.stubs.Keys.GetStatus(ctx, request)
}

// ListClusters yields clusters by name, and fetches one page after another. If somebody other than
// Keyfold wrote a cluster's stored rows, the others are still listed, and an error at the end names
// every such cluster.
func (c *Client) ListClusters(ctx context.Context, request *keyfoldv1.ListClustersRequest) iter.Seq2[*keyfoldv1.ClusterStatus, error] {
	return each(ctx, request, c.stubs.Keys.ListClusters, (*keyfoldv1.ListClustersResponse).GetClusters)
}

// KeyUsage returns whether root keys may be disabled, why, and the first clusters that need them.
func (c *Client) KeyUsage(ctx context.Context, request *keyfoldv1.ListKeyUsageRequest) (*keyfoldv1.ListKeyUsageResponse, error) {
	return c.stubs.Keys.ListKeyUsage(ctx, request)
}

// ListKeyUsage yields what needs root keys, by cluster, and fetches one page after another. It ends as
// ListClusters does if stored rows serve nobody.
func (c *Client) ListKeyUsage(ctx context.Context, request *keyfoldv1.ListKeyUsageRequest) iter.Seq2[*keyfoldv1.KeyUse, error] {
	return each(ctx, request, c.stubs.Keys.ListKeyUsage, (*keyfoldv1.ListKeyUsageResponse).GetUses)
}
