"""The call ListKeyUsage, page by page."""

from __future__ import annotations

from typing import TypeAlias

from keyfold.arguments import checked
from keyfold.calls.call import Call, Plane
from keyfold.models.key_usage import KeySelector, KeyUsage
from keyfold.models.what_if import WhatIf
from keyfold.v1 import key_management_service_pb2 as api

KeyUsagePage: TypeAlias = Call[api.ListKeyUsageResponse, KeyUsage]
"""The call for one page of uses."""


@checked
def first_key_usage(
    selector: KeySelector, page_size: int, what_if: WhatIf | None = None
) -> KeyUsagePage:
    """Prepares the call for the first page of uses."""
    request = api.ListKeyUsageRequest(
        selector=selector.to_message(),
        page_size=page_size,
        what_if=api.WHAT_IF_UNSPECIFIED if what_if is None else what_if.to_message(),
    )
    return Call("ListKeyUsage", request, KeyUsage.from_message, Plane.CONTROL)
