"""The providers, from the settings to the catalog.

The providers' entries say which providers exist and which settings each reads. This module must not
know a provider.
"""

from __future__ import annotations

import re
from typing import Final

from keyfold_server.domain.cluster import MAX_REGIONS
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.key_names import KeyNames
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.seats import Seat, SeatPool
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.providers.catalog import Catalog, installed
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.settings import Settings
from keyfold_server.settings.regions import GEO

_TYPED: Final = re.compile(r"(?P<type>[A-Z][A-Z0-9_]*) +(?P<uri>.+)")
"""A PLATFORM key with its type before its uri."""


def catalog(settings: Settings) -> Catalog:
    """Returns the catalog of the installed providers, each with what the settings hold for it.

    Raises:
        SetupError: Two packages claim the same, the settings have a table of a provider that is
            not installed, or a table cannot work.
    """
    entries = installed()
    known = sorted(entry.table for entry in entries.values() if entry.table)
    unknown = sorted(settings.providers.keys() - set(known))
    # A package that does not load does not say which table is its own.
    if unknown and all(entry.loads for entry in entries.values()):
        others = "".join(
            f"; {type_} reads {entry.other_table}"
            for type_, entry in sorted(entries.items())
            if entry.other_table
        )
        raise SetupError(
            f"[providers.{unknown[0]}] belongs to no installed provider; the tables are: "
            f"{', '.join(known)}{others}"
        )

    def setup(entry: Entry) -> Setup:
        return Setup(
            table=settings.providers.get(entry.table, {}),
            allowed_endpoints=tuple(settings.allowed_endpoints),
            settings={name: getattr(settings, name) for name in entry.settings},
        )

    return Catalog(entries, setup, platform=bool(settings.platform_key))


def served_regions(settings: Settings) -> ServedRegions:
    """Returns the regions that the replica serves, and where the others are served."""
    return ServedRegions.of(settings.serves, settings.served_at)


def key_names(settings: Settings, providers: Catalog) -> KeyNames:
    """Returns what key uris mean, and PLATFORM: the vendor's own keys in the settings.

    The platform key of a region that the replica does not serve may need what only the replicas of
    that region have. Such a key is nobody's PLATFORM here. It stays one of the vendor's own as it
    is written, so that its users learn nothing of one another here either (protocol C7).

    Raises:
        SetupError: A uri belongs to no provider, or is not one that its provider takes.
    """
    served = served_regions(settings)

    def key(text: str) -> RootKey:
        typed = _TYPED.fullmatch(text)
        type_ = typed["type"] if typed else providers.type_of(text)
        root = RootKey(type_, typed["uri"] if typed else text)
        return providers.provider(root.type).canonical(root)

    given = settings.platform_key
    uris = given if isinstance(given, dict) else {}
    whole = given if isinstance(given, str) else None
    elsewhere: list[RootKey] = []
    try:
        keys = {}
        for region, uri in uris.items():
            try:
                keys[region] = key(uri)
            except KeyfoldError:
                if served.serves(region):
                    raise
                typed = _TYPED.fullmatch(uri)
                elsewhere.append(
                    RootKey(typed["type"], typed["uri"]) if typed else RootKey("", uri)
                )
        default = None if whole is None else key(whole)
    except KeyfoldError as error:
        raise SetupError(f"KEYFOLD_PLATFORM_KEY: {error.message}") from None
    every = (*keys.values(), default, *elsewhere)
    return KeyNames(
        platform=lambda region: keys.get(region, default),
        platform_keys=tuple(dict.fromkeys(key for key in every if key is not None)),
        type_of=providers.type_of,
    )


def regions(settings: Settings, providers: Catalog) -> ResidencyPolicy:
    """Returns the regions of the settings, and whether keys must be in them.

    Raises:
        SetupError: The settings name a provider that does not exist, so that nothing would check
            its keys, or a geo that no cluster can have.
    """
    table = {
        region: {type_: names for type_, names in places.items() if type_ != GEO}
        for region, places in settings.regions.items()
    }
    unknown = {type_ for places in table.values() for type_ in places}
    unknown -= set(providers.types())
    if unknown:
        raise SetupError(
            f"KEYFOLD_REGIONS: there is no provider {', '.join(sorted(unknown))}; use one of "
            f"{', '.join(providers.types())}"
        )
    geos = Geos.of({region: places.get(GEO, ()) for region, places in settings.regions.items()})
    for geo, members in geos.table.items():
        if len(members) > MAX_REGIONS:
            raise SetupError(
                f"KEYFOLD_REGIONS: geo {geo} has {len(members)} regions, and a cluster at most "
                f"{MAX_REGIONS}; divide it"
            )
    return ResidencyPolicy(table, required=settings.residency == "require", geos=geos)


def seats(settings: Settings, providers: Catalog) -> SeatPool:
    """Returns the seats of the settings.

    Raises:
        SetupError: A seat is for a provider that does not exist, or for a region that the settings
            do not have among their regions.
    """
    tables = settings.seats or []
    for seat in tables:
        if seat.provider not in providers.types():
            raise SetupError(
                f"KEYFOLD_SEATS: there is no provider {seat.provider} for seat {seat.name}; use "
                f"one of {', '.join(providers.types())}"
            )
        if settings.regions and seat.region not in settings.regions:
            raise SetupError(
                f"KEYFOLD_SEATS: the settings have regions, and {seat.region} of seat {seat.name} "
                f"is not one of them; write a table [regions.{seat.region}] if it is yours"
            )
    return SeatPool(
        tuple(Seat(s.name, s.provider, s.region, s.auth_principal, s.principals) for s in tables)
    )
