"""A customer connects a key at AWS from the text of the console's pages alone.

The counterpart's strict evaluator holds each call against the key's policy and the role's trust and
permissions. The test attaches exactly what stands on the page to copy, where the page says so.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import keyfold
from console_site import Shown, site, token_of
from contract.aws_kms import AwsCounterpart
from contract.counterparts import NotInstalledError, without

POLICY: Final = """
[[grant]]
callers = ["jwt:https://issuer#vendor"]
roles = ["admin"]
keys = [{ type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "arn:aws:iam::*:role/*" }]

[[grant]]
callers = ["jwt:https://issuer#*"]
roles = ["operator", "auditor"]
organization_claim = "org"
keys = [{ type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "arn:aws:iam::*:role/*" }]
"""

_STATEMENT: Final = re.compile(
    r'<span class="pill[^"]*">(?P<who>[^<]*)</span>.*?<code class="long">(?P<where>.*?)</code>'
    r".*?<pre[^>]*><code>(?P<text>.*?)</code></pre>",
    re.DOTALL,
)


@dataclass(frozen=True)
class Copied:
    """A statement as a person copies it from the page."""

    attach_to: str
    text: str
    by_vendor: bool


def _copied(page: Shown) -> list[Copied]:
    """Returns the statements of a page, in their order."""
    part = page.body.partition('id="policy"')[2].partition('id="proof"')[0]
    return [
        Copied(
            html.unescape(found["where"]),
            html.unescape(found["text"]),
            found["who"] == "Your vendor does this",
        )
        for found in _STATEMENT.finditer(part)
    ]


@pytest.fixture
def there(tmp_path: Path) -> Iterator[AwsCounterpart]:
    """The customer's account at AWS, and the vendor's."""
    try:
        made = AwsCounterpart(tmp_path)
    except NotInstalledError as error:
        without(error)
    yield made
    made.close()


async def test_what_the_page_says_to_attach_is_enough(
    there: AwsCounterpart, tmp_path: Path
) -> None:
    """Before it is attached the test fails, after it all steps are green, and the key is in use."""
    key = there.create_key()
    there.attach(key, ())
    folder = tmp_path / "server"
    folder.mkdir()
    async with site(folder, POLICY, kms={"AWS_KMS": there.provider}) as console:
        made = keyfold.Organization("acme", cluster_patterns=("acme-*",))
        await console.keyfold.create_organization(made)
        console.visit(token_of("ann", org="acme"))
        form = {"type": "AWS_KMS", "uri": key.uri, "principal": key.principal, "region": "eu"}
        page = await console.post("/organizations/acme/connect", step="policy", **form)
        statements = _copied(page)
        assert len(statements) >= 3
        assert "keyfold:organization=acme" in page.text
        red = await console.post("/organizations/acme/connect", step="test", **form)
        assert 'class="bad"' in red.body
        there.attach(key, statements)
        green = await console.post("/organizations/acme/connect", step="test", **form)
        assert "The key works." in green.text
        linked = await console.post(
            "/organizations/acme/connect", step="link", key_link="main", **form
        )
        assert linked.status == 303
        spec = keyfold.RegionSpec("eu", key_link="main")
        enabled = await console.keyfold.enable("acme-1", [spec], organization="acme")
        assert enabled.status.regions[0].health is keyfold.Health.HEALTHY
