"""A console in front of a real server, both of this process, as its visitors reach them.

async with site(folder) as console:                # development: nobody needs a token
    shown = await console.get("/clusters")
async with site(folder, POLICY) as console:        # each visitor brings a token
    console.visit(token_of("vendor"))
    shown = await console.post("/clusters/prod/revoke", typed="prod")
"""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import CookieJar
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

import callers
import keyfold
from in_process import InProcess, running
from keyfold_console.app import build
from keyfold_console.settings import Settings
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.access.tokens.verifier import claim_of
from keyfold_server.domain.errors import CallerCredentialError
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Credential, Identity
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.clock import SystemClock

ISSUER: Final = "https://issuer"

POLICY: Final = """
[[grant]]
callers = ["jwt:https://issuer#vendor"]
roles = ["admin"]
keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]

[[grant]]
callers = ["jwt:https://issuer#auditor"]
roles = ["auditor"]

[[grant]]
callers = ["jwt:https://issuer#customer-*"]
roles = ["operator", "auditor"]
organization_claim = "org"
keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]
"""
"""A vendor's administrator and auditor, and the customers' administrators."""


def token_of(subject: str, *, lasts: float = 3_600, **claims: Any) -> str:
    """Returns a token of a visitor. Its signature is nobody's, and the server does not look."""
    said = {"iss": ISSUER, "sub": subject, "exp": int(time.time() + lasts), **claims}
    parts = ({"alg": "none"}, said, {"signature": "none"})
    texts = (json.dumps(part).encode() for part in parts)
    return ".".join(base64.urlsafe_b64encode(text).decode().rstrip("=") for text in texts)


class Issuer:
    """Believes every token until it ends or is withdrawn: checking them is not what is tested.

    Attributes:
        withdrawn: Whether it believes none any more.
    """

    def __init__(self) -> None:
        self.withdrawn = False

    def verify(
        self, token: str, now: float, claims: frozenset[str], *, final: bool = False
    ) -> Credential:
        said = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        if self.withdrawn or found["exp"] < now:
            raise CallerCredentialError("the token has expired; get a new one")
        read = tuple(claim_of(found, one) for one in sorted(claims))
        identity = Identity((f"jwt:{found['iss']}#{found['sub']}",), "token", read)
        return Credential(identity, 0, found["exp"])

    async def refresh(self) -> None:
        raise AssertionError("its keys never change")


@dataclass(frozen=True)
class Shown:
    """A response.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: The body as it is.
    """

    status: int
    headers: dict[str, str]
    body: str

    @property
    def text(self) -> str:
        """What a person reads: the text without markup, with single spaces."""
        bare = re.sub(r"<(head|svg).*?</\1>|<[^>]*>", " ", self.body, flags=re.DOTALL)
        return " ".join(html.unescape(bare).split())

    @property
    def location(self) -> str:
        """Where it leads."""
        return self.headers.get("Location", "")


class Site:
    """A visitor's browser, the console and the server.

    Attributes:
        server: The server.
        keyfold: A client of the server that may do everything in development.
        browser: The browser, which keeps cookies.
        issuer: Who makes tokens.
    """

    def __init__(
        self, server: InProcess, client: keyfold.AsyncClient, browser: Any, issuer: Issuer
    ) -> None:
        self.server = server
        self.keyfold = client
        self.browser: TestClient[Any, Any] = browser
        self.issuer = issuer

    def visit(self, token: str) -> None:
        """Has signed in with a token."""
        self.browser.session.cookie_jar.update_cookies(
            {"keyfold": token}, self.browser.make_url("")
        )

    def kept(self) -> str:
        """Returns the token that the browser keeps; empty: none."""
        found = self.browser.session.cookie_jar.filter_cookies(self.browser.make_url(""))
        return found["keyfold"].value if "keyfold" in found else ""

    async def get(self, path: str, **headers: str) -> Shown:
        """Opens a page, and follows no redirect."""
        return await self._ask("GET", path, headers={**headers})

    async def post(self, path: str, **fields: str) -> Shown:
        """Sends a form from a page of the console."""
        headers = {"Sec-Fetch-Site": "same-origin"}
        return await self._ask("POST", path, headers=headers, data=fields)

    async def send(self, path: str, headers: dict[str, str], **fields: str) -> Shown:
        """Sends a form with these headers alone."""
        return await self._ask("POST", path, headers=headers, data=fields)

    async def _ask(self, method: str, path: str, **options: Any) -> Shown:
        url = URL(path, encoded=True)
        async with self.browser.request(method, url, allow_redirects=False, **options) as answer:
            return Shown(answer.status, dict(answer.headers), await answer.text())


@asynccontextmanager
async def site(
    folder: Path,
    policy: str | None = None,
    kms: Mapping[str, KeyProvider] | None = None,
    regions: ResidencyPolicy | None = None,
    served: ServedRegions | None = None,
    **settings: Any,
) -> AsyncIterator[Site]:
    """Serves on the event loop of the test until the block ends.

    Args:
        folder: An empty folder.
        policy: The server's policy file, under which each call needs a token; None: development.
        kms: Further KMSs of the server, by type.
        regions: The places of the vendor's regions, and its geos.
        served: The regions that the server serves; every region by default.
        **settings: The console's settings.
    """
    others = {name: partial(_itself, each) for name, each in (kms or {}).items()}
    issuer = Issuer()
    who = Callers(callers.POLICIES, callers.LOCAL, SystemClock())
    if policy is not None:
        policies: Any = CachedPolicy(parse(policy, "policy.toml"))
        policies.believes = lambda _: False
        who = Callers(policies, None, SystemClock(), tokens=issuer)
    places = regions or ResidencyPolicy()
    async with running(
        folder,
        who=who,
        transport="grpc",
        others=others,
        regions=places,
        served=served or ServedRegions(),
    ) as server:
        own: Any = None if policy is None else lambda: token_of("vendor")
        async with keyfold.AsyncClient(server.target, token=own) as client:
            app = build(replace(Settings(target=server.target), **settings))
            jar = CookieJar(unsafe=True)  # it keeps cookies of 127.0.0.1, too
            async with TestClient(TestServer(app), cookie_jar=jar) as browser:
                yield Site(server, client, browser, issuer)


def _itself(kms: KeyProvider) -> KeyProvider:
    return kms


async def enable(
    console: Site, cluster: str, *regions: str, organization: str = "", key: str = ""
) -> None:
    """Makes a cluster, and its root key `fake:KEY` if it is missing.

    Args:
        console: The site.
        cluster: The cluster's name.
        regions: Its regions; `eu` if there is none.
        organization: Its organization.
        key: The root key's name; the cluster's by default.
    """
    name = key or cluster
    if f"fake:{name}" not in console.server.provider.uris():
        console.server.provider.create_key(name)
    spec = keyfold.KeySpec("FAKE", f"fake:{name}")
    specs = [keyfold.RegionSpec(region, spec) for region in regions or ("eu",)]
    await console.keyfold.enable(cluster, specs, organization=organization)
