"""A customer's first page: whether all keys work, what needs somebody, its keys and clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from keyfold import ClusterStatus, KeyLink, State
from keyfold.models.status import RegionStatus
from keyfold_console.pages.organizations import plain
from keyfold_console.pages.organizations.frame import MANY, everything, framed, shown
from keyfold_console.pages.organizations.providers import title_of

_PATH: Final = "/organizations/{organization}"

_ORDER: Final = (plain.BAD, plain.WARN, plain.QUIET, plain.GOOD)


@dataclass(frozen=True, slots=True)
class Place:
    """A region of a cluster, as the customer sees it.

    Attributes:
        cluster: The cluster's name.
        region: The region's status.
        plain: Its condition in words.
        remedy: The command that ends a refusal; empty: none is sure.
    """

    cluster: str
    region: RegionStatus
    plain: plain.Plain
    remedy: str

    @property
    def key_from(self) -> str:
        """Where the key comes from, in a few words."""
        region = self.region
        if region.key_link:
            return f"your key {region.key_link}"
        if region.key_owner == "PLATFORM":
            return "your vendor's own key"
        return f"a key of its own in {title_of(region.key_spec.type)}"


def places(clusters: Iterable[ClusterStatus]) -> list[Place]:
    """Returns the regions of clusters, what is worst first."""
    found = [
        Place(cluster.cluster, region, plain.condition(region), plain.remedy(region))
        for cluster in clusters
        for region in cluster.regions
    ]
    return sorted(found, key=lambda place: _ORDER.index(place.plain.kind))


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [web.get(_PATH, home)]


async def home(request: web.Request) -> web.Response:
    """Shows the page."""
    frame = await framed(request, "keys")
    links, clusters = await everything(request, frame.name)
    found = places(clusters.items)
    more = bool(clusters.next or links.next)
    return await shown(
        request,
        frame,
        "home.html",
        verdict=_verdict(found, links.items, len(clusters.distrusted)),
        urgent=[place for place in found if place.plain.kind in {plain.BAD, plain.WARN}],
        links=[(link, _worst(found, link)) for link in links.items],
        distrusted=clusters.distrusted,
        clusters=[
            (cluster, places([cluster]))
            for cluster in sorted(clusters.items, key=lambda one: one.cluster)
        ],
        more=f"Only the first {MANY} keys and clusters are shown." if more else "",
        title_of=title_of,
        can_revoke=frame.may("Revoke"),
    )


def _worst(found: Iterable[Place], link: KeyLink) -> plain.Plain | None:
    """Returns the worst condition of the regions that use a link; None: none does."""
    return next(_of_link(found, link), None)


def _of_link(found: Iterable[Place], link: KeyLink) -> Iterator[plain.Plain]:
    for place in found:
        if place.region.key_link == link.key_link:
            yield place.plain


@dataclass(frozen=True, slots=True)
class Verdict:
    """All keys in one sentence.

    Attributes:
        kind: As in `Plain`.
        word: The sentence.
        beside: A second one; empty: nothing more is to say.
    """

    kind: str
    word: str
    beside: str


def _verdict(found: list[Place], links: tuple[KeyLink, ...], distrusted: int) -> Verdict:
    bad = sum(place.plain.kind == plain.BAD for place in found)
    warn = sum(place.plain.kind == plain.WARN for place in found)
    revoked = sum(place.region.state is State.REVOKED for place in found)
    off = f"{_count(revoked)} revoked." if revoked else ""
    if bad:
        needs = "does not work and needs you" if bad == 1 else "do not work and need you"
        return Verdict(plain.BAD, f"{_count(bad)} {needs}", off)
    if distrusted:
        which = "one cluster" if distrusted == 1 else f"{distrusted} clusters"
        return Verdict(plain.BAD, f"The vendor must look at {which}", off)
    if warn:
        needs = "needs a look" if warn == 1 else "need a look"
        return Verdict(plain.WARN, f"{_count(warn)} {needs}", off)
    if any(place.region.state is State.ENABLED for place in found):
        return Verdict(plain.GOOD, "All keys in use work", off)
    return _unused(found, links, off)


def _unused(found: list[Place], links: tuple[KeyLink, ...], off: str) -> Verdict:
    if found:
        return Verdict(plain.QUIET, "No key is in use", off)
    if links:
        said = "They are ready, and protect your data as soon as your vendor gives you a cluster."
        return Verdict(plain.GOOD, "Your keys are connected", said)
    return Verdict(plain.QUIET, "No key is connected yet", "")


def _count(number: int) -> str:
    return "One key" if number == 1 else f"{number} keys"
