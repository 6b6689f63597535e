"""An export's lines back to records; what `export_format` writes, and the form before it.

Invariant: a line is taken only if writing what was read of it, in the file's own form, gives the
same bytes. So a field that this release does not know, or that the form does not have, is refused.
"""

from __future__ import annotations

import base64
import json
from typing import Any, TypeAlias

from keyfold_server.domain.changes import AuditEvent
from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.transfer.records import (
    Header,
    IssuedId,
    cluster_record,
    event_record,
    line,
)

Record: TypeAlias = Header | IssuedId | StoredCluster | AuditEvent
"""What a line of an export is about."""


def parsed(raw: bytes, form: int) -> Record:
    """Reads a line of an export that was verified; a cluster comes without its sealed rows.

    Args:
        raw: The line.
        form: Version of the export's form.

    Raises:
        SetupError: It is no line of that form.
    """
    try:
        found = _parsed(json.loads(raw))
        if line(_record(found, form)) == raw:
            return found
    except (ValueError, LookupError, TypeError, AttributeError, KeyfoldError):
        # Said below, without a cause: the parser's errors carry the text.
        pass
    raise SetupError(
        "the export holds a line in a form that this release does not know: import it with the "
        "release that made it"
    )


def _parsed(record: dict[str, Any]) -> Record:
    match record:
        case {"external_id": dict(issued)}:
            return IssuedId(**issued)
        case {"cluster": dict(cluster)}:
            return _stored(cluster)
        case {"event": dict(event)}:
            return AuditEvent(**event)
    rest = {name: value for name, value in record.items() if name != "keyfold_export"}
    return Header(**rest, form=record["keyfold_export"])


def _record(found: Record, form: int) -> dict[str, Any]:
    match found:
        case IssuedId():
            return {"external_id": found.record()}
        case StoredCluster():
            return {"cluster": cluster_record(found, form)}
        case AuditEvent():
            return {"event": event_record(found)}
    return found.record()


def _stored(raw: dict[str, Any]) -> StoredCluster:
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
    return StoredCluster(cluster, bytes.fromhex(raw["audit_head"]), raw["audit_count"], {})


def _region(raw: dict[str, Any]) -> Region:
    return Region(
        name=raw["region"],
        state=State(raw["state"]),
        state_since=raw["state_since"],
        key_spec=KeySpec(*_key(raw["key_spec"])),
        policy=RegionPolicy(
            _seconds(raw["cache_ttl_ms"]),
            _seconds(raw["outage_grace_ms"]),
            raw.get("auto_rotate", False),
        ),
        generations=tuple(_generation(each) for each in raw["generations"]),
    )


def _generation(raw: dict[str, Any]) -> Generation:
    wraps = tuple(_wrap(each) for each in raw["wraps"])
    return Generation(
        bytes.fromhex(raw["kek_id"]),
        raw["generation"],
        raw["created_at"],
        wraps,
        raw.get("retired_at"),
    )


def _wrap(raw: dict[str, Any]) -> Wrap:
    text, root = raw["ciphertext"], raw["root_key"]
    return Wrap(
        number=raw["number"],
        root=RootKey(*_key(root), root.get("external_id", "")),
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
