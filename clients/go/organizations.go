package keyfold

import (
	"context"
	"iter"

	keyfoldv1 "keyfold/clients/go/v1"
)

// CreateOrganization makes an organization, so that it can differ from the defaults. An organization
// that clusters name exists before anybody makes it.
func (c *Client) CreateOrganization(ctx context.Context, request *keyfoldv1.CreateOrganizationRequest) (*keyfoldv1.CreateOrganizationResponse, error) {
	return c.stubs.Organizations.CreateOrganization(ctx, request)
}

// GetOrganization returns an organization.
func (c *Client) GetOrganization(ctx context.Context, request *keyfoldv1.GetOrganizationRequest) (*keyfoldv1.GetOrganizationResponse, error) {
	return c.stubs.Organizations.GetOrganization(ctx, request)
}

// ListOrganizations yields organizations by name, and fetches one page after another. If somebody other
// than Keyfold wrote an organization's stored rows, the others are still listed, and an error at the end
// names every such organization.
func (c *Client) ListOrganizations(ctx context.Context, request *keyfoldv1.ListOrganizationsRequest) iter.Seq2[*keyfoldv1.Organization, error] {
	return each(ctx, request, c.stubs.Organizations.ListOrganizations,
		(*keyfoldv1.ListOrganizationsResponse).GetOrganizations)
}

// UpdateOrganization changes fields of an organization. A change holds for what comes after it: it
// changes no key of a cluster.
func (c *Client) UpdateOrganization(ctx context.Context, request *keyfoldv1.UpdateOrganizationRequest) (*keyfoldv1.UpdateOrganizationResponse, error) {
	return c.stubs.Organizations.UpdateOrganization(ctx, request)
}

// DeleteOrganization deletes an organization that has neither clusters nor key links.
func (c *Client) DeleteOrganization(ctx context.Context, request *keyfoldv1.DeleteOrganizationRequest) (*keyfoldv1.DeleteOrganizationResponse, error) {
	return c.stubs.Organizations.DeleteOrganization(ctx, request)
}

// CreateKeyLink links a root key to an organization, after the server has proven it.
func (c *Client) CreateKeyLink(ctx context.Context, request *keyfoldv1.CreateKeyLinkRequest) (*keyfoldv1.CreateKeyLinkResponse, error) {
	return c.stubs.Organizations.CreateKeyLink(ctx, request)
}

// GetKeyLink returns a key link, with the regions that use it.
func (c *Client) GetKeyLink(ctx context.Context, request *keyfoldv1.GetKeyLinkRequest) (*keyfoldv1.GetKeyLinkResponse, error) {
	return c.stubs.Organizations.GetKeyLink(ctx, request)
}

// ListKeyLinks yields an organization's key links by name, and fetches one page after another.
func (c *Client) ListKeyLinks(ctx context.Context, request *keyfoldv1.ListKeyLinksRequest) iter.Seq2[*keyfoldv1.KeyLink, error] {
	return each(ctx, request, c.stubs.Organizations.ListKeyLinks,
		(*keyfoldv1.ListKeyLinksResponse).GetKeyLinks)
}

// UpdateKeyLink changes fields of a key link.
func (c *Client) UpdateKeyLink(ctx context.Context, request *keyfoldv1.UpdateKeyLinkRequest) (*keyfoldv1.UpdateKeyLinkResponse, error) {
	return c.stubs.Organizations.UpdateKeyLink(ctx, request)
}

// DeleteKeyLink deletes a key link that no region uses.
func (c *Client) DeleteKeyLink(ctx context.Context, request *keyfoldv1.DeleteKeyLinkRequest) (*keyfoldv1.DeleteKeyLinkResponse, error) {
	return c.stubs.Organizations.DeleteKeyLink(ctx, request)
}
