"""Asks OSV, a database of known vulnerabilities, about everything that Keyfold is made with.

The packages are those of requirements/dev.lock, which has all that Keyfold's other locks for
installations have, and those of clients/go/go.mod. The services that only tests start have locks of
their own; nobody serves with them, and this does not look at them.

The exit code is 0 only if the database answered for every package and knew no vulnerability. It is
1 if it knows one, and 2 if this could not look: the database cannot be reached, it left a package
out, an answer was cut off, or it did not even know a vulnerability that is in it for certain. So no
proxy, mirror or outage can pass for "none known".

`OSV_URL` names another address of the database, such as a mirror's.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, Final, NamedTuple

import locks

_LOCK: Final = locks.ROOT / "requirements" / "dev.lock"
_SHIPPED: Final = locks.ROOT / "requirements" / "all.lock"
_GO: Final = locks.ROOT / "clients" / "go" / "go.mod"

_URL: Final = "https://api.osv.dev"
_TIMEOUT: Final = 30.0
"""Seconds without a byte after which a request fails."""

_LARGEST: Final = 32 * 1024 * 1024
"""Bytes of the longest answer that is read."""

_BATCH: Final = 1000
"""Queries that one request may have."""

_PAGES: Final = 50
"""Requests after which a database that always has one page more is given up."""


class Package(NamedTuple):
    """A release of a package, as the database names it."""

    ecosystem: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.ecosystem})"


WITNESSES: Final = (
    Package("PyPI", "jinja2", "2.4.1"),
    Package("Go", "github.com/gin-gonic/gin", "1.6.0"),
)
"""Old releases with known vulnerabilities, one for each ecosystem. They are asked about with the
rest: a database that says they have none does not know what it is asked."""


class CouldNotLookError(Exception):
    """The database did not answer for every package."""


def locked() -> list[Package]:
    """Returns what the locks pin.

    Raises:
        CouldNotLookError: A lock cannot be read, or has nothing in it.
    """
    try:
        python = [Package("PyPI", each.name, each.version) for each in locks.read(_LOCK)]
        modules = re.findall(
            r"^(?:require |\t)([\w./~-]+) v(\S+)", _GO.read_text(encoding="utf-8"), re.MULTILINE
        )
    except (OSError, ValueError) as error:
        raise CouldNotLookError(f"cannot tell what is locked: {error}") from error
    if not modules:
        raise CouldNotLookError(f"cannot tell what is locked: {_GO} requires nothing")
    return [*python, *(Package("Go", name, version) for name, version in modules)]


def ask(url: str, packages: list[Package]) -> dict[Package, set[str]]:
    """Returns the ids of the vulnerabilities that the database knows, by package.

    Raises:
        CouldNotLookError: It did not answer for every package, or not for the witnesses.
    """
    found: dict[Package, set[str]] = {each: set() for each in (*packages, *WITNESSES)}
    queries = [(each, "") for each in found]
    for _ in range(_PAGES):
        more: list[tuple[Package, str]] = []
        for start in range(0, len(queries), _BATCH):
            more += _ask_batch(url, queries[start : start + _BATCH], found)
        if not more:
            break
        queries = more
    else:
        raise CouldNotLookError(f"the database has more than {_PAGES} pages of answers")
    if silent := [str(each) for each in WITNESSES if not found[each]]:
        raise CouldNotLookError(
            f"the database knows no vulnerability of {' and '.join(silent)}, which certainly has "
            "some; it is empty, or something else answers in its place"
        )
    return {each: found[each] for each in packages}


def _ask_batch(
    url: str, queries: list[tuple[Package, str]], found: dict[Package, set[str]]
) -> list[tuple[Package, str]]:
    """Adds the answers to `found`; returns those that go on, with the token of the next page."""
    body = {
        "queries": [
            {"package": {"ecosystem": each.ecosystem, "name": each.name}, "version": each.version}
            | ({"page_token": token} if token else {})
            for each, token in queries
        ]
    }
    answer = _request(f"{url}/v1/querybatch", json.dumps(body).encode())
    results = answer.get("results")
    if not isinstance(results, list) or len(results) != len(queries):
        count = len(results) if isinstance(results, list) else "no"
        raise CouldNotLookError(f"the database gave {count} answers to {len(queries)} questions")
    more = []
    for (package, _), result in zip(queries, results, strict=True):
        try:
            found[package].update(each["id"] for each in result.get("vulns", ()))
            token = result.get("next_page_token")
        except (AttributeError, KeyError, TypeError) as error:
            raise CouldNotLookError(f"the database's answer for {package} is garbled") from error
        if token:
            more.append((package, token))
    return more


def describe(url: str, known: str) -> str | None:
    """Returns a line about a vulnerability; None if it was withdrawn."""
    try:
        entry = _request(f"{url}/v1/vulns/{known}")
    except CouldNotLookError as error:
        # It is known all the same.
        return f"{known}: {error}"
    if entry.get("withdrawn"):
        return None
    names = [str(name) for name in (known, *(entry.get("aliases") or ()))]
    return f"{', '.join(names)}: {entry.get('summary') or 'no summary'}"


def _request(url: str, body: bytes | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, body, headers)  # noqa: S310  an operator chose it
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:  # noqa: S310  the same
            # An answer that is longer is cut off here, and so no JSON.
            answer = json.loads(reply.read(_LARGEST))
    except (OSError, HTTPException, ValueError) as error:
        raise CouldNotLookError(f"no answer from {url}: {error}") from error
    if not isinstance(answer, dict):
        raise CouldNotLookError(f"no answer from {url}: it is not an object")
    return answer


def main() -> int:
    """Looks, tells what it found, and returns the exit code."""
    url = os.environ.get("OSV_URL", _URL).rstrip("/")
    try:
        packages = locked()
        answers = ask(url, packages)
        lines = [
            f"{package}, {_where(package)}: {line}"
            for package, ids in answers.items()
            for known in sorted(ids)
            if (line := describe(url, known))
        ]
    except CouldNotLookError as error:
        print(f"vulnerabilities: could not look: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    if lines:
        print(f"vulnerabilities: {len(lines)} known", file=sys.stderr)
        return 1
    print(f"no known vulnerabilities in {len(packages)} packages; {url} answered for each of them")
    return 0


def _where(package: Package) -> str:
    """Says whether users install a package, too."""
    shipped = {(each.name, each.version) for each in locks.read(_SHIPPED)}
    mine = package.ecosystem == "Go" or (package.name, package.version) in shipped
    return "shipped" if mine else "development only"


if __name__ == "__main__":
    sys.exit(main())
