"""Certificates that are renewed while a client runs, and what is said when TLS fails."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final
from weakref import finalize

import grpc
import pytest

import keyfold
from certificates import Authority, Issued
from cli_runner import Cli
from doorkeeper import Doorkeeper, keeping
from in_process import grpc_alone, serving
from keyfold.transport import tls as tls_files
from keyfold.transport.handshake import Attempt, objection
from keyfold.transport.tls import Pems

pytestmark = grpc_alone

CA: Final = Authority("one authority")
OTHER: Final = Authority("another authority")
SERVER: Final = CA.issue("ip:127.0.0.1")
APP: Final = CA.issue("spiffe://example.org/app")


@pytest.fixture(autouse=True)
def _looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client looks at its files with each call, and not once a second."""
    monkeypatch.setattr(tls_files, "_LOOK", 0.0)


@pytest.fixture
def keeper() -> Iterator[Doorkeeper]:
    """A server that takes certificates of CA."""
    with keeping(SERVER, CA) as running:
        yield running


class Files:
    """The client's files, which a program such as SPIRE's helper writes."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.ca = (folder / name for name in ("cert", "key", "ca"))
        self.ca.write_bytes(CA.pem)
        self.write(APP)

    def write(self, issued: Issued) -> None:
        """Writes a certificate and its key, one after the other."""
        self.cert.write_bytes(issued.pem)
        self.key.write_bytes(issued.key_pem)

    @property
    def tls(self) -> keyfold.Tls:
        """The client's option."""
        return keyfold.Tls(self.ca, self.cert, self.key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The client's files, with APP's certificate."""
    return Files(tmp_path)


def renewed() -> Issued:
    """Returns a new certificate of the same caller."""
    return CA.issue("spiffe://example.org/app")


def serial(issued: Issued) -> int:
    """Returns a certificate's serial number."""
    return issued.certificate.serial_number


def test_renewed_files_need_no_new_client(keeper: Doorkeeper, files: Files) -> None:
    """The next call after a renewal shows the new certificate, hour after hour."""
    seen = [APP]
    with keyfold.Client(keeper.target, tls=files.tls) as client:
        client.get_status("prod")
        for _ in range(3):
            seen.append(renewed())
            files.write(seen[-1])
            client.get_status("prod")
            client.get_status("prod")
    assert keeper.callers == [serial(APP), *(serial(one) for one in seen[1:] for _ in range(2))]


async def test_renewed_files_need_no_new_async_client(keeper: Doorkeeper, files: Files) -> None:
    """The client for asyncio does the same."""
    new = renewed()
    async with keyfold.AsyncClient(keeper.target, tls=files.tls) as client:
        await client.get_status("prod")
        files.write(new)
        await client.get_status("prod")
    assert keeper.callers == [serial(APP), serial(new)]


def test_files_are_looked_at_once_a_second(
    keeper: Doorkeeper, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks a call does not touch the disk."""
    now = 1000.0
    monkeypatch.setattr(tls_files, "_LOOK", 1.0)
    monkeypatch.setattr(tls_files, "monotonic", lambda: now)
    new = renewed()
    with keyfold.Client(keeper.target, tls=files.tls) as client:
        files.write(new)
        client.get_status("prod")
        now += 0.9
        client.get_status("prod")
        now += 0.2
        client.get_status("prod")
    assert keeper.callers == [serial(APP), serial(APP), serial(new)]


def test_half_a_renewal_is_not_taken(keeper: Doorkeeper, files: Files) -> None:
    """While files are missing, half written, or not of one pair, the former ones stay in use."""
    new = renewed()
    with keyfold.Client(keeper.target, tls=files.tls) as client:
        client.get_status("prod")
        files.cert.write_bytes(new.pem)  # its key has not come yet
        client.get_status("prod")
        files.key.write_bytes(new.key_pem[:60])
        client.get_status("prod")
        files.key.unlink()
        client.get_status("prod")
        files.ca.write_bytes(b"")
        files.key.write_bytes(new.key_pem)
        client.get_status("prod")
        assert set(keeper.callers) == {serial(APP)}
        files.ca.write_bytes(CA.pem)
        client.get_status("prod")
    assert keeper.callers[-1] == serial(new)


def test_a_folder_that_is_swapped(keeper: Doorkeeper, tmp_path: Path) -> None:
    """A link that moves to another folder, as kubelet moves it, is a renewal."""
    new = renewed()
    for name, issued in (("a", APP), ("b", new)):
        (tmp_path / name).mkdir()
        Files(tmp_path / name).write(issued)
    (tmp_path / "now").symlink_to("a")
    ca, cert, key = (tmp_path / "now" / name for name in ("ca", "cert", "key"))
    tls = keyfold.Tls(ca, cert, key)
    with keyfold.Client(keeper.target, tls=tls) as client:
        client.get_status("prod")
        (tmp_path / "next").symlink_to("b")
        (tmp_path / "next").replace(tmp_path / "now")
        client.get_status("prod")
    assert keeper.callers == [serial(APP), serial(new)]


def test_calls_under_way_end_on_the_old_connection(keeper: Doorkeeper, files: Files) -> None:
    """A renewal fails no call; the old connection goes with the last call over it."""
    new = renewed()
    with keyfold.Client(keeper.target, tls=files.tls) as client, ThreadPoolExecutor(1) as thread:
        gone = threading.Event()
        finalize(client.line(), gone.set)
        slow = thread.submit(client.get_status, "slow")
        assert keeper.arrived.wait(10)
        files.write(new)
        client.get_status("prod")
        assert not gone.is_set()
        keeper.held.set()
        assert slow.result(10).cluster == "slow"
        del slow
        assert gone.wait(10)
    assert keeper.callers == [serial(APP), serial(new)]


async def test_calls_under_way_end_in_asyncio(keeper: Doorkeeper, files: Files) -> None:
    """The same for asyncio."""
    async with keyfold.AsyncClient(keeper.target, tls=files.tls) as client:
        gone = asyncio.Event()
        finalize(client.line(), gone.set)
        slow = asyncio.create_task(client.get_status("slow"))
        await asyncio.to_thread(keeper.arrived.wait, 10)
        files.write(renewed())
        await client.get_status("prod")
        assert not gone.is_set()
        keeper.held.set()
        assert (await slow).cluster == "slow"
        del slow
        await asyncio.wait_for(gone.wait(), 10)


def test_closing_ends_calls_on_old_connections(keeper: Doorkeeper, files: Files) -> None:
    """`close` cancels what is under way, also before the last renewal."""
    client = keyfold.Client(keeper.target, tls=files.tls)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(client.get_status, "slow")
        assert keeper.arrived.wait(10)
        files.write(renewed())
        client.get_status("prod")
        client.close()
        with pytest.raises(keyfold.CancelledError):
            slow.result(10)


def test_a_watch_moves_over(keeper: Doorkeeper, files: Files) -> None:
    """A stream goes on over the new connection, from its last message, and nothing breaks."""
    new, numbers = renewed(), []
    broken: list[keyfold.KeyfoldError | None] = []
    with (
        keyfold.Client(keeper.target, tls=files.tls) as client,
        client.watch(["prod"], on_break=broken.append) as watch,
    ):
        for message in watch:
            assert isinstance(message, keyfold.Heartbeat)
            numbers.append(message.number)
            if len(numbers) == 3:
                files.write(new)
            if len(numbers) == 8:
                break
    assert numbers == list(range(1, 9))
    assert keeper.watchers == [serial(APP), serial(new)]
    assert keeper.tokens[1] in {"3", "4"}
    assert broken == []


async def test_a_watch_for_asyncio_moves_over(keeper: Doorkeeper, files: Files) -> None:
    """The same for asyncio."""
    new, numbers = renewed(), []
    async with (
        keyfold.AsyncClient(keeper.target, tls=files.tls) as client,
        client.watch(["prod"]) as watch,
    ):
        async for message in watch:
            assert isinstance(message, keyfold.Heartbeat)
            numbers.append(message.number)
            if len(numbers) == 3:
                files.write(new)
            if len(numbers) == 8:
                break
    assert numbers == list(range(1, 9))
    assert keeper.watchers == [serial(APP), serial(new)]


def test_another_authority_is_taken(files: Files) -> None:
    """The servers' authority may change: new connections are checked against the new one."""
    with (
        keeping(OTHER.issue("ip:127.0.0.1"), CA) as keeper,
        keyfold.Client(keeper.target, tls=files.tls) as client,
    ):
        with pytest.raises(keyfold.HandshakeError, match="an issuer, CN=another authority"):
            client.get_status("prod")
        files.ca.write_bytes(OTHER.pem)
        client.get_status("prod")
    assert keeper.callers == [serial(APP)]


def test_many_threads_renew_once(keeper: Doorkeeper, files: Files) -> None:
    """Threads that notice a renewal together open one connection, and all of them use it."""
    new = renewed()
    with keyfold.Client(keeper.target, tls=files.tls) as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(client.get_status, ["prod"] * 20))
        files.write(new)
        client.get_status("prod")
        keeper.callers.clear()
        list(threads.map(client.get_status, ["prod"] * 40))
        assert len({id(client.line()) for _ in range(10)}) == 1
    assert set(keeper.callers) == {serial(new)}


def test_a_forked_child_says_what_to_do(keeper: Doorkeeper, files: Files) -> None:
    """A child whose files were renewed neither hangs nor closes its parent's connection."""
    with keyfold.Client(keeper.target, tls=files.tls) as client:
        client.get_status("prod")
        files.write(renewed())
        child = os.fork()
        if not child:
            # Nothing of pytest's may run in the child, whatever comes.
            try:
                client.get_status("prod")
            except keyfold.ForkedError as error:
                client.close()
                os._exit(0 if "after the fork" in str(error) else 2)
            except BaseException:  # noqa: BLE001
                os._exit(3)
            os._exit(4)
        until = time.monotonic() + 20
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert ended[0] == child, "the child hangs"
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        client.get_status("prod")


# What is said when no connection comes about.

PAST: Final = timedelta(hours=-2), timedelta(hours=-1)


def _pair(issued: Issued, ca: Authority = CA) -> keyfold.Tls:
    return keyfold.Tls(ca.pem, issued.pem, issued.key_pem)


CASES: Final = {
    "the server's certificate has expired": (
        CA.issue("ip:127.0.0.1", begins=PAST[0], ends=PAST[1]),
        _pair(APP),
        (
            r"the certificate of the server on {0} has expired on \d{{4}}-\d\d-\d\d \d\d:\d\d "
            "UTC; the "
            "server needs a new one"
        ),
    ),
    "the server's certificate is not valid yet": (
        CA.issue("ip:127.0.0.1", begins=timedelta(hours=1), ends=timedelta(hours=2)),
        _pair(APP),
        r"the certificate of the server on {0} is not valid before .* UTC; compare the clocks",
    ),
    "another name": (
        CA.issue("dns:keyfold.example"),
        _pair(APP),
        (
            "the certificate of the server on {0} is not for 127.0.0.1 but for "
            "keyfold.example; check "
            "the address, or set server_name"
        ),
    ),
    "an unknown issuer": (
        OTHER.issue("ip:127.0.0.1"),
        _pair(APP),
        (
            "the certificate of the server on {0} has an issuer, CN=another authority, that this "
            "client does not know; check ca"
        ),
    ),
    "the server wants a client certificate": (
        SERVER,
        keyfold.Tls(CA.pem),
        (
            "the server on {0} ends the connection when it has seen no client certificate; "
            "it seems to "
            "want one: give cert and key"
        ),
    ),
    "the client's certificate has expired": (
        SERVER,
        _pair(CA.issue("spiffe://example.org/app", begins=PAST[0], ends=PAST[1])),
        "the server on {0} refuses the client's certificate, which expired on .* UTC; renew it",
    ),
    "the client's issuer is unknown": (
        SERVER,
        _pair(OTHER.issue("spiffe://example.org/app")),
        (
            "the server on {0} ends the connection when it has seen the client's certificate for "
            "spiffe://example.org/app from CN=another authority; check that this issuer is "
            "among the "
            "server's client authorities"
        ),
    ),
    "another certificate's key": (
        SERVER,
        keyfold.Tls(CA.pem, APP.pem, SERVER.key_pem),
        "the client's key is not that of its certificate",
    ),
    "no certificate": (
        SERVER,
        keyfold.Tls(b"nonsense"),
        "the client's ca holds no certificate in PEM",
    ),
    "plain text to a server with TLS": (
        SERVER,
        None,
        (
            "the server on {0} speaks TLS, and this client plain text; give the client its "
            "certificates"
        ),
    ),
}
"""The server's certificate, the client's, and what is said."""


@pytest.mark.parametrize("case", CASES)
def test_a_failed_handshake_says_who_objected(case: str) -> None:
    """The error names the side, and what to do, in place of `Socket closed`."""
    server, tls, said = CASES[case]
    with (
        keeping(server, CA) as keeper,
        keyfold.Client(keeper.target, tls=tls) as client,
        pytest.raises(keyfold.HandshakeError, match=said.format(keeper.target)) as raised,
    ):
        client.get_status("prod")
    error = raised.value
    assert isinstance(error, keyfold.UnavailableError)
    assert (error.reason, error.cluster) == ("HANDSHAKE_FAILED", "prod")
    assert not error.retryable
    assert isinstance(error.__cause__, grpc.RpcError)
    assert keeper.callers == []


async def test_it_is_said_in_asyncio(tmp_path: Path) -> None:
    """The client for asyncio says the same, also at the begin of a watch, and its loop goes on."""
    server, tls, said = CASES["another name"]
    with keeping(server, CA) as keeper:
        async with keyfold.AsyncClient(keeper.target, tls=tls) as client:
            with pytest.raises(keyfold.HandshakeError, match=said.format(keeper.target)):
                await client.get_status("prod")
            with pytest.raises(keyfold.HandshakeError, match=said.format(keeper.target)):
                async for _ in client.watch(["prod"]):
                    pass


def test_tls_to_a_server_of_plain_text(tmp_path: Path) -> None:
    """A client over TLS says that the server speaks plain text."""
    with (
        serving(tmp_path) as server,
        keyfold.Client(server.target, tls=keyfold.Tls(CA.pem)) as client,
        pytest.raises(keyfold.HandshakeError, match="speaks plain text, and this client TLS"),
    ):
        client.get_status("prod")


@pytest.mark.parametrize("tls", [None, keyfold.Tls(CA.pem)])
def test_nothing_listens(tls: keyfold.Tls | None) -> None:
    """An address without a server is named, and TLS is not blamed."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{bound.getsockname()[1]}"
        with (
            keyfold.Client(target, tls=tls) as client,
            pytest.raises(
                keyfold.UnavailableError, match=f"nothing listens on {target}$"
            ) as raised,
        ):
            client.get_status("prod")
    assert type(raised.value) is keyfold.UnavailableError
    assert raised.value.retryable


def test_no_socket(tmp_path: Path) -> None:
    """The path of a unix socket that is not there is named."""
    with (
        keyfold.Client(f"unix:{tmp_path}/none") as client,
        pytest.raises(keyfold.UnavailableError, match=f"there is no socket unix:{tmp_path}/none"),
    ):
        client.get_status("prod")


def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    """A path at which something else stands is told from a socket on which nobody listens."""
    (tmp_path / "file").touch()
    for there in (tmp_path, tmp_path / "file"):
        with (
            keyfold.Client(f"unix:{there}") as client,
            pytest.raises(keyfold.UnavailableError, match="is a file or a folder, and no socket"),
        ):
            client.get_status("prod")


def test_the_command_line_says_the_same(tmp_path: Path) -> None:
    """`keyfold` prints who objected to what."""
    server = CASES["the server's certificate has expired"][0]
    (tmp_path / "ca").write_bytes(CA.pem)
    with keeping(server, CA) as keeper:
        done = Cli(keeper.target)("status", "prod", "--ca", tmp_path / "ca")
    assert done.code == 6
    assert f"the certificate of the server on {keeper.target} has expired" in done.err
    assert "(HANDSHAKE_FAILED)" in done.err


def test_one_look_serves_many_failures() -> None:
    """Calls that fail for the same reason in quick succession do not each connect again."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(20)
        connections: list[bytes] = []

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(1)
                    connections.append(connection.recv(1))

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        target = f"127.0.0.1:{listening.getsockname()[1]}"
        with keyfold.Client(target) as client:
            for _ in range(3):
                with pytest.raises(keyfold.UnavailableError):
                    client.get_status("prod")
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(20)
    # A look at a server that hangs up tries TLS, too; gRPC itself never does.
    assert connections.count(b"\x16") == 1


def attempt(target: str, tls: keyfold.Tls | None, seconds: float = 2.0) -> Attempt:
    """Returns how a client connects."""
    pems = None if tls is None else Pems(*(tls.ca, tls.cert, tls.key))  # type: ignore[arg-type]
    return Attempt((target,), pems, None, time.monotonic() + seconds)


@pytest.mark.parametrize("tls", [None, _pair(APP)])
def test_a_silent_server_takes_no_longer_than_allowed(tls: keyfold.Tls | None) -> None:
    """A look ends at its deadline, and then says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        began = time.monotonic()
        target = f"127.0.0.1:{listening.getsockname()[1]}"
        assert objection(attempt(target, tls, 0.3)) is None
        assert time.monotonic() - began < 3


def test_behind_a_proxy_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """GRPC goes through the proxy, past which a direct connection would say something else."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert objection(attempt("127.0.0.1:1", _pair(APP))) is None
    found = objection(attempt("127.0.0.1:1", None))
    assert found is not None
    assert found.message == "nothing listens on 127.0.0.1:1"


def test_nothing_is_wrong(keeper: Doorkeeper) -> None:
    """A look at a server that takes the client finds nothing, and makes no call."""
    assert objection(attempt(keeper.target, _pair(APP))) is None
    assert keeper.callers == []


def test_a_key_is_not_shown() -> None:
    """Neither the parts of a Tls nor how a client connects show the key."""
    shown = repr(attempt("127.0.0.1:1", _pair(APP))) + repr(Pems(CA.pem, APP.pem, APP.key_pem))
    assert "PRIVATE" not in shown
