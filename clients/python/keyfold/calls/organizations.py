"""The calls of the organization service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from google.protobuf.field_mask_pb2 import FieldMask

from keyfold.arguments import checked
from keyfold.calls.call import ORGANIZATIONS, Call, Plane
from keyfold.calls.lifecycle import request_id_of
from keyfold.errors.reasons import RowNotAuthenticError
from keyfold.models.organizations import (
    KeyLink,
    KeyLinkChanged,
    Organization,
    OrganizationChanged,
    Removed,
)
from keyfold.v1 import organization_service_pb2 as api

OrganizationPage: TypeAlias = Call[api.ListOrganizationsResponse, tuple[Organization, ...]]
"""The call for one page of organizations."""

KeyLinkPage: TypeAlias = Call[api.ListKeyLinksResponse, tuple[KeyLink, ...]]
"""The call for one page of key links."""


@checked
def create_organization(
    organization: Organization, request_id: str | None, *, validate_only: bool
) -> Call[api.CreateOrganizationResponse, OrganizationChanged]:
    """Prepares a CreateOrganization call."""
    request = api.CreateOrganizationRequest(
        organization=organization.to_message(),
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read, id_ = OrganizationChanged.from_message, request.request_id
    return Call("CreateOrganization", request, read, Plane.CONTROL, id_, service=ORGANIZATIONS)


@checked
def get_organization(name: str) -> Call[api.GetOrganizationResponse, Organization]:
    """Prepares a GetOrganization call."""
    request = api.GetOrganizationRequest(organization=name)
    return Call("GetOrganization", request, _organization_of, Plane.CONTROL, service=ORGANIZATIONS)


def _organization_of(response: api.GetOrganizationResponse) -> Organization:
    return Organization.from_message(response.organization)


@checked
def first_organizations(page_size: int) -> OrganizationPage:
    """Prepares the call for the first page of organizations."""
    request = api.ListOrganizationsRequest(page_size=page_size)
    return Call(
        "ListOrganizations", request, organizations_of, Plane.CONTROL, service=ORGANIZATIONS
    )


def organizations_of(response: api.ListOrganizationsResponse) -> tuple[Organization, ...]:
    """Reads the organizations of one page, or of several pages merged into one message."""
    return tuple(map(Organization.from_message, response.organizations))


def check_authentic(names: Iterable[str]) -> None:
    """Raises an error if the server named organizations whose stored rows serve nobody.

    Raises:
        RowNotAuthenticError: It named at least one.
    """
    spoilt = ", ".join(names)
    if spoilt:
        raise RowNotAuthenticError(
            f"the stored rows of organization {spoilt} are not those that Keyfold wrote last; "
            "restore them from a backup, and find out who writes to the store",
            metadata={"source": "keyfold"},
        )


@checked
def update_organization(
    organization: Organization,
    fields: Iterable[str] | None,
    etag: str,
    request_id: str | None,
    *,
    validate_only: bool,
) -> Call[api.UpdateOrganizationResponse, OrganizationChanged]:
    """Prepares an UpdateOrganization call."""
    changed = organization.to_message()
    names = None if fields is None else list(fields)
    # Whoever reads an organization and writes it back must not write what was claimed since.
    if names is not None and "holders" in names:
        changed.holders.extend(organization.holders)
    request = api.UpdateOrganizationRequest(
        organization=changed,
        update_mask=_mask(names),
        etag=etag,
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read, id_ = OrganizationChanged.from_message, request.request_id
    return Call("UpdateOrganization", request, read, Plane.CONTROL, id_, service=ORGANIZATIONS)


@checked
def delete_organization(
    name: str, etag: str, request_id: str | None, *, validate_only: bool
) -> Call[api.DeleteOrganizationResponse, Removed]:
    """Prepares a DeleteOrganization call."""
    request = api.DeleteOrganizationRequest(
        organization=name,
        etag=etag,
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read, id_ = Removed.from_message, request.request_id
    return Call("DeleteOrganization", request, read, Plane.CONTROL, id_, service=ORGANIZATIONS)


@checked
def create_key_link(
    key_link: KeyLink, request_id: str | None, *, validate_only: bool
) -> Call[api.CreateKeyLinkResponse, KeyLinkChanged]:
    """Prepares a CreateKeyLink call."""
    request = api.CreateKeyLinkRequest(
        key_link=key_link.to_message(),
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read, id_ = KeyLinkChanged.from_message, request.request_id
    return Call("CreateKeyLink", request, read, Plane.CONTROL, id_, service=ORGANIZATIONS)


@checked
def get_key_link(organization: str, key_link: str) -> Call[api.GetKeyLinkResponse, KeyLink]:
    """Prepares a GetKeyLink call."""
    request = api.GetKeyLinkRequest(organization=organization, key_link=key_link)
    return Call("GetKeyLink", request, _link_of, Plane.CONTROL, service=ORGANIZATIONS)


def _link_of(response: api.GetKeyLinkResponse) -> KeyLink:
    return KeyLink.from_message(response.key_link)


@checked
def first_key_links(organization: str, page_size: int) -> KeyLinkPage:
    """Prepares the call for the first page of an organization's key links."""
    request = api.ListKeyLinksRequest(organization=organization, page_size=page_size)
    return Call("ListKeyLinks", request, key_links_of, Plane.CONTROL, service=ORGANIZATIONS)


def key_links_of(response: api.ListKeyLinksResponse) -> tuple[KeyLink, ...]:
    """Reads the key links of one page, or of several pages merged into one message."""
    return tuple(map(KeyLink.from_message, response.key_links))


@checked
def update_key_link(
    key_link: KeyLink,
    fields: Iterable[str] | None,
    etag: str,
    request_id: str | None,
    *,
    validate_only: bool,
) -> Call[api.UpdateKeyLinkResponse, KeyLinkChanged]:
    """Prepares an UpdateKeyLink call."""
    request = api.UpdateKeyLinkRequest(
        key_link=key_link.to_message(),
        update_mask=_mask(fields),
        etag=etag,
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read, id_ = KeyLinkChanged.from_message, request.request_id
    return Call("UpdateKeyLink", request, read, Plane.CONTROL, id_, service=ORGANIZATIONS)


@checked
def delete_key_link(
    organization: str, key_link: str, etag: str, request_id: str | None, *, validate_only: bool
) -> Call[api.DeleteKeyLinkResponse, Removed]:
    """Prepares a DeleteKeyLink call."""
    request = api.DeleteKeyLinkRequest(
        organization=organization,
        key_link=key_link,
        etag=etag,
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read, id_ = Removed.from_message, request.request_id
    return Call("DeleteKeyLink", request, read, Plane.CONTROL, id_, service=ORGANIZATIONS)


def _mask(fields: Iterable[str] | None) -> FieldMask | None:
    return None if fields is None else FieldMask(paths=fields)
