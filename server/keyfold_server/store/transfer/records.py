"""The form of an export: records as lines of JSON, and the seal over all of them.

    {"keyfold_export": 2, …}    the header: which store, when, and which service key sealed it
    {"external_id": {…}}        an external id and its owner; then the next one
    {"cluster": {…}}            a cluster: regions, generations, their current wraps
    {"superseded_wrap": {…}}    its superseded wraps, oldest first
    {"event": {…}}              its audit events, oldest first; then the next cluster
    {"mac": "…"}                the MAC over all bytes before this line

Invariant: each record has exactly one text, with its fields in one order. So a reader can write
again what it has read and compare the bytes, and nothing gets lost unnoticed. This module knows
nothing of databases.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from keyfold_server.domain.changes import AuditEvent

if TYPE_CHECKING:
    from keyfold_server.domain.cluster import Generation, Region, SupersededWrap, Wrap
    from keyfold_server.domain.keyspec import KeySpec, RootKey
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

FORM: Final = 2
"""Version of the form. No release has written version 1."""

TRAILER_SIZE: Final = len(b'{"mac":""}\n') + 64
"""Bytes of the last line, which has the same length in every export."""

EVENT_FIELDS: Final = tuple(field.name for field in fields(AuditEvent))
"""An audit event's fields, in the order of `AuditEvent` and of the columns."""

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
        change: Number of the store's newest change.
        change_id: That change's random id.
    """

    store_uid: str
    service_key_id: str
    exported_at: int
    cluster: str | None
    change: int
    change_id: str

    def record(self) -> dict[str, Any]:
        """Returns the header as an export holds it."""
        return {"keyfold_export": FORM, **asdict(self)}


@dataclass(frozen=True, slots=True)
class IssuedId:
    """An external id that Keyfold issued for an owner (protocol C2).

    Attributes:
        owner: An organization's or a cluster's name.
        external_id: The issued id.
        created_at: Milliseconds of Unix time.
    """

    owner: str
    external_id: str
    created_at: int

    def record(self) -> dict[str, Any]:
        """Returns the external id as an export holds it."""
        return asdict(self)


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
        "audit_count": stored.events,
        "audit_head": stored.head.hex(),
        "history_count": stored.history_count,
        "history_head": stored.history_head.hex(),
        "regions": [_region_record(region) for region in c.regions],
    }


def superseded_record(old: SupersededWrap) -> dict[str, Any]:
    """Returns a superseded wrap as an export holds it."""
    return {
        "kek_id": old.kek_id.hex(),
        "number": old.number,
        "root_key": _root_key_record(old.root),
        "key_version": old.key_version,
        "organization": old.organization,
        "created_at": old.created_at,
        "superseded_at": old.superseded_at,
    }


def event_record(recorded: AuditEvent) -> dict[str, Any]:
    """Returns an audit event as an export holds it."""
    return {name: getattr(recorded, name) for name in EVENT_FIELDS}


def _region_record(region: Region) -> dict[str, Any]:
    policy = region.policy
    return {
        "region": region.name,
        "state": region.state.value,
        "state_since": region.state_since,
        "key_spec": _key_record(region.key_spec),
        "cache_ttl_ms": _milliseconds(policy.cache_ttl),
        "outage_grace_ms": _milliseconds(policy.outage_grace),
        "auto_rotate": policy.auto_rotate,
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
