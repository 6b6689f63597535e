"""The customer's pages of the console, and a server whose policy goes by organization_claim.

Ann of acme and Bob of globex are administrators of one customer each. Zed's token names a customer
of whom the vendor has never heard.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

import keyfold
from console_site import Shown, Site, site, token_of
from fakes import FakeClock
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.residency import ResidencyPolicy
from served import Aws

POLICY: Final = """
[[grant]]
callers = ["jwt:https://issuer#vendor"]
roles = ["admin", "crypto"]
keys = [{ type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "ambient" }]

[[grant]]
callers = ["jwt:https://issuer#ann", "jwt:https://issuer#bob", "jwt:https://issuer#zed"]
roles = ["operator", "auditor"]
organization_claim = "org"
keys = [{ type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "ambient" }]

[[grant]]
callers = ["jwt:https://issuer#eve"]
roles = ["auditor"]
organization_claim = "org"
"""

PLACE: Final = "aws:kms:eu-west-1:111122223333:key/"
KEY: Final = f"arn:{PLACE}acme"


REGIONS: Final = ResidencyPolicy(geos=Geos({"EU": ("eu-central-1", "eu-west-1")}))


class Accounts(Aws):
    """A KMS in which each customer has an account of its own."""

    def account(self, key: RootKey) -> str:
        return key.uri.split(":")[4]


class House:
    """The console, the customer's KMS and the two customers.

    Attributes:
        console: The console.
        kms: The KMS.
    """

    def __init__(self, console: Site, kms: Aws) -> None:
        self.console = console
        self.kms = kms

    def visit(self, who: str = "ann", org: str = "acme") -> None:
        """Has somebody sign in."""
        self.console.visit(token_of(who, org=org))

    async def get(self, path: str) -> Shown:
        """Opens a page below /organizations."""
        return await self.console.get(f"/organizations/{path}")

    async def post(self, path: str, **fields: str) -> Shown:
        """Sends a form below /organizations."""
        return await self.console.post(f"/organizations/{path}", **fields)

    async def link(self, organization: str = "acme", name: str = "main", uri: str = KEY) -> None:
        """Links a key of a customer's, as the vendor does."""
        key = keyfold.KeySpec("AWS_KMS", uri)
        link = keyfold.KeyLink(organization, name, key, region="eu")
        await self.console.keyfold.create_key_link(link)

    async def enable(self, cluster: str, organization: str = "acme", link: str = "main") -> None:
        """Makes a cluster that uses a linked key."""
        spec = keyfold.RegionSpec("eu", key_link=link)
        await self.console.keyfold.enable(cluster, [spec], organization=organization)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Acme has a key in its account, and nothing of it is connected yet; Ann visits."""
    kms = Accounts(FakeClock())
    kms.create_key(f"{PLACE}acme")
    kms.create_key("aws:kms:eu-west-1:444455556666:key/globex")
    async with site(tmp_path, POLICY, kms={"AWS_KMS": kms}, regions=REGIONS) as console:
        for name in ("acme", "globex"):
            made = keyfold.Organization(name, cluster_patterns=(f"{name}-*",))
            await console.keyfold.create_organization(made)
        found = House(console, kms)
        found.visit()
        yield found


FORM: Final = {"type": "AWS_KMS", "uri": KEY, "principal": "", "region": "eu"}


async def test_a_key_is_connected_without_a_ticket(house: House) -> None:
    """Named, its policy shown, tested while the KMS refuses and then permits, and linked."""
    home = await house.get("acme")
    assert home.status == 200
    assert "No key is connected yet" in home.text
    assert "Connect your first key" in home.text
    providers = await house.get("acme/connect")
    assert "AWS KMS" in providers.text
    assert "Google" not in providers.text
    named = (await house.get("acme/connect?type=AWS_KMS")).text
    assert "Key ARN" in named
    assert "arn:aws:kms:*:*:key/* , which the service calls as its own identity" in named
    other = await house.get("acme/connect?type=GCP_CLOUD_KMS")
    assert "may not link keys of this provider" in other.text

    shown = await house.post("acme/connect", step="policy", **FORM)
    assert shown.status == 200
    assert "Key policy of the root key" in shown.text
    assert '"Principal": "keyfold"' in shown.text
    assert "Your vendor does this" in shown.text
    assert "You do this" in shown.text

    house.kms.deny(KEY, "unwrap")
    tried = await house.post("acme/connect", step="test", **FORM)
    assert re.findall(r'<li class="(good|bad|quiet)">', tried.body) == [
        *("good", "good", "good", "bad"),
    ]
    assert "Link this key" not in tried.text
    house.kms.allow(KEY, "unwrap")
    tried = await house.post("acme/connect", step="test", **FORM)
    assert "The key works." in tried.text
    assert "Link this key" in tried.text

    # What the script asks for until all is green has no page around it.
    part = await house.post("acme/connect", step="test", part="1", **FORM)
    assert "<html" not in part.body
    assert "The key works." in part.text

    linked = await house.post("acme/connect", step="link", key_link="main", **FORM)
    assert (linked.status, linked.location) == (
        303,
        "/organizations/acme/links/main?done=linked",
    )
    page = await house.get("acme/links/main?done=linked")
    assert "The key is linked." in page.text
    assert "Available" in page.text
    assert "Key policy of the root key" in (await house.post("acme/links/main/policy")).text
    assert "The key works." in (await house.post("acme/links/main/test")).text
    events = (await house.get("acme/events")).text
    assert "A key was linked" in events
    assert "by ann" in events


async def test_forms_say_what_is_wrong(house: House) -> None:
    """What is missing, or wrong for the server, stands beside its field; the rest is kept."""
    for fields, said in (
        ({"uri": ""}, "Fill in: Key ARN."),
        ({"region": ""}, "Fill in the region"),
        ({"geo": "EU"}, "a region or a geo"),
    ):
        shown = await house.post("acme/connect", step="policy", **(FORM | fields))
        assert shown.status == 422
        assert said in shown.text
        assert 'aria-invalid="true"' in shown.body
    shown = await house.post("acme/connect", step="policy", **(FORM | {"uri": "alias/x"}))
    assert "the uri must be an ARN" in shown.text
    assert 'id="uri-problem"' in shown.body
    assert 'value="alias/x"' in shown.body
    shown = await house.post("acme/connect", step="policy", **(FORM | {"principal": "arn:x"}))
    assert "KEY_NOT_GRANTED" in shown.text


async def test_a_link_that_is_refused_says_why(house: House) -> None:
    """Who links a key that stopped working sees which step fails, and nothing is linked."""
    house.kms.disable(KEY)
    shown = await house.post("acme/connect", step="link", key_link="main", **FORM)
    assert shown.status == 422
    assert "KEY_DISABLED" in shown.text
    assert 'class="bad"' in shown.body
    assert "No key is connected yet" in (await house.get("acme")).text


async def test_another_customer_looks_like_nobody(house: House) -> None:
    """Another customer's pages and forms answer as those of a customer who does not exist."""
    await house.link("globex", "globex-link", "arn:aws:kms:eu-west-1:444455556666:key/globex")
    await house.enable("globex-1", "globex", "globex-link")
    paths = (
        "",
        "/connect",
        "/links/globex-link",
        "/links/globex-link/replace",
        "/clusters/globex-1",
        "/events",
        "/usage",
    )
    for path in (*paths, "/what-if"):
        seen = [await house.get(f"{name}{path}") for name in ("globex", "nobody")]
        assert [one.status for one in seen] == [404, 404]
        assert _alike(seen[0], "globex") == _alike(seen[1], "nobody")
    forms = {
        "/connect": FORM | {"step": "link"},
        "/clusters/globex-1/revoke": {"typed": "globex-1"},
        "/clusters/globex-1/restore": {},
        "/clusters/globex-1/check": {},
        "/links/globex-link/unlink": {"typed": "globex-link"},
        "/links/globex-link/adopt": {"cluster": "globex-1", "region": "eu"},
        "/links/globex-link/test": {},
        "/links/globex-link/replace": {"step": "try", "uri": KEY},
        "/links/globex-link/policy": {},
    }
    for path, fields in forms.items():
        sent = [await house.post(f"{name}{path}", **fields) for name in ("globex", "nobody")]
        assert [one.status for one in sent] == [404, 404], path
        assert _alike(sent[0], "globex") == _alike(sent[1], "nobody")
    # Nor under one's own organization.
    own = await house.get("acme/clusters/globex-1")
    none = await house.get("acme/clusters/nobody-1")
    assert (own.status, none.status) == (404, 404)
    what = await house.get("acme/what-if?key=arn:aws:kms:eu-west-1:444455556666:key/globex")
    assert "globex-1" not in what.text
    for path in ("", "/events", "/usage"):
        assert "globex" not in (await house.get(f"acme{path}")).text


def _alike(shown: Shown, name: str) -> str:
    """Returns what a page says, without the trace and with another name for the customer."""
    return re.sub(r"\b[0-9a-f]{32}\b", "", shown.text).replace(name, "CUSTOMER")


async def test_a_new_customer_begins(house: House) -> None:
    """Before anybody made an organization, the one whose token names it connects its first key."""
    house.visit("zed", "zenith")
    home = await house.get("zenith")
    assert home.status == 200
    assert "Connect your first key" in home.text
    shown = await house.post("zenith/connect", step="test", **FORM)
    assert "The key works." in shown.text


async def test_a_key_that_the_customer_disabled(house: House) -> None:
    """The page says in words which key fails, since when, and with which command that ends."""
    await house.link()
    await house.enable("acme-1")
    assert "All keys in use work" in (await house.get("acme")).text
    house.kms.disable(KEY)
    checked = await house.post("acme/clusters/acme-1/check")
    assert "What your KMS said just now" in checked.text
    assert "KEY_DISABLED" in checked.text
    home = (await house.get("acme")).text
    assert "One key does not work and needs you" in home
    assert "What to do: If nobody meant to, enable the key" in home
    assert f"aws kms enable-key --region eu-west-1 --key-id {KEY}" in home
    assert "Your KMS refused a key" in (await house.get("acme/events?refused=1")).text
    house.kms.enable(KEY)
    assert "the key decrypts and encrypts" in (await house.post("acme/clusters/acme-1/check")).text
    assert "All keys in use work" in (await house.get("acme")).text


async def test_an_outage_is_not_a_refusal(house: House) -> None:
    """A KMS that is away says nothing about the key, and the page does not call it broken."""
    await house.link()
    await house.enable("acme-1")
    house.kms.disconnect(KEY)
    await house.post("acme/clusters/acme-1/check")
    home = (await house.get("acme")).text
    assert "Cannot reach your KMS" in home
    assert "This says nothing about your key" in home
    assert "does not work" not in home


async def test_revoke_and_restore(house: House) -> None:
    """The customer types the name to revoke, sees who has confirmed, and restores it alone."""
    await house.link()
    await house.enable("acme-1")
    wrong = await house.post("acme/clusters/acme-1/revoke", typed="acme-2")
    assert wrong.status == 422
    assert "Nothing was revoked" in wrong.text
    assert "data-live" not in wrong.body
    opened = await house.get("acme/clusters/acme-1/revoke")
    assert (opened.status, opened.location) == (303, "/organizations/acme/clusters/acme-1")
    assert await _state(house) == "ENABLED"

    gone = await house.post("acme/clusters/acme-1/revoke", typed="acme-1", reason="we leave")
    assert gone.status == 303
    assert await _state(house) == "REVOKED"
    after = await house.get(gone.location.removeprefix("/organizations/"))
    assert "Every server has confirmed the revocation" in after.text
    assert "Revoked" in after.text
    assert "we leave" in (await house.get("acme/events")).text
    assert "No key is in use" in (await house.get("acme")).text

    house.kms.disable(KEY)
    kept = await house.post("acme/clusters/acme-1/restore")
    assert kept.status == 409
    assert "eu stays revoked" in kept.text
    assert "KEY_DISABLED" in kept.text
    house.kms.enable(KEY)
    back = await house.post("acme/clusters/acme-1/restore", reason="we stay")
    assert (back.status, back.location) == (
        303,
        "/organizations/acme/clusters/acme-1?done=restored",
    )
    assert await _state(house) == "ENABLED"


async def test_a_server_that_has_not_confirmed(house: House) -> None:
    """While a server has not confirmed a revocation, the page says so, and when it stops."""
    await house.link()
    await house.enable("acme-1")
    house.console.server.add_silent_replica("silent", 300.0)
    gone = await house.post("acme/clusters/acme-1/revoke", typed="acme-1")
    shown = (await house.get(gone.location.removeprefix("/organizations/"))).text
    assert "1 of 2 servers have confirmed the revocation" in shown
    assert "at the latest in 4 minutes" in shown
    # Nobody else's revocation is shown, and no name that was made up.
    for name in ("operations/decision/99999", "nonsense"):
        page = await house.get(f"acme/clusters/acme-1?confirms={name}")
        assert (page.status, "confirmed" in page.text) == (200, False)


async def _state(house: House) -> str:
    status = await house.console.keyfold.get_status("acme-1")
    return str(status.regions[0].state)


async def test_a_cluster_takes_the_customers_key(house: House) -> None:
    """A cluster that has another key takes the linked one, which nobody can unlink then."""
    await house.link()
    house.kms.create_key(f"{PLACE}old")
    old = keyfold.RegionSpec("eu", keyfold.KeySpec("AWS_KMS", f"arn:{PLACE}old"))
    await house.console.keyfold.enable("acme-1", [old], organization="acme")
    page = await house.get("acme/links/main")
    assert "Available" in page.text
    assert "acme-1 in eu uses a key of its own" in page.text
    taken = await house.post("acme/links/main/adopt", cluster="acme-1", region="eu")
    assert (taken.status, taken.location) == (303, "/organizations/acme/links/main?done=adopted")
    page = await house.get("acme/links/main")
    assert "In use" in page.text
    assert "cannot be unlinked" in page.text
    refused = await house.post("acme/links/main/unlink", typed="main")
    assert refused.status == 422
    assert "KEY_LINK_IN_USE" in refused.text


async def test_a_key_for_a_geo(house: House) -> None:
    """A multi-Region key shows the region in which its replica is missing, and is linked once."""
    place = "aws:kms:eu-west-1:111122223333:key/mrk-1"
    house.kms.create_key(place)
    form = FORM | {"uri": f"arn:{place}", "region": "", "geo": "EU"}
    tried = await house.post("acme/connect", step="test", **form)
    assert "The key in each region" in tried.text
    assert "Does not work" in tried.text
    house.kms.create_key(place.replace("eu-west-1", "eu-central-1"))
    linked = await house.post("acme/connect", step="link", key_link="europe", **form)
    assert linked.status == 303
    page = await house.get("acme/links/europe")
    assert "The key in each region of EU" in page.text
    assert page.text.count("Yes") == 2


async def test_rows_that_somebody_edited(house: House) -> None:
    """An operator sees which of a customer's clusters nobody may use, and the others as well."""
    await house.link()
    for cluster in ("acme-1", "acme-2"):
        await house.enable(cluster)
    with closing(sqlite3.connect(house.console.server.store)) as store:
        store.execute("UPDATE clusters SET epoch = epoch + 1 WHERE name = 'acme-1'")
        store.commit()
    house.console.visit(token_of("vendor"))
    home = (await house.get("acme")).text
    assert "The vendor must look at one cluster" in home
    assert "The vendor must look at acme-1" in home
    assert "acme-2" in home


async def test_an_operator_sees_a_customers_pages(house: House) -> None:
    """Who may see all organizations sees each of them here, and what a customer sees."""
    await house.link()
    house.console.visit(token_of("vendor"))
    page = await house.get("acme")
    assert "All clusters" in page.text
    assert "main" in page.text
    # And mixes no two of them up.
    await house.link("globex", "main", "arn:aws:kms:eu-west-1:444455556666:key/globex")
    await house.enable("globex-1", "globex")
    for path, fields in (
        ("links/main/adopt", {"cluster": "globex-1", "region": "eu"}),
        ("clusters/globex-1/revoke", {"typed": "globex-1"}),
    ):
        sent = await house.post(f"acme/{path}", **fields)
        assert sent.status == 404
    assert (await house.get("nobody")).status == 404


async def test_another_key_takes_the_place_of_a_linked_one(house: House) -> None:
    """The new key is proven before anything moves; then all that uses the link has it."""
    await house.link()
    await house.enable("acme-1")
    assert "The key of now is" in (await house.get("acme/links/main/replace")).text
    path, new = "acme/links/main/replace", f"arn:{PLACE}new"
    shown = await house.post(path, step="policy", uri=new)
    assert "Key policy of the root key" in shown.text
    refused = await house.post(path, step="try", uri=new)
    assert refused.status == 422
    assert "KEY_NOT_FOUND" in refused.text
    house.kms.create_key(f"{PLACE}new")
    tried = await house.post(path, step="try", uri=new)
    assert "The new key works. 1 region of a cluster moves to it" in tried.text
    assert (await _key(house)) == KEY
    [name] = set(re.findall(r'name="name" value="([^"]+)"', tried.body))
    for _ in range(2):  # a form that is sent twice moves it once
        moved = await house.post(path, step="start", uri=new, name=name)
        assert moved.location == "/organizations/acme/links/main?done=moving"
    link = await house.console.keyfold.get_key_link("acme", "main")
    if link.operation:
        await house.console.keyfold.wait_operation(link.operation)
    assert "Moving" not in (await house.get("acme/links/main")).text
    assert (await _key(house)) == new
    left = (await house.get(f"acme/what-if?key={KEY}")).text
    assert "Safe to disable" in left


async def _key(house: House) -> str:
    return (await house.console.keyfold.get_status("acme-1")).regions[0].key_spec.uri


async def test_another_key_for_a_link_that_nothing_uses(house: House) -> None:
    """It takes no operation, and the link has the new key at once."""
    await house.link()
    house.kms.create_key(f"{PLACE}new")
    path, new = "acme/links/main/replace", f"arn:{PLACE}new"
    tried = await house.post(path, step="try", uri=new)
    assert "nothing has to move" in tried.text
    done = await house.post(path, step="start", uri=new)
    assert done.location == "/organizations/acme/links/main?done=replaced"
    assert new in (await house.get("acme/links/main")).text


async def test_unlink(house: House) -> None:
    """A link that nothing uses goes once its name was typed, and with no other name."""
    await house.link()
    wrong = await house.post("acme/links/main/unlink", typed="other")
    assert wrong.status == 422
    assert "Nothing was changed" in wrong.text
    gone = await house.post("acme/links/main/unlink", typed="main")
    assert (gone.status, gone.location) == (303, "/organizations/acme?done=unlinked")
    assert (await house.get("acme/links/main")).status == 404


async def test_what_if(house: House) -> None:
    """Before the customer disables a key, the page says what stops, when, and what resumes."""
    await house.link()
    house.kms.create_key(f"{PLACE}old")
    old = keyfold.RegionSpec("eu", keyfold.KeySpec("AWS_KMS", f"arn:{PLACE}old"))
    await house.console.keyfold.enable("acme-1", [old], organization="acme")
    await house.post("acme/links/main/adopt", cluster="acme-1", region="eu")
    question = await house.get("acme/what-if")
    assert f'value="{KEY}"' in question.body
    shown = (await house.get(f"acme/what-if?key={KEY}&action=DISABLE")).text
    assert "If you disable the key: acme-1 in eu cannot be read any more" in shown
    assert "Not safe to disable" in shown
    assert "resumes by itself" in shown
    left = (await house.get(f"acme/what-if?key=arn:{PLACE}old")).text
    assert "Nothing stops." in left
    assert "Safe to disable" in left
    assert "do not delete it before they are gone" in left


async def test_usage(house: House) -> None:
    """Uses are counted by day, by program and by call, and refused ones with their reason."""
    await house.link()
    await house.enable("acme-1")
    assert "Nobody has used your keys" in (await house.get("acme/usage")).text
    await house.console.keyfold.generate_data_key("acme-1", "eu")
    recorder = house.console.server.replica.usage_recorder
    async with asyncio.timeout(20):
        # A call is counted after it was answered.
        while "1 use," not in (await house.get("acme/usage")).text:
            await asyncio.sleep(0.02)
            await recorder.flush()
    for period in ("day", "week", "month", "nonsense"):
        shown = (await house.get(f"acme/usage?period={period}")).text
        assert "1 use, 0 refused or failed" in shown
        assert "GenerateDataKey" in shown
        assert "jwt:https://issuer#vendor" in shown


async def test_who_may_only_look(house: House) -> None:
    """An auditor sees all and is offered nothing, and the server refuses what it sends anyway."""
    await house.link()
    await house.enable("acme-1")
    house.visit("eve")
    page = await house.get("acme/clusters/acme-1")
    assert page.status == 200
    assert "not revoke" in page.text
    assert 'name="typed"' not in page.body
    assert "Connect a key</a>" not in (await house.get("acme")).body.split("<main")[1]
    refused = await house.post("acme/clusters/acme-1/revoke", typed="acme-1")
    assert refused.status == 422
    assert "NOT_ALLOWED" in refused.text
    assert await _state(house) == "ENABLED"


async def test_text_of_others_is_only_text(house: House) -> None:
    """A description that looks like markup is shown as it was written."""
    key = keyfold.KeySpec("AWS_KMS", KEY)
    link = keyfold.KeyLink("acme", "main", key, region="eu", description="<script>x</script>")
    await house.console.keyfold.create_key_link(link)
    for path in ("acme", "acme/links/main"):
        body = (await house.get(path)).body
        assert "<script>x" not in body
        assert "&lt;script&gt;x&lt;/script&gt;" in body
