"""The form of an export: records as lines of JSON, and the seal over all of them.

    {"keyfold_export": 2, …}    the header: which store, when, and which service key sealed it
    {"entry": {…}}              an entry of the log, oldest first; then the next one
    {"identity": {…}}           what was issued for an owner; then the next one
    {"organization": {…}}       an organization with its key links; then the next one
    {"cluster": {…}}            a cluster: regions, generations, their current wraps
    {"pruned_wraps": {…}}       the last of its superseded wraps that pruning removed, if any
    {"superseded_wrap": {…}}    the others, oldest first; then the next cluster
    {"mac": "…"}                the MAC over all bytes before this line

Invariant: each record has exactly one text, with its fields in one order. So a reader can write
again what it has read and compare the bytes, and nothing gets lost unnoticed. This module knows
nothing of databases.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import LargeBinary

from keyfold_server.store import schema

if TYPE_CHECKING:
    from keyfold_server.domain.cluster import Generation, Region, SupersededWrap, Wrap
    from keyfold_server.domain.key_links import KeyLink, Move
    from keyfold_server.domain.keyspec import KeySpec, RootKey
    from keyfold_server.domain.organizations import Organization
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster
    from keyfold_server.store.tables.history_checkpoints import Checkpoint

FORM: Final = 2
"""Version of the form. No release has written version 1."""

TRAILER_SIZE: Final = len(b'{"mac":""}\n') + 64
"""Bytes of the last line, which has the same length in every export."""

_ENTRY: Final = {
    column.name: isinstance(column.type, LargeBinary)
    for column in schema.log.columns
    if column.name not in ("prev", "mac")
}
"""The fields of an entry, in the order of the columns, and whether each holds bytes. The chain is
not written out, since the service key gives it again."""

_TABLE: Final = "export"
"""The file is sealed like a row of a table with this name; no such table exists."""


def line(record: dict[str, Any]) -> bytes:
    """Returns a record's one text: compact JSON in ASCII, with the fields in their order."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def trailer(seal: Seal, digest: bytes) -> bytes:
    """Returns the last line, which seals the SHA-256 of all bytes before it."""
    return line({"mac": seal.sealed(_TABLE, (FORM, digest))[-1].hex()})


@dataclass(frozen=True, slots=True)
class Header:
    """An export's first line.

    Attributes:
        store_uid: Id of the exported store.
        service_key_id: Id of the service key that sealed the export.
        exported_at: Time of the export in milliseconds of Unix time.
        cluster: Name of the only cluster in the export, or None for the whole store.
        number: Number of the newest entry of the store's log.
        entry_id: That entry's random id.
        entry_mac: That entry's MAC.
        pruned_number: Number of the last entry that pruning removed.
        pruned_id: That entry's random id.
        pruned_mac: That entry's MAC.
    """

    store_uid: str
    service_key_id: str
    exported_at: int
    cluster: str | None
    number: int
    entry_id: str
    entry_mac: str
    pruned_number: int
    pruned_id: str
    pruned_mac: str

    def record(self) -> dict[str, Any]:
        """Returns the header as an export holds it."""
        return {"keyfold_export": FORM, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Identity:
    """What Keyfold issued for an owner: an external id or a seat (protocol C2).

    Attributes:
        kind: The kind, such as `external_id`.
        owner: An organization or a cluster.
        value: The external id, or the seat's name.
        created_at: Milliseconds of Unix time.
        provider: The provider's type of a seat; None: it is no seat.
        region: The region of a seat.
        principal: The principal of a seat.
        also: The further principals of a seat, as JSON.
        cluster: The name of the cluster that took a seat, or None.
        cluster_uid: The uid of that cluster, in hex, or None.
        taken_in: The region of that cluster that took a seat, or None.
    """

    kind: str
    owner: str
    value: str
    created_at: int
    provider: str | None = None
    region: str | None = None
    principal: str | None = None
    also: str | None = None
    cluster: str | None = None
    cluster_uid: str | None = None
    taken_in: str | None = None

    @staticmethod
    def of(row: Cells) -> Identity:
        """Returns the identity of a row."""
        named = dict(zip(schema.identities.columns.keys(), row, strict=True))
        del named["mac"]
        uid = named["cluster_uid"]
        return Identity(**{**named, "cluster_uid": None if uid is None else uid.hex()})

    @property
    def cells(self) -> Cells:
        """The values of its row."""
        uid = None if self.cluster_uid is None else bytes.fromhex(self.cluster_uid)
        return (*astuple(self)[:-2], uid, self.taken_in)

    def record(self) -> dict[str, Any]:
        """Returns the identity as an export holds it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def cluster_record(stored: StoredCluster) -> dict[str, Any]:
    """Returns a cluster as an export holds it."""
    c = stored.cluster
    return {
        "uid": c.uid.hex(),
        "name": c.name,
        "organization": c.organization,
        "epoch": c.epoch,
        "version": c.version,
        "created_at": c.created_at,
        "updated_at": c.updated_at,
        "declared": list(c.declared),
        "decided": stored.decided,
        "history_count": stored.history_count,
        "history_head": stored.history_head.hex(),
        "regions": [_region_record(region) for region in c.regions],
    }


def pruned_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the checkpoint in a cluster's history as an export holds it."""
    return {"number": checkpoint.number, "history_mac": checkpoint.mac.hex()}


def organization_record(organization: Organization) -> dict[str, Any]:
    """Returns an organization as an export holds it."""
    settings = organization.settings
    return {
        "name": organization.name,
        "display_name": settings.display_name,
        "default_key": settings.default_key.value,
        "cluster_patterns": list(settings.cluster_patterns),
        "max_clusters": settings.max_clusters,
        "max_key_links": settings.max_key_links,
        "version": organization.version,
        "revision": organization.revision,
        "created_at": organization.created_at,
        "updated_at": organization.updated_at,
        "holders": [list(holder) for holder in organization.holders],
        "key_links": [_link_record(link) for link in organization.links],
    }


def _link_record(link: KeyLink) -> dict[str, Any]:
    return {
        "key_link": link.name,
        "description": link.description,
        "region": link.region,
        "geo": link.geo,
        "key_spec": _key_record(link.key_spec),
        "proven": list(link.proven),
        "revision": link.revision,
        "created_at": link.created_at,
        "updated_at": link.updated_at,
        "move": None if link.move is None else _move_record(link.move),
    }


def _move_record(move: Move) -> dict[str, Any]:
    return {
        "previous_key_spec": _key_record(move.previous),
        "operation": move.operation,
        "open": move.open,
    }


def superseded_record(old: SupersededWrap) -> dict[str, Any]:
    """Returns a superseded wrap as an export holds it."""
    return {
        "kek_id": old.kek_id.hex(),
        "number": old.number,
        "root_key": _root_key_record(old.root),
        "groups": asdict(old.groups),
        "key_version": old.key_version,
        "organization": old.organization,
        "created_at": old.created_at,
        "superseded_at": old.superseded_at,
    }


@dataclass(frozen=True, slots=True)
class ExportedEntry:
    """An entry of the log as an export holds it.

    Attributes:
        cells: The values of the entry's row, without the MAC of the entry before and its own MAC.
    """

    cells: Cells

    @classmethod
    def of(cls, row: Cells) -> ExportedEntry:
        """Returns the entry of a row of the log."""
        named = dict(zip(schema.log.columns.keys(), row, strict=True))
        return cls(tuple(named[name] for name in _ENTRY))

    @classmethod
    def parsed(cls, raw: dict[str, Any]) -> ExportedEntry:
        """Returns the entry of a record that was read."""
        cells = (
            bytes.fromhex(raw[name]) if is_bytes and raw[name] is not None else raw[name]
            for name, is_bytes in _ENTRY.items()
        )
        return cls(tuple(cells))

    def row(self, prev: bytes, seal: Seal) -> Cells:
        """Returns the row of the entry, which follows the one with the MAC `prev`."""
        named = {**dict(zip(_ENTRY, self.cells, strict=True)), "prev": prev}
        names = schema.log.columns.keys()[:-1]
        return seal.sealed(schema.log.name, tuple(named[name] for name in names))

    def record(self) -> dict[str, Any]:
        """Returns the entry as an export holds it."""
        return {
            name: cell.hex() if isinstance(cell, bytes) else cell
            for name, cell in zip(_ENTRY, self.cells, strict=True)
        }


def _region_record(region: Region) -> dict[str, Any]:
    policy = region.policy
    return {
        "region": region.name,
        "state": region.state.value,
        "state_since": region.state_since,
        "purge_time": region.purge_time,
        "replica_of": region.replica_of,
        "geo": region.geo,
        "key_spec": _key_record(region.key_spec),
        "cache_ttl_ms": _milliseconds(policy.cache_ttl),
        "outage_grace_ms": _milliseconds(policy.outage_grace),
        "auto_rotate": policy.auto_rotate,
        "key_link": region.link,
        "generations": [_generation_record(each) for each in region.generations],
    }


def _generation_record(generation: Generation) -> dict[str, Any]:
    return {
        "kek_id": generation.kek_id.hex(),
        "generation": generation.number,
        "created_at": generation.created_at,
        "retired_at": generation.retired_at,
        "wrap": _wrap_record(generation.current),
    }


def _wrap_record(wrap: Wrap) -> dict[str, Any]:
    return {
        "number": wrap.number,
        "root_key": _root_key_record(wrap.root),
        "groups": asdict(wrap.groups),
        "key_version": wrap.key_version,
        "organization": wrap.organization,
        "ciphertext": base64.b64encode(wrap.ciphertext).decode(),
        "created_at": wrap.created_at,
    }


def _root_key_record(root: RootKey) -> dict[str, Any]:
    return {**_key_record(root), "external_id": root.external_id}


def _key_record(key: KeySpec | RootKey) -> dict[str, Any]:
    return {
        "type": key.type,
        "uri": key.uri,
        "auth_principal": key.principal,
        "options": dict(key.options),
    }


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
