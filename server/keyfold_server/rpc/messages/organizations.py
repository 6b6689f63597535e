"""Converts messages of the organization service to plain values, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask

from keyfold.v1 import organization_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.errors import InvalidKeySpecError, InvalidOrganizationError
from keyfold_server.domain.holders import PATH, check_holders
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.organizations import (
    MAX_PATTERNS,
    DefaultKey,
    Organization,
    OrganizationView,
    Settings,
)
from keyfold_server.rpc.messages import requests
from keyfold_server.rpc.messages.replies import time_if, time_of
from keyfold_server.service.organizations import key_links, organizations
from keyfold_server.service.organizations.key_links import LinkReport
from keyfold_server.service.organizations.requests import (
    CreateKeyLinkRequest,
    CreateOrganizationRequest,
    DeleteKeyLinkRequest,
    DeleteOrganizationRequest,
    UpdateKeyLinkRequest,
    UpdateOrganizationRequest,
    check_mask,
)
from keyfold_server.service.root_keys.identities import Identity

_DEFAULTS: Final = {
    pb.DEFAULT_KEY_UNSPECIFIED: DefaultKey.REQUIRE_OWN,
    pb.DEFAULT_KEY_REQUIRE_OWN: DefaultKey.REQUIRE_OWN,
    pb.DEFAULT_KEY_LINKED: DefaultKey.LINKED,
    pb.DEFAULT_KEY_PLATFORM: DefaultKey.PLATFORM,
}
_NUMBERS: Final = {default: number for number, default in _DEFAULTS.items()}

_MOST: Final = 0xFFFF_FFFF


def create_request(message: pb.CreateOrganizationRequest) -> CreateOrganizationRequest:
    """Returns the request of CreateOrganization.

    Raises:
        InvalidOrganizationError: It has holders, or a value out of bounds.
    """
    if message.organization.holders:
        raise InvalidOrganizationError(
            "a new organization has no holders; change them with UpdateOrganization", field=PATH
        )
    return CreateOrganizationRequest(
        message.organization.organization, _settings(message.organization), message.validate_only
    )


def update_request(message: pb.UpdateOrganizationRequest) -> UpdateOrganizationRequest:
    """Returns the request of UpdateOrganization.

    Raises:
        InvalidOrganizationError: A value is out of bounds.
    """
    given = message.organization
    check_holders(len(given.holders))
    present = [name for name in organizations.FIELDS if getattr(given, name)]
    return UpdateOrganizationRequest(
        given.organization,
        _settings(given),
        _fields(message.HasField("update_mask"), message.update_mask, present),
        requests.sought(message.etag, "etag") or "",
        message.validate_only,
        tuple(given.holders),
    )


def delete_request(message: pb.DeleteOrganizationRequest) -> DeleteOrganizationRequest:
    """Returns the request of DeleteOrganization."""
    etag = requests.sought(message.etag, "etag") or ""
    return DeleteOrganizationRequest(message.organization, etag, message.validate_only)


def create_link_request(message: pb.CreateKeyLinkRequest) -> CreateKeyLinkRequest:
    """Returns the request of CreateKeyLink.

    Raises:
        InvalidKeySpecError: The key spec is missing or malformed.
    """
    given = message.key_link
    return CreateKeyLinkRequest(
        given.organization,
        given.key_link,
        given.description,
        given.region,
        given.geo,
        _key_spec(given),
        message.validate_only,
    )


def update_link_request(message: pb.UpdateKeyLinkRequest) -> UpdateKeyLinkRequest:
    """Returns the request of UpdateKeyLink.

    Raises:
        InvalidUpdateMaskError: The mask names what cannot be changed.
        InvalidKeySpecError: The key spec is missing or malformed.
    """
    given = message.key_link
    present = ["description"] if given.description else []
    present += ["key_spec"] if given.HasField("key_spec") else []
    wanted = _fields(message.HasField("update_mask"), message.update_mask, present)
    check_mask(wanted, key_links.FIELDS)
    return UpdateKeyLinkRequest(
        given.organization,
        given.key_link,
        given.description if "description" in wanted else None,
        _key_spec(given) if "key_spec" in wanted else None,
        requests.sought(message.etag, "etag") or "",
        message.validate_only,
    )


def delete_link_request(message: pb.DeleteKeyLinkRequest) -> DeleteKeyLinkRequest:
    """Returns the request of DeleteKeyLink."""
    etag = requests.sought(message.etag, "etag") or ""
    return DeleteKeyLinkRequest(message.organization, message.key_link, etag, message.validate_only)


def _settings(message: pb.Organization) -> Settings:
    """Returns the settings in a message.

    Raises:
        InvalidOrganizationError: The default key is a number that the contract does not list, or
            there are too many patterns.
    """
    if message.default_key not in _DEFAULTS:
        raise InvalidOrganizationError(
            "the contract does not list this default_key; use one that it lists",
            field="organization.default_key",
        )
    # Before they are copied: a request may hold a million (protocol W5).
    if len(message.cluster_patterns) > MAX_PATTERNS:
        raise InvalidOrganizationError(
            f"give at most {MAX_PATTERNS} cluster_patterns", field="organization.cluster_patterns"
        )
    return Settings(
        message.display_name,
        _DEFAULTS[message.default_key],
        tuple(message.cluster_patterns),
        message.max_clusters,
        message.max_key_links,
    )


def _fields(has_mask: bool, mask: FieldMask, present: Iterable[str]) -> tuple[str, ...]:  # noqa: FBT001  as protobuf tells it
    """Returns the fields that a request changes: those of its mask, else those that are set."""
    if not has_mask:
        return tuple(present)
    return tuple(dict.fromkeys(path[:128] for path in mask.paths[:100]))


def _key_spec(message: pb.KeyLink) -> KeySpec:
    if not message.HasField("key_spec"):
        raise InvalidKeySpecError(
            "the key link has no key_spec; give the type, and the provider's own name of the key",
            field="key_link.key_spec",
        )
    return requests.key_spec(message.key_spec)


def organization(
    view: OrganizationView, issued: Iterable[Identity] = (), *, whole: bool = True
) -> pb.Organization:
    """Returns an organization, with what was issued to it; as lists have it, if not whole."""
    own: Organization = view.organization
    settings = own.settings
    message = pb.Organization(
        organization=own.name,
        display_name=settings.display_name,
        default_key=_NUMBERS[settings.default_key],
        cluster_patterns=settings.cluster_patterns,
        max_clusters=settings.max_clusters,
        max_key_links=settings.max_key_links,
        etag=own.etag,
        cluster_count=min(view.cluster_count, _MOST),
        default_description=settings.default_key.description,
        key_link_count=len(own.links),
        identities=map(_identity, issued),
    )
    if whole:
        message.holders.extend(map(str, own.holders))
    if own.created_at is not None:
        message.create_time.CopyFrom(time_of(own.created_at))
    if own.updated_at is not None and own.is_kept:
        message.update_time.CopyFrom(time_of(own.updated_at))
    return message


def _identity(issued: Identity) -> pb.IssuedIdentity:
    return pb.IssuedIdentity(
        kind="SEAT" if issued.is_seat else "EXTERNAL_ID",
        state=pb.IdentityState.Value(f"IDENTITY_STATE_{issued.state.value}"),
        provider=issued.provider,
        region=issued.region,
        value=issued.value,
        principals=issued.principals,
        cluster=issued.cluster,
        create_time=time_if(issued.created_at),
        count=issued.count,
    )


def key_link(report: LinkReport) -> pb.KeyLink:
    """Returns a key link with what uses it."""
    link, use, move = report.link, report.use, report.move
    return pb.KeyLink(
        organization=link.organization,
        key_link=link.name,
        description=link.description,
        region=link.region,
        geo=link.geo,
        key_spec=_spec(link.key_spec),
        use=_use(report),
        users=[pb.KeyLinkUser(cluster=u.cluster, region=u.region) for u in use.users],
        users_count=min(use.count, _MOST),
        previous_key_spec=None if move is None else _spec(move.previous),
        replicas=_replicas(report),
        etag=link.etag,
        create_time=time_of(link.created_at),
        update_time=time_of(link.updated_at),
        operation="" if move is None else move.operation,
        unmoved_count=min(report.unmoved, _MOST),
    )


def _use(report: LinkReport) -> Any:
    if report.move is not None:
        return pb.KEY_LINK_USE_MOVING
    return pb.KEY_LINK_USE_IN_USE if report.use.count else pb.KEY_LINK_USE_AVAILABLE


def _replicas(report: LinkReport) -> list[pb.KeyLinkReplica]:
    """Returns the regions of a geo's link, by name."""
    link = report.link
    if not link.geo:
        return []
    found = [pb.KeyLinkReplica(region=region) for region in link.proven]
    found += [
        pb.KeyLinkReplica(
            region=region,
            reason="KEY_LINK_ELSEWHERE",
            message=(
                f"geo {link.geo} has region {region}, and the key was not proven there; replicate "
                "it there, and call UpdateKeyLink with the key that the link has"
            ),
        )
        for region in report.missing
    ]
    for each in found:
        key = report.keys.get(each.region)
        if key is not None:
            each.key_spec.CopyFrom(_spec(key))
    return sorted(found, key=lambda each: each.region)


def _spec(spec: KeySpec) -> res.KeySpec:
    return res.KeySpec(
        type=spec.type, uri=spec.uri, auth_principal=spec.principal, options=dict(spec.options)
    )
