"""The settings of seats: what cannot be a pool is refused at the start, and says why."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

import pytest

from keyfold_server.bootstrap.providers import catalog, seats
from keyfold_server.domain.errors import SetupError
from keyfold_server.settings import Settings, load, toml

_SEAT: Final = """
[[seats]]
name = "{name}"
provider = "AWS_KMS"
region = "eu"
auth_principal = "{as_whom}"
"""
_ONE: Final = _SEAT.format(name="eu-1", as_whom="role/1")


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Settings:
    """Loads settings from a file."""
    file = folder / "keyfold.toml"
    file.write_text(text)
    monkeypatch.setenv("KEYFOLD_CONFIG", str(file))
    return load()


def test_the_pool_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyfold issues seats in the order of the file, and prints them as it reads them."""
    text = _SEAT.format(name="eu-2", as_whom="role/2") + 'principals = ["role/x"]\n' + _ONE
    settings = loaded(tmp_path, monkeypatch, text)
    pool = seats(settings, catalog(settings))
    assert [s.name for s in pool.of("AWS_KMS", "eu")] == ["eu-2", "eu-1"]
    assert pool.seats[0].principals == ("role/2", "role/x")
    printed = tomllib.loads(toml(settings.shown()))
    assert [seat["name"] for seat in printed["seats"]] == ["eu-2", "eu-1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seats = []\n", "the pool is empty"),
        (_ONE + _SEAT.format(name="EU-1", as_whom="role/2"), "two seats are called"),
        (_ONE + _SEAT.format(name="eu-2", as_whom="ROLE/1"), "belongs to one seat"),
        (_ONE + 'principals = ["role/1"]\n', "belongs to one seat"),
        (_SEAT.format(name="e", as_whom="role/1"), "at least 2 characters"),
        (_SEAT.format(name="../x", as_whom="role/1"), "number 1: name has"),
        (_SEAT.format(name="eu-1", as_whom="role 1"), "no spaces"),
        (_SEAT.format(name="eu-1", as_whom=""), "KEYFOLD_SEATS"),
        (_ONE.replace("AWS_KMS", "PLATFORM"), "not for PLATFORM"),
        (_ONE + "more = 1\n", "KEYFOLD_SEATS"),
    ],
)
def test_what_cannot_be_a_pool_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    """An empty pool, and the same name or principal twice, are faults of the settings."""
    with pytest.raises(SetupError, match=why):
        loaded(tmp_path, monkeypatch, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (_ONE.replace("AWS_KMS", "AWS"), "no provider AWS for seat eu-1"),
        (_ONE + '[regions.us]\nAWS_KMS = "us-east-1"\n', "eu of seat eu-1 is not one of them"),
    ],
)
def test_a_seat_of_nowhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    """A provider that does not exist, and a region that the settings do not have, are faults."""
    settings = loaded(tmp_path, monkeypatch, text)
    with pytest.raises(SetupError, match=why):
        seats(settings, catalog(settings))
