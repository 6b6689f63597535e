"""The caller's token and name: which calls carry them, and who never sees them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Final

import grpc
import pytest

import keyfold
from certificates import self_signed
from keyfold.transport.caller import Caller
from keyfold.transport.channel import endpoint
from keyfold.transport.tls import Tls
from served import Served, served
from wire_errors import UNAVAILABLE, WireError

SECRET: Final = "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"
SPEC: Final = keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))
REFUSED_TOKEN: Final = WireError(grpc.StatusCode.UNAUTHENTICATED, "CALLER_CREDENTIAL_INVALID")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token, as kubelet writes it."""
    file = tmp_path / "token"
    file.write_text(SECRET)
    return file


def swap(file: Path, text: str) -> None:
    """Replaces a file in one step, as programs that rotate tokens do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def brought(caller: Caller) -> str:
    """Returns the authorization header of a call."""
    return dict(caller.metadata())["authorization"]


def test_every_call_brings_the_token(server: Served, token_file: Path) -> None:
    """Every call carries the token, also in batches, pages and repetitions."""
    server.fail("Wrap", UNAVAILABLE)
    with keyfold.Client(server.target, token=token_file) as client:
        key = client.generate_data_key("prod", "eu").wrapped_key
        client.wrap("prod", "eu", bytes(32))
        client.unwrap("prod", key)
        client.rewrap("prod", key)
        client.batch_wrap("prod", [bytes(32)] * 1001, region="eu")
        client.batch_unwrap("prod", [key])
        client.batch_rewrap("prod", [key])
        client.enable("test", [SPEC])
        client.add_regions("test", [keyfold.RegionSpec("us", SPEC.key_spec)])
        client.rotate("test", [keyfold.RegionSpec("eu")])
        client.revoke("test")
        client.restore("test")
        client.test_key(keyfold.KeySpec("LOCAL", "local:acme"))
        client.get_status("test")
        list(client.list_clusters(page_size=1))
    assert len(server.metadata) == 15
    assert [len(server.metadata[name]) for name in ("Wrap", "BatchWrap", "ListClusters")] == [2] * 3
    for method, calls in server.metadata.items():
        for metadata in calls:
            assert metadata["authorization"] == f"Bearer {SECRET}", method
            assert "on-behalf-of" not in metadata


async def test_the_client_for_asyncio_brings_them_too(server: Served, token_file: Path) -> None:
    """Every call of the asyncio client carries token and name, also in batches."""
    async with keyfold.AsyncClient(server.target, token=token_file, on_behalf_of="alice") as client:
        await client.batch_wrap("prod", [bytes(32)], region="eu")
        _ = [one async for one in client.list_clusters()]
    for method in ("BatchWrap", "ListClusters"):
        [metadata] = server.metadata[method]
        assert metadata["authorization"] == f"Bearer {SECRET}"
        assert metadata["on-behalf-of"] == "alice"


def test_without_a_token_nothing_is_brought(server: Served) -> None:
    """A client without a token sends no header, not even an empty one."""
    with keyfold.Client(server.target) as client:
        client.get_status("prod")
    assert not {"authorization", "on-behalf-of"} & set(server.metadata["GetStatus"][0])


def test_a_rotated_file_is_read_anew(token_file: Path) -> None:
    """The call after a rotation carries the new token, of a replaced or a rewritten file."""
    caller = Caller(token_file, None)
    assert brought(caller) == f"Bearer {SECRET}"
    swap(token_file, "second.token.x\n")
    assert brought(caller) == "Bearer second.token.x"
    token_file.write_text("a-third.token.of-another-length")
    assert brought(caller) == "Bearer a-third.token.of-another-length"


def test_a_projected_volume_is_read_anew(tmp_path: Path) -> None:
    """The client notices a rotation that swaps the folder behind a link, as Kubernetes does."""
    for name, text in (("one", "first.token.x"), ("two", "other.token.x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    caller = Caller(tmp_path / "token", None)
    assert brought(caller) == "Bearer first.token.x"
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert brought(caller) == "Bearer other.token.x"


def test_a_file_that_did_not_change_is_not_read(token_file: Path) -> None:
    """A call checks the file, and reads it only if it has changed."""
    source = Caller(token_file, None)._token
    assert source is not None
    # Reading makes a new string each time.
    first = source()
    assert source() is first
    swap(token_file, SECRET)
    assert source() is not first


@pytest.mark.parametrize("halfway", ["", "half a token\n", "\x00", "é"])
def test_a_rotation_halfway_fails_no_call(token_file: Path, halfway: str) -> None:
    """While the file is missing, empty or not a token, the client keeps the last token."""
    caller = Caller(token_file, None)
    token_file.write_text(halfway)
    assert brought(caller) == f"Bearer {SECRET}"
    token_file.unlink()
    assert brought(caller) == f"Bearer {SECRET}"
    token_file.write_text("second.token.x")
    assert brought(caller) == "Bearer second.token.x"


def test_a_callable_is_asked_for_each_call(server: Served) -> None:
    """The client calls a program's own source of tokens before each call."""
    tokens = iter(["first.token.x", "second.token.x"])
    with keyfold.Client(server.target, token=lambda: next(tokens)) as client:
        client.get_status("prod")
        client.get_status("prod")
    sent = [metadata["authorization"] for metadata in server.metadata["GetStatus"]]
    assert sent == ["Bearer first.token.x", "Bearer second.token.x"]


def test_a_name_may_differ_for_each_call(server: Served) -> None:
    """A gateway names whom it makes each call for, and sends no name for its own calls."""
    user = ContextVar("user", default="")
    with keyfold.Client(server.target, on_behalf_of=user.get) as client:
        client.get_status("prod")
        user.set("alice")
        client.get_status("prod")
    first, second = server.metadata["GetStatus"]
    assert "on-behalf-of" not in first
    assert second["on-behalf-of"] == "alice"


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("127.0.0.1:7443", True),
        ("127.8.8.8:7443", True),
        ("[::1]:7443", True),
        ("localhost:7443", True),
        ("127.0.0.1:7443,127.0.0.1:7444", True),
        ("unix:/run/keyfold/k.sock", True),
        ("unix-abstract:keyfold", True),
        ("10.0.0.1:7443", False),
        ("0.0.0.0:7443", False),
        ("keyfold.example:7443", False),
        ("localhost.example:7443", False),
        ("127.0.0.1.example:7443", False),
        ("127.0.0.1:7443,10.0.0.1:7443", False),
        ("dns:///keyfold.example:7443", False),
        ("ipv4:10.0.0.1:7443", False),
        ("xds:///keyfold", False),
    ],
)
def test_a_token_stays_on_this_machine_or_goes_over_tls(target: str, *, allowed: bool) -> None:
    """Over plain text a token goes only to loopback addresses and unix sockets."""
    if allowed:
        assert endpoint(target, None, with_token=True).certificates is None
    else:
        with pytest.raises(ValueError, match="use TLS"):
            endpoint(target, None, with_token=True)
    assert "," in target or endpoint(target, Tls(), with_token=True).certificates is not None


def test_a_client_with_a_token_is_not_made_for_plain_text(token_file: Path) -> None:
    """Both clients refuse a token over plain text at once; without a token they do not."""
    for kind in (keyfold.Client, keyfold.AsyncClient):
        with pytest.raises(ValueError, match="use TLS"):
            kind("10.0.0.1:7443", token=token_file)
    keyfold.Client("10.0.0.1:7443", on_behalf_of="alice").close()


def test_a_token_over_tls(tmp_path: Path, token_file: Path) -> None:
    """Over TLS the token arrives, although the client has no certificate of its own."""
    key, certificate = self_signed("keyfold.example")
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    tls = Tls(certificate, server_name="keyfold.example")
    with served(tmp_path, credentials=credentials) as server:
        with keyfold.Client(server.target, tls=tls, token=token_file) as client:
            client.get_status("prod")
        assert server.metadata["GetStatus"][0]["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("wrong", [SECRET, SECRET.encode(), 7])
def test_a_plain_string_is_no_token(wrong: object) -> None:
    """The client refuses a string, which could be a path or a token, and does not show it."""
    with pytest.raises(TypeError, match="callable") as raised:
        keyfold.Client(token=wrong)  # type: ignore[arg-type]
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("text", ["", " \n", "two tokens", "x" * 65537, "a\nb", "é", "\x00"])
def test_a_file_without_a_token(token_file: Path, text: str) -> None:
    """The client refuses a file that does not hold a token; the error names only the file."""
    token_file.write_text(text)
    with pytest.raises(ValueError, match="token") as raised:
        keyfold.Client(token=token_file)
    assert str(token_file) in str(raised.value)
    assert text.strip() == "" or text not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The client refuses the path of a file that does not exist."""
    with pytest.raises(keyfold.FileUnreadableError, match=r"cannot read .*token: No such file"):
        keyfold.Client(token=tmp_path / "token")


@pytest.mark.parametrize("wrong", [f"{SECRET} {SECRET}", f"{SECRET}\n", f"{SECRET}é", ""])
def test_what_a_callable_returns_is_not_shown(server: Served, wrong: str) -> None:
    """The client sends nothing with a malformed token, because gRPC would quote it."""
    with (
        keyfold.Client(server.target, token=lambda: wrong) as client,
        pytest.raises(ValueError, match="not a token") as raised,
    ):
        client.get_status("prod")
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert not server.requests["GetStatus"]


@pytest.mark.parametrize("kind", ["token", "on_behalf_of"])
def test_a_callable_that_returns_no_string(server: Served, kind: str) -> None:
    """The client refuses bytes; it does not send their repr."""
    options = {kind: lambda: b"bytes"}
    with (
        keyfold.Client(server.target, **options) as client,  # type: ignore[arg-type]
        pytest.raises(TypeError, match="must be str, not bytes"),
    ):
        client.get_status("prod")


@pytest.mark.parametrize("wrong", [None, b"bytes", "", "two words"])
def test_what_a_callable_returns_is_checked_whenever_it_is_new(wrong: object) -> None:
    """After a good token, or a good name, a bad one is refused as it would be at first."""
    tokens, names = iter([SECRET, SECRET, wrong]), iter(["alice", "alice", "bob"])
    caller = Caller(lambda: next(tokens), lambda: next(names))  # type: ignore[arg-type]
    first = (("authorization", f"Bearer {SECRET}"), ("on-behalf-of", "alice"))
    assert caller.metadata() == caller.metadata() == first
    with pytest.raises((TypeError, ValueError), match="the token callable's result"):
        caller.metadata()


@pytest.mark.parametrize("wrong", ["", " alice", "a\nb", "é", "x" * 257])
def test_a_name_that_cannot_be_sent(wrong: str) -> None:
    """A new client refuses a name that no server takes."""
    with pytest.raises(ValueError, match="on_behalf_of"):
        keyfold.Client(on_behalf_of=wrong)
    with pytest.raises(TypeError, match="on_behalf_of"):
        keyfold.Client(on_behalf_of=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["file", "callable"])
def test_a_token_shows_nowhere(
    server: Served, token_file: Path, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No repr, log line or error of a failed call holds the token, nor do errors' causes."""

    def ask() -> str:
        return SECRET

    token: Path | Callable[[], str] = token_file if source == "file" else ask
    caplog.set_level(logging.DEBUG)
    server.fail("GetStatus", REFUSED_TOKEN)
    with keyfold.Client(server.target, token=token) as client:
        with pytest.raises(keyfold.CallerCredentialError) as raised:
            client.get_status("prod")
        shown = [repr(client), repr(client._caller), caplog.text, repr(vars(raised.value))]
        shown += traceback.format_exception(raised.value)
        shown += [repr(raised.value.__cause__)]
    assert all(SECRET not in text for text in shown)


def test_one_connection_for_many_callers(server: Served, token_file: Path) -> None:
    """A program that calls for its visitors brings each one's token, over one connection."""
    other = SECRET.replace("c2VjcmV0", "b3RoZXI")
    with keyfold.Client(server.target, token=token_file, on_behalf_of="alice") as client:
        visitor = client.with_token(lambda: other)
        for each in (client, visitor, client):
            each.get_status("prod")
    brought = [one["authorization"] for one in server.metadata["GetStatus"]]
    assert brought == [f"Bearer {one}" for one in (SECRET, other, SECRET)]
    assert "on-behalf-of" not in server.metadata["GetStatus"][1]
    with pytest.raises(keyfold.ClosedError):
        visitor.get_status("prod")
    with (
        keyfold.Client("keyfold.example:7443") as plain,
        pytest.raises(ValueError, match="over plain text"),
    ):
        plain.with_token(lambda: other)
