"""`make what-if`: compares `what_if` with really doing it, in a thousand random cases.

    CASES=1000 SEED=1 make what-if

The cases go in turn to every counterpart that is installed. A difference names its case; the same
seed makes the same cases again. `trial` says what a case is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from contract.counterparts import NotInstalledError
from what_if.sites import SITES
from what_if.trial import ACTIONS, Result, tried


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _run(cases: int, seed: str) -> int:
    """Runs the cases, and returns the number of differences."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sites = {}
        for name, make in SITES.items():
            own = folder / name
            own.mkdir()
            try:
                sites[name] = stack.enter_context(closing(make(own)))
            except NotInstalledError as error:
                _say(f"{name}: left out, since {error}")
        results = {name: Result() for name in sites}
        began = time.monotonic()
        for case in range(cases):
            name = list(sites)[case % len(sites)]
            number = case // len(sites)
            what = ACTIONS[number % len(ACTIONS)]
            before = len(results[name].differences)
            await tried(sites[name], folder / name, f"{seed}/{name}", number, what, results[name])
            for each in results[name].differences[before:]:
                _say(each)
            if (case + 1) % 100 == 0:
                _say(f"{case + 1} cases, {time.monotonic() - began:.0f} s")
    for name, result in results.items():
        _say(
            f"{name}: {result.cases} cases, {result.rows} rows, {result.stopping} that stop, "
            f"{result.served_on} uses that went on until their time, "
            f"{len(result.differences)} differences"
        )
    return sum(len(each.differences) for each in results.values())


def main() -> None:
    """Reads the environment, and exits with 1 if there is a difference."""
    logging.disable()
    cases, seed = int(os.environ.get("CASES") or 1_000), os.environ.get("SEED") or "1"
    _say(f"{cases} cases, seed {seed}")
    sys.exit(bool(asyncio.run(_run(cases, seed))))


if __name__ == "__main__":
    main()
