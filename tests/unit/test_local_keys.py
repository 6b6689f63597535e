"""The development key file: never half, never lost, never open to others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    InvalidNameError,
    KekMismatchError,
    KeyDisabledError,
    SetupError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.local.contents import VersionState
from keyfold_server.providers.local.key_file import (
    Contents,
    KeyFile,
    KeyFileBrokenError,
    KeyFileError,
    KeyFileExposedError,
    KeyFileMissingError,
    KeyFileUnreadableError,
)
from keyfold_server.providers.local.provider import LocalProvider

_ROTATIONS = 20

# Dies inside the named call of the first change it makes.
_CRASH = """
import os, pathlib, signal, sys
from keyfold_server.providers.local.key_file import KeyFile

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = {"fsync": (os, "fsync"), "rename": (pathlib.Path, "replace")}[sys.argv[2]]
setattr(owner, name, die)
KeyFile(sys.argv[1]).rotate("key")
"""

_ROTATE = """
import sys
from keyfold_server.providers.local.key_file import KeyFile

for _ in range(int(sys.argv[2])):
    KeyFile(sys.argv[1]).rotate("key")
"""


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    """A key file with one key."""
    made = KeyFile(tmp_path / "folder" / "keys.json")
    made.create("key")
    return made


def _states(file: KeyFile) -> list[str]:
    return [version.state.value for version in file.read().keys["key"].versions]


def test_create_makes_folder_and_file_for_the_owner_alone(file: KeyFile) -> None:
    """Nobody else may read the file, its folder or its lock, whatever the umask says."""
    folder = file.path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == {
        "keys.json": 0o600,
        "keys.json.lock": 0o600,
    }


def test_versions_have_states_and_material_of_their_own(file: KeyFile) -> None:
    """Rotating adds a version; states move one version or all; destroyed material is erased."""
    file.rotate("key")
    file.rotate("key")
    versions = file.read().keys["key"].versions
    assert [v.number for v in versions] == [1, 2, 3]
    assert len({bytes(v.material or b"") for v in versions}) == 3
    file.disable("key", 2)
    assert _states(file) == ["enabled", "disabled", "enabled"]
    file.disable("key")
    file.enable("key", 3)
    assert _states(file) == ["disabled", "disabled", "enabled"]
    file.destroy("key", 1)
    file.enable("key")
    assert _states(file) == ["destroyed", "enabled", "enabled"]
    assert file.read().keys["key"].versions[0].material is None
    assert "material" not in json.loads(file.path.read_bytes())["keys"]["key"][0]


def test_destroying_is_for_good(file: KeyFile) -> None:
    """A destroyed key is not enabled, rotated, or made again under its name."""
    file.destroy("key")
    for action in (file.enable, file.disable, file.destroy, file.rotate, file.create):
        with pytest.raises(KeyFileError):
            action("key")
    assert file.read().keys["key"].newest.state is VersionState.DESTROYED


def test_commands_name_what_is_wrong(file: KeyFile) -> None:
    """An unknown key or version, a taken name and a bad one have errors of their own."""
    before = file.path.read_bytes()
    with pytest.raises(KeyFileError, match="there is no key other"):
        file.rotate("other")
    with pytest.raises(KeyFileError, match="no version 9"):
        file.disable("key", 9)
    with pytest.raises(KeyFileError, match="already"):
        file.create("key")
    with pytest.raises(InvalidNameError):
        file.create("../key")
    assert file.path.read_bytes() == before


def test_a_missing_file_is_told_apart_and_not_made(tmp_path: Path) -> None:
    """Only create makes a file or folder; every other command says that it does not exist."""
    file = KeyFile(tmp_path / "none" / "keys.json")
    for action in (file.read, file.stamp, lambda: file.rotate("key")):
        with pytest.raises(KeyFileMissingError, match="dev-keys create"):
            action()
    assert not file.path.parent.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_file_open_to_others_is_refused(file: KeyFile, mode: int) -> None:
    """Keys that others may read or write are not used, and the remedy is named."""
    file.path.chmod(mode)
    for action in (file.read, lambda: file.rotate("key"), lambda: file.create("other")):
        with pytest.raises(KeyFileExposedError, match="chmod 600"):
            action()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 2, "keys": {}}',
        b'{"format": 1}',
        b'{"format": 1, "keys": []}',
        b'{"format": 1, "keys": {"../a": []}}',
        b'{"format": 1, "keys": {"a": []}}',
        b'{"format": 1, "keys": {"a": [{"version": 1, "state": "enabled", "created_at": 0}]}}',
        b'{"format": 1, "keys": {"a": [{"version": 1, "state": "enabled", "material": "AAAA"}]}}',
        b'{"format": 1, "keys": {"a": [{"version": 2, "state": "destroyed", "created_at": 0}]}}',
        b'{"format": 1, "keys": {"a": [{"version": 1, "state": "lost", "created_at": 0}]}}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_not_whole_is_refused(file: KeyFile, text: bytes) -> None:
    """Whatever is not a key file in full is refused by readers and writers, and left as it is."""
    file.path.write_bytes(text)
    for action in (file.read, lambda: file.rotate("key"), lambda: file.create("other")):
        with pytest.raises(KeyFileBrokenError):
            action()
    assert file.path.read_bytes() == text


def test_every_shorter_file_is_refused(file: KeyFile) -> None:
    """A file cut off anywhere is half-written; only the last line break may be missing."""
    whole = file.path.read_bytes()
    for length in range(len(whole) - 1):
        file.path.write_bytes(whole[:length])
        with pytest.raises(KeyFileBrokenError):
            file.read()


def test_a_pipe_or_folder_in_its_place_is_unreadable(tmp_path: Path) -> None:
    """A pipe or folder is refused at once, and no descriptor is left open."""
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe, 0o600)
    lowest = os.open(folder, os.O_RDONLY)
    os.close(lowest)
    for path in (folder, pipe):
        with pytest.raises(KeyFileUnreadableError):
            KeyFile(path).read()
    # The lowest free number is what the next file would get: the same, if none is left open.
    free = os.open(folder, os.O_RDONLY)
    os.close(free)
    assert free == lowest


def test_errors_are_setup_errors_without_contents(file: KeyFile) -> None:
    """Neither the error nor its causes carry what stands in the file."""
    material = json.loads(file.path.read_bytes())["keys"]["key"][0]["material"]
    file.path.write_bytes(file.path.read_bytes()[:-4])
    with pytest.raises(SetupError) as raised:
        file.read()
    assert material not in repr(vars(raised.value))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_no_representation_shows_material(file: KeyFile) -> None:
    """Keys and versions can be logged by mistake without harm."""
    key = file.read().keys["key"]
    assert key.newest.material is not None
    assert repr(bytes(key.newest.material))[2:-1] not in repr(key)
    assert "material" not in repr(key)


@pytest.mark.parametrize("moment", ["fsync", "rename"])
def test_a_crash_leaves_the_old_file(file: KeyFile, moment: str) -> None:
    """A writer killed before the rename changes nothing, holds no lock and leaves no keys about."""
    before = file.path.read_bytes()
    command = [sys.executable, "-c", _CRASH, str(file.path), moment]
    died = subprocess.run(command, check=False, timeout=30)
    assert died.returncode == -signal.SIGKILL
    assert file.path.read_bytes() == before
    fresh = file.path.with_name(".keys.json.new")
    assert fresh.stat().st_mode & 0o777 == 0o600
    file.rotate("key")
    assert _states(file) == ["enabled", "enabled"]
    assert not fresh.exists()


def test_a_failed_write_leaves_the_old_file(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is reported as such, and changes nothing."""
    before = file.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        file.rotate("key")
    assert file.path.read_bytes() == before
    assert not file.path.with_name(".keys.json.new").exists()


def test_a_link_is_followed_and_kept(file: KeyFile) -> None:
    """A change through a symbolic link changes the file it names, not the link."""
    link = file.path.with_name("link.json")
    link.symlink_to(file.path)
    KeyFile(link).rotate("key")
    assert link.is_symlink()
    assert len(_states(file)) == 2


def test_two_writers_lose_nothing(file: KeyFile) -> None:
    """Processes and threads that rotate at once each add every one of their versions."""
    command = [sys.executable, "-c", _ROTATE, str(file.path), str(_ROTATIONS)]
    others = [subprocess.Popen(command) for _ in range(2)]

    def rotate(_: int) -> None:
        for _ in range(_ROTATIONS):
            file.rotate("key")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rotate, range(2)))
    assert [other.wait(timeout=30) for other in others] == [0, 0]
    numbers = [version.number for version in file.read().keys["key"].versions]
    assert numbers == list(range(1, 4 * _ROTATIONS + 2))


def test_a_reader_never_sees_half(file: KeyFile) -> None:
    """Readers beside a writer find whole files alone, and never an older one than before."""
    done = threading.Event()

    def read() -> list[int]:
        seen = [1]
        while not done.is_set():
            seen.append(len(file.read().keys["key"].versions))
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for _ in range(_ROTATIONS):
            file.rotate("key")
        done.set()
        for reader in readers:
            seen = reader.result(timeout=30)
            assert seen == sorted(seen)


def test_a_young_file_has_no_stamp(file: KeyFile) -> None:
    """A stamp is trusted only once the file is older than what file times can tell apart."""
    assert file.read().stamp is None
    long_ago = time.time() - 3_600
    os.utime(file.path, (long_ago, long_ago))
    # Setting the modification time sets the change time to now, which cannot be set at all.
    assert file.read().stamp is None


def test_a_settled_file_is_read_once(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider reads no unchanged file for a call, and sees a change at the next call."""
    provider = LocalProvider(file.path)
    key, binding = RootKey("LOCAL", "local:key"), Binding("c", "r", bytes(16))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 60 * 10**9)
    reads: list[Contents] = []
    read = KeyFile.read

    def counted(self: KeyFile) -> Contents:
        reads.append(read(self))
        return reads[-1]

    monkeypatch.setattr(KeyFile, "read", counted)
    wrapped, *_ = [provider.wrap(key, b"payload", binding, budget=5.0) for _ in range(5)]
    assert len(reads) == 1
    # What was read lives on in ciphers alone.
    assert not any(reads[0].keys["key"].newest.material or b"")
    file.disable("key")
    with pytest.raises(KeyDisabledError):
        provider.unwrap(key, wrapped.key_version, wrapped.ciphertext, binding, budget=5.0)


def test_keys_taken_away_are_forgotten(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file made unusable stops the provider at once, though it was read before and is settled."""
    provider = LocalProvider(file.path)
    key, binding = RootKey("LOCAL", "local:key"), Binding("c", "r", bytes(16))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 60 * 10**9)
    provider.wrap(key, b"payload", binding, budget=5.0)
    file.path.chmod(0o644)
    with pytest.raises(UnreachableError, match="chmod 600"):
        provider.wrap(key, b"payload", binding, budget=5.0)
    assert provider._loaded is None
    file.path.chmod(0o600)
    provider.wrap(key, b"payload", binding, budget=5.0)


def test_a_key_under_another_name_is_another_key(file: KeyFile) -> None:
    """A key copied by hand under another name does not open what the first one wrapped."""
    document = json.loads(file.path.read_bytes())
    document["keys"]["copy"] = document["keys"]["key"]
    file.path.write_text(json.dumps(document))
    provider, binding = LocalProvider(file.path), Binding("c", "r", bytes(16))
    wrapped = provider.wrap(RootKey("LOCAL", "local:key"), b"payload", binding, budget=5.0)
    with pytest.raises(KekMismatchError):
        provider.unwrap(
            RootKey("LOCAL", "local:copy"),
            wrapped.key_version,
            wrapped.ciphertext,
            binding,
            budget=5.0,
        )


def test_the_provider_warns_once_what_it_is(
    file: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider warns once, when it is made, that its keys are for development."""
    provider = LocalProvider(file.path)
    provider.wrap(RootKey("LOCAL", "local:key"), b"x", Binding("c", "r", bytes(16)), budget=5.0)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "development" in warnings[0].getMessage()
