"""The clients of all languages make the same calls, and the same comes of them.

`cases.json` has the cases. Each of them runs with a cluster of its own, on one real server, with
the Python client, the one for asyncio and the client for Go. Between client and server is a relay
that counts the calls, and answers in the server's place where a case says so. A case has:

    name, promise   what it is called, and what it shows
    settings        those of the client, beside the target
    script          answers to the next calls of a method; null passes one on to the server
    delays          seconds for which the relay holds every call of a method
    direct          true: the client calls the server itself, for streams, which the relay has not
    steps           what happens, one after another: a call with its arguments and timeout, or an
                    act of somebody else; `keep` keeps parts of a result for later steps
    requests        how often each method was called in all; nothing else may have been
    metadata        what the last call of a method carried

`matching.py` says how an expectation is written. In every case no result and no error prints a key.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

import keyfold
from certificates import Authority
from clients import golang
from clients.drivers import Driver, GoDriver, Outcome, PythonDriver
from clients.forms import error_form
from clients.matching import differences, filled, picked
from e2e.server import Server, make
from keyfold.errors.reasons import BY_REASON
from keyfold.errors.rpc_status import error_of
from keyfold_server.domain import errors as server_errors
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.rpc.messages.status import code_of
from relay import Relay
from wire_errors import WireError

CASES: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "cases.json").read_text(encoding="utf-8")
)["cases"]

DRIVERS: Final = ("python", "asyncio", "go")

REGIONS: Final = ("eu", "us")

pytestmark = pytest.mark.timeout(golang.BUILD)

SECRETS: Final = 10
"""Keys to look for in what is printed."""

_numbers = itertools.count(1)


# --- the world of a case ---------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all cases."""
    # A key's refusal is news at once, without the time for which the server remembers its answer.
    made = make(tmp_path_factory.mktemp("server"), (), {"KEYFOLD_CACHE_TTL": "0s"})
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that makes calls with the client for Go; a skip without Go, except in CI."""
    program = tmp_path_factory.mktemp("go") / "cases"
    golang.run("build", "./internal/cases", str(program))
    return program


@pytest.fixture(scope="module", params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """A driver of each client."""
    made = _driver(request.param, request)
    try:
        yield made
    finally:
        made.close()


def _driver(name: str, request: pytest.FixtureRequest) -> Driver:
    if name == "go":
        return GoDriver(request.getfixturevalue("go_program"))
    return PythonDriver(keyfold.Client if name == "python" else keyfold.AsyncClient)


class World:
    """A cluster, the root keys of its customer, and those who act on them."""

    def __init__(self, server: Server) -> None:
        self.cluster = f"case-{next(_numbers)}"
        self._server = server
        self._keys = KeyFile(server.keys)
        for region in REGIONS:
            self._keys.create(self._key(region))
        specs = [
            keyfold.RegionSpec(region, keyfold.KeySpec("LOCAL", f"local:{self._key(region)}"))
            for region in REGIONS
        ]
        with server.client() as client:
            client.enable(self.cluster, specs)

    def act(self, act: str, region: str) -> None:
        """Does what somebody else does."""
        key = self._key(region)
        with self._server.client() as client:
            match act:
                case "disable":
                    self._keys.disable(key)
                case "enable":
                    self._keys.enable(key)
                case "rotate":
                    self._keys.rotate(key)
                case "revoke":
                    client.revoke(self.cluster, regions=[region])
                case _:
                    raise ValueError(act)

    def _key(self, region: str) -> str:
        return f"{self.cluster}-{region}"


def carry_out(case: Mapping[str, Any], driver: Driver, server: Server, folder: Path) -> None:
    """Carries a case out, and holds it against what it expects."""
    world = World(server)
    kept: dict[str, Any] = {"cluster": world.cluster}
    secrets: list[str] = []
    with Relay(server.target) as relay:
        for method, answers in case.get("script", {}).items():
            relay.fail(method, *(None if one is None else _answer(one) for one in answers))
        relay.delays = case.get("delays", {})
        settings = {"target": server.target if case.get("direct") else relay.target}
        settings |= filled(case.get("settings", {}), kept)
        if "token_file" in settings:
            file = folder / "token"
            file.write_text(settings["token_file"])
            settings["token_file"] = str(file)
        opened = driver.open(settings)
        _check(case.get("open", {}), opened, "open")
        for number, step in enumerate(case["steps"]):
            where = f"step {number}, {step.get('call') or step['act']}"
            if "act" in step:
                world.act(step["act"], step["region"])
                continue
            arguments = filled(step.get("arguments", {}), kept)
            outcome = driver.call(step["call"], arguments, step.get("timeout"))
            secrets += [*_plaintexts(arguments), *_plaintexts(outcome.value)]
            _check(filled(step["expect"], kept), outcome, where)
            for name, path in step.get("keep", {}).items():
                kept[name] = picked(outcome.value, path)
            shown = [one for one in secrets[:SECRETS] if _shows(outcome.printed, one)]
            assert shown == [], where
        assert {name: len(asked) for name, asked in relay.requests.items()} == case.get(
            "requests", {name: len(asked) for name, asked in relay.requests.items()}
        )
        for method, wanted in case.get("metadata", {}).items():
            sent = relay.metadata[method][-1]
            assert list(differences(wanted, sent)) == []
        for method, field in case.get("same", {}).items():
            assert len({getattr(one, field) for one in relay.requests[method]}) == 1
            assert all(getattr(one, field) for one in relay.requests[method])


def _answer(given: Mapping[str, Any]) -> WireError:
    return WireError(**dict(given) | {"code": grpc.StatusCode[given["code"]]})


def _check(expected: Mapping[str, Any], outcome: Outcome, where: str) -> None:
    if "error" in expected:
        assert outcome.error, f"{where}: no error, but {outcome.value}"
        assert list(differences(expected["error"], outcome.error, where)) == []
    else:
        assert not outcome.error, f"{where}: {outcome.error}"
        assert list(differences(expected.get("value", {}), outcome.value, where)) == []


def _plaintexts(value: Any) -> Iterator[str]:
    """Yields the plaintext keys in arguments or a result."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            if name == "plaintext":
                yield one
            else:
                yield from _plaintexts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _plaintexts(one)


def _shows(text: str, secret: str) -> bool:
    """Whether a text has a key in it, in one of the forms in which programs print bytes."""
    raw = bytes.fromhex(secret)
    if len(raw) < 16:
        return False  # A short key may be there by chance.
    ways = [secret, secret.upper(), raw.decode("latin-1"), base64.b64encode(raw).decode()]
    ways += [" ".join(map(str, raw)), ", ".join(map(str, raw)), ", ".join(map(hex, raw))]
    ways.append(repr(raw)[2:-1])
    return any(way in text for way in ways)


# --- the cases -------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"\W+", "-", case["name"]))
def test_case(case: Mapping[str, Any], driver: Driver, server: Server, tmp_path: Path) -> None:
    """What the case promises holds for this client."""
    carry_out(case, driver, server, tmp_path)


def _codes() -> dict[str, grpc.StatusCode]:
    """Returns the gRPC code of each reason."""
    found = {}
    for error in vars(server_errors).values():
        if getattr(error, "reason", None) in BY_REASON:
            # Which code it is decides nothing, and no client repeats this one.
            away = code_of(error) is grpc.StatusCode.UNAVAILABLE
            found[error.reason] = grpc.StatusCode.INTERNAL if away else code_of(error)
    return found


def test_every_reason(driver: Driver, server: Server) -> None:
    """Every reason that the server sends means the same to each client."""
    codes = _codes()
    assert codes.keys() == BY_REASON.keys()
    with Relay(server.target) as relay:
        driver.open({"target": relay.target})
        for reason, code in codes.items():
            sent = WireError(code, reason, metadata={"cluster": "prod", "region": "eu"})
            relay.fail("GetStatus", sent)
            found = driver.call("get_status", {"cluster": "prod"}, None).error
            expected = error_form(error_of(sent.status()))
            assert list(differences(expected, found, reason)) == []


@pytest.mark.parametrize(("sealing", "opening"), [("python", "go"), ("go", "python")])
def test_messages_of_another_client(
    sealing: str, opening: str, server: Server, request: pytest.FixtureRequest
) -> None:
    """What one client has sealed another one opens and moves, and finds as spoilt as its own."""
    world = World(server)
    one, other = _driver(sealing, request), _driver(opening, request)
    try:
        for driver in (one, other):
            driver.open({"target": server.target})
        bound = {"cluster": world.cluster, "context": {"table": "cards", "ü": "ö"}}
        own = {"row": "17", "note": "ß€"}
        for data in ("", "34313131", "00" * 100_000):
            message = one.call("seal", bound | {"data": data, "own": own}, None).value
            moved = other.call("rekey", bound | {"data": message}, None).value
            for given in (message, moved):
                assert other.call("open", bound | {"data": given, "own": own}, None).value == data
            spoilt = message[:-2] + ("00" if message[-2:] != "00" else "01")
            outcome = other.call("open", bound | {"data": spoilt}, None)
            assert outcome.error["reason"] == "MESSAGE_CORRUPT"
    finally:
        one.close()
        other.close()


POLICY: Final = b"""
[[grant]]
callers = ["spiffe://example.org/admin"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""


def test_mutual_tls(driver: Driver, tmp_path: Path) -> None:
    """Each client proves itself with the files of its certificate, and demands the server's."""
    authority = Authority("test")
    own, admin = authority.issue("dns:localhost"), authority.issue("spiffe://example.org/admin")
    for name, text in {
        "ca.pem": authority.pem,
        "server.pem": own.pem,
        "server.key": own.key_pem,
        "client.pem": admin.pem,
        "client.key": admin.key_pem,
        "policy.toml": POLICY,
    }.items():
        (tmp_path / name).write_bytes(text)
        (tmp_path / name).chmod(0o600)
    secured = make(
        tmp_path,
        REGIONS,
        {
            "KEYFOLD_TLS_CERT": str(tmp_path / "server.pem"),
            "KEYFOLD_TLS_KEY": str(tmp_path / "server.key"),
            "KEYFOLD_TLS_CLIENT_CA": str(tmp_path / "ca.pem"),
            "KEYFOLD_POLICY": str(tmp_path / "policy.toml"),
        },
    )
    secured.start()
    try:
        files = {
            "tls": True,
            "ca": str(tmp_path / "ca.pem"),
            "cert": str(tmp_path / "client.pem"),
            "key": str(tmp_path / "client.key"),
            "server_name": "localhost",
        }
        assert not driver.open({"target": secured.target} | files).error
        key = {"type": "LOCAL", "uri": "local:eu"}
        asked = {"cluster": "prod", "region_specs": [{"region": "eu", "key_spec": key}]}
        assert not driver.call("enable", asked, None).error
        driver.open({"target": secured.target} | files | {"server_name": "other.example"})
        assert driver.call("get_status", {"cluster": "prod"}, 5.0).error
    finally:
        secured.kill()
