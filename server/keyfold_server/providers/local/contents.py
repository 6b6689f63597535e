"""The contents of a development key file, to and from bytes.

    {"format": 1,
     "warning": "…",
     "keys": {"NAME": [{"version": 1, "state": "enabled", "created_at": MS, "material": "B64"}]}}

Invariant: `parse` accepts only a whole key file. If it skipped what it cannot read, a key could
silently lose a version, and stored keys would look lost. This module must not know files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from keyfold_server.domain.binding import KEY_SIZE
from keyfold_server.domain.errors import InvalidNameError
from keyfold_server.domain.keyspec import check_name

_FORMAT: Final = 1

_WARNING: Final = (
    "root keys in plain, for development, tests and single-machine use: "
    "keep this file secret, and change it with keyfold-server dev-keys only"
)


class VersionState(Enum):
    """Whether Keyfold may use a version."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a root key.

    Attributes:
        number: 1, 2, 3 … within its key.
        state: Whether Keyfold may use it.
        created_at: Milliseconds of Unix time.
        material: The 32 bytes of the key; None once the version is destroyed.
    """

    number: int
    state: VersionState
    created_at: int
    material: bytearray | None = field(repr=False)

    def moved(self, state: VersionState) -> KeyVersion:
        """Returns the version in another state; a destroyed version stays destroyed."""
        if self.state is VersionState.DESTROYED:
            return self
        kept = None if state is VersionState.DESTROYED else self.material
        return replace(self, state=state, material=kept)


@dataclass(frozen=True, slots=True)
class LocalKey:
    """A root key.

    Attributes:
        name: The part of its uri after `local:`.
        versions: All versions, the oldest first; never empty.
    """

    name: str
    versions: tuple[KeyVersion, ...]

    @property
    def newest(self) -> KeyVersion:
        """The version that wraps."""
        return self.versions[-1]


def render(keys: Mapping[str, LocalKey]) -> bytes:
    """Returns a key file's bytes."""
    document = {
        "format": _FORMAT,
        "warning": _WARNING,
        "keys": {name: [_raw(v) for v in keys[name].versions] for name in sorted(keys)},
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def parse(text: bytes) -> dict[str, LocalKey] | None:
    """Returns the keys of a key file, or None if the bytes are not a key file.

    It does not raise, because the JSON parser's errors carry the whole text, and a chain of causes
    would take it into logs.
    """
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            return None
        return {name: _key(name, raw) for name, raw in document["keys"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InvalidNameError):
        return None


def _raw(version: KeyVersion) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "version": version.number,
        "state": version.state.value,
        "created_at": version.created_at,
    }
    if version.material is not None:
        raw["material"] = base64.b64encode(version.material).decode()
    return raw


def _key(name: str, raw: list[dict[str, Any]]) -> LocalKey:
    check_name(name, "the key's name")
    versions = tuple(_version(number, each) for number, each in enumerate(raw, start=1))
    if not versions:
        raise ValueError
    return LocalKey(name, versions)


def _version(number: int, raw: dict[str, Any]) -> KeyVersion:
    state = VersionState(raw["state"])
    material = None
    if state is not VersionState.DESTROYED:
        material = bytearray(base64.b64decode(raw["material"], validate=True))
    whole = material is None or len(material) == KEY_SIZE
    if raw["version"] != number or not whole or ("material" in raw) != (material is not None):
        raise ValueError
    return KeyVersion(number, state, int(raw["created_at"]), material)
