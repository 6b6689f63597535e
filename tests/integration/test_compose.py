"""deploy/compose: a file that Docker takes, and services that do what docs/compose.md says."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import pages
from contract.counterparts import NotInstalledError
from images import IMAGES
from laptop import ROOT, Laptop, Model, model, prepared
from machine import lacking

PAGE: Final = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
SECTION: Final = PAGE.partition("\n## The life of a key\n")[2].partition("\n## ")[0]

# Building the reader of Compose files, and installing what the services need, on a new machine.
pytestmark = pytest.mark.timeout(600)


def _skip(why: str) -> None:
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(name="folder", scope="module")
def folder_fixture() -> Iterator[Path]:
    """A folder that every user may pass through."""
    if why := lacking() or ("" if shutil.which("ip") else "needs ip, to have a network"):
        _skip(why)
    with tempfile.TemporaryDirectory(prefix="keyfold-compose-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(name="place", scope="module")
def place_fixture(folder: Path) -> Path:
    """deploy/compose with its secrets, as one who tries it out has it."""
    return prepared(folder / "clone")


@pytest.fixture(name="compose", scope="module")
def compose_fixture(place: Path) -> Model:
    """What the file says."""
    try:
        return model(place)
    except NotInstalledError as error:
        _skip(str(error))
        raise


@pytest.fixture(name="laptop", scope="module")
def laptop_fixture(folder: Path, place: Path, compose: Model) -> Iterator[Laptop]:
    """Every service, started in its order and healthy."""
    assert compose
    try:
        laptop = Laptop(folder, place)
    except NotInstalledError as error:
        _skip(str(error))
        raise
    try:
        laptop.start()
        yield laptop
    finally:
        laptop.close()


def test_it_is_of_the_specification(compose: Model, place: Path) -> None:
    """The specification's own program takes the file, and refuses a name that does not exist."""
    services = compose["services"]
    assert set(services) >= {"keyfold", "console", "relay", "postgres", "openbao", "prometheus"}
    wrong = (place / "compose.yaml").read_text().replace("restart:", "restarts:", 1)
    (place / "wrong.yaml").write_text(wrong)
    with pytest.raises(ValueError, match="restarts"):
        model(place, "wrong.yaml")


def test_what_it_names_exists(compose: Model) -> None:
    """Each secret, config and volume of a service is declared, its file is there, all are used."""
    for kind in ("secrets", "configs"):
        used = {s["source"] for one in compose["services"].values() for s in one.get(kind, ())}
        assert used == set(compose[kind])
        for one in compose[kind].values():
            assert Path(one["file"]).is_file(), one
    mounted = {v["source"] for s in compose["services"].values() for v in s.get("volumes", ())}
    assert mounted == set(compose["volumes"])
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])


def test_nothing_is_open_that_need_not_be(compose: Model) -> None:
    """Ports are published on loopback, images have a tag, and services have few rights."""
    published = set()
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name
            published.add(name)
        image, _, tag = service["image"].rpartition(":")
        assert image in IMAGES
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?", tag), service["image"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        # PostgreSQL's image begins as root, who gives its folder to the user of the database.
        if name != "postgres":
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"], name
        test = service["healthcheck"]
        assert test.get("disable") or test["test"], name
    assert published == {"keyfold", "console", "prometheus"}


def test_only_the_owner_may_read_the_secrets(place: Path) -> None:
    """The folder is its owner's alone, and no container gets a key that signs."""
    secrets = place / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert (secrets / "service-key").stat().st_mode & 0o777 == 0o600
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/deploy/compose/secrets/", "/deploy/compose/.env"} <= set(ignored)


def test_a_keys_life(laptop: Laptop, folder: Path) -> None:
    """The page's commands, as they stand: test, enable, use, the customer's no, Revoke, Restore."""
    session = folder / "session"
    session.mkdir()
    docker = laptop.docker(folder / "bin")
    pages.assert_runs(
        SECTION,
        folder=session,
        environment={**os.environ, "PATH": f"{docker}:{os.environ['PATH']}"},
        timeout=240,
    )


def test_a_program_on_this_machine(laptop: Laptop) -> None:
    """The page's program reaches the server by its published port's name, and gets a key."""
    (program,) = pages.fenced(PAGE, "python")
    said = laptop.inside("env", f"--chdir={laptop.place}", sys.executable, "-c", program)
    assert said == "Plaintext(<32 bytes>)\n"


def _get(laptop: Laptop, url: str, *options: str) -> str:
    return laptop.inside("curl", "--silent", "--show-error", "--fail", *options, url)


def test_the_console_answers(laptop: Laptop) -> None:
    """The console shows the cluster to the operator's token, and to nobody without one."""
    secrets = laptop.place / "secrets"
    trust = ["--cacert", str(secrets / "ca.crt")]
    token = (secrets / "operator.jwt").read_text().strip()
    said = _get(
        laptop,
        "https://localhost:8443/clusters",
        *trust,
        "--header",
        f"Authorization: Bearer {token}",
    )
    assert "acme-orders" in said
    without = _get(laptop, "https://localhost:8443/clusters", *trust, "--location")
    assert "acme-orders" not in without


def test_prometheus_scrapes(laptop: Laptop) -> None:
    """Prometheus reads the server and the relay, and has the alerts."""

    def asked(path: str) -> Any:
        return json.loads(_get(laptop, f"http://127.0.0.1:9090/api/v1/{path}"))["data"]

    ends = time.monotonic() + 20
    while True:
        up = {one["metric"]["job"]: one["value"][1] for one in asked("query?query=up")["result"]}
        if up == {"keyfold": "1", "keyfold-relay": "1"}:
            break
        assert time.monotonic() < ends, up
        time.sleep(0.5)
    rules = {rule["name"] for group in asked("rules")["groups"] for rule in group["rules"]}
    assert "KeyfoldRelayStopped" in rules


def test_it_ends_in_order_and_comes_back(laptop: Laptop) -> None:
    """SIGTERM ends Keyfold's programs with code 0, and volumes keep what they had."""
    for name in ("relay", "console", "keyfold"):
        assert laptop.services[name].stop() == 0, laptop.services[name].log.read_text()[-2000:]
    openbao = laptop.services["openbao"]
    openbao.stop()
    openbao.start()
    laptop.services["keyfold"].start()
