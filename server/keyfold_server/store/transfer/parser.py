"""Parses an export's lines into the records that `records` writes.

Invariant: the parser accepts a line only if writing the parsed record gives the same bytes. So it
refuses a line with an unknown, missing or reordered field instead of passing over it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from keyfold_server.domain.cluster import Cluster, Generation, Region, SupersededWrap, Wrap
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.holders import Holder
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.key_links import KeyLink, Move
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.organizations import DefaultKey, Organization, Settings
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.history_checkpoints import Checkpoint
from keyfold_server.store.transfer.records import (
    ExportedEntry,
    Header,
    Identity,
    cluster_record,
    line,
    organization_record,
    pruned_record,
    superseded_record,
)

Record: TypeAlias = (
    Header | ExportedEntry | Identity | Organization | StoredCluster | Checkpoint | SupersededWrap
)
"""The content of one line of an export."""


def parse(raw: bytes) -> Record:
    """Parses a line of an export whose seal is verified.

    Returns:
        The record. A cluster comes without its sealed rows.

    Raises:
        SetupError: The line is not in this release's form.
    """
    try:
        found = _parsed(json.loads(raw))
        if line(_record(found)) == raw:
            return found
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, KeyfoldError):
        # The error below has no cause, because the parser's own errors quote the line.
        pass
    raise SetupError(
        "the export holds a line in a form that this release does not know: import it with the "
        "release that made it"
    )


def _parsed(record: dict[str, Any]) -> Record:
    if len(record) == 1:
        [(kind, raw)] = record.items()
        return _PARSERS[kind](raw)
    rest = {name: value for name, value in record.items() if name != "keyfold_export"}
    return Header(**rest)


def _record(found: Record) -> dict[str, Any]:
    told: dict[str, Any]
    match found:
        case Identity():
            told = {"identity": found.record()}
        case Organization():
            told = {"organization": organization_record(found)}
        case StoredCluster():
            told = {"cluster": cluster_record(found)}
        case Checkpoint():
            told = {"pruned_wraps": pruned_record(found)}
        case SupersededWrap():
            told = {"superseded_wrap": superseded_record(found)}
        case ExportedEntry():
            told = {"entry": found.record()}
        case Header():
            told = found.record()
    return told


def _organization(raw: dict[str, Any]) -> Organization:
    return Organization(
        name=raw["name"],
        settings=Settings(
            raw["display_name"],
            DefaultKey(raw["default_key"]),
            tuple(raw["cluster_patterns"]),
            raw["max_clusters"],
            raw["max_key_links"],
        ),
        links=tuple(_link(raw["name"], each) for each in raw["key_links"]),
        version=raw["version"],
        revision=raw["revision"],
        created_at=raw["created_at"],
        updated_at=raw["updated_at"],
        holders=_holders(raw["holders"]),
    )


def _holders(raw: list[list[str]]) -> tuple[Holder, ...]:
    found = tuple(Holder(*each) for each in raw)
    if list(found) != sorted(set(found)):
        raise ValueError("each holder stands there once, in its place")
    return found


def _link(organization: str, raw: dict[str, Any]) -> KeyLink:
    return KeyLink(
        organization,
        raw["key_link"],
        raw["description"],
        raw["region"],
        raw["geo"],
        KeySpec(*_key(raw["key_spec"])),
        tuple(raw["proven"]),
        raw["revision"],
        raw["created_at"],
        raw["updated_at"],
        None if raw["move"] is None else _move(raw["move"]),
    )


def _move(raw: dict[str, Any]) -> Move:
    return Move(KeySpec(*_key(raw["previous_key_spec"])), raw["operation"], raw["open"])


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
        declared=tuple(raw["declared"]),
    )
    return StoredCluster(
        cluster,
        children={},
        history_head=bytes.fromhex(raw["history_head"]),
        history_count=raw["history_count"],
        decided=raw["decided"],
    )


def _region(raw: dict[str, Any]) -> Region:
    return Region(
        name=raw["region"],
        state=State(raw["state"]),
        state_since=raw["state_since"],
        key_spec=KeySpec(*_key(raw["key_spec"])),
        policy=RegionPolicy(
            _seconds(raw["cache_ttl_ms"]),
            _seconds(raw["outage_grace_ms"]),
            raw["auto_rotate"],
        ),
        generations=tuple(_generation(each) for each in raw["generations"]),
        purge_time=raw["purge_time"],
        replica_of=raw["replica_of"],
        geo=raw["geo"],
        link=raw["key_link"],
    )


def _generation(raw: dict[str, Any]) -> Generation:
    return Generation(
        bytes.fromhex(raw["kek_id"]),
        raw["generation"],
        raw["created_at"],
        _wrap(raw["wrap"]),
        raw["retired_at"],
    )


def _wrap(raw: dict[str, Any]) -> Wrap:
    return Wrap(
        number=raw["number"],
        root=_root_key(raw["root_key"]),
        key_version=raw["key_version"],
        organization=raw["organization"],
        ciphertext=base64.b64decode(raw["ciphertext"], validate=True),
        created_at=raw["created_at"],
        groups=KeyGroups(**raw["groups"]),
    )


def _superseded(raw: dict[str, Any]) -> SupersededWrap:
    return SupersededWrap(
        kek_id=bytes.fromhex(raw["kek_id"]),
        number=raw["number"],
        root=_root_key(raw["root_key"]),
        key_version=raw["key_version"],
        organization=raw["organization"],
        created_at=raw["created_at"],
        superseded_at=raw["superseded_at"],
        groups=KeyGroups(**raw["groups"]),
    )


def _root_key(raw: dict[str, Any]) -> RootKey:
    return RootKey(*_key(raw), raw["external_id"])


def _key(raw: dict[str, Any]) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    options = tuple(raw["options"].items())
    return raw["type"], raw["uri"], raw["auth_principal"], options


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


_PARSERS: Final[dict[str, Callable[[dict[str, Any]], Record]]] = {
    "identity": lambda raw: Identity(**raw),
    "organization": _organization,
    "cluster": _stored,
    "pruned_wraps": lambda raw: Checkpoint(raw["number"], bytes.fromhex(raw["history_mac"])),
    "superseded_wrap": _superseded,
    "entry": ExportedEntry.parsed,
}
