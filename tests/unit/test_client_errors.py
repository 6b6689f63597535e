"""The client's errors: every reason has its class, and every detail arrives."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

import keyfold
import keyfold_server.domain.errors as server_errors
from keyfold.errors.reasons import BY_REASON
from keyfold.errors.rpc_status import error_of
from served import Served, served
from wire_errors import KEY_DISABLED, WireError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


def _server_leaves(
    branch: type[server_errors.KeyfoldError] = server_errors.KeyfoldError,
) -> Iterator[type[server_errors.KeyfoldError]]:
    for child in branch.__subclasses__():
        if "reason" in vars(child) and child is not server_errors.SetupError:
            yield child
        yield from _server_leaves(child)


def test_reasons_are_the_servers() -> None:
    """The client has a class for every reason that the server can send, and no others."""
    assert set(BY_REASON) == {leaf.reason for leaf in _server_leaves()}


@pytest.mark.parametrize("leaf", list(_server_leaves()), ids=lambda leaf: leaf.reason)
def test_branches_are_the_servers(leaf: type[server_errors.KeyfoldError]) -> None:
    """A reason's class has the server's name for it, and hangs on the server's branches."""
    mine = {one.__name__ for one in BY_REASON[leaf.reason].__mro__}
    theirs = {one.__name__ for one in leaf.__mro__}
    assert BY_REASON[leaf.reason].__name__ == leaf.__name__
    assert theirs <= mine


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_reason_decides_the_class(reason: str) -> None:
    """The class comes from the reason alone, whatever the code."""
    error = error_of(WireError(grpc.StatusCode.ABORTED, reason).status())
    assert type(error) is BY_REASON[reason]
    assert error.reason == reason


@pytest.mark.parametrize(
    ("code", "branch"),
    [
        ("INVALID_ARGUMENT", keyfold.InvalidInputError),
        ("OUT_OF_RANGE", keyfold.InvalidInputError),
        ("NOT_FOUND", keyfold.NotFoundError),
        ("ALREADY_EXISTS", keyfold.AlreadyExistsError),
        ("FAILED_PRECONDITION", keyfold.StateError),
        ("ABORTED", keyfold.ConflictError),
        ("RESOURCE_EXHAUSTED", keyfold.LimitError),
        ("UNAVAILABLE", keyfold.UnavailableError),
        ("DEADLINE_EXCEEDED", keyfold.DeadlineError),
        ("PERMISSION_DENIED", keyfold.ForbiddenError),
        ("UNAUTHENTICATED", keyfold.UnauthenticatedError),
        ("UNIMPLEMENTED", keyfold.UnimplementedError),
        ("CANCELLED", keyfold.CancelledError),
        ("INTERNAL", keyfold.InternalError),
        ("UNKNOWN", keyfold.KeyfoldError),
        ("DATA_LOSS", keyfold.KeyfoldError),
    ],
)
def test_unknown_reason_falls_to_its_branch(code: str, branch: type[keyfold.KeyfoldError]) -> None:
    """For a reason newer than itself, the client raises the branch of the gRPC code."""
    error = error_of(WireError(grpc.StatusCode[code], "FROM_THE_FUTURE").status())
    assert type(error) is branch
    assert (error.reason, error.code) == ("FROM_THE_FUTURE", code)


@pytest.mark.parametrize(
    ("code", "branch"),
    [
        ("FAILED_PRECONDITION", keyfold.RefusedError),
        ("UNAVAILABLE", keyfold.CouldNotTellError),
        ("RESOURCE_EXHAUSTED", keyfold.CouldNotTellError),
        ("DATA_LOSS", keyfold.KmsError),
        ("NOT_FOUND", keyfold.NotFoundError),
    ],
)
def test_unknown_reason_of_the_kms(code: str, branch: type[keyfold.KeyfoldError]) -> None:
    """Refused and could not tell stay apart even for reasons newer than the client."""
    failure = WireError(grpc.StatusCode[code], "FROM_THE_FUTURE", metadata={"source": "kms"})
    assert type(error_of(failure.status())) is branch


def test_another_domains_reason_is_not_ours() -> None:
    """The client does not mistake a proxy's own word for a reason of Keyfold."""
    failure = WireError(grpc.StatusCode.UNAVAILABLE, "KEY_DISABLED", domain="proxy.example")
    error = error_of(failure.status())
    assert type(error) is keyfold.UnavailableError
    assert error.reason == "UNAVAILABLE"


def test_unreadable_details_are_left_out() -> None:
    """A malformed detail does not hide the error itself."""
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    fine = AnyMessage()
    fine.Pack(ErrorInfo(reason="REVOKED", domain="keyfold"))
    error = error_of(Status(code=9, message="revoked", details=[broken, fine]))
    assert type(error) is keyfold.RevokedError


def test_every_detail_arrives(server: Served, client: keyfold.Client) -> None:
    """Reason, message, metadata, fields and the time to wait come over the wire."""
    server.fail(
        "Enable",
        WireError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_KEY_SPEC",
            "uri is not an ARN",
            {"cluster": "test", "region": "eu", "source": "keyfold", "more": "x"},
            {"region_specs[0].key_spec.uri": "is not an ARN"},
            retry_after=7,
        ),
    )
    with pytest.raises(keyfold.InvalidKeySpecError) as raised:
        client.enable("test", [keyfold.RegionSpec("eu", keyfold.KeySpec("AWS_KMS", "nonsense"))])
    error = raised.value
    assert error.message == "uri is not an ARN"
    assert str(error) == "cluster test: uri is not an ARN"
    assert (error.cluster, error.region, error.source) == ("test", "eu", "keyfold")
    assert error.metadata["more"] == "x"
    assert error.field_violations == (
        keyfold.FieldViolation("region_specs[0].key_spec.uri", "is not an ARN"),
    )
    assert error.retry_after == 7.0
    assert error.request_id == server.requests["Enable"][-1].request_id


def test_refused_by_the_kms(server: Served, client: keyfold.Client) -> None:
    """`except RefusedError` catches a refusal, and its source is the KMS."""
    server.local_keys.disable("acme")
    with pytest.raises(keyfold.RefusedError) as raised:
        client.wrap("prod", "eu", bytes(32))
    assert (raised.value.source, raised.value.region) == ("kms", "eu")
    assert raised.value.request_id is None


def test_errors_of_grpc_itself(server: Served, client: keyfold.Client) -> None:
    """An error without ErrorInfo has its branch, and the code's name as its reason."""
    server.fail("Wrap", WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, message="message too large"))
    with pytest.raises(keyfold.LimitError) as raised:
        client.wrap("prod", "eu", bytes(32))
    assert raised.value.reason == "RESOURCE_EXHAUSTED"


def test_errors_can_be_pickled() -> None:
    """An error crosses process borders whole: it holds no key."""
    error = error_of(KEY_DISABLED.status())
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is keyfold.KeyDisabledError
    assert vars(copy) == vars(error)
