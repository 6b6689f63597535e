"""TLS of a real gRPC server: who gets in, and what happens when its files change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certificates import Authority, Issued, PrivateKey
from keyfold_server.access.tls import files as tls_files
from keyfold_server.access.tls.certificates import CertificateVerifier
from keyfold_server.access.tls.files import TlsFiles
from keyfold_server.access.tls.server import ServerTls
from keyfold_server.domain import files
from keyfold_server.domain.errors import SetupError
from keyfold_server.service.clock import SystemClock

_METHOD = "/test.Test/Who"


class _Disk:
    """A server's three files, as a tool that renews certificates writes them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority("server authority")
        self.clients = Authority("client authority")
        self.files = TlsFiles(folder / "svid.pem", folder / "svid_key.pem", folder / "bundle.pem")
        self.server = self.renew()
        self.trust(self.clients)

    def renew(
        self, begins: timedelta = timedelta(), ends: timedelta = timedelta(hours=1)
    ) -> Issued:
        issued = self.authority.issue("dns:localhost", "ip:127.0.0.1", begins=begins, ends=ends)
        self.put(issued)
        return issued

    def put(self, issued: Issued) -> None:
        _write(self.files.certificate, issued.pem)
        _write(self.files.key, issued.key_pem, 0o600)

    def trust(self, *authorities: Authority) -> None:
        assert self.files.client_ca is not None
        _write(self.files.client_ca, b"".join(authority.pem for authority in authorities))


def _write(path: Path, text: bytes, mode: int = 0o644) -> None:
    """Replaces a file, as tools that renew certificates do."""
    draft = path.with_name("draft")
    draft.write_bytes(text)
    draft.chmod(mode)
    draft.replace(path)


@pytest.fixture
def disk(tmp_path: Path) -> _Disk:
    """A server's files, with an authority for the server and one for its clients."""
    return _Disk(tmp_path)


class _Server:
    """A grpc.aio server that says which certificate proved its caller."""

    def __init__(self, port: int, other_port: int) -> None:
        self.port = port
        self.other_port = other_port

    @asynccontextmanager
    async def channel(
        self, disk: _Disk, client: Issued | None, port: int | None = None
    ) -> AsyncIterator[grpc.aio.Channel]:
        credentials = grpc.ssl_channel_credentials(
            disk.authority.pem,
            None if client is None else client.key_pem,
            None if client is None else client.pem,
        )
        target = f"localhost:{port or self.port}"
        async with grpc.aio.secure_channel(target, credentials) as channel:
            yield channel

    async def who(self, disk: _Disk, client: Issued | None, port: int | None = None) -> str:
        async with self.channel(disk, client, port) as channel:
            return await _who(channel)

    async def refuses(self, disk: _Disk, client: Issued | None) -> bool:
        try:
            await self.who(disk, client)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    async def serial(self, port: int | None = None) -> int:
        """Shakes hands, and returns the serial number that the server showed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        # The client's part is refused only after the server has shown its own.
        _, writer = await asyncio.open_connection("localhost", port or self.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return x509.load_der_x509_certificate(shown).serial_number


async def _who(channel: grpc.aio.Channel) -> str:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
    return (await method(b"", timeout=10)).decode()


@asynccontextmanager
async def _serving(tls: ServerTls) -> AsyncIterator[_Server]:
    known = CertificateVerifier()

    async def who(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        shown = context.auth_context().get("x509_pem_cert", ())
        found = known.credential(next(iter(shown), None), time.time())
        return b"nobody" if found is None else " ".join(found.identity.names).encode()

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    ports = [server.add_secure_port("localhost:0", tls.credentials()) for _ in range(2)]
    await server.start()
    try:
        yield _Server(*ports)
    finally:
        await server.stop(0)


@pytest.fixture
async def server(disk: _Disk) -> AsyncIterator[_Server]:
    """A server on these files."""
    async with _serving(ServerTls(disk.files, SystemClock())) as running:
        yield running


async def test_callers_are_known_by_their_certificates(disk: _Disk, server: _Server) -> None:
    """A connection's `auth_context` yields the names that the certificate proves."""
    client = disk.clients.issue("spiffe://example.org/app", "dns:app.example")
    assert await server.who(disk, client) == "spiffe://example.org/app dns:app.example"
    other = disk.clients.issue("uri:urn:x", common_name="spiffe://example.org/app")
    assert await server.who(disk, other) == "uri:urn:x"


async def test_who_is_refused_in_the_handshake(disk: _Disk, server: _Server) -> None:
    """No certificate, a foreign, self-signed, expired or future one: none of them gets in."""
    name = "spiffe://example.org/app"
    now = timedelta()
    strangers = [
        None,
        Authority("client authority").issue(name),
        disk.authority.issue(name),
        disk.clients.issue(name, begins=timedelta(days=-2), ends=timedelta(days=-1)),
        disk.clients.issue(name, begins=now + timedelta(days=1), ends=timedelta(days=2)),
    ]
    for stranger in strangers:
        assert await server.refuses(disk, stranger)
    assert await server.who(disk, disk.clients.issue(name)) == name


async def test_without_client_authorities(disk: _Disk) -> None:
    """Without a client CA the server asks for no certificates, and shown ones prove nothing."""
    files = TlsFiles(disk.files.certificate, disk.files.key)
    tls = ServerTls(files, SystemClock())
    assert not tls.asks_clients
    async with _serving(tls) as server:
        assert await server.who(disk, None) == "nobody"
        assert await server.who(disk, disk.clients.issue("spiffe://example.org/app")) == "nobody"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "protocol", "works"),
    [
        (ssl.TLSVersion.TLSv1_1, "h2", False),
        (ssl.TLSVersion.TLSv1_2, "h2", True),
        (ssl.TLSVersion.TLSv1_3, "h2", True),
        (ssl.TLSVersion.TLSv1_3, "http/1.1", False),
    ],
)
async def test_least_version(
    disk: _Disk, server: _Server, version: ssl.TLSVersion, protocol: str, *, works: bool
) -> None:
    """The server accepts TLS 1.2 and 1.3 with HTTP/2, and nothing older."""
    client = disk.clients.issue("spiffe://example.org/app")
    pem = disk.files.certificate.with_name("client.pem")
    pem.write_bytes(client.key_pem + client.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # Or our own side would refuse.
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols([protocol])
    context.load_cert_chain(pem)
    try:
        reader, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
        greeting = await asyncio.wait_for(reader.read(9), 10)
        writer.transport.abort()
    except (ssl.SSLError, ConnectionError):
        greeting = b""
    assert (len(greeting) == 9) == works


async def test_a_new_certificate_without_a_restart(disk: _Disk, server: _Server) -> None:
    """An open connection goes on; the next handshake shows the new certificate, on each port."""
    client = disk.clients.issue("spiffe://example.org/app")
    async with server.channel(disk, client) as channel:
        assert await _who(channel) == "spiffe://example.org/app"
        assert await server.serial() == disk.server.certificate.serial_number
        new = disk.renew()
        for port in (server.port, server.other_port):
            assert await server.serial(port) == new.certificate.serial_number
        assert await _who(channel) == "spiffe://example.org/app"
    assert await server.who(disk, client, server.other_port) == "spiffe://example.org/app"


async def test_a_new_client_authority_without_a_restart(disk: _Disk, server: _Server) -> None:
    """Clients of a removed authority are refused from their next connection on."""
    old = disk.clients.issue("spiffe://example.org/old")
    successor = Authority("client authority, the second")
    new = successor.issue("spiffe://example.org/new")
    async with server.channel(disk, old) as channel:
        assert await _who(channel) == "spiffe://example.org/old"
        assert await server.refuses(disk, new)
        disk.trust(disk.clients, successor)
        assert await server.who(disk, new) == "spiffe://example.org/new"
        assert await server.who(disk, old) == "spiffe://example.org/old"
        disk.trust(successor)
        assert await server.who(disk, new) == "spiffe://example.org/new"
        assert await server.refuses(disk, old)
        assert await _who(channel) == "spiffe://example.org/old"


async def test_broken_files_leave_the_last_good_ones(
    disk: _Disk, server: _Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that do not fit together are never served, and the log says so once."""
    caplog.set_level(logging.INFO, "keyfold_server.access.tls.server")
    serial = disk.server.certificate.serial_number
    other = disk.authority.issue("dns:localhost")
    client_ca = disk.files.client_ca
    assert client_ca is not None
    key_then = disk.server.key_pem
    breaks: list[tuple[Path, bytes | None]] = [
        (disk.files.certificate, other.pem),
        (disk.files.certificate, other.pem[:-60]),
        (disk.files.certificate, None),
        (disk.files.key, None),
        (client_ca, b"junk"),
    ]
    for number, (path, text) in enumerate(breaks, 1):
        _write(disk.files.certificate, disk.server.pem)
        _write(disk.files.key, key_then, 0o600)
        if text is None:
            path.unlink()
        else:
            _write(path, text)
        for _ in range(3):
            assert await server.serial() == serial
        assert [record.levelname for record in caplog.records] == ["WARNING"] * number
    disk.trust(disk.clients)
    new = disk.renew()
    assert await server.serial() == new.certificate.serial_number
    assert await server.serial() == new.certificate.serial_number
    assert [record.levelname for record in caplog.records[len(breaks) :]] == ["INFO"]
    assert "PRIVATE" not in caplog.text


def test_a_certificate_of_the_future_is_served_in_time(
    disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that is not valid yet is taken when its time comes, though no file changes."""
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    clock = _Clock()
    tls = ServerTls(disk.files, clock)
    new = disk.renew(begins=timedelta(minutes=10))
    assert tls.current().serial == f"{disk.server.certificate.serial_number:x}"
    clock.ahead = 660
    assert tls.current().serial == f"{new.certificate.serial_number:x}"


class _Clock(SystemClock):
    ahead = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead


async def test_spire_files_as_they_are(tmp_path: Path) -> None:
    """A chain through intermediates, EC keys in PKCS#8 and a bundle of roots work on both sides."""
    root, before = Authority("SPIRE root"), Authority("SPIRE root before")
    below = Authority("SPIRE intermediate", above=root)
    files = TlsFiles(tmp_path / "svid.pem", tmp_path / "svid_key.pem", tmp_path / "bundle.pem")
    svid = below.issue(
        "spiffe://example.org/keyfold", "dns:localhost", key=ec.generate_private_key(ec.SECP384R1())
    )
    assert svid.pem.count(b"BEGIN CERTIFICATE") == 2
    _write(files.certificate, svid.pem, 0o644)
    _write(files.key, svid.key_pem, 0o600)
    assert files.client_ca is not None
    _write(files.client_ca, before.pem + root.pem)
    client = below.issue("spiffe://example.org/app")
    async with _serving(ServerTls(files, SystemClock())) as server:
        credentials = grpc.ssl_channel_credentials(root.pem, client.key_pem, client.pem)
        async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials) as channel:
            assert await _who(channel) == "spiffe://example.org/app"


def _sealed(issued: Issued) -> bytes:
    return issued.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


@pytest.mark.parametrize(
    ("setting", "what", "message"),
    [
        ("CERT", b"", "no certificates"),
        ("CERT", b"junk", "no certificates"),
        ("CERT", None, "cannot read"),
        ("KEY", b"junk", "no private key"),
        ("KEY", None, "cannot read"),
        ("KEY", "sealed", "has a password"),
        ("KEY", "another", "not that of the first certificate"),
        ("CLIENT_CA", b"junk", "no certificates"),
        ("CLIENT_CA", None, "cannot read"),
        ("CLIENT_CA", b"x" * (4 * 1024 * 1024 + 1), "larger than"),
    ],
)
def test_what_a_server_does_not_start_with(
    disk: _Disk, setting: str, what: bytes | str | None, message: str
) -> None:
    """Each fault at start is an error that names the setting."""
    path = disk.files.named()[f"KEYFOLD_TLS_{setting}"]
    if what is None:
        path.unlink()
    elif what == "sealed":
        path.write_bytes(_sealed(disk.server))
    elif what == "another":
        path.write_bytes(disk.authority.issue("dns:localhost").key_pem)
    else:
        assert isinstance(what, bytes)
        path.write_bytes(what)
    with pytest.raises(SetupError, match=f"^KEYFOLD_TLS_{setting}: .*{message}"):
        ServerTls(disk.files, SystemClock())


@pytest.mark.parametrize(
    ("begins", "ends", "message"),
    [(-2, -1, "expired at"), (1, 2, "is not valid before")],
)
def test_certificates_out_of_their_time(disk: _Disk, begins: int, ends: int, message: str) -> None:
    """An expired certificate, and one of the future, keep a server from starting."""
    disk.renew(begins=timedelta(days=begins), ends=timedelta(days=ends))
    with pytest.raises(SetupError, match=f"^KEYFOLD_TLS_CERT: .*{message}"):
        ServerTls(disk.files, SystemClock())


def test_authorities_out_of_their_time(disk: _Disk) -> None:
    """A bundle of expired authorities is refused: no client could get in."""
    with pytest.raises(SetupError, match=r"^KEYFOLD_TLS_CLIENT_CA: .*expired"):
        tls_files.read(
            TlsFiles(disk.files.certificate, disk.files.key, _expired(disk)), time.time()
        )


def _expired(disk: _Disk) -> Path:
    path = disk.files.certificate.with_name("expired.pem")
    old = disk.authority.issue(ca=True, begins=timedelta(-2), ends=timedelta(-1))
    path.write_bytes(old.pem)
    return path


_USAGE: Final = dict.fromkeys(signature(x509.KeyUsage).parameters, False)

_NO_AUTHORITIES: Final[dict[str, x509.ExtensionType | None]] = {
    "a caller's": None,
    "one that may sign no certificates": x509.KeyUsage(**_USAGE | {"digital_signature": True}),
    "one that cannot be read": x509.UnrecognizedExtension(x509.KeyUsage.oid, b"junk"),
}


@pytest.mark.parametrize("kind", _NO_AUTHORITIES)
async def test_a_callers_certificate_is_no_authority(
    disk: _Disk, server: _Server, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A bundle holds authorities alone: gRPC takes each certificate in it for an issuer."""
    assert disk.files.client_ca is not None
    extra = _NO_AUTHORITIES[kind]
    leaf = disk.clients.issue(common_name="app", ca=extra is not None, extra=extra)
    _write(disk.files.client_ca, disk.clients.pem + leaf.pem)
    assert await server.refuses(disk, leaf.forge("spiffe://example.org/admin"))
    good = disk.clients.issue("spiffe://example.org/app")
    assert await server.who(disk, good) == "spiffe://example.org/app"
    assert "certificate 2 of the file" in "".join(
        str(vars(record).get("fault")) for record in caplog.records
    )
    with pytest.raises(SetupError, match=r"^KEYFOLD_TLS_CLIENT_CA: certificate 2 of the file"):
        ServerTls(disk.files, SystemClock())


@pytest.mark.parametrize("kind", ["rsa1024", "ed25519", "p521"])
def test_keys_that_grpc_does_not_serve(disk: _Disk, kind: str) -> None:
    """A weak key, or one with which every handshake would fail, is refused at start."""
    keys: dict[str, Callable[[], PrivateKey]] = {
        "rsa1024": lambda: rsa.generate_private_key(65_537, 1_024),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    }
    key = keys[kind]()
    disk.put(disk.authority.issue("dns:localhost", key=key))
    with pytest.raises(SetupError, match="KEYFOLD_TLS_KEY: gRPC serves"):
        ServerTls(disk.files, SystemClock())


@pytest.mark.parametrize(
    ("setting", "mode", "starts"),
    [
        ("KEY", 0o600, True),
        ("KEY", 0o440, True),
        ("KEY", 0o640, True),
        ("KEY", 0o644, True),
        ("KEY", 0o660, False),
        ("KEY", 0o606, False),
        ("CERT", 0o664, True),
        ("CERT", 0o666, False),
        ("CLIENT_CA", 0o666, False),
    ],
)
def test_file_modes(
    disk: _Disk, setting: str, mode: int, caplog: pytest.LogCaptureFixture, *, starts: bool
) -> None:
    """Files that others can change are refused; a key that others can read causes a warning."""
    disk.files.named()[f"KEYFOLD_TLS_{setting}"].chmod(mode)
    if starts:
        ServerTls(disk.files, SystemClock())
        exposed = setting == "KEY" and bool(mode & 0o004)
        assert ["can read the TLS key" in record.message for record in caplog.records] == (
            [True] if exposed else []
        )
    else:
        with pytest.raises(SetupError, match=f"KEYFOLD_TLS_{setting}: .*chmod"):
            ServerTls(disk.files, SystemClock())


def test_a_pipe_in_a_files_place(disk: _Disk) -> None:
    """A path that is not a regular file is refused at once, and delays nobody."""
    disk.files.key.unlink()
    os.mkfifo(disk.files.key, 0o600)
    with pytest.raises(SetupError, match="not a regular file"):
        ServerTls(disk.files, SystemClock())


def test_a_settled_set_is_not_read_again(disk: _Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the stamps can show a change, a handshake only looks at them."""
    read = []
    original = tls_files.read

    def counting(files: TlsFiles, now: float) -> tls_files.TlsSet:
        read.append(now)
        return original(files, now)

    monkeypatch.setattr(tls_files, "read", counting)
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    tls = ServerTls(disk.files, SystemClock())
    for _ in range(3):
        tls.current()
    assert len(read) == 1
    disk.renew()
    for _ in range(3):
        tls.current()
    assert len(read) == 2


def test_two_changes_within_one_tick(disk: _Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that leaves the same stamp, as on a coarse file system, is noticed all the same."""
    for module in (files, tls_files):
        monkeypatch.setattr(module, "stamp_of", lambda _status: (0,))
    tls = ServerTls(disk.files, SystemClock())
    for _ in range(2):
        new = disk.renew()
        assert tls.current().serial == f"{new.certificate.serial_number:x}"


def test_a_kubernetes_mount(tmp_path: Path) -> None:
    """Files behind the mount's swapped link are followed from one version to the next."""
    authority = Authority()
    serials = []
    for version in ("one", "two"):
        issued = authority.issue("dns:localhost")
        serials.append(f"{issued.certificate.serial_number:x}")
        (tmp_path / version).mkdir()
        (tmp_path / version / "tls.crt").write_bytes(issued.pem)
        (tmp_path / version / "tls.key").write_bytes(issued.key_pem)
    data = tmp_path / "..data"
    data.symlink_to("one")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    tls = ServerTls(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key"), SystemClock())
    assert tls.current().serial == serials[0]
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(data)
    assert tls.current().serial == serials[1]


def test_a_set_that_changes_while_it_is_read(disk: _Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal between two of the three files is noticed, and the whole set is read again."""
    renewed: list[Issued] = []
    original = tls_files._check_mode

    def renewing(setting: str, path: Path, status: os.stat_result) -> None:
        original(setting, path, status)
        if setting == tls_files.CLIENT_CA and not renewed:
            renewed.append(disk.renew())

    monkeypatch.setattr(tls_files, "_check_mode", renewing)
    found = tls_files.read(disk.files, time.time())
    assert found.serial == f"{renewed[0].certificate.serial_number:x}"
    assert found.key == renewed[0].key_pem
    assert repr(found).count("PRIVATE") == 0
