"""`keyfold-server dev-certs` makes certificates that work as they are, and shows no key."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from typer.testing import CliRunner

from keyfold_server.access.tls.certificates import CertificateVerifier
from keyfold_server.access.tls.files import TlsFiles
from keyfold_server.access.tls.server import ServerTls
from keyfold_server.admin import EXIT_ERROR, app
from keyfold_server.admin.dev_certs import dev_certs
from keyfold_server.service.clock import SystemClock


def _run(folder: Path, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["dev-certs", "--out", str(folder), *words])
    return result.exit_code, result.stdout, result.stderr


def _exports(out: str) -> list[tuple[str, str]]:
    return [
        (name, shlex.split(value)[0])
        for name, _, value in (
            line.removeprefix("export ").partition("=")
            for line in out.splitlines()
            if line.startswith("export ")
        )
    ]


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


async def test_what_is_printed_works(tmp_path: Path) -> None:
    """Server and client start with the printed settings, and the caller has the given name."""
    folder = tmp_path / "my certs"
    code, out, err = _run(folder, "--client", "spiffe://example.org/app")
    assert (code, err) == (0, "")
    settings = dict(_exports(out))
    files = TlsFiles(
        *(Path(settings[f"KEYFOLD_TLS_{name}"]) for name in ("CERT", "KEY", "CLIENT_CA"))
    )
    known = CertificateVerifier()

    async def who(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        shown = context.auth_context().get("x509_pem_cert", ())
        found = known.credential(next(iter(shown), None), time.time())
        return b"nobody" if found is None else found.identity.name.encode()

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_secure_port("127.0.0.1:0", ServerTls(files, SystemClock()).credentials())
    await server.start()
    credentials = grpc.ssl_channel_credentials(
        *(_bytes(settings[f"KEYFOLD_{name}"]) for name in ("CA", "KEY", "CERT"))
    )
    # By the address, which is among the default names, as is the name.
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/test.Test/Who"
        )
        assert await method(b"", timeout=10) == b"spiffe://example.org/app"
    await server.stop(0)
    grpcurl = shlex.split(out.splitlines()[-1])
    assert [grpcurl[0], *grpcurl[-2:]] == ["grpcurl", "localhost:7443", "list"]
    assert all(_bytes(grpcurl[number]) for number in (2, 4, 6))


def test_files_and_modes(tmp_path: Path) -> None:
    """Only their owner can read keys, the authority's key is not kept, and no output has one."""
    folder = tmp_path / "certs"
    callers = ["spiffe://example.org/app", "uri:urn:keyfold:ops", "dns:app.example"]
    _, out, _ = _run(folder, *(word for caller in callers for word in ("--client", caller)))
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    stems = ["server", "client", "client-2", "client-3"]
    assert modes == {
        "ca.pem": 0o644,
        **{f"{stem}.pem": 0o644 for stem in stems},
        **{f"{stem}.key": 0o600 for stem in stems},
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in out
    for stem, caller in zip(stems[1:], callers, strict=True):
        pem = (folder / f"{stem}.pem").read_bytes()
        found = CertificateVerifier().credential(pem, time.time())
        assert found is not None
        assert found.identity.names == (caller,)


def test_certificates_are_for_one_thing(tmp_path: Path) -> None:
    """Certificates last 30 days; a client's cannot serve, and neither kind can sign others."""
    _run(tmp_path, "--name", "keyfold.example", "--name", "10.0.0.1")
    server, client = (_certificate(tmp_path / f"{name}.pem") for name in ("server", "client"))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["keyfold.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    uses = [
        next(iter(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value))._name
        for made in (server, client)
    ]
    assert uses == ["serverAuth", "clientAuth"]
    for made in (server, client):
        made.verify_directly_issued_by(_certificate(tmp_path / "ca.pem"))
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert (made.not_valid_after_utc.timestamp() - time.time()) / 86_400 == pytest.approx(
            30, abs=0.1
        )


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    """Existing files stay, all of them, unless --force is given."""
    _run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "server.key").unlink()
    code, out, err = _run(tmp_path)
    assert (code, out) == (EXIT_ERROR, "")
    assert "--force" in err
    assert {path.name for path in tmp_path.iterdir()} == set(before) - {"server.key"}
    assert all(path.read_bytes() == before[path.name] for path in tmp_path.iterdir())
    assert _run(tmp_path, "--force")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == set(before)
    assert not any(path.read_bytes() == before[path.name] for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["--client", "app"],
        ["--client", "spiffe://example.org"],
        ["--client", "spiffe://Example.org/app"],
        ["--client", "uri:"],
        ["--client", "uri:spiffe://example.org/app"],
        ["--client", "dns:App.example"],
        ["--client", "dns:*.example"],
        ["--client", "dns:"],
        ["--client", "jwt:x#y"],
        ["--client", "dns:ä.example"],
        ["--name", ""],
        ["--name", "ä.example"],
        ["--name", "a b"],
    ],
)
def test_bad_names(tmp_path: Path, words: list[str]) -> None:
    """A caller or name that would not work is one error line, and nothing is written."""
    code, out, err = _run(tmp_path / "certs", *words)
    assert (code, out) == (EXIT_ERROR, "")
    what = {"--client": "caller", "--name": "server name"}[words[0]]
    assert err.startswith(f"error: {what} {words[1]!r}: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "certs").exists()


def test_it_is_a_command() -> None:
    """The command stands under its name, with its function's first line as help."""
    (command,) = [made for made in app.registered_commands if made.name == "dev-certs"]
    assert command.callback is dev_certs


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """An error of the file system is one line."""
    (tmp_path / "file").write_text("")
    code, _, err = _run(tmp_path / "file" / "certs")
    assert code == EXIT_ERROR
    assert err.count("\n") == 1
