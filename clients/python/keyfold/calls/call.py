"""One call as a value: its method, its request, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.message import Message

Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")


class Plane(Enum):
    """Which default deadline a call has."""

    DATA = "data"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Call(Generic[Response, Result]):
    """One call, not yet sent.

    Attributes:
        method: The RPC's name.
        request: Its request; kept out of `repr`, since it may hold a plaintext.
        read: Makes the answer out of the response.
        plane: Which default deadline it has.
        request_id: The id of a change, or None.
    """

    method: str
    request: Message = field(repr=False)
    read: Callable[[Response], Result] = field(repr=False)
    plane: Plane = Plane.DATA
    request_id: str | None = None
