"""Requests for changes: what all of them have in common, whatever they change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from keyfold_server.domain.changes import RequestKey
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import InvalidRequestIdError
from keyfold_server.domain.rights import Caller

RequestT_co = TypeVar("RequestT_co", bound="MutationRequest", covariant=True)

URGENT: Final = frozenset({"Revoke", "RetireGeneration"})
"""The methods that no rate, room or queue of a caller or an organization may delay, and that have
store threads of their own (protocol R9)."""

MAX_REQUEST_ID: Final = 128
"""Most characters in a request_id."""


def check_request_id(request_id: str) -> None:
    """Refuses an id that is too long or not printable ASCII.

    Raises:
        InvalidRequestIdError: It is.
    """
    if len(request_id) > MAX_REQUEST_ID or not (request_id.isascii() and request_id.isprintable()):
        raise InvalidRequestIdError(
            f"request_id must be 1 to {MAX_REQUEST_ID} printable ASCII characters",
            field="request_id",
        )


class MutationRequest(Protocol):
    """A parsed request for a change: a dataclass such as `RevokeRequest`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        ...

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that the request names; empty: all that the cluster has."""
        ...


@dataclass(frozen=True, slots=True)
class MutationCall(Generic[RequestT_co]):
    """A caller's call of a method that changes a cluster.

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
    def cluster(self) -> str:
        """The cluster's name."""
        return self.request.cluster

    @property
    def right(self) -> str:
        """The name of the right that the call needs before anything of the cluster is known.

        Any operator may delete a cluster that was never used, at once. `Deletion` asks for the
        right of the method itself where the cluster turns out to be in use (protocol D6).
        """
        return f"{self.rpc}:unused" if getattr(self.request, "at_once", False) else self.rpc

    @property
    def urgent(self) -> bool:
        """Whether the call has the lane (protocol R9)."""
        return self.rpc in URGENT

    @property
    def bans(self) -> bool:
        """Whether the call bans a cluster whose rows cannot be believed (protocol A6)."""
        return self.rpc == "Revoke" and not self.request.named

    @property
    def makes_cluster(self) -> bool:
        """Whether the call makes the cluster, which then need not exist."""
        return self.rpc == "Enable"

    def detail(self, replicas: Collection[str] = ()) -> str:
        """Returns the parsed request as JSON with sorted keys; it holds no key material.

        Args:
            replicas: The regions that a message about the request names and the request does not,
                which are those of replicas that would have rotated with a named region.
        """
        told = asdict(self.request)
        if replicas:
            told["replicas"] = sorted(replicas)
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    def key(self) -> RequestKey | None:
        """Returns the request_id in its scope, or None if the request has no id.

        Raises:
            InvalidRequestIdError: The id is too long or not printable ASCII.
        """
        if not self.request_id:
            return None
        check_request_id(self.request_id)
        digest = hashlib.sha256(self.detail().encode()).digest()
        return RequestKey(self.caller.name, self.rpc, self.cluster, self.request_id, digest)


@dataclass(frozen=True, slots=True)
class MutationResult:
    """How a change ended.

    Attributes:
        cluster: The cluster as it is now or, with `validate_only`, as it would be.
        number: The number of the change, or None if nothing was changed.
        replayed: Whether the server had carried out this request_id before.
        superseded: Whether a later request has changed the cluster since.
    """

    cluster: Cluster
    number: int | None = None
    replayed: bool = False
    superseded: bool = False
