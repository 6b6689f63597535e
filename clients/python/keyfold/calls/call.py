"""One call as a value: its method, its request, and how to read its response."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from keyfold.errors import InternalError

KEYS: Final = "keyfold.v1.KeyManagementService"
"""The full name of the service of keys, as it stands in the path of each call."""

EVENTS: Final = "keyfold.v1.EventService"
"""The full name of the service of events."""

ORGANIZATIONS: Final = "keyfold.v1.OrganizationService"
"""The full name of the service of organizations."""

OPERATIONS: Final = "google.longrunning.Operations"
"""The full name of Google's service of operations, which Keyfold's servers offer."""

Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")


class Plane(Enum):
    """The plane of a call, which decides its default deadline."""

    DATA = "data"
    CONTROL = "control"


class Call(Generic[Response, Result]):
    """One call that the client has not sent yet. Nobody changes it.

    Attributes:
        method: The RPC's name.
        request: The request message. `repr` leaves it out, because it may hold a plaintext.
        read: The function that makes the result from the response message.
        plane: The plane, which decides the default deadline.
        request_id: The id of a change; None for a call that changes nothing.
        service: The full name of the RPC's service.
    """

    __slots__ = ("_request", "method", "plane", "read", "request_id", "service")

    def __init__(
        self,
        method: str,
        request: Message,
        read: Callable[[Response], Result],
        plane: Plane = Plane.DATA,
        request_id: str | None = None,
        service: str = KEYS,
    ) -> None:
        """Takes the parts of a call."""
        self.method = method
        self._request = request
        self.read = read
        self.plane = plane
        self.request_id = request_id
        self.service = service

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, request_id={self.request_id!r})"

    @property
    def request(self) -> Message:
        """The request message."""
        return self._request

    def result(self, response: Response) -> Result:
        """Reads the response.

        Raises:
            InternalError: It has a value that no server of Keyfold sends, such as a year 10000.
        """
        try:
            return self.read(response)
        except (ValueError, OverflowError) as error:
            raise InternalError(
                f"the server's response to {self.method} cannot be read: {error}", code="INTERNAL"
            ) from error


def next_page(page: Call[Response, Result], response: Response) -> Call[Response, Result] | None:
    """Prepares the call for the page after one of a list, or returns None after the last page."""
    token: str = getattr(response, "next_page_token")  # noqa: B009  no type has it in common
    if not token:
        return None
    request: Any = type(page.request)()
    request.CopyFrom(page.request)
    request.page_token = token
    return Call(page.method, request, page.read, page.plane, page.request_id, page.service)
