"""Texts that requests look for: what no database can look for is refused as the caller's fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from google.protobuf.message import Message

from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2 as kms
from keyfold_server.domain.errors import MalformedRequestError
from keyfold_server.rpc.messages import events, key_usage, requests, watch

_READERS: Final[dict[type[Message], Callable[[Any], object]]] = {
    pb.EventFilter: events.event_filter,
    pb.ListUsageRequest: events.usage_filter,
    pb.WatchEventsRequest: watch.watch_request,
    kms.ListClustersRequest: requests.cluster_filter,
    kms.RecheckRequest: requests.recheck_request,
    kms.KeySelector: key_usage.key_selector,
}

_CHECKED_AS_NAMES: Final = {"RecheckRequest.cluster", "WatchEventsRequest.cursor"}
_TOKENS: Final = {"page_token", "resume_token"}

_TEXTS: Final = [
    (kind, field.name)
    for kind in _READERS
    for field in kind.DESCRIPTOR.fields
    if field.type == field.TYPE_STRING
    and not field.is_repeated
    and field.name not in _TOKENS
    and f"{kind.DESCRIPTOR.name}.{field.name}" not in _CHECKED_AS_NAMES
]


@pytest.mark.parametrize(("kind", "name"), _TEXTS)
def test_a_text_with_nul_is_refused(kind: type[Message], name: str) -> None:
    """PostgreSQL cannot look for a NUL; the caller hears so, and not that the store is broken."""
    with pytest.raises(MalformedRequestError, match="NUL") as caught:
        _READERS[kind](kind(**{name: "x\0y"}))
    assert (caught.value.field or "").endswith(name)
    _READERS[kind](kind(**{name: "x"}))
