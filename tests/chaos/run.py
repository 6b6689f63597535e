"""Runs of the chaos suite: `make chaos`, and each run for the tests.

    CHAOS_RUNS=3 CHAOS_KILLS=1000 CHAOS_SEED=17 make chaos

A run starts servers, lets clients and faults loose, and validates what the clients saw; then it
looks at what is left: every wrapped key, every audit chain, and whether an edited row is noticed.
`make chaos` also takes one safeguard at a time out of a copy of the code, by the patches in
`patches/`, and expects the validation to fail: a patch that it does not find, or that does not
apply any more, is a failure.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from chaos.faults import Faults
from chaos.fleet import GRACE, STALENESS, TTL, Fleet
from chaos.history import Blob, History
from chaos.traffic import Board, Client, opened
from chaos.validate import Violation, validate
from e2e.server import ROOT
from e2e.wire import Refusal, refusal, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.errors import KeyfoldError

PATCHES: Final = Path(__file__).with_name("patches")
CLIENTS: Final = 8
CHANGERS: Final = 4
"""Clients that make changes; the others use keys."""

TRIES: Final = 4
"""Runs that a patch has to be found in."""

_BATCH: Final = 500
_TIMEOUT: Final = 10.0


class DoesNotApplyError(Exception):
    """A patch no longer fits the code."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        seed: Draws what clients ask and what goes wrong.
        seconds: How long faults are brought about.
        kills: How many servers must have been killed before it ends.
        shared: Three servers on PostgreSQL; else one on SQLite.
        tree: Whose code the servers run.
        faults: Names of the faults to choose from; empty: all.
    """

    seed: int
    seconds: float = 8.0
    kills: int = 0
    shared: bool = False
    tree: Path = ROOT
    faults: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """How a run ended.

    Attributes:
        violations: What must not have happened.
        counts: How much of everything there was.
        history: What the clients saw.
    """

    violations: list[Violation]
    counts: Counter[str] = field(default_factory=Counter)
    history: History | None = None


def run(plan: Plan, folder: Path) -> Report:
    """Carries out one run in an empty folder."""
    draw = random.Random(plan.seed)
    history = History(servers=3 if plan.shared else 1, staleness=STALENESS, ttl=TTL, grace=GRACE)
    fleet = Fleet(folder, plan.tree, shared=plan.shared, kills=random.Random(draw.random()))
    try:
        fleet.start()
        board = Board()
        clients = [
            Client(
                number,
                fleet.servers,
                board,
                history,
                draw.getrandbits(32),
                changes=number < CHANGERS,
            )
            for number in range(CLIENTS)
        ]
        clients[0].enable_twins()
        faults = Faults(fleet, history, draw.getrandbits(32), plan.faults)
        for client in clients:
            client.start()
        try:
            faults.run(plan.seconds, plan.kills)
        finally:
            for client in clients:
                client.ended.set()
            for client in clients:
                client.join(30)
        for client in clients:
            if client.failure is not None:
                raise client.failure
            assert not client.is_alive()
        violations = [*validate(history), *_left(fleet, history)]
        report = Report(violations, _counts(history), history)
        report.counts["kills"] = faults.kills + fleet.deaths
        history.dump(folder / "history.jsonl")
        (folder / "violations.txt").write_text("".join(f"{v}\n" for v in violations))
        return report
    finally:
        fleet.close()


def _counts(history: History) -> Counter[str]:
    attempts = [a for change in history.changes for a in change.attempts]
    uses = [use.attempt for use in history.uses]
    return Counter(
        {
            "changes": len(history.changes),
            "carried out": sum(attempt.answer.done for attempt in attempts),
            "unknown": sum(attempt.answer.unknown for attempt in attempts),
            "replayed": sum(attempt.answer.replayed for attempt in attempts),
            "uses": len(uses),
            "served": sum(attempt.answer.done for attempt in uses),
            "wrapped keys": len(history.blobs),
        }
    )


# --- what is left --------------------------------------------------------------------------


def _left(fleet: Fleet, history: History) -> Iterator[Violation]:
    """Looks at what a run leaves: records, wrapped keys, chains, seals."""
    for server in fleet.servers:
        # What is remembered of refusals and outages goes with the process.
        if server.running:
            server.kill()
        server.die = ""
    fleet.start()
    yield from _records(fleet, history)
    with stubs(fleet.servers[0].target) as stub:
        blobs: dict[str, list[Blob]] = defaultdict(list)
        for blob in history.blobs:
            blobs[blob.cluster].append(blob)
        for cluster, kept in sorted(blobs.items()):
            yield from _opened(stub, cluster, kept, restored=False)
            try:
                stub.Restore(pb.RestoreRequest(cluster=cluster), timeout=_TIMEOUT)
            except grpc.RpcError as error:
                yield Violation("wrapped-key", cluster, f"no Restore: {refusal(error)}")
            yield from _opened(stub, cluster, kept, restored=True)
    for server in fleet.servers:
        server.kill()
    yield from _audited(fleet, history)
    yield from _edited(fleet)


def _opened(
    stub: service.KeyManagementServiceStub, cluster: str, kept: list[Blob], *, restored: bool
) -> Iterator[Violation]:
    """Every wrapped key opens, or is refused because its region is revoked, as the record says."""
    status = stub.GetStatus(pb.GetStatusRequest(cluster=cluster), timeout=_TIMEOUT).status
    revoked = {r.region for r in status.regions if r.state == res.STATE_REVOKED}
    if restored and revoked:
        yield Violation("wrapped-key", cluster, f"{sorted(revoked)} could not be restored")
    for first in range(0, len(kept), _BATCH):
        some = kept[first : first + _BATCH]
        items = [pb.BatchUnwrapItem(wrapped_key=blob.wrapped) for blob in some]
        asked = pb.BatchUnwrapRequest(cluster=cluster, items=items)
        results = stub.BatchUnwrap(asked, timeout=_TIMEOUT).results
        for blob, result in zip(some, results, strict=True):
            where = f"a key of {blob.region}, generation {blob.generation}"
            reason = Refusal.of(result.error).reason if result.HasField("error") else ""
            if reason != ("REVOKED" if blob.region in revoked else ""):
                text = f"{where}: {reason or 'it opened, though its region is revoked'}"
                yield Violation("wrapped-key", cluster, text)
            elif not reason and (wrong := opened(blob, result.answer)):
                yield Violation("wrapped-key", cluster, f"{where}: {wrong}")


def _records(fleet: Fleet, history: History) -> Iterator[Violation]:
    """R5, R6: the chain holds one event for each change that was made, and no more."""
    rows = fleet.execute(
        "SELECT name, action, count(*) FROM audit_events JOIN clusters ON uid = cluster_uid "
        "WHERE outcome IN ('done', 'unchanged') GROUP BY name, action"
    )
    recorded = {(str(name), str(action)): int(str(count)) for name, action, count in rows}
    sure: Counter[tuple[str, str]] = Counter()
    maybe: Counter[tuple[str, str]] = Counter()
    for change in history.changes:
        key = (change.cluster, f"rpc:cluster:{change.request.method.lower()}")
        done = sum(a.answer.done and not a.answer.replayed for a in change.attempts)
        if change.request.method == "Restore":
            # One that moves nothing leaves no event, and is carried out again when repeated.
            maybe[key] += len(change.attempts)
        elif done or any(a.answer.replayed for a in change.attempts):
            sure[key] += 1
        elif any(a.answer.unknown for a in change.attempts):
            maybe[key] += 1
    for key in sorted({*recorded, *sure}):
        count = recorded.get(key, 0)
        if not sure[key] <= count <= sure[key] + maybe[key]:
            text = f"{count} events of {key[1]}, not {sure[key]} to {sure[key] + maybe[key]}"
            yield Violation("audit", key[0], text)


def _audited(fleet: Fleet, history: History) -> Iterator[Violation]:
    """R5: every chain verifies; it is walked by the code of this suite."""
    store = fleet.store()
    try:
        for (name,) in fleet.execute("SELECT name FROM clusters ORDER BY name"):
            try:
                store.verify_audit(str(name))
            except KeyfoldError as error:
                yield Violation("audit", str(name), error.message)
    finally:
        store.close()


def _edited(fleet: Fleet) -> Iterator[Violation]:
    """A1, A2: a row that somebody else wrote is refused."""
    found = fleet.execute(
        "SELECT hex(cluster_uid), clusters.name, regions.name, state FROM regions "
        "JOIN clusters ON uid = cluster_uid ORDER BY clusters.name LIMIT 1"
        if fleet.database is None
        else "SELECT encode(cluster_uid, 'hex'), clusters.name, regions.name, state FROM regions "
        "JOIN clusters ON uid = cluster_uid ORDER BY clusters.name LIMIT 1"
    )
    ((uid, cluster, region, state),) = found
    other = "REVOKED" if state == "ENABLED" else "ENABLED"
    uid_is = f"hex(cluster_uid) = '{uid}'"
    if fleet.database is not None:
        uid_is = f"encode(cluster_uid, 'hex') = '{uid}'"
    fleet.execute(f"UPDATE regions SET state = '{other}' WHERE name = '{region}' AND {uid_is}")
    server = fleet.servers[0]
    server.start()
    asked = pb.GetStatusRequest(cluster=str(cluster))
    with stubs(server.target) as stub:
        try:
            stub.GetStatus(asked, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            reason = refusal(error).reason
        else:
            reason = "nothing"
    if reason != "ROW_NOT_AUTHENTIC":
        text = f"its state was edited from {state} to {other}, and {reason} was said"
        yield Violation("authentic", str(cluster), text)


# --- patches ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch that takes one safeguard away.

    Attributes:
        path: The patch; lines before its first `diff` say what it does:
            `Rule:`, `Takes:`, `On:` (sqlite or postgresql) and `Faults:` (names, or all).
        rule: The rule that is broken.
        takes: What is taken away.
        shared: It shows on several servers alone.
        faults: Names of the faults under which it shows; empty: any.
    """

    path: Path
    rule: str
    takes: str
    shared: bool
    faults: tuple[str, ...]


def patches() -> list[Patch]:
    """Reads every patch."""
    found = []
    for path in sorted(PATCHES.glob("*.patch")):
        head = dict(re.findall(r"^(Rule|Takes|On|Faults): (.+)$", path.read_text(), re.MULTILINE))
        faults = () if head["Faults"] == "all" else tuple(head["Faults"].split(", "))
        found.append(Patch(path, head["Rule"], head["Takes"], head["On"] == "postgresql", faults))
    return found


def copied(folder: Path, patch: Patch | None = None) -> Path:
    """Copies the code into a folder and takes a safeguard out of the copy.

    Raises:
        DoesNotApplyError: The patch does not fit the code any more.
    """
    without = shutil.ignore_patterns("__pycache__")
    for part in ("server", "clients/python"):
        shutil.copytree(ROOT / part, folder / part, ignore=without)
    if patch is not None:
        # In a repository above, git would look for the files there.
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", patch.path],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DoesNotApplyError(f"{patch.path.name} does not apply: {done.stderr.strip()}")
    return folder


# --- make chaos ------------------------------------------------------------------------------


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _shared_too() -> bool:
    """Whether PostgreSQL can be had on this machine."""
    script = ROOT / "scripts" / "postgres.sh"
    return script.exists() and subprocess.run([script, "15"], check=False).returncode == 0


def _kind(*, shared: bool) -> str:
    return "3 servers, PostgreSQL" if shared else "1 server, SQLite"


def _good(plan: Plan, kept: Path) -> bool:
    """Runs the code as it is, which must be found without fault."""
    folder = Path(tempfile.mkdtemp(prefix="keyfold-chaos-"))
    began = time.monotonic()
    report = run(plan, folder)
    took = time.monotonic() - began
    numbers = ", ".join(f"{count} {what}" for what, count in report.counts.items())
    _say(f"{_kind(shared=plan.shared)}, seed {plan.seed}, {took:.0f} s: {numbers}")
    for violation in report.violations[:20]:
        _say(f"  FOUND {violation}")
    if report.violations:
        place = kept / f"seed-{plan.seed}{'-postgresql' if plan.shared else ''}"
        shutil.copytree(folder, place, dirs_exist_ok=True)
        _say(f"  the history, the logs and the store are in {place}")
    shutil.rmtree(folder, ignore_errors=True)
    return not report.violations


def found(patch: Patch, seed: int, seconds: float, tries: int = TRIES) -> list[Violation]:
    """Returns what a missing safeguard leads to, as the validation finds it; empty: nothing.

    Raises:
        DoesNotApplyError: The patch does not fit the code any more.
    """
    for attempt in range(tries):
        with tempfile.TemporaryDirectory(prefix="keyfold-chaos-") as name:
            folder = Path(name)
            tree = copied(folder / "tree", patch)
            (folder / "run").mkdir()
            plan = Plan(seed + attempt, seconds, 0, patch.shared, tree, patch.faults)
            report = run(plan, folder / "run")
            if report.violations:
                return report.violations
    return []


def _missed(wanted: list[Patch], seed: int, seconds: float, *, shared: bool) -> int:
    """Runs the code with one safeguard less at a time; returns how many were not missed."""
    missed = 0
    for patch in wanted:
        if patch.shared and not shared:
            _say(f"{patch.path.name}: skipped, it needs PostgreSQL")
            continue
        began = time.monotonic()
        try:
            violations = found(patch, seed, seconds)
        except DoesNotApplyError as error:
            _say(f"  FAILED {error}")
            missed += 1
            continue
        took = time.monotonic() - began
        told = f"{patch.path.name} ({patch.rule}: {patch.takes})"
        if violations:
            checks = ", ".join(dict.fromkeys(violation.check for violation in violations))
            _say(f"{told}: found by {checks} in {took:.0f} s")
            _say(f"    such as {violations[0]}")
        else:
            _say(f"  FAILED {told}: not found in {TRIES} runs, seed {seed}, {took:.0f} s")
            missed += 1
    return missed


def main() -> int:
    """Carries out `make chaos`; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    environment = os.environ.get
    parser.add_argument("--runs", type=int, default=int(environment("CHAOS_RUNS", "1")))
    parser.add_argument("--kills", type=int, default=int(environment("CHAOS_KILLS", "0")))
    parser.add_argument("--seconds", type=float, default=float(environment("CHAOS_SECONDS", "20")))
    parser.add_argument(
        "--seed", type=int, default=int(environment("CHAOS_SEED", str(random.randrange(10**6))))
    )
    parser.add_argument("--patch", action="append", help="only this patch, by its name")
    parser.add_argument("--no-patches", action="store_true")
    parser.add_argument("--only-patches", action="store_true")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "keyfold-chaos")
    options = parser.parse_args()
    seed = options.seed
    _say(f"seed {seed}; repeat with CHAOS_SEED={seed} CHAOS_RUNS={options.runs} make chaos")
    shared = _shared_too()
    bad = 0
    if not options.only_patches and not options.patch:
        for number in range(options.runs):
            for kind in (False, True) if shared else (False,):
                plan = Plan(seed + number, options.seconds, options.kills, shared=kind)
                bad += not _good(plan, options.kept)
    if not options.no_patches:
        wanted = [p for p in patches() if not options.patch or p.path.stem in options.patch]
        bad += _missed(wanted, seed, 8.0, shared=shared)
    _say("all good" if not bad else f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
