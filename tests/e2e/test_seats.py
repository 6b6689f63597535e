"""Seats on a whole server, whose settings have a pool of them (protocol C2)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

import keyfold
from e2e.conftest import StartServer
from e2e.odd_provider import installed
from e2e.server import NotReadyError
from keyfold import KeySpec, RegionSpec

ASKED: Final = KeySpec("ODD", "odd:key", "seat")
RACING: Final = 4


def settings(file: Path, **seats: str) -> None:
    """Writes a settings file with seats by name, each with its principal."""
    table = '[[seats]]\nname = "{}"\nprovider = "ODD"\nregion = "eu"\nauth_principal = "{}"\n'
    file.write_text("\n".join(table.format(*each) for each in seats.items()), encoding="utf-8")


@pytest.mark.timeout(180)
def test_seats_of_the_settings(start_server: StartServer, tmp_path: Path) -> None:
    """Of racing Enables as many succeed as seats are reserved; each seat is issued once, for good.

    That holds over a crash, and the server says at its start what the settings have lost.
    """
    file = tmp_path / "keyfold.toml"
    settings(file, one="role/1", two="role/2", three="role/3")
    server = start_server(ready=False, KEYFOLD_CONFIG=str(file), **installed(tmp_path / "package"))
    server.start()

    def enable(number: int) -> str:
        with server.client() as client:
            try:
                client.enable(f"c{number}", [RegionSpec("eu", ASKED)], organization="acme")
            except keyfold.SeatNotReservedError as error:
                return error.reason
            return client.get_status(f"c{number}").regions[0].key_spec.auth_principal

    with server.client() as client:
        assert client.get_access_policy(ASKED, seats=2, organization="acme", region="eu").seats == (
            "one",
            "two",
        )
    with ThreadPoolExecutor(RACING) as threads:
        ended = list(threads.map(enable, range(RACING)))
    assert sorted(ended) == ["SEAT_NOT_RESERVED"] * (RACING - 2) + ["role/1", "role/2"]
    took = {f"c{n}": principal for n, principal in enumerate(ended) if "/" in principal}
    with server.client() as client:
        blobs = {name: client.wrap(name, "eu", b"k" * 32).wrapped_key for name in took}
    settings(file, two="role/2", three="role/3")
    server.kill()
    server.start()
    assert "the settings no longer have seat one, which is issued to region eu" in server.log()
    with server.client() as client:
        for name, principal in took.items():
            assert client.get_status(name).regions[0].key_spec.auth_principal == principal
            assert client.unwrap(name, blobs[name]).plaintext == b"k" * 32
        assert client.get_access_policy(ASKED, seats=1, organization="acme", region="eu").seats == (
            "three",
        )
        identities = client.get_organization("acme").identities
        assert [(each.state, each.value) for each in identities] == [
            ("RESERVED", "three"),
            ("USED", "one"),
            ("USED", "two"),
        ]
        with pytest.raises(keyfold.SeatsExhaustedError):
            client.get_access_policy(ASKED, seats=2, organization="acme", region="eu")
    server.kill()
    settings(file, one="role/other")
    with pytest.raises(NotReadyError, match="seat one was issued as ODD principal role/1"):
        server.start()
