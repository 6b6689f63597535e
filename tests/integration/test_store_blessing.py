"""A ban ends with a blessing or a return, and service with it only by Restore (A1, A4, A6)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

import spoilt_store
from audit_chain import verified_events
from builders import NOW, a_cluster, a_region, a_rotation, an_event, applied, enabled, enabling
from fakes import FakeClock
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import Change, restored, retired, revoked, with_regions
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import ClusterBannedError, SetupError
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.store import blessing
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.transfer import archive, export, import_, return_
from keyfold_server.store.transfer.archive import ExportFile
from spoilt_store import GONE, SPOIL, STORES, OpenStore, edit

BAN: Final = Ban("acme", an_event("rpc:cluster:revoke"))

CLOCK: Final = FakeClock()

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)


@pytest.fixture(params=STORES)
def open_it(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Gives a function that opens one store of each kind, again and again."""
    with spoilt_store.opener(request.param, tmp_path) as opener:
        yield opener


def grown(store: SqlStore) -> Cluster:
    """Makes cluster acme with two regions, of which one was rotated with a new generation."""
    cluster = applied(store, enabling(a_cluster("acme", [a_region("eu"), a_region("us")]))).cluster
    moved = a_rotation(cluster.regions[0], "local:two", fresh=True)
    applied(store, Change("acme", with_regions(cluster, [moved], NOW), an_event()))
    decide = retired("acme", "eu", 1, NOW, back=False)
    return applied(store, Change("acme", decide, an_event())).cluster


def sealed(store: SqlStore) -> int:
    """Looks at cluster acme and seals it, as a command does, and polls, as a server does."""
    number = blessing.bless(store, blessing.look(store, "acme"), "we did it", CLOCK)
    store.poll(BEAT)
    return number


def held(store: SqlStore) -> Cluster:
    """Reads cluster acme, which must be there."""
    found = store.cluster("acme")
    assert found is not None
    return found


@pytest.mark.parametrize("banned", [True, False], ids=["banned", "not banned"])
def test_a_blessing_revokes_and_a_restore_serves(open_it: OpenStore, *, banned: bool) -> None:
    """A1, A6: sealed rows are authentic and REVOKED; Restore then takes regions back."""
    store = open_it()
    before = grown(store)
    edit(store, SPOIL)
    if banned:
        store.ban(BAN)
    number = sealed(store)
    for again in (store, open_it()):
        found = held(again)
        assert {region.state for region in found.regions} == {State.REVOKED}
        assert (found.version, found.epoch) == (before.version + 1, before.epoch + 1)
        assert [r.generations for r in found.regions] == [r.generations for r in before.regions]
        assert [old.kek_id for old in again.superseded_wraps("acme")] == [
            before.regions[0].generations[0].kek_id
        ]
    [entry] = [each for each in store.poll(BEAT) if each.number == number]
    assert (entry.kind, entry.is_news) == (EntryKind.SEAL, True)
    change = Change("acme", restored(held(store), ["eu", "us"], NOW), an_event())
    assert {r.state for r in applied(store, change).cluster.regions} == {State.ENABLED}


def test_neither_is_enough_alone(open_it: OpenStore) -> None:
    """A6: a restore of a banned cluster is refused, and a blessing leaves every region revoked."""
    store = open_it()
    seen = grown(store)
    edit(store, SPOIL)
    store.ban(BAN)
    [refused] = store.apply([Change("acme", restored(seen, ["eu"], NOW), an_event())])
    assert isinstance(refused, ClusterBannedError)
    sealed(store)
    assert not any(region.in_service for region in held(store).regions)


FINDINGS: Final = {
    "UPDATE regions SET state = 'REVOKED' WHERE name = 'us'": [
        "regions {uid} us: not sealed by the service key",
        "region us: REVOKED in the row, ENABLED in the log",
    ],
    "UPDATE regions SET key_uri = 'local:mine' WHERE name = 'eu'": [
        "regions {uid} eu: not sealed by the service key",
        "region eu: key 'LOCAL local:mine' in the row, 'LOCAL local:two' in the log",
    ],
    "UPDATE clusters SET version = 9": [
        "clusters {uid}: not sealed by the service key",
        "clusters.version: 9 in the row, 3 in the log",
    ],
    "UPDATE wraps SET number = 7 WHERE root_uri = 'local:one'": [
        "region us: another wrap of KEK {us} than the one in the log",
    ],
    "UPDATE generations SET retired_at = NULL": [
        "region eu: KEK {eu} is out of use in the row or in the log, and not in both",
    ],
    "UPDATE wrap_history SET key_version = '9'": [
        "wrap_history {uid} 1: not sealed by the service key",
    ],
    "UPDATE log SET detail = '' WHERE number = 2": ["log 2: not sealed by the service key"],
}
"""Edits, and some of the differences that the operator sees."""


@pytest.mark.parametrize("edited", FINDINGS)
def test_the_operator_sees_what_differs(open_it: OpenStore, edited: str) -> None:
    """A1: before a blessing the operator sees how the rows differ from what the log decided."""
    store = open_it()
    before = grown(store)
    eu, us = (region.generations[0].kek_id.hex() for region in before.regions)
    edit(store, edited)
    edit(store, "UPDATE clusters SET updated_at = updated_at + 1")
    seen = blessing.look(store, "acme")
    for expected in FINDINGS[edited]:
        assert expected.format(uid=before.uid.hex(), eu=eu, us=us) in seen.differences
    assert "clusters: its own row is not the one of the last decision" not in seen.differences
    number = blessing.bless(store, seen, "we did it", CLOCK)
    query = text(f"SELECT detail FROM log WHERE number = {number}")
    detail = json.loads(store.parts[0].read(lambda c: c.execute(query).scalar_one()))
    assert detail == {"differences": list(seen.differences), "reason": "we did it"}


def test_rows_of_a_ban_that_are_whole_differ_in_nothing(open_it: OpenStore) -> None:
    """A6: rows that somebody put back as they were need a blessing, and show no difference."""
    store = open_it()
    grown(store)
    edit(store, SPOIL)
    store.ban(BAN)
    edit(store, SPOIL.replace("epoch + 1", "epoch - 1"))
    seen = blessing.look(store, "acme")
    assert (seen.banned, seen.differences) == (True, ())
    sealed(store)
    assert store.cluster("acme") is not None


SHAPELESS: Final = {
    "DELETE FROM wraps WHERE root_uri = 'local:one'": "a KEK has no wrap",
    "UPDATE regions SET state = 'ON' WHERE name = 'us'": "a value does not fit its column",
    "UPDATE generations SET region = 'ap' WHERE region = 'us'": "a region has no KEK",
    "UPDATE wrap_history SET number = 2": "a row is missing",
    "UPDATE clusters SET epoch = -1": "clusters.epoch has a value that it cannot have",
    "UPDATE clusters SET organization = ''": "a value does not fit its column",
}


@pytest.mark.parametrize("edited", SHAPELESS)
def test_rows_that_form_no_cluster_are_not_sealed(open_it: OpenStore, edited: str) -> None:
    """A1: what cannot be a cluster comes back from an export alone."""
    store = open_it()
    grown(store)
    if "generations" in edited:
        edit(store, "DELETE FROM wraps WHERE root_uri = 'local:one'")
        edit(store, "DELETE FROM generations WHERE region = 'us'")
    else:
        edit(store, edited)
    seen = blessing.look(store, "acme")
    assert seen.cluster is None
    assert SHAPELESS[edited] in seen.shapeless
    with pytest.raises(SetupError, match="import --cluster"):
        blessing.bless(store, seen, "", CLOCK)


def test_what_changed_since_the_look_is_not_sealed(open_it: OpenStore) -> None:
    """A1: the operator blesses what the operator has seen, and nothing else."""
    store = open_it()
    grown(store)
    edit(store, SPOIL)
    seen = blessing.look(store, "acme")
    edit(store, "UPDATE regions SET key_uri = 'local:mine' WHERE name = 'eu'")
    with pytest.raises(SetupError, match="since you looked"):
        blessing.bless(store, seen, "", CLOCK)


def test_what_needs_no_seal_gets_none(open_it: OpenStore) -> None:
    """A1: a cluster that serves is not sealed, nor is a name that nobody knows."""
    store = open_it()
    enabled(store)
    for name, reason in (("acme", "need no seal"), ("nobody", "check the name")):
        with pytest.raises(SetupError, match=reason):
            blessing.look(store, name)


def exported(store: SqlStore, folder: Path) -> Path:
    """Exports a store."""
    path = folder / "export.jsonl"
    with archive.target(path) as file, export.opened(store) as snapshot:
        export.write(snapshot, file, cluster=None, now=NOW)
    return path


def returned(store: SqlStore, path: Path, name: str = "acme") -> list[tuple[str, str]]:
    """Brings a cluster back from an export."""
    with archive.verified(path, store.parts[1]) as verified:
        assert isinstance(verified, ExportFile)
        made = return_.bring_back(store, verified, name, CLOCK)
    store.poll(BEAT)
    return made.enabled


@pytest.mark.parametrize("damage", [(SPOIL,), GONE], ids=["spoilt", "gone"])
def test_a_banned_cluster_comes_back_from_an_export(
    open_it: OpenStore, tmp_path: Path, damage: tuple[str, ...]
) -> None:
    """A4, A6: import brings a banned cluster back, REVOKED, whatever became of its rows."""
    store = open_it()
    before = grown(store)
    path = exported(store, tmp_path)
    applied(store, Change("acme", revoked("acme", (), NOW), an_event()))
    edit(store, *damage)
    store.ban(BAN)
    enabled(store, "other")
    if damage is GONE:
        with pytest.raises(SetupError, match="no row of the cluster's own"):
            sealed(store)
    assert returned(store, path) == [("acme", "eu"), ("acme", "us")]
    for again in (store, open_it()):
        found = held(again)
        assert {region.state for region in found.regions} == {State.REVOKED}
        assert found.version > before.version + 1
        assert [r.generations for r in found.regions] == [r.generations for r in before.regions]
        assert len(again.superseded_wraps("acme")) == 1
        assert again.cluster("other") is not None
    applied(store, Change("acme", restored(held(store), ["eu", "us"], NOW), an_event()))


def test_an_import_replaces_nothing_that_serves(open_it: OpenStore, tmp_path: Path) -> None:
    """A4, A6: only a banned cluster comes back into a store in use, and only from its export."""
    store = open_it()
    enabled(store)
    path = exported(store, tmp_path)
    with pytest.raises(SetupError, match="is not banned"):
        returned(store, path)
    store.ban(Ban("ghost", an_event(), a_cluster("ghost")))
    with pytest.raises(SetupError, match="does not have cluster ghost"):
        returned(store, path, "ghost")


AFTER_COMMIT: Final = "after-commit"
"""The last point at which a command dies: it has committed, and told nobody."""


def killed_at(point: str, command: Callable[[Callable[[str], None]], object]) -> None:
    """Carries out a command in a process of its own, which is killed at a point."""

    def reach(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            command(reach)
            reach(AFTER_COMMIT)
        finally:
            os._exit(1)  # It should have died before.
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("point", [*blessing.FAILPOINTS, AFTER_COMMIT])
def test_a_blessing_that_is_killed_is_whole_or_nothing(open_it: OpenStore, point: str) -> None:
    """S8, A1: a blessing is one transaction: killed before its commit, it can be done again."""
    store = open_it()
    before = grown(store)
    edit(store, SPOIL)
    store.ban(BAN)
    seen = blessing.look(store, "acme")
    store.close()
    killed_at(point, lambda reach: blessing.bless(open_it(), seen, "", CLOCK, reach=reach))
    store = open_it()
    if point != AFTER_COMMIT:
        assert blessing.look(store, "acme") == seen
        assert isinstance(store.named(["acme"])["acme"], ClusterBannedError)
        sealed(store)
    found = held(store)
    assert {region.state for region in found.regions} == {State.REVOKED}
    assert [r.generations for r in found.regions] == [r.generations for r in before.regions]
    # The three changes, the ban and the blessing; and every row and the whole log verify.
    assert verified_events(store, "acme") == 5


@pytest.mark.parametrize("point", [*import_.FAILPOINTS, AFTER_COMMIT])
def test_a_return_that_is_killed_is_whole_or_nothing(
    open_it: OpenStore, tmp_path: Path, point: str
) -> None:
    """S8, A6: `import --cluster` is one transaction, too."""
    store = open_it()
    before = grown(store)
    path = exported(store, tmp_path)
    edit(store, SPOIL)
    store.ban(BAN)
    store.close()

    def bring_back(reach: Callable[[str], None]) -> None:
        store = open_it()
        with archive.verified(path, store.parts[1]) as verified:
            assert isinstance(verified, ExportFile)
            return_.bring_back(store, verified, "acme", CLOCK, reach=reach)

    killed_at(point, bring_back)
    store = open_it()
    if point != AFTER_COMMIT:
        assert isinstance(store.named(["acme"])["acme"], ClusterBannedError)
        returned(store, path)
    found = held(store)
    assert {region.state for region in found.regions} == {State.REVOKED}
    assert [r.generations for r in found.regions] == [r.generations for r in before.regions]
    assert verified_events(store, "acme") == 5
