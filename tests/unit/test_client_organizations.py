"""The client's calls of organizations and key links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import keyfold
from keyfold import DefaultKey, KeyLink, KeyLinkUse, KeySpec, Organization, RegionSpec
from served import Served, served, served_here

KEY = KeySpec("LOCAL", "local:a")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod of organization acme."""
    with served(tmp_path) as running:
        yield running


def test_organizations(server: Served) -> None:
    """Each method sends what it is given, and reads what the server answers."""
    with keyfold.Client(server.target) as client:
        acme = Organization("acme", "Acme", DefaultKey.LINKED, ("a-*", "prod"), 9, 8)
        made = client.create_organization(acme, request_id="r")
        assert (made.organization.default_key, made.replayed) == (DefaultKey.LINKED, False)
        assert client.create_organization(acme, request_id="r").replayed
        found = client.get_organization("acme")
        assert found == made.organization
        assert (found.cluster_patterns, found.max_clusters, found.cluster_count) == (
            ("a-*", "prod"),
            9,
            1,
        )
        assert [one.organization for one in client.list_organizations(page_size=1)] == ["acme"]
        changed = client.update_organization(
            Organization("acme"), fields=["max_clusters"], etag=found.etag
        )
        assert changed.organization.max_clusters == 0
        assert changed.organization.display_name == "Acme"
        with pytest.raises(keyfold.EtagMismatchError):
            client.update_organization(Organization("acme", max_clusters=1), etag=found.etag)
        with pytest.raises(keyfold.OrganizationNotEmptyError):
            client.delete_organization("acme")
        client.create_organization(Organization("empty"))
        assert not client.delete_organization("empty").replayed
        with pytest.raises(keyfold.OrganizationNotFoundError):
            client.get_organization("empty")


def test_what_an_organization_holds_is_sent_only_if_it_is_named(server: Served) -> None:
    """Whoever reads an organization and writes it back does not change what it holds."""
    with keyfold.Client(server.target) as client:
        client.create_organization(Organization("acme"))
        ours = Organization("acme", holders=("AWS_KMS:111122223333",))
        assert client.update_organization(ours, fields=["holders"]).organization.holders
        client.update_organization(Organization("acme", max_clusters=2, holders=("AWS_KMS:x",)))
        assert client.get_organization("acme").holders == ours.holders
        [listed] = client.list_organizations()
        assert listed.holders == ()
        client.update_organization(Organization("acme"), fields=["holders"])
        assert client.get_organization("acme").holders == ()


def test_key_links(server: Served) -> None:
    """A link is made, used, read, changed and deleted, with what the contract says of each."""
    with keyfold.Client(server.target) as client:
        link = KeyLink("acme", "main", KEY, region="eu", description="data")
        tried = client.create_key_link(link, validate_only=True)
        assert tried.key_link.key_spec == KEY
        made = client.create_key_link(link).key_link
        assert (made.use, made.users, made.region) == (KeyLinkUse.AVAILABLE, (), "eu")
        client.rotate("prod", [RegionSpec("eu", key_link="main")])
        [status, _] = client.get_status("prod").regions
        assert (status.key_link, status.key_owner) == ("main", "ORGANIZATION")
        found = client.get_key_link("acme", "main")
        assert (found.use, found.users_count) == (KeyLinkUse.IN_USE, 1)
        assert [(user.cluster, user.region) for user in found.users] == [("prod", "eu")]
        with pytest.raises(keyfold.KeyLinkInUseError):
            client.delete_key_link("acme", "main")
        client.rotate("prod", [RegionSpec("eu", KEY)])
        changed = client.update_key_link(KeyLink("acme", "main", description="other"))
        assert changed.key_link.description == "other"
        assert [one.key_link for one in client.list_key_links("acme", page_size=1)] == ["main"]
        client.delete_key_link("acme", "main", etag=changed.key_link.etag)
        assert list(client.list_key_links("acme")) == []


async def test_the_asyncio_client_has_them_too(tmp_path: Path) -> None:
    """The same calls, awaited."""
    async with served_here(tmp_path) as server, keyfold.AsyncClient(server.target) as client:
        await client.create_organization(Organization("acme"))
        await client.create_key_link(KeyLink("acme", "main", KEY, region="eu"))
        names = [one.organization async for one in client.list_organizations()]
        links = [one.key_link async for one in client.list_key_links("acme")]
        assert (names, links) == (["acme"], ["main"])


def test_words_that_this_client_does_not_know() -> None:
    """A rule or a use of a later release is UNSPECIFIED, and no error."""
    assert DefaultKey.from_message(99) is DefaultKey.UNSPECIFIED  # type: ignore[arg-type]
    assert KeyLinkUse.from_message(99) is KeyLinkUse.UNSPECIFIED  # type: ignore[arg-type]
