"""The models in docs/model: TLC finds nothing, and finds what each safeguard is there for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[2]
MODEL: Final = ROOT / "docs" / "model"
CONFIG: Final = (MODEL / "Keyfold.cfg").read_text(encoding="utf-8")
LANE_CONFIG: Final = (MODEL / "Lane.cfg").read_text(encoding="utf-8")
REFUSALS_CONFIG: Final = (MODEL / "Refusals.cfg").read_text(encoding="utf-8")
CLIENT_CONFIG: Final = (MODEL / "Client.cfg").read_text(encoding="utf-8")

SAFEGUARDS: Final = re.findall(r"^    (\w+) = TRUE$", CONFIG, re.MULTILINE)
INVARIANTS: Final = CONFIG.split("INVARIANTS")[1].split()
LANE_SAFEGUARDS: Final = re.findall(r"^    (\w+) = TRUE$", LANE_CONFIG, re.MULTILINE)
LANE_INVARIANTS, LANE_PROPERTIES = (
    part.split() for part in LANE_CONFIG.split("INVARIANTS")[1].split("PROPERTIES")
)

REFUSALS_SAFEGUARDS: Final = re.findall(r"^    (\w+) = TRUE$", REFUSALS_CONFIG, re.MULTILINE)
REFUSALS_INVARIANTS: Final = REFUSALS_CONFIG.split("INVARIANTS")[1].split()

CLIENT_SAFEGUARDS: Final = re.findall(r"^    (\w+) = TRUE$", CLIENT_CONFIG, re.MULTILINE)
CLIENT_INVARIANTS: Final = CLIENT_CONFIG.split("INVARIANTS")[1].split()

MARKED: Final = {
    *("A6", "D5", "F1", "F2", "F2b", "F8", "R1", "R2", "R3", "R4", "R8", "R9", "R10"),
    *("S0", "S1", "S2", "S3", "S4", "S5", "S10", "S11"),
}
"""The rules of docs/protocol.md that the models hold; a safeguard is named after its rule."""

VIOLATED: Final = 12
"""TLC's exit code where an invariant does not hold."""

NEVER_HAPPENS: Final = 13
"""TLC's exit code where what must happen in the end need not happen."""

TLC_MAY_TAKE: Final = 150
"""Seconds that TLC may take; a case takes a few where nothing else runs."""

pytestmark = pytest.mark.timeout(2 * TLC_MAY_TAKE)


class Whole(NamedTuple):
    """A check with every safeguard on, with the numbers of what may happen."""

    events: tuple[str, ...]
    changes: int
    ticks: int
    replicas: int = 2


class Without(NamedTuple):
    """A check without one safeguard, and the invariant that then falls."""

    safeguard: str
    invariant: str
    events: tuple[str, ...]
    changes: int = 1
    ticks: int = 2
    replicas: int = 2


WHOLE: tuple[Whole, ...] = (
    Whole(("revoke",), changes=1, ticks=3),
    Whole(("revoke", "restart"), changes=1, ticks=2),
    Whole(("revoke", "restore"), changes=3, ticks=0),
    Whole(("revoke", "pin"), changes=1, ticks=2),
    Whole(("revoke", "failover", "own"), changes=1, ticks=0),
    Whole(("outage",), changes=0, ticks=2),
    Whole(("refusal", "outage"), changes=1, ticks=0),
    Whole(("refusal", "rotate"), changes=1, ticks=0, replicas=1),
    Whole(("revoke", "failover", "reconcile"), changes=2, ticks=0),
    Whole(("revoke", "failover", "reconcile", "own"), changes=2, ticks=0, replicas=1),
    Whole(("revoke", "attempt", "pages"), changes=2, ticks=2, replicas=1),
    Whole(("revoke", "prune"), changes=3, ticks=2, replicas=1),
    Whole(("attempt", "prune"), changes=3, ticks=0),
    Whole(("revoke", "prune", "restart"), changes=3, ticks=2, replicas=1),
    Whole(("revoke", "prune", "failover"), changes=3, ticks=2, replicas=1),
    Whole(("revoke", "swallow"), changes=1, ticks=0),
    Whole(("revoke", "swallow", "rotate"), changes=2, ticks=0, replicas=1),
    Whole(("revoke", "swallow", "attempt", "prune"), changes=3, ticks=0, replicas=1),
    Whole(("revoke", "tamper"), changes=1, ticks=0),
    Whole(("revoke", "tamper", "attempt", "prune"), changes=3, ticks=0, replicas=1),
    Whole(("revoke", "tamper", "seal", "restore"), changes=3, ticks=0, replicas=1),
    # Mutations meet in the store alone.
    Whole(("revoke", "restore", "rotate"), changes=4, ticks=0, replicas=0),
    Whole(("revoke", "restore", "add"), changes=4, ticks=0, replicas=0),
)

DEEPER: Final = (
    Whole(("revoke", "restore"), changes=2, ticks=1),
    Whole(("revoke", "failover", "own"), changes=1, ticks=1),
    Whole(("refusal", "outage"), changes=1, ticks=1),
    Whole(("refusal", "rotate"), changes=1, ticks=1, replicas=1),
)
"""What `make model` checks besides. Each takes as long as ten others, and no safeguard needs bounds
as wide as these to be missed."""

if os.environ.get("KEYFOLD_MODEL") == "deep":
    WHOLE += DEEPER

WITHOUT: Final = (
    Without("A6_revoke", "AllStopByTheBound", ("revoke", "tamper"), replicas=1),
    Without("A6_obey", "ConfirmedHasStopped", ("revoke", "tamper"), ticks=0, replicas=1),
    Without("A6_ban", "ConfirmedHasStopped", ("revoke", "tamper"), ticks=0, replicas=1),
    Without(
        "A6_restore",
        "ConfirmedHasStopped",
        ("revoke", "tamper", "restore"),
        changes=3,
        ticks=0,
        replicas=1,
    ),
    Without(
        "A6_seal",
        "ConfirmedHasStopped",
        ("revoke", "tamper", "seal"),
        changes=2,
        ticks=0,
        replicas=1,
    ),
    Without(
        "A6_kept",
        "ConfirmedHasStopped",
        ("revoke", "tamper", "attempt", "prune"),
        changes=3,
        ticks=0,
        replicas=1,
    ),
    Without("A6_sweep", "NoUseOfSpoiledRows", ("tamper",), changes=0, ticks=0, replicas=1),
    Without("F1_began", "ProvenInTime", ("outage",)),
    Without("F1_bound", "ProvenInTime", ("outage",)),
    Without("F2", "NoUsePastARefusal", ("refusal", "outage"), ticks=0),
    Without("R1", "ConfirmedHasStopped", ("revoke", "restore"), changes=3, ticks=0),
    Without("R2", "ConfirmedHasStopped", ("revoke",)),
    Without("R2", "NoUsePastARefusal", ("refusal",)),
    Without("R3", "ConfirmedHasStopped", ("revoke",)),
    Without("R3", "ProvenInTime", ()),
    Without("R4", "ConfirmedHasStopped", ("revoke",)),
    Without(
        "S0", "ConfirmedHasStopped", ("revoke", "attempt", "pages"), changes=2, ticks=0, replicas=1
    ),
    Without("S1", "ConfirmedHasStopped", ("revoke", "failover")),
    Without("S1_own", "ConfirmedHasStopped", ("revoke", "failover", "own"), ticks=0),
    Without(
        "S1_unseen",
        "OnlyAnOperatorReconciles",
        ("revoke", "failover", "reconcile"),
        changes=2,
        ticks=0,
        replicas=1,
    ),
    Without(
        "S1_sight",
        "OnlyAnOperatorReconciles",
        ("revoke", "failover", "reconcile", "own"),
        changes=2,
        ticks=0,
        replicas=1,
    ),
    Without("S2", "AllStopByTheBound", ("revoke", "pin")),
    Without("S2", "SilentHasStopped", ("pin",)),
    Without("S3_began", "AllStopByTheBound", ("revoke",), ticks=3),
    Without("S3_every", "AllStopByTheBound", ("revoke",)),
    Without("S3_whole", "AllStopByTheBound", ("revoke", "attempt", "pages"), changes=2, replicas=1),
    Without("S4_start", "ConfirmedHasStopped", ("revoke", "restart")),
    Without("S4_name", "ConfirmedHasStopped", ("revoke",)),
    Without("S5", "NothingUnopenable", ("rotate",), changes=2, ticks=1),
    Without("S5", "OldKeyNotNeeded", ("rotate",), changes=2, ticks=1),
    Without("R1", "NoRegionAddedUnawares", ("revoke", "add"), changes=2, ticks=0, replicas=0),
    Without("R10", "NoRegionAddedUnawares", ("revoke", "add"), changes=2, ticks=0, replicas=0),
    Without("S10_load", "ConfirmedHasStopped", ("revoke", "swallow"), ticks=0),
    Without(
        "S10_commit",
        "ConfirmedHasStopped",
        ("revoke", "swallow", "rotate"),
        changes=2,
        ticks=0,
        replicas=1,
    ),
    Without(
        "S10_kept",
        "PruningKeepsEveryFloor",
        ("attempt", "prune"),
        changes=3,
        ticks=0,
        replicas=1,
    ),
    Without(
        "S10_lock",
        "ConfirmedHasStopped",
        ("revoke", "swallow", "attempt", "prune"),
        changes=3,
        ticks=0,
        replicas=1,
    ),
    Without("S11_live", "PruningPassesNoLiveReplica", ("revoke", "prune"), changes=3, replicas=1),
    Without("S11_checkpoint", "PruningIsNoRollback", ("revoke", "prune"), changes=3, replicas=1),
    Without("S11_anew", "ConfirmedHasStopped", ("revoke", "prune"), changes=3, replicas=1),
)

LANE_WITHOUT: Final = (
    ("R9_lane", "RevokeCommits"),
    ("R9_turns", "RevokeCommits"),
    ("R9_each", "RevokeCommits"),
    ("R9_share", "FindsAPlace"),
    ("R9_kept", "WorkIsBounded"),
)
"""Safeguards of the lane, and what falls without each."""

REFUSALS_WHOLE: Final = (
    (("refusal", "outage"), 2),
    (("refusal", "context"), 1),
    (("busy", "outage"), 3),
    (("busy", "refusal"), 1),
)
"""Events that may happen to refusals with every safeguard on, and ticks."""

REFUSALS_WITHOUT: Final = (
    ("F2b_again", "RefusalsReachAll", ("refusal", "outage")),
    ("F2b_late", "RefusalsReachAll", ("refusal", "outage")),
    ("F2b_root", "RefusalsReachAll", ("refusal", "outage")),
    ("F2b_prove", "RefusalsReachAll", ("refusal", "outage")),
    ("F2b_doubt", "RefusalsReachAll", ("refusal", "outage")),
    ("F2b_named", "NeighboursServeOn", ("context",)),
    ("F8_grace", "GraceNeedsAnOutage", ("busy",)),
    ("F8_reserve", "ProofsAreNotHeldUp", ("busy",)),
)
"""Safeguards of refusals and limits, and what falls without each under these events."""

CLIENT_WHOLE: tuple[tuple[tuple[str, ...], int, int, int], ...] = (
    ((), 1, 4, 1),
    ((), 1, 2, 2),
    (("break",), 1, 3, 1),
    (("wait",), 1, 3, 1),
    (("refusal", "break"), 2, 1, 1),
    (("reuse", "wait", "break"), 2, 1, 1),
    (("reuse", "wait", "break", "refusal"), 3, 0, 1),
)
"""Events that may happen to a client with every safeguard on, decisions, ticks, and messages of the
stream that may be on their way at once."""

if os.environ.get("KEYFOLD_MODEL") == "deep":
    CLIENT_WHOLE += ((("break",), 1, 4, 1),)

CLIENT_WITHOUT: Final = (
    ("R2_drop", "ToldHasStopped", (), 1, 1),
    ("R2_flight", "KeysAreFromAfterTheNews", (), 2, 1),
    ("R2_refused", "RefusedHasStopped", ("refusal",), 1, 1),
    ("R2_lent", "NothingLentPastNews", (), 1, 1),
    ("R8_insert", "ToldHasStopped", (), 1, 1),
    ("R8_resume", "ToldHasStopped", ("break",), 1, 1),
    ("R8_age", "ClientsStopByTheBound", (), 1, 4),
    ("R8_made", "ClientsStopByTheBound", (), 1, 4),
    ("R8_silence", "AwayHasStopped", (), 1, 3),
    ("R8_grace", "AwayHasStopped", ("break",), 1, 3),
    ("R8_share", "EachUseAsks", ("wait",), 1, 4),
    ("D5", "OwnClusterAlone", ("reuse",), 2, 1),
)
"""Safeguards of a client's cache, and what falls without each under these events, decisions and
ticks."""


@pytest.fixture(scope="module")
def tlc() -> str:
    """The path of TLC's jar; skips where it cannot be had, but not in CI."""
    script = ROOT / "scripts" / "model.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        if done.returncode != 3 or os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return done.stdout.strip()


class Checked(NamedTuple):
    """How TLC ended."""

    code: int
    output: str


def _with(config: str, constants: dict[str, str]) -> str:
    """Returns a configuration with some of its constants replaced."""
    for name, value in constants.items():
        config, found = re.subn(
            rf"^    {name} = .*$", f"    {name} = {value}", config, flags=re.MULTILINE
        )
        assert found == 1, f"no constant {name}"
    return config


def _check(tlc: str, folder: Path, constants: dict[str, str], invariants: list[str]) -> Checked:
    """Runs TLC with some constants of Keyfold.cfg replaced, and these invariants alone."""
    config = _with(CONFIG.split("INVARIANTS")[0], constants)
    return _run(
        tlc, folder, "Keyfold", config + "INVARIANTS\n    " + "\n    ".join(invariants) + "\n"
    )


def _run(tlc: str, folder: Path, module: str, config: str) -> Checked:
    """Runs TLC on a module with a configuration."""
    (folder / f"{module}.cfg").write_text(config, encoding="utf-8")
    shutil.copy(MODEL / f"{module}.tla", folder)
    # Most runs end before the second compiler pays.
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseParallelGC", "-Xmx2g"]
    command += [f"-Djava.io.tmpdir={folder}", "-cp", tlc]
    command += ["tlc2.TLC", "-config", f"{module}.cfg", "-workers", "2", "-nowarning"]
    command += ["-metadir", str(folder / "states"), module]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=TLC_MAY_TAKE
    )
    return Checked(done.returncode, done.stdout + done.stderr)


def _set(events: tuple[str, ...]) -> str:
    """Writes a set of events as TLA+ has it."""
    return "{" + ", ".join(f'"{event}"' for event in events) + "}"


def _bounds(events: tuple[str, ...], changes: int, ticks: int, replicas: int = 2) -> dict[str, str]:
    return {
        "Events": _set(events),
        "MaxLog": str(changes),
        "MaxTime": str(ticks),
        "Replicas": "{" + ", ".join(f"r{n + 1}" for n in range(replicas)) + "}",
    }


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: "+".join(case.events))
def test_with_every_safeguard_every_invariant_holds(tlc: str, tmp_path: Path, case: Whole) -> None:
    """A6, F1, F2, R1 to R4, R10, S0 to S5, S10, S11: no run in the bounds breaks a promise."""
    code, output = _check(tlc, tmp_path, _bounds(*case), INVARIANTS)
    assert code == 0, output
    assert "No error has been found" in output


@pytest.mark.parametrize("case", WITHOUT, ids=lambda case: f"{case.safeguard}-{case.invariant}")
def test_without_a_safeguard_its_invariant_falls(tlc: str, tmp_path: Path, case: Without) -> None:
    """A6, F1, F2, R1 to R4, R10, S0 to S5, S10, S11: TLC shows what happens without a safeguard."""
    constants = _bounds(*case[2:]) | {case.safeguard: "FALSE"}
    code, output = _check(tlc, tmp_path, constants, [case.invariant])
    assert code == VIOLATED, output
    assert f"Invariant {case.invariant} is violated" in output


def test_with_every_safeguard_each_revoke_commits(tlc: str, tmp_path: Path) -> None:
    """R9: whatever other callers and other changes do, a Revoke finds a place and commits."""
    code, output = _run(tlc, tmp_path, "Lane", LANE_CONFIG)
    assert code == 0, output
    assert "No error has been found" in output


@pytest.mark.parametrize(("safeguard", "falls"), LANE_WITHOUT)
def test_without_a_safeguard_of_the_lane_a_revoke_waits(
    tlc: str, tmp_path: Path, safeguard: str, falls: str
) -> None:
    """R9: each safeguard of the lane is needed; TLC shows what happens without it."""
    config = _with(LANE_CONFIG.split("INVARIANTS")[0], {safeguard: "FALSE"})
    kind = "INVARIANTS" if falls in LANE_INVARIANTS else "PROPERTIES"
    code, output = _run(tlc, tmp_path, "Lane", f"{config}{kind}\n    {falls}\n")
    if kind == "INVARIANTS":
        assert code == VIOLATED, output
        assert f"Invariant {falls} is violated" in output
    else:
        assert code == NEVER_HAPPENS, output
        assert "Temporal properties were violated" in output


def _check_refusals(
    tlc: str, folder: Path, constants: dict[str, str], invariants: list[str]
) -> Checked:
    config = _with(REFUSALS_CONFIG.split("INVARIANTS")[0], constants)
    lines = "\n".join(f"    {name}" for name in invariants)
    return _run(tlc, folder, "Refusals", f"{config}INVARIANTS\n{lines}\n")


@pytest.mark.parametrize(("events", "ticks"), REFUSALS_WHOLE)
def test_with_every_safeguard_refusals_reach_all(
    tlc: str, tmp_path: Path, events: tuple[str, ...], ticks: int
) -> None:
    """F2b, F8: repeated refusals reach every replica, and Keyfold's own limits give no grace."""
    constants = {"Events": _set(events), "MaxTime": str(ticks)}
    code, output = _check_refusals(tlc, tmp_path, constants, REFUSALS_INVARIANTS)
    assert code == 0, output
    assert "No error has been found" in output


@pytest.mark.parametrize(("safeguard", "invariant", "events"), REFUSALS_WITHOUT)
def test_without_a_safeguard_of_refusals_its_invariant_falls(
    tlc: str, tmp_path: Path, safeguard: str, invariant: str, events: tuple[str, ...]
) -> None:
    """F2b, F8: each safeguard of refusals and limits is needed; TLC shows a run without it."""
    constants = {"Events": _set(events), safeguard: "FALSE"}
    code, output = _check_refusals(tlc, tmp_path, constants, [invariant])
    assert code == VIOLATED, output
    assert f"Invariant {invariant} is violated" in output


def _check_client(
    tlc: str, folder: Path, constants: dict[str, str], invariants: list[str]
) -> Checked:
    config = _with(CLIENT_CONFIG.split("INVARIANTS")[0], constants)
    lines = "\n".join(f"    {name}" for name in invariants)
    return _run(tlc, folder, "Client", f"{config}INVARIANTS\n{lines}\n")


@pytest.mark.parametrize(("events", "decisions", "ticks", "messages"), CLIENT_WHOLE)
def test_with_every_safeguard_clients_stop(
    tlc: str, tmp_path: Path, events: tuple[str, ...], decisions: int, ticks: int, messages: int
) -> None:
    """R2, R8: no client's cache serves once its bound has passed, or once it has been told."""
    constants = {
        "Events": _set(events),
        "MaxStore": str(decisions),
        "MaxTime": str(ticks),
        "MaxQueue": str(messages),
    }
    code, output = _check_client(tlc, tmp_path, constants, CLIENT_INVARIANTS)
    assert code == 0, output
    assert "No error has been found" in output


@pytest.mark.parametrize(("safeguard", "invariant", "events", "decisions", "ticks"), CLIENT_WITHOUT)
def test_without_a_safeguard_of_a_client_its_invariant_falls(
    tlc: str,
    tmp_path: Path,
    safeguard: str,
    invariant: str,
    events: tuple[str, ...],
    decisions: int,
    ticks: int,
) -> None:
    """R2, R8, D5: each safeguard of a client's cache is needed; TLC shows a run without it."""
    constants = {
        "Events": _set(events),
        "MaxStore": str(decisions),
        "MaxTime": str(ticks),
        safeguard: "FALSE",
    }
    code, output = _check_client(tlc, tmp_path, constants, [invariant])
    assert code == VIOLATED, output
    assert f"Invariant {invariant} is violated" in output


def test_every_marked_rule_has_a_safeguard_that_is_taken_away() -> None:
    """Each marked rule and each safeguard is tried, and each invariant falls once."""
    named = SAFEGUARDS + LANE_SAFEGUARDS + REFUSALS_SAFEGUARDS + CLIENT_SAFEGUARDS
    assert {name.partition("_")[0] for name in named} == MARKED
    assert {case.safeguard for case in WITHOUT} == set(SAFEGUARDS)
    assert {case.invariant for case in WITHOUT} == set(INVARIANTS)
    assert {safeguard for safeguard, _ in LANE_WITHOUT} == set(LANE_SAFEGUARDS)
    assert {falls for _, falls in LANE_WITHOUT} == {*LANE_INVARIANTS, *LANE_PROPERTIES}
    assert {safeguard for safeguard, _, _ in REFUSALS_WITHOUT} == set(REFUSALS_SAFEGUARDS)
    assert {invariant for _, invariant, _ in REFUSALS_WITHOUT} == set(REFUSALS_INVARIANTS)
    assert {safeguard for safeguard, *_ in CLIENT_WITHOUT} == set(CLIENT_SAFEGUARDS)
    assert {invariant for _, invariant, *_ in CLIENT_WITHOUT} == set(CLIENT_INVARIANTS)
