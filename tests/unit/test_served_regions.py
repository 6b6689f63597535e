"""The regions that a replica serves: the settings, the refusals, and the one door to the KMSs."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fakes import FakeProvider
from keyfold_server.bootstrap.providers import catalog, key_names
from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import SetupError, WrongRegionError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.served_regions import EVERY, ServedRegions
from keyfold_server.rpc.messages.status import to_status
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.settings import load, toml
from keyfold_server.settings.served import (
    LONGEST_ADDRESS,
    MOST_PLACES,
    MOST_SERVED,
    ServedSettings,
)

NAMES: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
PLACES: Final = {"eu": "eu.keyfold.example:7443", EVERY: "control.keyfold.example:7443"}


# --- the settings ----------------------------------------------------------------------


def parsed(**given: object) -> ServedSettings:
    """Parses the settings of this file alone."""
    return ServedSettings.model_validate(given)


def test_a_replica_serves_every_region_by_default() -> None:
    """Without the setting nothing changes: the replica serves all regions."""
    served = ServedRegions.of(parsed().serves, parsed().served_at)
    assert served.all
    assert served.serves("anywhere")
    served.check("anywhere")
    served.check_all("this")


def test_the_settings_come_from_environment_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are separated by commas or stand in a list, and are printed as they are read."""
    file = tmp_path / "keyfold.toml"
    file.write_text(
        'serves = ["eu-1", "eu-2"]\n[served_at]\nus = "us.example:1"\n"*" = "[::1]:2"\n'
    )
    monkeypatch.setenv("KEYFOLD_CONFIG", str(file))
    settings = load()
    assert settings.serves == ("eu-1", "eu-2")
    assert settings.served_at == {"us": "us.example:1", EVERY: "[::1]:2"}
    printed = tomllib.loads(toml(settings.shown()))
    assert printed["serves"] == "eu-1,eu-2"
    assert printed["served_at"] == settings.served_at
    monkeypatch.setenv("KEYFOLD_SERVES", " us ")
    monkeypatch.setenv("KEYFOLD_SERVED_AT", "eu=eu.example:7443, *=all.example:7443")
    settings = load()
    assert settings.serves == ("us",)
    assert settings.served_at == {"eu": "eu.example:7443", EVERY: "all.example:7443"}


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("serves", "", "is empty; name the regions that this replica serves, or write *"),
        ("serves", " , ", "is empty; name the regions"),
        ("serves", "eu,,us", "region '' is empty; use 1 to 128"),
        ("serves", "eu us", "region 'eu us' has characters or a length"),
        ("serves", "e" * 129, "has characters or a length that names cannot have"),
        ("serves", "eu,us,eu", "names region eu twice; name each region once"),
        ("serves", "*,eu", "* stands for every region; write it alone, or names alone"),
        ("serves", "eu-*", "region 'eu-*' has characters"),
        ("serves", ",".join(f"r{n}" for n in range(MOST_SERVED + 1)), "may name at most 100"),
        ("served_at", "eu", "'eu' is not REGION=HOST:PORT; write such pairs"),
        ("served_at", "eu=a:1,eu=b:1", "names region eu twice; give each region one address"),
        ("served_at", "e!=a:1", "region 'e!' has characters"),
        ("served_at", "eu=a", "the address of eu must be HOST:PORT"),
        ("served_at", "eu=a:0", "the address of eu must be HOST:PORT"),
        ("served_at", "eu=a:65536", "the address of eu must be HOST:PORT"),
        ("served_at", "eu=https://a:443", "the address of eu must be HOST:PORT"),
        ("served_at", f"eu={'a' * LONGEST_ADDRESS}:1", "of at most 255 characters"),
        ("served_at", "*=call me:1", "the address of * must be HOST:PORT"),
        ("served_at", ",".join(f"r{n}=a:1" for n in range(MOST_PLACES + 1)), "at most 1000"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(
    setting: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the setting and says what to write instead."""
    monkeypatch.setenv(f"KEYFOLD_{setting.upper()}", value)
    with pytest.raises(SetupError) as caught:
        load()
    assert caught.value.message.startswith(f"KEYFOLD_{setting.upper()}: ")
    assert why in caught.value.message


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_written_names_are_read_back(names: list[str]) -> None:
    """What a replica serves is the set of the names written, in any order and spacing."""
    settings = parsed(serves=" , ".join(names))
    assert list(settings.serves) == names
    served = ServedRegions.of(settings.serves, {})
    assert served.names == frozenset(names)
    assert all(served.serves(name) for name in names)
    assert not served.serves(names[0] + "x") or names[0] + "x" in names


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_read_or_refused(serves: str, served_at: str) -> None:
    """No text of a setting is read as a region that no cluster can have, or fails in another way.

    Above all, none that is not `*` makes a control replica.
    """
    with suppress(ValidationError):
        names = parsed(serves=serves).serves
        assert names
        assert (EVERY in names) == (serves.strip() == EVERY)
        assert all(name == EVERY or (name.isascii() and 1 <= len(name) <= 128) for name in names)
    with suppress(ValidationError):
        for region, address in parsed(served_at=served_at).served_at.items():
            assert region
            assert address.isascii()
            assert ":" in address
            assert not any(mark.isspace() for mark in address)


def test_a_platform_key_of_another_region_need_not_work_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All replicas may share one table of platform keys, and have credentials for their own."""
    file = tmp_path / "keyfold.toml"
    file.write_text(
        f'local_keys = "{tmp_path}/keys.json"\n[platform_key]\neu = "local:eu"\n'
        'us = "https://vault.us.example:8200/v1/transit/keys/platform"\n'
    )
    monkeypatch.setenv("KEYFOLD_CONFIG", str(file))
    monkeypatch.setenv("KEYFOLD_SERVES", "eu")
    settings = load()
    names = key_names(settings, catalog(settings))
    assert names.platform("eu") == RootKey("LOCAL", "local:eu")
    assert names.platform("us") is None
    # It is the vendor's all the same: nobody hears here that it is safe to disable (C7).
    us = "https://vault.us.example:8200/v1/transit/keys/platform"
    assert {key.uri for key in names.platform_keys} == {"local:eu", us}
    for serves in ("us", "*"):
        monkeypatch.setenv("KEYFOLD_SERVES", serves)
        settings = load()
        with pytest.raises(SetupError, match="no section for https://vault"):
            key_names(settings, catalog(settings))


# --- refusals --------------------------------------------------------------------------


def test_a_refusal_says_which_address_to_call() -> None:
    """WRONG_REGION names the region, and the address of its replicas as far as it is known."""
    served = ServedRegions.of(["us"], PLACES)
    served.check("us")
    with pytest.raises(WrongRegionError) as caught:
        served.check("eu", "prod")
    error = caught.value
    assert (error.cluster, error.region, error.served_at) == ("prod", "eu", PLACES["eu"])
    assert error.message == ("this replica does not serve region eu; call eu.keyfold.example:7443")
    error = error.at(field="region_specs[0]")
    assert error.served_at == PLACES["eu"]
    assert error.field == "region_specs[0]"
    status = to_status(error)
    assert b"served_at" in status.details[0].value
    assert PLACES["eu"].encode() in status.details[0].value


def test_a_control_replica_answers_for_a_region_without_an_address() -> None:
    """Where the table has no address for a region, that of the control replicas will do."""
    with pytest.raises(WrongRegionError) as caught:
        ServedRegions.of(["us"], PLACES).check("ap")
    assert caught.value.served_at == PLACES[EVERY]
    with pytest.raises(WrongRegionError) as caught:
        ServedRegions.of(["us"], {}).check("ap")
    assert caught.value.served_at is None
    assert caught.value.message == (
        "this replica does not serve region ap; ask the operator which address serves region ap"
    )


@pytest.mark.parametrize(
    ("needed", "wrong", "place"),
    [
        (("us",), (), None),
        (("eu",), ("eu",), PLACES["eu"]),
        (("us", "eu"), ("eu",), PLACES[EVERY]),
        (("eu", "ap"), ("eu", "ap"), PLACES[EVERY]),
        (("eu", "eu2"), ("eu", "eu2"), PLACES["eu"]),
    ],
)
def test_the_address_serves_the_whole_request(
    needed: tuple[str, ...], wrong: tuple[str, ...], place: str | None
) -> None:
    """A request for several regions is sent where all of them are served, and nowhere else."""
    served = ServedRegions.of(["us"], PLACES | {"eu2": PLACES["eu"]})
    if not wrong:
        served.check_each(needed)
        return
    with pytest.raises(WrongRegionError) as caught:
        served.check_each(needed, "prod")
    assert (caught.value.regions, caught.value.served_at) == (wrong, place)
    assert all(region in caught.value.message for region in wrong)


def test_what_needs_every_region_needs_a_control_replica() -> None:
    """The refusal says so, and where a control replica answers."""
    served = ServedRegions.of(["us", "ap"], PLACES)
    with pytest.raises(WrongRegionError) as caught:
        served.check_all("the operation rotate")
    assert caught.value.region is None
    assert caught.value.served_at == PLACES[EVERY]
    assert caught.value.message == (
        "the operation rotate needs a replica that serves every region, and this one serves only "
        "ap, us; call control.keyfold.example:7443"
    )


# --- the door --------------------------------------------------------------------------


async def test_the_one_door_refuses_before_it_finds_a_provider() -> None:
    """No provider is made, and no credential looked for, for a region that is not served.

    A call that has no region at all, such as the trial of a key for no region, is no exception.
    """
    made: list[str] = []
    fake = FakeProvider()
    root = fake.create_key("one")

    def provider(type_: str) -> FakeProvider:
        made.append(type_)
        return fake

    kms = KmsClient(provider, SystemClock(), 2.0, Rates(), ServedRegions.of(["eu"], {}))
    try:
        for region in ("us", ""):
            binding = Binding("prod", region, bytes(16))
            payload = bytes(binding.payload(bytes(KEY_SIZE)))
            for call in (
                kms.wrap(root, payload, binding),
                kms.unwrap(root, "1", payload, binding),
                kms.unwrap(root, "1", payload, binding, proof=True),
                kms.authenticate(root, region),
                kms.describe(root, region),
            ):
                with pytest.raises(WrongRegionError):
                    await call
        assert made == []
        assert not fake.calls
        await _opens(kms, root, Binding("prod", "eu", bytes(16)))
        assert made == ["FAKE"]
    finally:
        kms.close()


async def _opens(kms: KmsClient, root: RootKey, binding: Binding) -> None:
    payload = bytes(binding.payload(bytes(KEY_SIZE)))
    wrapped = await kms.wrap(root, payload, binding)
    opened = await kms.unwrap(root, wrapped.key_version, wrapped.ciphertext, binding)
    assert opened.plaintext == payload
