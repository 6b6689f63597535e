"""The drill: three regions, what goes wrong between them, and how long it takes to be well again.

    python -m drill.run [SCENE…]

`make chaos` runs all scenes. Only root can make network namespaces. The exit code is 0 only if
no scene found a violation or ended early.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from drill import wan
from drill.database import programs
from drill.drill import RECOVERY, Drill
from drill.regions import World, opened
from drill.scenes import SCENES

_LOG: Final = 10_000_000


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _row(name: str, told: Sequence[str]) -> str:
    return f"{name:36}" + "".join(f"{each:>14}" for each in told)


_COLUMNS: Final = (
    "violations",
    "warm failed",
    "refused for",
    "elsewhere",
    "revoke again",
    "last use",
    "machine late",
)
"""`elsewhere`: the longest refusal where servers may refuse. `drill.Seen` has the rest."""


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def carry_out(world: World, name: str, seed: int) -> tuple[str, bool]:
    """Plays a scene; returns its row of the table, and whether it ended well."""
    began = time.monotonic()
    try:
        # An earlier scene that ended early may have left something to mend.
        world.until(world.in_sync, RECOVERY)
        drill = Drill(world, seed)
    except Exception:  # noqa: BLE001  one scene that breaks must not hide the others
        say(f"{name}: COULD NOT BEGIN: {traceback.format_exc()}")
        return _row(name, ("not begun", *["-"] * (len(_COLUMNS) - 1))), False
    broken = ""
    told: dict[str, float] = {}
    try:
        with drill.under_way():
            told = SCENES[name](drill)
    except Exception:  # noqa: BLE001  one scene that breaks must not hide the others
        broken = traceback.format_exc()
    found = drill.violations()
    seen = drill.seen
    uses, changes = len(drill.history.uses), len(drill.history.changes)
    figures = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in told.items())
    say(f"{name}, {time.monotonic() - began:.0f} s: {figures}; {uses} uses, {changes} changes")
    if broken:
        say(f"  ENDED EARLY: {broken}")
    for violation in found[:20]:
        say(f"  FOUND {violation}")
    if found or broken:
        kept = Path(tempfile.gettempdir()) / f"keyfold-drill-{seed}-{name}"
        drill.history.dump(kept.with_suffix(".jsonl"))
        kept.with_suffix(".log").write_text(world.logs(_LOG))
        say(f"  the history is in {kept}.jsonl, the logs in {kept}.log")
    cells = (
        "ended early" if broken else str(len(found)),
        str(seen.failed),
        _seconds(seen.refusal),
        _seconds(seen.elsewhere),
        _seconds(seen.again),
        _seconds(seen.last_use),
        _seconds(drill.machine.late),
    )
    return _row(name, cells), not found and not broken


def main(names: Sequence[str]) -> int:
    """Plays the scenes on one system.

    Returns:
        0; 1 if a scene ended badly; 2 if a name is none of a scene.
    """
    if unknown := [name for name in names if name not in SCENES]:
        say(f"no scene is called {', '.join(unknown)}; there are {', '.join(SCENES)}")
        return 2
    try:
        wan.require()
        programs()
    except pytest.skip.Exception as error:
        say(f"the drill is skipped: {error}")
        return 0
    seed, rows, good = random.randrange(10**6), [], True
    say(f"three regions, 80 ms apart; seed {seed}")
    with opened() as world:
        for number, name in enumerate(names or SCENES):
            row, well = carry_out(world, name, seed + number)
            rows.append(row)
            good &= well
    say(
        "\n".join(
            [
                "",
                _row("scene", _COLUMNS),
                *rows,
                "",
                "all good" if good else "some scenes ended badly",
            ]
        )
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
