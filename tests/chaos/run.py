"""`make chaos`: runs of the chaos suite.

    CHAOS_RUNS=3 CHAOS_KILLS=1000 CHAOS_SEED=17 make chaos

A run starts servers, lets clients and faults loose, and validates what the clients saw. Then it
checks what is left: every wrapped key, every audit chain, and whether a server refuses an edited
row. There is one run on SQLite, one on PostgreSQL, and one for each way in which PostgreSQL fails
over. CHAOS_KILLS kills that many processes on each store, twice over: servers under load, and
mutations of the store at each of their marks and at random. Last, the suite takes one safeguard at
a time out of a copy of the code, by the patches in `patches/`, and expects the validation to fail.
A patch that the validation misses, or that no longer applies, is a failure.

Without make, set GRPC_ENABLE_FORK_SUPPORT=false as the Makefile does. Else gRPC's fork handlers
sometimes crash a PostgreSQL server that starts while clients call. gRPC reads the variable when it
is imported, so no module here can set it in time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chaos import crashes
from chaos.fleet import KINDS, POSTGRESQL, SQLITE
from chaos.order import Violation
from chaos.patching import DoesNotApplyError, Patch, copied, patches
from chaos.trial import Plan, Report, run
from e2e.server import ROOT

TRIES: Final = 4
"""Runs within which the validation has to find a patch."""

ROUND: Final = 100
"""Servers that are killed in one run; a failure can then be repeated in a minute."""

_KILLING: Final = ("kill", "rotate")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _has_postgresql() -> bool:
    """Returns whether this machine has PostgreSQL."""
    script = ROOT / "scripts" / "postgres.sh"
    quiet = subprocess.DEVNULL
    return (
        script.exists() and not subprocess.run([script, "15"], stdout=quiet, check=False).returncode
    )


def _good(plan: Plan, kept: Path) -> bool:
    """Runs the unpatched code; returns whether the validation found no fault."""
    folder = Path(tempfile.mkdtemp(prefix="keyfold-chaos-"))
    began = time.monotonic()
    try:
        report = run(plan, folder)
    except Exception as error:  # noqa: BLE001  one run that breaks must not hide the others
        report = Report([Violation("broken", "", f"{type(error).__name__}: {error}")])
    took = time.monotonic() - began
    numbers = ", ".join(f"{count} {what}" for what, count in report.counts.items())
    _say(f"{KINDS[plan.kind]}, seed {plan.seed}, {took:.0f} s: {numbers}")
    for violation in report.violations[:20]:
        _say(f"  FOUND {violation}")
    if report.violations:
        place = kept / f"seed-{plan.seed}-{plan.kind}"
        shutil.copytree(folder, place, dirs_exist_ok=True, symlinks=True)
        _say(f"  the history, the logs and the store are in {place}")
    shutil.rmtree(folder, ignore_errors=True)
    return not report.violations


def _killed(kind: str, kills: int, seed: int, kept: Path) -> int:
    """Kills servers under load, in runs; returns the number of runs that found a fault."""
    bad = 0
    for number, first in enumerate(range(0, kills, ROUND)):
        some = min(ROUND, kills - first)
        plan = Plan(seed + 1_000 + number, 0.0, some, kind, faults=_KILLING)
        bad += not _good(plan, kept)
    return bad


def _crashed(kind: str, kills: int, seed: int) -> int:
    """Kills mutations of the store; returns 1 if it found a fault, else 0."""
    began = time.monotonic()
    count, found = crashes.crash(kind, kills, seed)
    took = time.monotonic() - began
    _say(f"{count} mutations killed, {kind}, seed {seed}, {took:.0f} s")
    for what in found[:20]:
        _say(f"  FOUND {what}")
    return bool(found)


def found(patch: Patch, seed: int, seconds: float, tries: int = TRIES) -> list[Violation]:
    """Returns the violations that a missing safeguard leads to; empty if the validation missed it.

    Raises:
        DoesNotApplyError: The patch does not fit the code any more.
    """
    for attempt in range(tries):
        with tempfile.TemporaryDirectory(prefix="keyfold-chaos-") as name:
            folder = Path(name)
            tree = copied(folder / "tree", patch)
            (folder / "run").mkdir()
            plan = Plan(seed + attempt, seconds, 0, patch.kind, tree, patch.faults)
            report = run(plan, folder / "run")
            if report.violations:
                return report.violations
    return []


def _missed(wanted: list[Patch], seed: int, seconds: float) -> Iterator[str]:
    """Runs the code with one safeguard removed at a time; yields the failures."""
    for patch in wanted:
        began = time.monotonic()
        told = f"{patch.path.name} ({patch.rule}: {patch.takes})"
        try:
            violations = found(patch, seed, seconds)
        except DoesNotApplyError as error:
            yield f"  FAILED {error}"
            continue
        except Exception as error:  # noqa: BLE001  one that breaks must not hide the others
            yield f"  FAILED {told}: {type(error).__name__}: {error}"
            continue
        took = time.monotonic() - began
        if violations:
            checks = ", ".join(dict.fromkeys(violation.check for violation in violations))
            _say(f"{told}: found by {checks} in {took:.0f} s")
            _say(f"    such as {violations[0]}")
        else:
            yield f"  FAILED {told}: not found in {TRIES} runs, seed {seed}, {took:.0f} s"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    environment = os.environ.get
    parser.add_argument("--runs", type=int, default=int(environment("CHAOS_RUNS", "1")))
    parser.add_argument("--kills", type=int, default=int(environment("CHAOS_KILLS", "0")))
    parser.add_argument("--seconds", type=float, default=float(environment("CHAOS_SECONDS", "20")))
    parser.add_argument(
        "--seed", type=int, default=int(environment("CHAOS_SEED", str(random.randrange(10**6))))
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind of system")
    parser.add_argument("--patch", action="append", help="only this patch, by its name")
    parser.add_argument("--no-patches", action="store_true", help="skip the patches")
    parser.add_argument("--only-patches", action="store_true", help="run only the patches")
    parser.add_argument("--only-kills", action="store_true", help="run only the kills")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "keyfold-chaos")
    return parser.parse_args()


def main() -> int:
    """Carries out `make chaos`; returns the exit code."""
    options = _options()
    seed, only = options.seed, options.only_patches or options.patch
    _say(f"seed {seed}; repeat with CHAOS_SEED={seed} CHAOS_RUNS={options.runs} make chaos")
    kinds = [kind for kind in KINDS if not options.kind or kind in options.kind]
    if not _has_postgresql():
        _say("PostgreSQL is not available here: the runs that need it are skipped")
        kinds = [kind for kind in kinds if kind == SQLITE]
    bad = 0
    if not only and not options.only_kills:
        for number in range(options.runs):
            for kind in kinds:
                bad += not _good(Plan(seed + number, options.seconds, 0, kind), options.kept)
    if not only and options.kills:
        for kind in (kind for kind in kinds if kind in {SQLITE, POSTGRESQL}):
            bad += _crashed(kind, options.kills, seed)
            bad += _killed(kind, options.kills, seed, options.kept)
    if not options.no_patches and not options.only_kills:
        wanted = [p for p in patches() if not options.patch or p.path.stem in options.patch]
        for failure in _missed([p for p in wanted if p.kind in kinds], seed, 8.0):
            _say(failure)
            bad += 1
    _say("all good" if not bad else f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
