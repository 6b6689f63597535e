"""LOCAL's row of the provider suite, and its counterpart: a development key file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.counterparts import NETWORK, Ability, Counterpart, Row
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.providers.local.provider import LocalProvider


class LocalCounterpart(Counterpart):
    """A development key file."""

    def __init__(self, folder: Path) -> None:
        self._file = KeyFile(folder / "keys.json")
        self._names = (f"key-{number}" for number in itertools.count(1))
        self._file.create("bystander")
        self.provider = LocalProvider(self._file.path)

    def create_key(self) -> RootKey:
        return RootKey("LOCAL", f"local:{self._file.create(next(self._names)).name}")

    def missing_key(self) -> RootKey:
        return RootKey("LOCAL", "local:missing")

    def exists(self, key: RootKey) -> bool:
        return _name(key) in self._file.read().keys

    def new_version(self, key: RootKey) -> None:
        self._file.rotate(_name(key))

    def disable(self, key: RootKey, version: str | None = None) -> None:
        self._file.disable(_name(key), None if version is None else int(version))

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self._file.enable(_name(key), None if version is None else int(version))

    def delete(self, key: RootKey, version: str | None = None) -> None:
        self._file.destroy(_name(key), None if version is None else int(version))

    @contextmanager
    def outage(self, which: str) -> Iterator[None]:
        path = self._file.path
        whole = path.read_bytes()
        if which == "file half-written":
            path.write_bytes(whole[: len(whole) // 2])
        elif which == "file open to others":
            path.chmod(0o640)
        else:
            path.unlink()
        if which == "folder in its place":
            path.mkdir()
        yield
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(whole)

    def secrets(self) -> list[bytes]:
        keys = self._file.read().keys.values()
        return [bytes(v.material) for key in keys for v in key.versions if v.material is not None]


def _name(key: RootKey) -> str:
    return key.uri.partition(":")[2]


ROW: Final = Row(
    name="LOCAL",
    make=LocalCounterpart,
    binds=frozenset({"cluster", "region", "kek_id", "organization"}),
    refused=(
        (RootKey("LOCAL", "local:"), "key_spec.uri"),
        (RootKey("LOCAL", "key"), "key_spec.uri"),
        (RootKey("LOCAL", "LOCAL:key"), "key_spec.uri"),
        (RootKey("LOCAL", "local:../key"), "key_spec.uri"),
        (RootKey("LOCAL", "local:key\n"), "key_spec.uri"),
        (RootKey("LOCAL", "local:" + 129 * "k"), "key_spec.uri"),
        (RootKey("LOCAL", "local:key", "somebody"), "key_spec.auth_principal"),
        (RootKey("LOCAL", "local:key", "", (("region", "x"),)), "key_spec.options"),
    ),
    further_outages=(
        "file missing",
        "file half-written",
        "file open to others",
        "folder in its place",
    ),
    absent={
        Ability.SCHEDULE_DELETION: "a version in the file is destroyed at once",
        Ability.PERMISSIONS: "whoever can read the file can do everything with it",
        Ability.TRUST: "the file has no principals",
        Ability.WRONG_PURPOSE: "every key in the file wraps",
        Ability.MATERIAL_MISSING: "every version in the file has its material, or is destroyed",
        Ability.CREDENTIALS: "the file's mode is its only protection; a wrong mode is an outage",
        Ability.SESSIONS: "the file needs no credentials",
        Ability.THROTTLE: "a file has no quota",
        Ability.THROTTLE_HINT: "a file has no quota",
        Ability.WRONG_ANSWER: "it answers in process and checks the tag there",
        Ability.WRONG_CHECKSUM: "it answers in process and checks the tag there",
        **dict.fromkeys(NETWORK, "Keyfold reads a local file without a network"),
    },
)
