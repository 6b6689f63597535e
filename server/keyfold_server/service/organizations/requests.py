"""Requests for changes of organizations and key links, and what all of them have in common."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from keyfold_server.domain.changes import RequestKey
from keyfold_server.domain.errors import InvalidUpdateMaskError
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.organizations import OrganizationView, Settings
from keyfold_server.domain.rights import Caller
from keyfold_server.service.life.requests import check_request_id

HOLDERS: Final = "holders"
"""The field of an organization that is not one of its settings."""

RequestT_co = TypeVar("RequestT_co", bound="OrganizationRequest", covariant=True)


class OrganizationRequest(Protocol):
    """A parsed request for a change: a dataclass such as `CreateOrganizationRequest`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def organization(self) -> str:
        """The organization's name."""
        ...

    @property
    def validate_only(self) -> bool:
        """Whether to check the request and store nothing."""
        ...


@dataclass(frozen=True, slots=True)
class CreateOrganizationRequest:
    """The request of CreateOrganization.

    Attributes:
        organization: The organization's name.
        settings: Its settings.
        validate_only: Whether to check the request and store nothing.
    """

    organization: str
    settings: Settings
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class UpdateOrganizationRequest:
    """The request of UpdateOrganization.

    Attributes:
        organization: The organization's name.
        settings: The new settings.
        fields: The fields that change: those of the settings, and `holders`.
        etag: The etag that the organization must have; empty: any.
        validate_only: Whether to check the request and store nothing.
        holders: The new holders, each as `TYPE:NAME`.
    """

    organization: str
    settings: Settings
    fields: tuple[str, ...]
    etag: str = ""
    validate_only: bool = False
    holders: tuple[str, ...] = ()

    def changed(self, settings: Settings) -> Settings:
        """Returns settings with the fields that change."""
        names = (name for name in self.fields if name != HOLDERS)
        return replace(settings, **{name: getattr(self.settings, name) for name in names})


@dataclass(frozen=True, slots=True)
class DeleteOrganizationRequest:
    """The request of DeleteOrganization.

    Attributes:
        organization: The organization's name.
        etag: The etag that the organization must have; empty: any.
        validate_only: Whether to check the request and store nothing.
    """

    organization: str
    etag: str = ""
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class CreateKeyLinkRequest:
    """The request of CreateKeyLink.

    Attributes:
        organization: The organization's name.
        key_link: The link's name.
        description: What it is for.
        region: The region that it serves; empty: it serves a geo.
        geo: The geo that it serves; empty: it serves a region.
        key_spec: The root key.
        validate_only: Whether to prove the key and store nothing.
    """

    organization: str
    key_link: str
    description: str
    region: str
    geo: str
    key_spec: KeySpec
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class UpdateKeyLinkRequest:
    """The request of UpdateKeyLink.

    Attributes:
        organization: The organization's name.
        key_link: The link's name.
        description: The new description, or None.
        key_spec: The new key, or the one that it has, to prove it again; or None.
        etag: The etag that the link must have; empty: any.
        validate_only: Whether to prove the key and store nothing.
    """

    organization: str
    key_link: str
    description: str | None
    key_spec: KeySpec | None
    etag: str = ""
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class DeleteKeyLinkRequest:
    """The request of DeleteKeyLink.

    Attributes:
        organization: The organization's name.
        key_link: The link's name.
        etag: The etag that the link must have; empty: any.
        validate_only: Whether to check the request and store nothing.
    """

    organization: str
    key_link: str
    etag: str = ""
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class MoveKeyLinkRequest:
    """The part of StartOperation that moves a key link.

    Attributes:
        organization: The organization's name.
        key_link: The link's name.
        key_spec: The new key, or the one that it has, to go on with a move.
        operation: The full name of the operation; empty in a dry run.
        validate_only: Whether to prove the key and store nothing.
    """

    organization: str
    key_link: str
    key_spec: KeySpec
    operation: str
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class OrganizationCall(Generic[RequestT_co]):
    """A caller's call of a method that changes an organization.

    Attributes:
        caller: The caller, with its rights.
        rpc: The method's name.
        request_id: The caller's id of the request; empty: the request has no id.
        request: The parsed request. The server compares a repeated request with it.
        deadline: Monotonic seconds until which the caller waits.
    """

    caller: Caller
    rpc: str
    request_id: str
    request: RequestT_co
    deadline: float

    @property
    def organization(self) -> str:
        """The organization's name."""
        return self.request.organization

    def detail(self) -> str:
        """Returns the parsed request as JSON with sorted keys; it holds no key material."""
        return json.dumps(
            asdict(self.request), sort_keys=True, separators=(",", ":"), default=_value
        )

    def key(self) -> RequestKey | None:
        """Returns the request_id in its scope, or None if the request has no id.

        Raises:
            InvalidRequestIdError: The id is too long or not printable ASCII.
        """
        if not self.request_id:
            return None
        check_request_id(self.request_id)
        digest = hashlib.sha256(self.detail().encode()).digest()
        return RequestKey(self.caller.name, self.rpc, self.organization, self.request_id, digest)


@dataclass(frozen=True, slots=True)
class OrganizationResult:
    """How a change of an organization ended.

    Attributes:
        view: The organization as it is now or, with `validate_only`, as it would be.
        replayed: Whether the server had carried out this request_id before.
        superseded: Whether a later request has changed the organization since.
    """

    view: OrganizationView = field(repr=False)
    replayed: bool = False
    superseded: bool = False


def check_mask(fields: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Refuses an update_mask that names what cannot be changed, or nothing at all.

    Raises:
        InvalidUpdateMaskError: It does.
    """
    if not fields or not set(fields) <= set(known):
        wrong = ", ".join(sorted({name[:64] for name in fields} - set(known))[:5])
        what = f"it cannot change {wrong!a}" if wrong else "the request changes nothing"
        raise InvalidUpdateMaskError(
            f"{what}; name fields of {', '.join(known)}", field="update_mask"
        )


def _value(each: Any) -> Any:
    """Returns an enum as JSON has it."""
    return each.value
