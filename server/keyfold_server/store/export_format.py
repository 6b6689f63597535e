"""The form of an export: records to lines and back, and the seal over all of them.

    {"keyfold_export": 1, …}    which store, when, sealed by which service key
    {"cluster": {…}}            a cluster: regions, generations, wraps
    {"event": {…}}              its audit events, oldest first; then the next cluster
    {"mac": "…"}                over all bytes before this line

Invariant: a record has one form, its fields in one order, so that what is read back and written
again gives the same bytes: nothing is dropped without a word. Knows nothing of databases.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import AuditEvent
from keyfold_server.store.rows import Stored

if TYPE_CHECKING:
    from keyfold_server.store.seal import Seal

FORMAT: Final = 1
"""Version of the form; a release reads those that it knows and refuses others."""

TRAILER: Final = len(b'{"mac":""}\n') + 64
"""Bytes of the last line, which is as long in every export."""

EVENT_FIELDS: Final = tuple(field.name for field in fields(AuditEvent))
"""An audit event's fields, in their order there, which is their columns' too."""

_TABLE: Final = "export"
"""The whole file is sealed as if it were one row of a table of this name, which there is not."""


def line(record: dict[str, Any]) -> bytes:
    """Returns a record's one form: compact, its fields in their order, ASCII."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def trailer(seal: Seal, digest: bytes) -> bytes:
    """Returns the last line, which seals the SHA-256 of all before it."""
    return line({"mac": seal.sealed(_TABLE, (FORMAT, digest))[-1].hex()})


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
    """

    store_uid: str
    service_key_id: str
    exported_at: int
    cluster: str | None
    change: int
    change_id: str

    def record(self) -> dict[str, Any]:
        """Returns the header as it stands in an export."""
        return {
            "keyfold_export": FORMAT,
            "store_uid": self.store_uid,
            "service_key_id": self.service_key_id,
            "exported_at": self.exported_at,
            "cluster": self.cluster,
            "change": self.change,
            "change_id": self.change_id,
        }


def cluster_record(stored: Stored) -> dict[str, Any]:
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
        "regions": [_region_record(region) for region in c.regions],
    }


def event_record(recorded: AuditEvent) -> dict[str, Any]:
    """Returns an audit event as it stands in an export."""
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
        "generations": [_generation_record(each) for each in region.generations],
    }


def _generation_record(generation: Generation) -> dict[str, Any]:
    return {
        "kek_id": generation.kek_id.hex(),
        "generation": generation.number,
        "created_at": generation.created_at,
        "wraps": [_wrap_record(wrap) for wrap in generation.wraps],
    }


def _wrap_record(wrap: Wrap) -> dict[str, Any]:
    ciphertext = wrap.ciphertext
    return {
        "number": wrap.number,
        "root_key": _key_record(wrap.root),
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


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


# And back.


def parsed(raw: bytes) -> Header | Stored | AuditEvent:
    """Reads a line of an export that was verified; a cluster comes without its sealed rows.

    Raises:
        SetupError: It has another form than this release writes.
    """
    try:
        found = _parsed(json.loads(raw))
        if line(_record(found)) == raw:
            return found
    except (ValueError, LookupError, TypeError, AttributeError, KeyfoldError):
        # Said below, without a cause: the parser's errors carry the text.
        pass
    raise SetupError(
        "the export holds a line in a form that this release does not know: import it with the "
        "release that made it"
    )


def _parsed(record: dict[str, Any]) -> Header | Stored | AuditEvent:
    match record:
        case {"cluster": dict(cluster)}:
            return _stored(cluster)
        case {"event": dict(event)}:
            return AuditEvent(**event)
    rest = {name: value for name, value in record.items() if name != "keyfold_export"}
    return Header(**rest)


def _record(found: Header | Stored | AuditEvent) -> dict[str, Any]:
    match found:
        case Stored():
            return {"cluster": cluster_record(found)}
        case AuditEvent():
            return {"event": event_record(found)}
    return found.record()


def _stored(raw: dict[str, Any]) -> Stored:
    cluster = Cluster(
        uid=bytes.fromhex(raw["uid"]),
        name=raw["name"],
        organization=raw["organization"],
        epoch=raw["epoch"],
        version=raw["version"],
        regions=tuple(_region(each) for each in raw["regions"]),
        created_at=raw["created_at"],
        updated_at=raw["updated_at"],
    )
    return Stored(cluster, bytes.fromhex(raw["audit_head"]), raw["audit_count"], {})


def _region(raw: dict[str, Any]) -> Region:
    return Region(
        name=raw["region"],
        state=State(raw["state"]),
        state_since=raw["state_since"],
        key_spec=KeySpec(*_key(raw["key_spec"])),
        policy=RegionPolicy(_seconds(raw["cache_ttl_ms"]), _seconds(raw["outage_grace_ms"])),
        generations=tuple(_generation(each) for each in raw["generations"]),
    )


def _generation(raw: dict[str, Any]) -> Generation:
    wraps = tuple(_wrap(each) for each in raw["wraps"])
    return Generation(bytes.fromhex(raw["kek_id"]), raw["generation"], raw["created_at"], wraps)


def _wrap(raw: dict[str, Any]) -> Wrap:
    text = raw["ciphertext"]
    return Wrap(
        number=raw["number"],
        root=RootKey(*_key(raw["root_key"])),
        key_version=raw["key_version"],
        organization=raw["organization"],
        ciphertext=None if text is None else base64.b64decode(text, validate=True),
        created_at=raw["created_at"],
        superseded_at=raw["superseded_at"],
    )


def _key(raw: dict[str, Any]) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    options = tuple(raw["options"].items())
    return raw["type"], raw["uri"], raw["auth_principal"], options


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
