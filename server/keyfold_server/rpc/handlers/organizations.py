"""The methods of the organization service: from request bytes to the service and back."""

from __future__ import annotations

from typing import Final

from keyfold.v1 import organization_service_pb2 as pb
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc.handlers.unary import OnMessages, UnaryMethod
from keyfold_server.rpc.messages import organizations
from keyfold_server.service.life.listing import page_token
from keyfold_server.service.loop_turns import one_by_one
from keyfold_server.service.organizations.key_links import LinkReport, LinkResult
from keyfold_server.service.organizations.requests import OrganizationCall
from keyfold_server.service.replica import Replica

_PAGE_BYTES: Final = 3 * 1024 * 1024
"""Bytes after which a page ends: less than gRPC's clients accept by default."""


class OrganizationMethods:
    """The methods of the organization service on bytes."""

    def __init__(self, replica: Replica) -> None:
        """Takes the service."""
        self._replica = replica

    def table(self) -> dict[str, UnaryMethod]:
        """Returns the methods, by their names in the contract."""
        methods = {
            "CreateOrganization": OnMessages(pb.CreateOrganizationRequest, self._create),
            "GetOrganization": OnMessages(pb.GetOrganizationRequest, self._get),
            "ListOrganizations": OnMessages(pb.ListOrganizationsRequest, self._list),
            "UpdateOrganization": OnMessages(pb.UpdateOrganizationRequest, self._update),
            "DeleteOrganization": OnMessages(pb.DeleteOrganizationRequest, self._delete),
            "CreateKeyLink": OnMessages(pb.CreateKeyLinkRequest, self._create_link),
            "GetKeyLink": OnMessages(pb.GetKeyLinkRequest, self._get_link),
            "ListKeyLinks": OnMessages(pb.ListKeyLinksRequest, self._list_links),
            "UpdateKeyLink": OnMessages(pb.UpdateKeyLinkRequest, self._update_link),
            "DeleteKeyLink": OnMessages(pb.DeleteKeyLinkRequest, self._delete_link),
        }
        return {name: method.on_bytes() for name, method in methods.items()}

    async def _create(
        self, asked: pb.CreateOrganizationRequest, caller: Caller, deadline: float
    ) -> pb.CreateOrganizationResponse:
        request = organizations.create_request(asked)
        call = OrganizationCall(caller, "CreateOrganization", asked.request_id, request, deadline)
        done = await self._replica.organization_service.create(call)
        return pb.CreateOrganizationResponse(
            organization=organizations.organization(done.view),
            replayed=done.replayed,
            superseded=done.superseded,
        )

    async def _get(
        self, asked: pb.GetOrganizationRequest, caller: Caller, _deadline: float
    ) -> pb.GetOrganizationResponse:
        view = await self._replica.organization_service.get(caller.rights, asked.organization)
        issued = await self._replica.identities.of_organization(asked.organization)
        return pb.GetOrganizationResponse(organization=organizations.organization(view, issued))

    async def _list(
        self, asked: pb.ListOrganizationsRequest, caller: Caller, _deadline: float
    ) -> pb.ListOrganizationsResponse:
        page = await self._replica.organization_service.page(
            caller.rights, asked.page_size, asked.page_token
        )
        reply = pb.ListOrganizationsResponse(next_page_token=page.next_token)
        size, last = 0, ""
        async for view in one_by_one(page.views):
            message = organizations.organization(view, whole=False)
            size += message.ByteSize()
            if size > _PAGE_BYTES and reply.organizations:
                # End a page of large ones early, so that it never exceeds gRPC's own limit.
                reply.next_page_token = page_token(last)
                break
            reply.organizations.append(message)
            last = message.organization
        else:
            last = ""
        reply.not_authentic.extend(n for n in page.not_authentic if not last or n <= last)
        return reply

    async def _update(
        self, asked: pb.UpdateOrganizationRequest, caller: Caller, deadline: float
    ) -> pb.UpdateOrganizationResponse:
        request = organizations.update_request(asked)
        call = OrganizationCall(caller, "UpdateOrganization", asked.request_id, request, deadline)
        done = await self._replica.organization_service.update(call)
        return pb.UpdateOrganizationResponse(
            organization=organizations.organization(done.view),
            replayed=done.replayed,
            superseded=done.superseded,
        )

    async def _delete(
        self, asked: pb.DeleteOrganizationRequest, caller: Caller, deadline: float
    ) -> pb.DeleteOrganizationResponse:
        request = organizations.delete_request(asked)
        call = OrganizationCall(caller, "DeleteOrganization", asked.request_id, request, deadline)
        done = await self._replica.organization_service.delete(call)
        return pb.DeleteOrganizationResponse(replayed=done.replayed)

    async def _create_link(
        self, asked: pb.CreateKeyLinkRequest, caller: Caller, deadline: float
    ) -> pb.CreateKeyLinkResponse:
        request = organizations.create_link_request(asked)
        call = OrganizationCall(caller, "CreateKeyLink", asked.request_id, request, deadline)
        done = await self._replica.key_links.create(call)
        return pb.CreateKeyLinkResponse(
            key_link=_reported(done),
            replayed=done.change.replayed,
            superseded=done.change.superseded,
        )

    async def _get_link(
        self, asked: pb.GetKeyLinkRequest, caller: Caller, _deadline: float
    ) -> pb.GetKeyLinkResponse:
        report = await self._replica.key_links.get(
            caller.rights, asked.organization, asked.key_link
        )
        return pb.GetKeyLinkResponse(key_link=organizations.key_link(report))

    async def _list_links(
        self, asked: pb.ListKeyLinksRequest, caller: Caller, _deadline: float
    ) -> pb.ListKeyLinksResponse:
        reports, token = await self._replica.key_links.page(
            caller.rights, asked.organization, asked.page_size, asked.page_token
        )
        reply = pb.ListKeyLinksResponse(next_page_token=token)
        size, last = 0, ""
        async for report in one_by_one(reports):
            message = organizations.key_link(report)
            size += message.ByteSize()
            if size > _PAGE_BYTES and reply.key_links:
                # End a page of large links early, so that it never exceeds gRPC's own limit.
                reply.next_page_token = page_token(last)
                break
            reply.key_links.append(message)
            last = message.key_link
        return reply

    async def _update_link(
        self, asked: pb.UpdateKeyLinkRequest, caller: Caller, deadline: float
    ) -> pb.UpdateKeyLinkResponse:
        request = organizations.update_link_request(asked)
        call = OrganizationCall(caller, "UpdateKeyLink", asked.request_id, request, deadline)
        done = await self._replica.key_links.update(call)
        return pb.UpdateKeyLinkResponse(
            key_link=_reported(done),
            replayed=done.change.replayed,
            superseded=done.change.superseded,
        )

    async def _delete_link(
        self, asked: pb.DeleteKeyLinkRequest, caller: Caller, deadline: float
    ) -> pb.DeleteKeyLinkResponse:
        request = organizations.delete_link_request(asked)
        call = OrganizationCall(caller, "DeleteKeyLink", asked.request_id, request, deadline)
        done = await self._replica.key_links.delete(call)
        return pb.DeleteKeyLinkResponse(replayed=done.change.replayed)


def _reported(done: LinkResult) -> pb.KeyLink | None:
    """Returns the link that a change has made, as its answer shows it."""
    report: LinkReport | None = done.report
    return None if report is None else organizations.key_link(report)
