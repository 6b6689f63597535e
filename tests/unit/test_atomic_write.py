"""A file is written whole or not at all, with its mode, and never over another one unasked."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyfold_server.domain.files import atomic_write


def names(folder: Path) -> set[str]:
    """Returns what a folder holds."""
    return {path.name for path in folder.iterdir()}


def test_the_file_appears_whole(tmp_path: Path) -> None:
    """Nobody sees the file before its last byte is written, and no draft stays."""
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize(("mode", "least"), [(None, 0o600), (0o644, 0o644)])
def test_the_file_has_its_mode(tmp_path: Path, umask: int, mode: int | None, least: int) -> None:
    """A file is its owner's alone unless its writer says otherwise; the umask still counts."""
    options: dict[str, Any] = {} if mode is None else {"mode": mode}
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file", **options) as file:
            # From the start: nobody may read the draft either.
            [draft] = tmp_path.iterdir()
            assert stat.S_IMODE(draft.stat().st_mode) == least & ~umask
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == least & ~umask


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failure", [OSError("no space"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, *, overwrite: bool, failure: BaseException
) -> None:
    """A failure while the file is written leaves no draft, and the former file stays."""
    path = tmp_path / "file"
    if overwrite:
        path.write_bytes(b"before")

    def write() -> None:
        with atomic_write(path, overwrite=overwrite) as file:
            file.write(b"half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert names(tmp_path) == ({"file"} if overwrite else set())
    if overwrite:
        assert path.read_bytes() == b"before"


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    """Without `overwrite` a file is never replaced, not even one that appears meanwhile."""
    path = tmp_path / "file"

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"after")
            path.write_bytes(b"before")

    with pytest.raises(FileExistsError):
        write()
    assert path.read_bytes() == b"before"
    with pytest.raises(FileExistsError), atomic_write(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == {"file"}


def test_overwrite_replaces(tmp_path: Path) -> None:
    """With `overwrite` the former file is there until the new one is whole, which has its mode."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    path.chmod(0o644)
    with atomic_write(path, overwrite=True) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_is_not_followed(tmp_path: Path, *, overwrite: bool) -> None:
    """What a symbolic link points to is never written."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"before")
    link.symlink_to(target)
    if overwrite:
        with atomic_write(link, overwrite=True) as file:
            file.write(b"after")
        assert not link.is_symlink()
        assert link.read_bytes() == b"after"
    else:
        with pytest.raises(FileExistsError), atomic_write(link) as file:
            file.write(b"after")
        assert link.is_symlink()
    assert target.read_bytes() == b"before"


def test_a_fixed_draft_is_taken_over(tmp_path: Path) -> None:
    """A draft that a crash left behind is replaced, and never written through a link."""
    draft, other = tmp_path / "draft", tmp_path / "other"
    other.write_bytes(b"other")
    for leave in (lambda: draft.write_bytes(b"left"), lambda: draft.symlink_to(other)):
        leave()
        with atomic_write(tmp_path / "file", overwrite=True, draft=draft) as file:
            file.write(b"after")
        assert (tmp_path / "file").read_bytes() == b"after"
        assert names(tmp_path) == {"file", "other"}
    assert other.read_bytes() == b"other"


def test_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are on the disk before the name is, and the name before the call returns."""
    done: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if name != "fsync":
                done.append(name)
            elif stat.S_ISDIR(os.fstat(args[0]).st_mode):
                done.append("fsync of the folder")
            else:
                done.append(f"fsync of {os.fstat(args[0]).st_size} bytes")
            return call(*args, **kwargs)

        return noted

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(Path, "hardlink_to", noting("link", Path.hardlink_to))
    monkeypatch.setattr(Path, "replace", noting("rename", Path.replace))
    for overwrite, takes_name in ((False, "link"), (True, "rename")):
        done.clear()
        with atomic_write(tmp_path / "file", overwrite=overwrite) as file:
            file.write(b"x" * 9)
        assert done == ["fsync of 9 bytes", takes_name, "fsync of the folder"]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    """The error is the system's own."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "nope" / "file"):
        pass
