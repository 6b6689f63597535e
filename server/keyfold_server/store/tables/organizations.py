"""An organization's rows, written and read; nobody uses a row before its MAC is verified.

The organization's own row carries a digest over the MACs of the rows of its key links and holders,
and equals the newest decision about the organization in the log, as a cluster's own row does
(`clusters`). An organization without a row is one that nobody made or that was deleted: if the log
says that it has one, somebody took the row away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CompoundSelect, Select, cast, func, null, select, union_all

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.key_links import KeyLink, Move
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.log import Floor
from keyfold_server.domain.organizations import DefaultKey, Organization, Settings
from keyfold_server.store import seal as seals
from keyfold_server.store.database.trip import Step, looking_for, one_of
from keyfold_server.store.schema import Cells, holders, key_links, log, organizations
from keyfold_server.store.tables import options
from keyfold_server.store.tables.log import ORGANIZATION, organization_floor

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

    from keyfold_server.store.seal import Seal

_LINK: Final = len(organizations.columns)
_HOLDER: Final = _LINK + len(key_links.columns)
_ENTRY: Final = _HOLDER + len(holders.columns)
_CHILDREN: Final = list(organizations.columns).index(organizations.c.children)
_KEY_ID: Final = list(organizations.columns).index(organizations.c.service_key_id)

_PAGE: Final = 500
"""Organizations that are read at a time."""

_newest: Final = log.alias("newest_of_organization")
_every: Final = log.alias("every_of_organization")


@dataclass(frozen=True, slots=True)
class StoredOrganization:
    """An organization, and its rows.

    Attributes:
        organization: The organization.
        own: Its own row, with its MAC; None: it has none.
        links: The rows of its key links, by name.
        held: The rows of its holders.
    """

    organization: Organization
    own: Cells | None = None
    links: Mapping[str, Cells] = field(default_factory=dict)
    held: Mapping[Holder, Cells] = field(default_factory=dict)

    @property
    def floor(self) -> Floor:
        """The floor that its own row is; without a row, that of an organization which has none."""
        mac = b"" if self.own is None else self.own[-1]
        return Floor(b"", self.organization.version, 0, mac)


def floor_name(name: str) -> str:
    """Returns the name under which the floor of an organization is kept in memory.

    No cluster has such a name.
    """
    return f"organization:{name}"


def locking(names: Sequence[str]) -> list[Step]:
    """Returns the steps that lock the own rows of some organizations, in their order."""
    return looking_for(_locking, sorted(names))


@cache
def _locking(count: int) -> Select[Any]:
    own = select(organizations.c.name).where(one_of(organizations.c.name, count))
    return own.order_by(organizations.c.name).with_for_update()


def reading(names: Sequence[str]) -> list[Step]:
    """Returns the steps that read some organizations; `of` takes the rows.

    One statement reads rows and log, so that both are of one moment.
    """
    return looking_for(_reading, names)


@cache
def _reading(count: int) -> CompoundSelect[Any]:
    rows = (
        select(*organizations.c, *key_links.c, *_nothing(holders, log))
        .outerjoin(key_links, key_links.c.organization == organizations.c.name)
        .where(one_of(organizations.c.name, count))
    )
    held = select(*_nothing(organizations, key_links), *holders.c, *_nothing(log)).where(
        one_of(holders.c.organization, count)
    )
    nothing = _nothing(organizations, key_links, holders)
    decided = select(*nothing, *_newest.c).where(
        one_of(_newest.c.organization, count),
        *_is_own(_newest),
        _newest.c.number
        == select(func.max(_every.c.number))
        .where(_every.c.organization == _newest.c.organization, *_is_own(_every))
        .correlate(_newest)
        .scalar_subquery(),
    )
    return union_all(rows, held, decided)


def _nothing(*tables: Table) -> list[ColumnElement[Any]]:
    """Returns NULL in place of each column of some tables; each has a type, for PostgreSQL."""
    return [cast(null(), column.type) for table in tables for column in table.columns]


def _is_own(entry: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Returns the conditions on an entry that decides about an organization itself."""
    return entry.c.cluster.is_(None), entry.c.version.is_not(None)


def of(
    names: Iterable[str], found: Iterable[Cells], seal: Seal
) -> dict[str, StoredOrganization | RowNotAuthenticError]:
    """Returns organizations in the rows that `reading` returned, by name.

    One whose rows are not authentic, or are not those of its newest decision, is replaced by its
    error. One without rows is one with the defaults.
    """
    own: dict[str, Cells] = {}
    links: dict[str, dict[str, Cells]] = {}
    held: dict[str, dict[Holder, Cells]] = {}
    entries: dict[str, Cells] = {}
    for cells in found:
        holder, entry = cells[_HOLDER:_ENTRY], cells[_ENTRY:]
        if holder[0] is not None:
            held.setdefault(holder[0], {})[Holder(*holder[1:3])] = holder
            continue
        if cells[0] is None:
            entries[entry[ORGANIZATION]] = entry
            continue
        own[cells[0]] = cells[:_LINK]
        link = cells[_LINK:_HOLDER]
        if link[0] is not None:
            links.setdefault(cells[0], {})[link[1]] = link
    return {
        name: _verified(
            name,
            own.get(name),
            links.get(name, {}),
            held.get(name, {}),
            entries.get(name),
            seal,
        )
        for name in names
    }


def _verified(
    name: str,
    own: Cells | None,
    links: Mapping[str, Cells],
    held: Mapping[Holder, Cells],
    entry: Cells | None,
    seal: Seal,
) -> StoredOrganization | RowNotAuthenticError:
    try:
        decided = None
        if entry is not None:
            seal.check("log", entry)
            decided = organization_floor(entry)
        if own is None:
            version = 0 if decided is None else decided[1].version
            stored = StoredOrganization(Organization(name, version=version))
            return stored if decided in (None, (name, stored.floor)) else not_authentic(name)
        seal.check("organizations", own)
        for link in links.values():
            seal.check("key_links", link)
        for holder in held.values():
            seal.check("holders", holder)
    except RowNotAuthenticError:
        return not_authentic(name)
    if own[_CHILDREN] != _digest(links, held) or own[_KEY_ID] != seal.service_key_id:
        return not_authentic(name)
    stored = StoredOrganization(_decoded(own, links, held), own, links, held)
    return stored if decided == (name, stored.floor) else not_authentic(name)


def not_authentic(name: str) -> RowNotAuthenticError:
    """Returns the error about an organization; it names no contents."""
    return RowNotAuthenticError(
        f"the rows of organization {name} are not those that Keyfold wrote last, or are gone: "
        "somebody else wrote the store, or a newer release did; restore it from a backup, or start "
        "that release"
    )


def every(connection: Connection, seal: Seal) -> Iterator[StoredOrganization]:
    """Yields every organization that has a row, by name.

    Raises:
        RowNotAuthenticError: A row of one is not authentic, or the log has one whose rows are gone.
    """
    own = select(organizations.c.name)
    # What the log says of those without a row, too, since somebody may have taken the row away.
    decided = select(_newest.c.organization).where(*_is_own(_newest)).distinct()
    names = sorted({str(row[0]) for some in (own, decided) for row in connection.execute(some)})
    for first in range(0, len(names), _PAGE):
        page = names[first : first + _PAGE]
        found = (
            tuple(row)
            for step in reading(page)
            for row in connection.execute(step.statement, step.rows[0])
        )
        for stored in of(page, found, seal).values():
            if authentic(stored).own is not None:
                yield authentic(stored)


def authentic(stored: StoredOrganization | RowNotAuthenticError) -> StoredOrganization:
    """Returns an organization that `of` found, or raises the error in its place.

    Raises:
        RowNotAuthenticError: Its rows are not authentic.
    """
    if isinstance(stored, RowNotAuthenticError):
        # A copy, because each who raises it adds a traceback.
        raise stored.at()
    return stored


def held(
    found: StoredOrganization | RowNotAuthenticError, floor: Floor | None
) -> StoredOrganization | RowNotAuthenticError:
    """Returns an organization that was read, or why it is not authentic: it lies below its floor.

    The floor is from before the read, so that what it finds cannot be older (protocol S10).
    """
    if isinstance(found, RowNotAuthenticError) or floor is None:
        return found
    if floor.is_kept_by(found.floor):
        return found
    return not_authentic(found.organization.name)


def _digest(links: Mapping[str, Cells], held: Mapping[Holder, Cells]) -> bytes:
    rows = (*(links[name] for name in sorted(links)), *(held[each] for each in sorted(held)))
    return seals.digest(row[-1] for row in rows)


def sealed(
    organization: Organization, seal: Seal, before: StoredOrganization | None = None
) -> StoredOrganization:
    """Returns an organization with its rows; one that is not kept has none."""
    if not organization.is_kept:
        return StoredOrganization(organization)
    known = {} if before is None else before.links
    links: dict[str, Cells] = {}
    for link in organization.links:
        cells = _link_cells(link)
        row = known.get(link.name)
        unchanged = row is not None and row[:-1] == cells
        links[link.name] = row if row and unchanged else seal.sealed("key_links", cells)
    of_before = {} if before is None else before.held
    held = {
        holder: of_before.get(holder) or seal.sealed("holders", (organization.name, *holder))
        for holder in organization.holders
    }
    settings = organization.settings
    own = seal.sealed(
        "organizations",
        (
            organization.name,
            settings.display_name,
            settings.default_key.value,
            json.dumps(settings.cluster_patterns, separators=(",", ":")),
            settings.max_clusters,
            settings.max_key_links,
            organization.version,
            organization.revision,
            organization.created_at,
            organization.updated_at,
            _digest(links, held),
            seal.service_key_id,
        ),
    )
    return StoredOrganization(organization, own, links, held)


def _link_cells(link: KeyLink) -> Cells:
    spec = link.key_spec
    return (
        link.organization,
        link.name,
        link.description,
        link.region,
        link.geo,
        spec.type,
        spec.uri,
        spec.principal,
        options.encoded(spec.options),
        json.dumps(link.proven, separators=(",", ":")),
        link.revision,
        link.created_at,
        link.updated_at,
        None if link.move is None else _move_cell(link.move),
    )


def _move_cell(move: Move) -> str:
    spec = move.previous
    previous = [spec.type, spec.uri, spec.principal, options.encoded(spec.options)]
    told = {"previous": previous, "operation": move.operation, "open": move.open}
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def _move(cell: str) -> Move:
    told = json.loads(cell)
    kind, uri, principal, pairs = told["previous"]
    spec = KeySpec(kind, uri, principal, options.decoded(pairs))
    return Move(spec, told["operation"], told["open"])


def _decoded(own: Cells, links: Mapping[str, Cells], held: Mapping[Holder, Cells]) -> Organization:
    return Organization(
        name=own[0],
        settings=Settings(own[1], DefaultKey(own[2]), tuple(json.loads(own[3])), own[4], own[5]),
        links=tuple(_link(links[name]) for name in sorted(links)),
        version=own[6],
        revision=own[7],
        created_at=own[8],
        updated_at=own[9],
        holders=tuple(sorted(held)),
    )


def _link(row: Cells) -> KeyLink:
    return KeyLink(
        organization=row[0],
        name=row[1],
        description=row[2],
        region=row[3],
        geo=row[4],
        key_spec=KeySpec(row[5], row[6], row[7], options.decoded(row[8])),
        proven=tuple(json.loads(row[9])),
        revision=row[10],
        created_at=row[11],
        updated_at=row[12],
        move=None if row[13] is None else _move(row[13]),
    )
