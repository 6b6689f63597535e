"""Free texts of requests: each field keeps the one rule of `keyfold_server.domain.texts`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from e2e.conftest import StartServer
from e2e.wire import refused
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import operations_pb2 as ops
from keyfold.v1 import organization_service_pb2 as org
from keyfold.v1 import resources_pb2 as res

_NAMES: Final = {"reason", "description", "display_name"}
"""Names of the fields that people write for people."""

_SERVICES: Final[tuple[ServiceDescriptor, ...]] = (
    pb.DESCRIPTOR.services_by_name["KeyManagementService"],
    org.DESCRIPTOR.services_by_name["OrganizationService"],
    events.DESCRIPTOR.services_by_name["EventService"],
)

_ACME: Final = org.Organization(organization="acme")
_LINK: Final = org.KeyLink(
    organization="acme",
    key_link="main",
    region="eu",
    key_spec=res.KeySpec(type="LOCAL", uri="local:eu"),
)

_REQUESTS: Final[dict[str, Message]] = {
    "Revoke": pb.RevokeRequest(cluster="prod"),
    "Restore": pb.RestoreRequest(cluster="prod"),
    "RetireGeneration": pb.RetireGenerationRequest(cluster="prod", region="eu", generation=1),
    "DeleteCluster": pb.DeleteClusterRequest(cluster="prod", all_regions=True),
    "UndeleteCluster": pb.UndeleteClusterRequest(cluster="prod"),
    "StartOperation": pb.StartOperationRequest(
        operation="one",
        action=ops.OperationAction(recheck=ops.RecheckAction()),
        scope=ops.OperationScope(organization="acme"),
    ),
    "CreateOrganization": org.CreateOrganizationRequest(organization=_ACME),
    "UpdateOrganization": org.UpdateOrganizationRequest(
        organization=_ACME, update_mask=FieldMask(paths=["display_name"])
    ),
    "CreateKeyLink": org.CreateKeyLinkRequest(key_link=_LINK),
    "UpdateKeyLink": org.UpdateKeyLinkRequest(
        key_link=_LINK, update_mask=FieldMask(paths=["description"])
    ),
}
"""A request of each method that takes a free text, valid but for the text."""


def _paths(kind: Descriptor, within: tuple[Descriptor, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the paths of the free texts of a message and of those in it.

    Repeated messages with a text are answers, such as the trials of a link's replicas.
    """
    for field in kind.fields:
        inner = None if field.is_repeated else field.message_type
        if field.type == field.TYPE_STRING and field.name in _NAMES:
            yield (field.name,)
        elif inner is not None and inner.full_name.startswith("keyfold.") and inner not in within:
            for path in _paths(inner, (*within, kind)):
                yield (field.name, *path)


_FIELDS: Final = [
    (service.full_name, method.name, path)
    for service in _SERVICES
    for method in service.methods
    for path in _paths(method.input_type)
]


@pytest.fixture(scope="module")
def channel(start_module_server: StartServer) -> Iterator[grpc.Channel]:
    """A connection to one server for all fields."""
    server = start_module_server(keys=("eu",))
    server.enable("prod", ["eu"])
    with grpc.insecure_channel(server.target) as channel:
        yield channel


@pytest.mark.parametrize(("service", "method", "path"), _FIELDS)
def test_every_free_text_keeps_the_rule(
    channel: grpc.Channel, service: str, method: str, path: tuple[str, ...]
) -> None:
    """No call takes a text that ends a line, moves a cursor or turns other text around."""
    given = _REQUESTS[method]
    call = channel.unary_unary(f"/{service}/{method}", type(given).SerializeToString, bytes)
    for text, said in (("a\nb", "U+000A"), ("a\x1bb", "U+001B"), ("a\u202eb", "U+202E")):
        request = type(given)()
        request.CopyFrom(given)
        holder = request
        for name in path[:-1]:
            holder = getattr(holder, name)
        setattr(holder, path[-1], text)
        answer = refused(call, request)
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, answer
        assert said in answer.message
        assert answer.fields == (".".join(path),)


def test_free_texts_are_found() -> None:
    """The walk over the contract finds the fields; else the test above would test nothing."""
    assert {method for _, method, _ in _FIELDS} == _REQUESTS.keys()
