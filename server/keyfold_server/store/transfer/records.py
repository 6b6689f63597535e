"""The form of an export: records to lines, and the seal over all of them.

    {"keyfold_export": 2, …}    which store, when, sealed by which service key
    {"external_id": {…}}        what was issued for an owner; then the next one
    {"cluster": {…}}            a cluster: regions, generations, wraps
    {"event": {…}}              its audit events, oldest first; then the next cluster
    {"mac": "…"}                over all bytes before this line

Form 1 has no external ids and not the fields that `_second` names; it is read and never written.

Invariant: a record has one form, its fields in one order, so that what is read back and written
again gives the same bytes: nothing is dropped without a word. Knows nothing of databases.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from keyfold_server.domain.changes import AuditEvent

if TYPE_CHECKING:
    from keyfold_server.domain.cluster import Generation, Region, Wrap
    from keyfold_server.domain.keyspec import KeySpec, RootKey
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

FORMAT: Final = 2
"""Version of the form that is written."""

FORMATS: Final = (1, 2)
"""Versions that are read; others are refused."""

TRAILER: Final = len(b'{"mac":""}\n') + 64
"""Bytes of the last line, which is as long in every export."""

EVENT_FIELDS: Final = tuple(field.name for field in fields(AuditEvent))
"""An audit event's fields, in their order there, which is their columns' too."""

_TABLE: Final = "export"
"""The whole file is sealed as if it were one row of a table of this name, which there is not."""


def line(record: dict[str, Any]) -> bytes:
    """Returns a record's one form: compact, its fields in their order, ASCII."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def trailer(seal: Seal, digest: bytes, form: int = FORMAT) -> bytes:
    """Returns the last line, which seals the SHA-256 of all before it."""
    return line({"mac": seal.sealed(_TABLE, (form, digest))[-1].hex()})


@dataclass(frozen=True, slots=True)
class Header:
    """An export's first line.

    Attributes:
        store_uid: Which store it was made of.
        service_key_id: Which service key sealed it.
        exported_at: Milliseconds of Unix time.
        cluster: The one cluster that it holds; None: the whole store.
        change: Number of the store's newest change.
        change_id: That change's random id.
        form: Version of the form.
    """

    store_uid: str
    service_key_id: str
    exported_at: int
    cluster: str | None
    change: int
    change_id: str
    form: int = FORMAT

    def record(self) -> dict[str, Any]:
        """Returns the header as it stands in an export."""
        return {
            "keyfold_export": self.form,
            "store_uid": self.store_uid,
            "service_key_id": self.service_key_id,
            "exported_at": self.exported_at,
            "cluster": self.cluster,
            "change": self.change,
            "change_id": self.change_id,
        }


@dataclass(frozen=True, slots=True)
class IssuedId:
    """What was issued for an owner (protocol C2).

    Attributes:
        owner: For whom.
        external_id: What it is.
        created_at: Milliseconds of Unix time.
    """

    owner: str
    external_id: str
    created_at: int

    def record(self) -> dict[str, Any]:
        """Returns it as it stands in an export."""
        return asdict(self)


def cluster_record(stored: StoredCluster, form: int = FORMAT) -> dict[str, Any]:
    """Returns a cluster as it stands in an export."""
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
        "regions": [_region_record(region, form) for region in c.regions],
    }


def event_record(recorded: AuditEvent) -> dict[str, Any]:
    """Returns an audit event as it stands in an export."""
    return {name: getattr(recorded, name) for name in EVENT_FIELDS}


def _region_record(region: Region, form: int) -> dict[str, Any]:
    policy = region.policy
    return {
        "region": region.name,
        "state": region.state.value,
        "state_since": region.state_since,
        "key_spec": _key_record(region.key_spec),
        "cache_ttl_ms": _milliseconds(policy.cache_ttl),
        "outage_grace_ms": _milliseconds(policy.outage_grace),
        **_second(form, auto_rotate=policy.auto_rotate),
        "generations": [_generation_record(each, form) for each in region.generations],
    }


def _generation_record(generation: Generation, form: int) -> dict[str, Any]:
    return {
        "kek_id": generation.kek_id.hex(),
        "generation": generation.number,
        "created_at": generation.created_at,
        **_second(form, retired_at=generation.retired_at),
        "wraps": [_wrap_record(wrap, form) for wrap in generation.wraps],
    }


def _wrap_record(wrap: Wrap, form: int) -> dict[str, Any]:
    ciphertext = wrap.ciphertext
    return {
        "number": wrap.number,
        "root_key": {
            **_key_record(wrap.root),
            **_second(form, external_id=wrap.root.external_id),
        },
        "key_version": wrap.key_version,
        "organization": wrap.organization,
        "ciphertext": None if ciphertext is None else base64.b64encode(ciphertext).decode(),
        "created_at": wrap.created_at,
        "superseded_at": wrap.superseded_at,
    }


def _key_record(key: KeySpec | RootKey) -> dict[str, Any]:
    return {
        "type": key.type,
        "uri": key.uri,
        "auth_principal": key.principal,
        "options": dict(key.options),
    }


def _second(form: int, **added: object) -> dict[str, object]:
    """Returns fields that form 1 does not have."""
    return added if form > 1 else {}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
