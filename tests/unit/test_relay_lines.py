"""The relay's files: whole lines, in order, through rotation and full disks."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from keyfold_relay.targets import NotTakenError
from keyfold_relay.targets.lines import LinesFile, LinesStdout
from relay_fakes import cloud_event


def numbers(path: Path) -> list[int]:
    """Returns the numbers of a file's events."""
    return [int(json.loads(line)["data"]["number"]) for line in path.read_bytes().splitlines()]


async def write(target: LinesFile, *events: int) -> None:
    """Sends events."""
    await target.send([cloud_event(number) for number in events])


async def test_lines_are_appended(tmp_path: Path) -> None:
    """Each event is one line of JSON, behind what was there."""
    path = tmp_path / "events.jsonl"
    target = LinesFile(path)
    await write(target, 1, 2)
    await write(target, 3)
    await target.close()
    again = LinesFile(path)
    await write(again, 4)
    await again.close()
    assert numbers(path) == [1, 2, 3, 4]
    assert path.stat().st_mode & 0o007 == 0


async def test_a_renamed_file_is_left_and_a_new_one_begun(tmp_path: Path) -> None:
    """Rotation by rename needs no signal, and loses no line."""
    path = tmp_path / "events.jsonl"
    target = LinesFile(path)
    await write(target, 1)
    path.rename(tmp_path / "events.jsonl.1")
    await write(target, 2)
    await target.close()
    assert numbers(tmp_path / "events.jsonl.1") == [1]
    assert numbers(path) == [2]


async def test_a_signal_reopens_the_file(tmp_path: Path) -> None:
    """SIGHUP opens the file again, also where its inode is the same."""
    path = tmp_path / "events.jsonl"
    target = LinesFile(path)
    await write(target, 1)
    before = target._open
    target.reopen()
    await write(target, 2)
    assert before is not None
    assert numbers(path) == [1, 2]
    assert not target._again
    await target.close()


async def test_a_torn_line_is_ended_before_the_next(tmp_path: Path) -> None:
    """What a machine left half-written does not spoil the line after it."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(cloud_event(1).body + b'\n{"specver')
    target = LinesFile(path)
    await write(target, 2)
    await target.close()
    first, torn, second = path.read_bytes().splitlines()
    assert json.loads(first)["data"]["number"] == "1"
    assert torn == b'{"specver'
    assert json.loads(second)["data"]["number"] == "2"


async def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a write fails halfway, the half is cut off, and the batch counts as not taken."""
    path = tmp_path / "events.jsonl"
    target = LinesFile(path)
    await write(target, 1)
    real, left = os.write, [100]

    def full(file: int, content: memoryview) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        part, left[0] = content[: left[0]], 0
        return real(file, part)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NotTakenError, match="No space left"):
        await write(target, 2)
    monkeypatch.setattr(os, "write", real)
    await write(target, 2)
    await target.close()
    assert numbers(path) == [1, 2]


async def test_a_folder_that_does_not_exist_is_not_taken(tmp_path: Path) -> None:
    """A wrong path is said in words, again and again, and loses nothing."""
    target = LinesFile(tmp_path / "none" / "events.jsonl")
    with pytest.raises(NotTakenError, match="No such file"):
        await write(target, 1)
    await target.close()


async def test_a_pipe_that_nobody_reads_delays_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to stdout that hangs holds a thread of its own, and the loop goes on."""
    reading, writing = os.pipe()

    class Pipe:
        def fileno(self) -> int:
            return writing

    monkeypatch.setattr("sys.stdout", Pipe())
    hanging = LinesStdout()
    task = asyncio.create_task(hanging.send([cloud_event(number) for number in range(1, 500)]))
    other = LinesFile(tmp_path / "events.jsonl")
    await write(other, 1)
    assert not task.done()
    got = b""
    while got.count(b"\n") < 499:
        got += await asyncio.to_thread(os.read, reading, 65_536)
    await task
    await hanging.close()
    await other.close()
    os.close(reading)
    os.close(writing)
