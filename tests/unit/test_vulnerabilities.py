"""The check of known vulnerabilities passes only if a database answered for every package.

`make vulnerabilities` asks OSV. Here a server on this machine answers in its place.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = ROOT / "scripts" / "vulnerabilities.py"

OLD: Final = {"jinja2 2.4.1": ["PYSEC-2014-8"], "github.com/gin-gonic/gin 1.6.0": ["GO-2021-0052"]}
"""What the database knows of the old releases that the check asks about as witnesses."""

Answer = dict[str, Any]
Twist = Callable[[list[Answer], list[Answer]], Answer | bytes]
"""Makes the reply out of the queries and of the answers to them."""


def _plain(_: list[Answer], answers: list[Answer]) -> Answer:
    return {"results": answers}


class Database:
    """OSV: answers in the form that its documentation gives.

    Attributes:
        known: The ids of vulnerabilities by package, or by package and version.
        details: What is said of an id.
        twist: What happens to an answer on its way.
        asked: Every query so far.
    """

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = dict(OLD)
        self.details: dict[str, Answer] = {}
        self.twist: Twist = _plain
        self.asked: list[Answer] = []
        database = self

        class Handler(BaseHTTPRequestHandler):
            """Answers as the database says."""

            def do_POST(self) -> None:
                """Answers `/v1/querybatch`."""
                size = int(self.headers["Content-Length"])
                queries = json.loads(self.rfile.read(size))["queries"]
                if self.path != "/v1/querybatch":
                    return self._send(b"{}", 404)
                database.asked += queries
                known = [database.ids(**each) for each in queries]
                answers = [{"vulns": [{"id": one} for one in ids]} if ids else {} for ids in known]
                reply = database.twist(queries, answers)
                return self._send(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

            def do_GET(self) -> None:
                """Answers `/v1/vulns/ID`."""
                name = self.path.rpartition("/")[2]
                details = database.details.get(name)
                self._send(json.dumps(details or {}).encode(), 200 if details else 404)

            def _send(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def ids(self, package: dict[str, str], version: str, **_: str) -> list[str]:
        """Returns the ids of what is known of a package."""
        name = package["name"]
        return self.known.get(name, self.known.get(f"{name} {version}", []))

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def database() -> Iterator[Database]:
    """Gives a database that knows only the witnesses' vulnerabilities."""
    made = Database()
    yield made
    made.close()


def check(url: str, code: int) -> str:
    """Runs the check, which must end with `code`; returns what it says."""
    # -S: it needs no package, so that nothing that it checks can keep it from checking.
    done = subprocess.run(
        [sys.executable, "-S", PROGRAM],
        env={"OSV_URL": url, "PATH": os.environ["PATH"], "no_proxy": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    # Whoever reads only the words is told the same.
    assert ("no known vulnerabilities in" in said) == (code == 0)
    assert ("could not look" in said) == (code == 2)
    return said


def test_a_clean_answer_for_every_package(database: Database) -> None:
    """It passes if the database answers for each package of the lock and go.mod, and knows none."""
    said = check(database.url, 0)
    lock = (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    pinned = {line.split("==")[0] for line in lock.splitlines() if line[:1].isalnum()}
    asked = {(each["package"]["ecosystem"], each["package"]["name"]) for each in database.asked}
    assert {name for ecosystem, name in asked if ecosystem == "PyPI"} == pinned | {"jinja2"}
    assert ("Go", "google.golang.org/grpc") in asked
    assert f" in {len(database.asked) - len(OLD)} packages" in said


def test_a_known_vulnerability(database: Database) -> None:
    """It fails with the package, its version, whether it ships, and what is known."""
    database.known |= {"cryptography": ["GHSA-1"], "pytest": ["GHSA-2", "GHSA-3"]}
    database.details = {
        "GHSA-1": {"aliases": ["CVE-2026-1"], "summary": "opens what it should not"},
        "GHSA-3": {"withdrawn": "2026-01-01T00:00:00Z"},
    }
    said = check(database.url, 1)
    assert "cryptography 50.0.2 (PyPI), shipped: GHSA-1, CVE-2026-1: opens what it should" in said
    # An id counts, also where the database has no more to say of it.
    assert "(PyPI), development only: GHSA-2: no answer" in said
    # One that was withdrawn does not.
    assert "GHSA-3" not in said
    assert said.endswith("2 known\n")


def test_an_answer_on_several_pages(database: Database) -> None:
    """What stands only on a later page of the database's answer is found, too."""

    def pages(queries: list[Answer], answers: list[Answer]) -> Answer:
        for query, answer in zip(queries, answers, strict=True):
            if query["package"]["name"] == "grpcio":
                token = query.get("page_token", "")
                answer["vulns"] = [{"id": f"GHSA-page{token}"}]
                if len(token) < 2:
                    answer["next_page_token"] = token + "x"
        return {"results": answers}

    database.twist = pages
    said = check(database.url, 1)
    for token in ("", "x", "xx"):
        assert f"GHSA-page{token}:" in said
    assert said.endswith("3 known\n")


def _without_end(_: list[Answer], answers: list[Answer]) -> Answer:
    return {"results": [answer | {"next_page_token": "more"} for answer in answers]}


SILENCES: Final[dict[str, Twist]] = {
    "a package is missing": lambda _, answers: {"results": answers[1:]},
    "all are missing": lambda *_: {},
    "cut off": lambda _, answers: json.dumps({"results": answers}).encode()[:-9],
    "nothing": lambda *_: b"",
    "a proxy's page": lambda *_: b"<html>Sign in to the network</html>",
    "a list": lambda *_: b"[]",
    "nulls": lambda _, answers: {"results": [None for _ in answers]},
    "no ids": lambda _, answers: {"results": [{"vulns": [{}]} for _ in answers]},
    "knows nothing at all": lambda _, answers: {"results": [{} for _ in answers]},
    "pages without end": _without_end,
}
"""Replies that tell nothing of at least one package."""


@pytest.mark.parametrize("twist", SILENCES.values(), ids=SILENCES)
def test_an_answer_that_leaves_something_open(database: Database, twist: Twist) -> None:
    """It fails, and says that it could not look, if any package lacks an answer that counts."""
    database.twist = twist
    check(database.url, 2)


def test_no_database() -> None:
    """It fails, and says that it could not look, where nothing answers."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        assert f"127.0.0.1:{port}" in check(f"http://127.0.0.1:{port}", 2)


def test_a_database_that_refuses(database: Database) -> None:
    """An address that answers with an error, as a firewall does, is not a clean answer."""
    assert "404" in check(f"{database.url}/elsewhere", 2)
