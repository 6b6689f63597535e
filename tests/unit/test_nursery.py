"""The process that other tests' servers and commands are forked from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nursery


def test_a_test_whose_time_was_up_spoils_no_later_one(tmp_path: Path) -> None:
    """An answer that nobody awaited is taken for no other order's, and no exit status is lost."""
    made = nursery.shared()
    out = tmp_path / "out"
    first, second = (
        made.start(
            "keyfold",
            arguments,
            folder=tmp_path,
            environment=dict(os.environ),
            out=out,
            err=tmp_path / "err",
        )
        for arguments in (["--version"], ["no-such-command"])
    )
    assert second.wait() == 2
    assert made._process.stdin is not None
    # As tests do whose time is up before they read the answer. They are few: the answers wait in a
    # pipe, and one that is full would stop the nursery. The first says 2, which is no status of the
    # first program's.
    for child in [second, *[first] * 9]:
        made._process.stdin.write(json.dumps({"number": 0, "do": "poll", "pid": child.pid}) + "\n")
        made._process.stdin.flush()
    assert first.wait(60) == 0
    assert out.read_text().startswith("keyfold ")
