"""Builders of organizations, key links and changes of them, with defaults."""

from __future__ import annotations

from dataclasses import replace

from builders import NOW, an_event
from keyfold_server.domain.changes import RequestKey
from keyfold_server.domain.cluster import Region
from keyfold_server.domain.key_links import KeyLink
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.organization_changes import (
    DecideOrganization,
    OrganizationChange,
    created,
    link_created,
)
from keyfold_server.domain.organizations import DefaultKey, OrganizationView, Settings
from keyfold_server.domain.ports import Store

LINKED = Settings(default_key=DefaultKey.LINKED)


def a_link(
    name: str = "main", region: str = "eu", *, organization: str = "org", uri: str = "local:one"
) -> KeyLink:
    """Makes a link for a region."""
    spec = KeySpec("LOCAL", uri)
    return KeyLink(organization, name, "", region, "", spec, (region,), 1, NOW, NOW)


def using(region: Region, link: str = "main") -> Region:
    """Returns a region that uses a link."""
    return replace(region, link=link)


def a_change(
    decide: DecideOrganization, *, organization: str = "org", request: RequestKey | None = None
) -> OrganizationChange:
    """Makes a change of an organization."""
    event = replace(an_event("rpc:organization:create"), organization=organization)
    return OrganizationChange(organization, decide, event, request)


def organized(
    store: Store, settings: Settings = LINKED, *, organization: str = "org", links: int = 1
) -> OrganizationView:
    """Makes an organization, with links for `eu`, `eu-1` and so on."""
    done = store.change_organization(a_change(created(settings, NOW), organization=organization))
    for number in range(links):
        name, region = ("main", "eu") if not number else (f"main-{number}", f"eu-{number}")
        link = a_link(name, region, organization=organization)
        change = a_change(link_created(link, NOW), organization=organization)
        done = store.change_organization(change)
    return done
