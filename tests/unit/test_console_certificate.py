"""The console's own certificate: a renewed one holds for the next connection, a bad one never."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest

from counterparts.pki import Authority
from keyfold_console.serving import Certificate
from keyfold_console.settings import Settings


async def _shown(certificate: Certificate) -> bytes:
    """Returns the certificate that a new connection gets."""
    done = asyncio.Event()

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        done.set()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=certificate.context)
    async with server:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await done.wait()
        writer.close()
    return shown


async def test_a_renewed_certificate_needs_no_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next connection gets a renewed pair; while the files do not fit, the last good one."""
    caplog.set_level(logging.INFO)
    authority = Authority("console")
    files = tmp_path / "tls.crt", tmp_path / "tls.key"

    def write(pair: tuple[bytes, bytes]) -> bytes:
        for file, content in zip(files, pair, strict=True):
            # As Kubernetes and cert-manager do: another file takes its place.
            file.with_suffix(".new").write_bytes(content)
            file.with_suffix(".new").rename(file)
        return ssl.PEM_cert_to_DER_cert(pair[0].decode())

    first = write(authority.issue(["localhost"]))
    certificate = Certificate(Settings(certificate=files[0], private_key=files[1]))
    assert await _shown(certificate) == first

    renewed = write(authority.issue(["localhost"]))
    assert await _shown(certificate) == first
    certificate.look()
    assert await _shown(certificate) == renewed

    half = authority.issue(["localhost"])[0], b"-----BEGIN PRIVATE KEY-----\n"
    write(half)
    certificate.look()
    assert await _shown(certificate) == renewed
    assert "cannot be used" in caplog.text

    files[1].unlink()
    certificate.look()
    assert await _shown(certificate) == renewed
    last = write(authority.issue(["localhost"]))
    certificate.look()
    assert await _shown(certificate) == last


async def test_without_a_certificate_there_is_nothing_to_renew() -> None:
    """Behind a proxy, and in development, the console has no certificate and no task for it."""
    certificate = Certificate(Settings())
    assert certificate.context is None
    await asyncio.wait_for(certificate.renew(), 5)
