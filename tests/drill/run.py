"""The drill: three regions, what goes wrong between them, and how long it takes to be well again.

    python -m drill.run [SCENE…]

`make chaos` runs all scenes. Only root can make network namespaces.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from drill.regions import opened
from drill.scenes import SCENES, Drill


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(names: Sequence[str]) -> int:
    """Runs the scenes on one system, and returns how many ended badly."""
    seed, bad = random.randrange(10**6), 0
    say(f"three regions, 80 ms apart; seed {seed}")
    with opened() as world:
        for number, name in enumerate(names or SCENES):
            drill = Drill(world, seed + number)
            drill.traffic.start()
            try:
                told = SCENES[name](drill)
            finally:
                drill.traffic.stop()
            found = drill.violations()
            figures = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in told.items())
            uses, changes = len(drill.history.uses), len(drill.history.changes)
            say(f"{name}: {figures}; {uses} uses, {changes} changes, {len(found)} violations")
            for violation in found[:20]:
                say(f"  FOUND {violation}")
            if found:
                kept = Path(tempfile.gettempdir()) / f"keyfold-drill-{seed}-{name}.jsonl"
                drill.history.dump(kept)
                say(f"  the history is in {kept}")
            bad += bool(found)
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
