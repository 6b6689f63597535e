"""The call GetCaller."""

from __future__ import annotations

from keyfold.calls.call import Call, Plane
from keyfold.models.caller import CallerIdentity
from keyfold.v1 import key_management_service_pb2 as api


def get_caller() -> Call[api.GetCallerResponse, CallerIdentity]:
    """Prepares the call GetCaller."""
    return Call("GetCaller", api.GetCallerRequest(), CallerIdentity.from_message, Plane.CONTROL)
