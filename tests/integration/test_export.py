"""An export holds the whole store, and an import brings back all of it and no more (A4)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import pages
import postgres
from audit_chain import verified_events
from builders import (
    HOLDER,
    NOW,
    a_cluster,
    a_generation,
    a_region,
    a_request,
    a_rotation,
    an_event,
    applied,
    attempted,
    enabled,
    enabling,
)
from e2e.server import ROOT
from fakes import FakeClock
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.changes import Change, revoked, with_regions
from keyfold_server.domain.cluster import Cluster, Generation, Wrap
from keyfold_server.domain.envelope import Kek, encode_context
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    KeyHeldByAnotherError,
    RowNotAuthenticError,
    SetupError,
    StoreUnavailableError,
)
from keyfold_server.domain.holders import Claim, Holder
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.organization_changes import (
    link_created,
    link_deleted,
    link_moving,
)
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import log_head
from keyfold_server.store.transfer import archive, export, import_, records
from organization_builders import a_change, a_link, organized, using

KINDS: Final[dict[str, Callable[[Path], tuple[str, Path | None]]]] = {
    "sqlite": lambda folder: (f"sqlite:///{folder / 'keyfold.db'}", None),
    "postgresql": lambda _folder: a_database(postgres.shared("15")),
}
"""Functions that give the url and password file of an empty store, by kind of database."""


def a_database(server: postgres.Server) -> tuple[str, Path]:
    """Makes a database of a server."""
    return server.url(server.create()), server.password_file


LATER: Final = NOW + 3_600_000
"""Time of the imports, in milliseconds of Unix time."""


@dataclass(frozen=True)
class Place:
    """The place of a store, with the files of its service key and its password."""

    url: str
    key: Path
    password: Path | None = None

    def open(self, *, at: int = NOW) -> SqlStore:
        """Opens the store, and makes it if it does not exist."""
        return open_store(
            self.url,
            self.key,
            clock=FakeClock(at / 1000),
            password_file=self.password,
            migrating=True,
            takes_key=True,
        )

    def export(self, file: Path, cluster: str | None = None) -> export.ExportResult:
        """Exports as the command does."""
        with ExitStack() as stack:
            out = stack.enter_context(archive.new_file(file))
            if self.url.startswith("sqlite:"):
                source = stack.enter_context(export.beside(self.url, self.key))
            else:
                store = stack.enter_context(closing(self.open()))
                source = stack.enter_context(export.opened(store))
            return export.write(source, out, cluster=cluster, now=NOW)

    def bring_in(
        self,
        file: Path,
        key: Path | None = None,
        reach: Callable[[str], None] = lambda _mark: None,
    ) -> import_.ImportResult:
        """Imports as the command does."""
        with (
            archive.verified(file, archive.seal_of(key or self.key)) as checked,
            closing(self.open(at=LATER)) as store,
        ):
            return import_.bring_in(store, checked, FakeClock(LATER / 1000), reach=reach)


@dataclass(frozen=True)
class Pair:
    """A store with clusters and an empty one, both under one service key."""

    full: Place
    empty: Place
    file: Path


def a_key(path: Path) -> Path:
    """Makes a service key."""
    path.touch(0o600)
    path.write_bytes(secrets.token_bytes(32))
    return path


def a_place(kind: str, folder: Path, key: Path) -> Place:
    """Makes a place for a store."""
    folder.mkdir(exist_ok=True)
    url, password = KINDS[kind](folder)
    return Place(url, key, password)


def a_pair(folder: Path, full_kind: str, empty_kind: str) -> Pair:
    """Makes a store whose three clusters use every field, and one to import into."""
    key = a_key(folder / "service.key")
    full, empty = (
        a_place(full_kind, folder / "full", key),
        a_place(empty_kind, folder / "empty", key),
    )
    with closing(full.open()) as store:
        fill(store)
    return Pair(full, empty, folder / "export.jsonl")


@pytest.fixture(name="pair", params=[f"{a} to {b}" for a in KINDS for b in KINDS])
def pair_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    """Gives a store to export and one to import into, of any two kinds."""
    full, _, empty = str(request.param).partition(" to ")
    return a_pair(tmp_path, full, empty)


@pytest.fixture(name="files")
def files_fixture(tmp_path: Path) -> Pair:
    """Gives the same pair in files, for tests of the export's own file."""
    return a_pair(tmp_path, "sqlite", "sqlite")


def fill(store: SqlStore) -> None:
    """Makes clusters in which every field of an export is used."""
    us = a_region("us")
    root = replace(us.newest.current.root, external_id="id-of-org")
    wrap = replace(us.newest.current, root=root)
    first = replace(us.newest, current=wrap, retired_at=NOW - 5)
    odd = replace(
        us,
        generations=(first, a_generation(number=2)),
        policy=RegionPolicy(0.0, 1.5, auto_rotate=True),
        key_spec=replace(
            a_region().key_spec, principal="r\N{DEVANAGARI LETTER KA}", options=(("a", "\0"),)
        ),
        replica_of="eu",
    )
    eu = replace(a_region("eu"), geo="EU")
    cluster = a_cluster("acme", [eu, odd], organization="org")
    cluster = replace(cluster, declared=("eu", "us"))
    cluster = applied(store, enabling(cluster, a_request("acme"))).cluster
    moved = a_rotation(cluster.regions[0], "local:two", fresh=True)
    applied(store, Change("acme", with_regions(cluster, [moved], NOW), an_event()))
    enabled(store, "Zoo")
    enabled(store, "gone")
    applied(store, Change("gone", revoked("gone", (), NOW), an_event("rpc:cluster:revoke")))
    attempted(store, "gone", "rpc:cluster:rotate")
    store.issue_external_id("org", "id-of-org", an_event())
    store.issue_external_id("Zoo", "id-of-zoo", an_event())
    store.used({first.kek_id: NOW})


def everything(store: SqlStore) -> dict[str, tuple[Cluster, int]]:
    """Reads all clusters, and counts their entries in the log."""
    found = store.clusters(ClusterFilter(), "", 99)
    assert all(isinstance(each, Cluster) for each in found)
    return {c.name: (c, verified_events(store, c.name)) for c in found if isinstance(c, Cluster)}


def without_state(cluster: Cluster) -> Cluster:
    """Returns a cluster without the fields that an import changes."""
    regions = tuple(replace(r, state=State.REVOKED, state_since=0) for r in cluster.regions)
    return replace(cluster, regions=regions, epoch=0, version=0, updated_at=0)


def records_in(file: Path) -> list[dict[str, Any]]:
    """Reads an export with nothing of Keyfold."""
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def test_an_import_brings_back_everything_revoked(pair: Pair) -> None:
    """A4: every cluster is there, REVOKED, in a later epoch, and its chain verifies and goes on."""
    with closing(pair.full.open()) as store:
        before = everything(store)
    made = pair.full.export(pair.file)
    assert (made.clusters, made.entries) == (3, 8)
    done = pair.empty.bring_in(pair.file)
    with closing(pair.empty.open(at=LATER)) as store:
        after = everything(store)
        assert after.keys() == before.keys() == {"acme", "gone", "Zoo"}
        for name, (was, events) in before.items():
            now, later = after[name]
            assert without_state(now) == without_state(was)
            assert {r.state for r in now.regions} == {State.REVOKED}
            assert (now.epoch, now.version) == (was.epoch + 1, was.version + 1)
            assert later == events + 1
    assert (done.clusters, done.entries) == (3, 8)
    # The regions to restore lack those that the customer had revoked.
    assert sorted(done.enabled) == [("Zoo", "eu"), ("acme", "eu"), ("acme", "us")]


def test_an_imported_store_is_exported_again(pair: Pair, tmp_path: Path) -> None:
    """A4: the log is the former one, with an entry for the import and one for each cluster."""
    pair.full.export(pair.file)
    pair.empty.bring_in(pair.file)
    again = tmp_path / "again.jsonl"
    pair.empty.export(again)
    before, after = records_in(pair.file), records_in(again)
    old = [r["entry"] for r in before if "entry" in r]
    new = [r["entry"] for r in after if "entry" in r]
    assert new[: len(old)] == old
    whole, *own = new[len(old) :]
    assert [entry["number"] for entry in new] == list(range(1, len(old) + 5))
    assert [entry["action"] for entry in own] == [import_.ACTION] * 3
    header = before[0]
    source = {name: header[name] for name in ("exported_at", "service_key_id", "store_uid")}
    assert whole["action"] == "command:store:import"
    assert json.loads(whole["detail"]) == source | {
        "entry_id": old[-1]["entry_id"],
        "number": old[-1]["number"],
    }
    acme = json.loads(own[1]["detail"])
    [was] = [
        r["cluster"] for r in before if r.get("cluster", {}) and r["cluster"]["name"] == "acme"
    ]
    assert acme == source | {
        "decided": was["decided"],
        "regions": {"eu": "ENABLED", "us": "ENABLED"},
    }
    assert was["decided"] == 2
    assert (own[1]["caller"], own[1]["outcome"]) == ("local", "done")
    changed = {r["cluster"]["updated_at"] for r in after if r.get("cluster")}
    assert {entry["time"] for entry in own} == changed


def test_replicas_of_the_store_hear_of_an_import(pair: Pair) -> None:
    """S1, S7: each imported cluster is an entry of the log, like every decision."""
    pair.full.export(pair.file)
    pair.empty.bring_in(pair.file)
    with closing(pair.empty.open(at=LATER)) as store:
        noted = store.poll(Heartbeat("one", 0, b"", 120.0, LATER))
    # The entries of the export come first, then the import's.
    told = [each.cluster for each in noted if each.kind is EntryKind.IMPORT]
    assert told == [None, "Zoo", "acme", "gone"]
    assert all(each.is_news for each in noted[-3:])


def test_external_ids_are_brought_back(pair: Pair) -> None:
    """C2: issued ids stay for good, even through an export and under another service key."""
    pair.full.export(pair.file)
    issued = [r["identity"] for r in records_in(pair.file) if "identity" in r]
    # By the store's clock, which is the database's in PostgreSQL.
    times = [each["created_at"] for each in issued]
    assert issued == [
        {"kind": "external_id", "owner": "Zoo", "value": "id-of-zoo", "created_at": times[0]},
        {"kind": "external_id", "owner": "org", "value": "id-of-org", "created_at": times[1]},
    ]
    place = replace(pair.empty, key=a_key(pair.file.with_name("new.key")))
    place.bring_in(pair.file, pair.full.key)
    with closing(place.open(at=LATER)) as store:
        assert store.external_id("org") == "id-of-org"
        assert store.issue_external_id("Zoo", "another", an_event()) == "id-of-zoo"
    again = pair.file.with_name("again.jsonl")
    place.export(again)
    assert [r["identity"] for r in records_in(again) if "identity" in r] == issued


def test_a_link_that_is_moving_is_brought_back_without_its_operation(pair: Pair) -> None:
    """A4: no operation comes with an export, so that the link can be moved on, or changed."""
    with closing(pair.full.open()) as store:
        seen = organized(store).organization.link("main")
        key = KeySpec("LOCAL", "local:two"), ("eu",)
        store.change_organization(a_change(link_moving("main", key, "op", LATER, seen=seen)))
        link = store.organization("org").organization.link("main")
    pair.full.export(pair.file)
    pair.empty.bring_in(pair.file)
    assert link.move is not None
    with closing(pair.empty.open(at=LATER)) as store:
        brought = store.organization("org").organization.link("main")
        assert brought == replace(link, move=replace(link.move, open=False))
        store.change_organization(a_change(link_deleted("main", "", LATER)))


def test_organizations_are_brought_back(pair: Pair) -> None:
    """A4: organizations come with their links, under another service key, and go on from there."""
    with closing(pair.full.open()) as store:
        organized(store, links=2)
        cluster = a_cluster("linked", [using(a_region("eu"))], organization="org")
        applied(store, enabling(cluster, a_request("linked")))
        before = store.organization("org").organization
    pair.full.export(pair.file)
    place = replace(pair.empty, key=a_key(pair.file.with_name("new.key")))
    place.bring_in(pair.file, pair.full.key)
    with closing(place.open(at=LATER)) as store:
        view = store.organization("org")
        assert view.organization == before
        assert everything(store)["linked"][0].region("eu").link == "main"
        changed = store.change_organization(a_change(link_created(a_link("us", "us"), LATER)))
        assert [each.name for each in changed.organization.links] == ["main", "main-1", "us"]
        assert changed.organization.version == before.version + 1
    [brought] = [
        r["entry"]
        for r in records_in(_exported(place, pair.file.with_name("again.jsonl")))
        if r.get("entry", {}).get("action") == import_.ORGANIZATION
    ]
    assert brought["cluster"] is None
    assert json.loads(brought["decision"])["links"].keys() == {"main", "main-1"}


def test_holders_are_brought_back(pair: Pair) -> None:
    """A4, C9: what an organization holds is its own in the new store, and nobody else's."""
    ours = Holder("LOCAL", HOLDER)
    with closing(pair.full.open()) as store:
        made = enabling(a_cluster("linked", organization="org"), a_request("linked"))
        applied(store, replace(made, claim=Claim("org", (ours,))))
        before = store.organization("org").organization
    pair.full.export(pair.file)
    place = replace(pair.empty, key=a_key(pair.file.with_name("new.key")))
    place.bring_in(pair.file, pair.full.key)
    with closing(place.open(at=LATER)) as store:
        assert store.organization("org").organization == before
        assert before.holders == (ours,)
        assert store.held_elsewhere("rival", [ours]) == {ours}
        [refused] = store.apply(
            [replace(enabling(a_cluster("r", organization="rival")), claim=Claim("rival", (ours,)))]
        )
        assert isinstance(refused, KeyHeldByAnotherError)


@pytest.mark.parametrize(
    "forged",
    [
        b'[["LOCAL","b"],["LOCAL","a"]]',
        b'[["LOCAL","a"],["LOCAL","a"]]',
        b'[["LOCAL"]]',
        b'"LOCAL"',
        b'{"LOCAL":"a"}',
    ],
)
def test_holders_in_another_form_are_refused(files: Pair, forged: bytes) -> None:
    """A4: what no export has is not brought in, not even by who has the service key."""
    with closing(files.full.open()) as store:
        organized(store)
    files.full.export(files.file)

    def forge(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b'"holders":[]', b'"holders":' + forged) for line in lines]

    sealed_again(files.file, files.full.key, forge)
    with pytest.raises(SetupError, match="a form that this release does not know"):
        files.empty.bring_in(files.file)


def test_one_cluster_leaves_its_organizations_links_behind(pair: Pair) -> None:
    """The export of one cluster has no organizations, so its regions keep their keys as own."""
    with closing(pair.full.open()) as store:
        organized(store)
        cluster = a_cluster("linked", [using(a_region("eu"))], organization="org")
        made = applied(store, enabling(cluster, a_request("linked"))).cluster
    pair.full.export(pair.file, "linked")
    assert not [r for r in records_in(pair.file) if "organization" in r]
    pair.empty.bring_in(pair.file)
    with closing(pair.empty.open(at=LATER)) as store:
        region = everything(store)["linked"][0].region("eu")
        assert (region.key_spec, region.link) == (made.region("eu").key_spec, "")
        assert store.organization("org").organization.links == ()


def _exported(place: Place, file: Path) -> Path:
    place.export(file)
    return file


def test_the_newest_reconciliation_is_brought_back(pair: Pair) -> None:
    """S1: the head of an imported log names the newest reconciliation among its entries."""
    with closing(pair.full.open(at=LATER)) as store:
        store.reconcile("the standby lagged")
        store.reconcile("so did the next one")
        decided = store.parts[0].read(lambda c: log_head.read(c, store.parts[1]))
    pair.full.export(pair.file)
    pair.empty.bring_in(pair.file)
    with closing(pair.empty.open(at=LATER)) as store:
        head = store.parts[0].read(lambda c: log_head.read(c, store.parts[1]))
    assert head.reconciliation == decided.newest.entry_id


def test_last_uses_are_not_exported(pair: Pair) -> None:
    """When a KEK was last used is an observation: a restored store does not know it."""
    pair.full.export(pair.file)
    pair.empty.bring_in(pair.file)
    with closing(pair.full.open()) as full, closing(pair.empty.open(at=LATER)) as empty:
        keks = [g.kek_id for c, _ in everything(full).values() for g in c.region("eu").generations]
        keks += [g.kek_id for g in everything(full)["acme"][0].region("us").generations]
        assert len(full.seen((), keks).last_uses) == 1
        assert empty.seen((), keks).last_uses == {}


def test_one_clusters_keyring(pair: Pair) -> None:
    """One cluster's export holds only that cluster, and can be imported like any other.

    With it goes the external id that its root keys are called with, and no other customer's.
    """
    pair.full.export(pair.file, "acme")
    assert [r["cluster"]["name"] for r in records_in(pair.file)[1:] if "cluster" in r] == ["acme"]
    pair.empty.bring_in(pair.file)
    with closing(pair.empty.open(at=LATER)) as store:
        assert everything(store).keys() == {"acme"}
        assert store.external_id("org") == "id-of-org"
        assert store.external_id("Zoo") is None


def test_a_cluster_that_is_not_there_is_not_exported(files: Pair) -> None:
    """A misspelt name is an error, and leaves no file that looks like a backup."""
    with pytest.raises(ClusterNotFoundError, match="no cluster Acme"):
        files.full.export(files.file, "Acme")
    assert list(files.file.parent.glob("export.*")) == []


def test_an_import_goes_into_an_empty_store_only(pair: Pair) -> None:
    """A store with clusters stays as it is, and the message says what to do."""
    pair.full.export(pair.file)
    with closing(pair.full.open()) as store:
        before = everything(store)
    with pytest.raises(SetupError, match=r"into an empty one: name a new store"):
        pair.full.bring_in(pair.file)
    with closing(pair.full.open()) as store:
        assert everything(store) == before


def test_a_store_with_an_external_id_is_not_empty(files: Pair) -> None:
    """C2: an export does not replace an id that the store has issued."""
    files.full.export(files.file)
    with closing(files.empty.open()) as store:
        store.issue_external_id("org", "id-of-now", an_event())
    with pytest.raises(SetupError, match=r"into an empty one: name a new store"):
        files.empty.bring_in(files.file)
    with closing(files.empty.open()) as store:
        assert store.external_id("org") == "id-of-now"


def sealed_again(file: Path, key: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Edits an export and seals it again with the service key."""
    lines = change(file.read_bytes().splitlines(keepends=True)[:-1])
    digest = hashlib.sha256(b"".join(lines)).digest()
    lines.append(records.trailer(archive.seal_of(key), digest))
    file.write_bytes(b"".join(lines))


@pytest.mark.parametrize("field", ["auto_rotate", "retired_at", "external_id", "geo"])
def test_the_form_has_its_own_fields_alone(files: Pair, field: str) -> None:
    """A4: a line that lacks a field of the form, or has one more, is refused with its seal."""

    def without(lines: list[bytes]) -> list[bytes]:
        return [re.sub(rb',"%b":[^,}]+' % field.encode(), b"", line) for line in lines]

    def with_another(lines: list[bytes]) -> list[bytes]:
        return [
            line.replace(b'"%b":' % field.encode(), b'"novel":1,"%b":' % field.encode())
            for line in lines
        ]

    for change in (without, with_another):
        file = files.file.with_name(f"{change.__name__}.jsonl")
        files.full.export(file, "acme")
        sealed_again(file, files.full.key, change)
        with pytest.raises(SetupError, match="a form that this release does not know"):
            files.empty.bring_in(file)
    with closing(files.empty.open()) as store:
        assert everything(store) == {}


def test_a_deeply_nested_line_is_refused(files: Pair) -> None:
    """A4: JSON that no reader's stack holds is another form, and no traceback."""
    files.full.export(files.file, "acme")
    sealed_again(files.file, files.full.key, lambda lines: [lines[0], NESTED, *lines[1:]])
    with pytest.raises(SetupError, match="a form that this release does not know"):
        files.empty.bring_in(files.file)


def test_another_service_key_seals_what_is_imported(pair: Pair, tmp_path: Path) -> None:
    """A4, A5: given the old service key, an import seals every row and chain with the new one."""
    pair.full.export(pair.file)
    place = replace(pair.empty, key=a_key(tmp_path / "new.key"))
    with pytest.raises(SetupError, match="the seal of another service key"):
        place.bring_in(pair.file)
    place.bring_in(pair.file, pair.full.key)
    with closing(place.open(at=LATER)) as store:
        assert {name: events for name, (_, events) in everything(store).items()} == {
            "acme": 3,
            "gone": 4,
            "Zoo": 2,
        }
    with pytest.raises(SetupError, match="put the right key in its place"):
        pair.empty.open()


def test_a_long_chain_is_imported_piece_by_piece(
    files: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import is the same however many rows it writes at a time."""
    files.full.export(files.file)
    for held in (1, 3, 7):
        monkeypatch.setattr(import_, "_BUFFERED", held)
        folder = files.file.parent / str(held)
        place = a_place("sqlite", folder, files.empty.key)
        place.bring_in(files.file)
        with closing(place.open(at=LATER)) as store:
            assert sum(events for _, events in everything(store).values()) == 9


def test_pages_make_no_difference(files: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export is the same however many clusters it reads at a time."""
    files.full.export(files.file)
    whole = files.file.read_bytes()
    monkeypatch.setattr(export, "_PAGE", 1)
    other = files.file.with_name("other.jsonl")
    files.full.export(other)
    assert other.read_bytes() == whole


# Files that an import refuses

NESTED: Final = b'{"header":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"


def _edited(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def _swapped(lines: list[bytes]) -> list[bytes]:
    lines[1], lines[3] = lines[3], lines[1]
    return lines


EDITS: Final[dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]]] = {
    "truncated by a line": (lambda lines: lines[:-1], "is not whole"),
    "truncated in a line": (lambda lines: [*lines[:-1], lines[-1][:-9]], "is not whole"),
    "truncated to nothing": (lambda lines: [], "is not an export"),
    "header alone": (lambda lines: lines[:1], "is not whole"),
    "edited": (
        lambda lines: [line.replace(b'"REVOKED"', b'"ENABLED"') for line in lines],
        "somebody changed it since",
    ),
    "reordered": (_swapped, "somebody changed it since"),
    "a line left out": (lambda lines: lines[:3] + lines[4:], "somebody changed it since"),
    "a line twice": (lambda lines: lines[:3] + lines[2:], "somebody changed it since"),
    "spaces": (lambda lines: [lines[0], b" " + lines[1], *lines[2:]], "somebody changed it since"),
    "appended": (lambda lines: [*lines, lines[-1]], "somebody changed it since"),
    "carriage return": (lambda lines: [*lines[:-1], lines[-1][:-1] + b"\r\n"], "is not whole"),
    "a newer form": (
        lambda lines: [lines[0].replace(b'export":2', b'export":3'), *lines[1:]],
        "is not in form 2.*with the release that made it",
    ),
    "an older form": (
        lambda lines: [lines[0].replace(b'export":2', b'export":1'), *lines[1:]],
        "is not in form 2",
    ),
    "a form that is no number": (
        lambda lines: [lines[0].replace(b'export":2', b'export":true'), *lines[1:]],
        "is not in form 2",
    ),
    "another service key": (
        lambda lines: [re.sub(rb'key_id":"\w+', b'key_id":"00', lines[0]), *lines[1:]],
        "another service key",
    ),
    "another file": (lambda lines: [b"SQLite format 3\0" + lines[0]], "is not an export"),
    "JSON of another kind": (lambda lines: [b"[]\n", *lines[1:]], "is not an export"),
    "a header nested deeply": (lambda lines: [NESTED, *lines[1:]], "is not an export"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_was_changed_is_refused(files: Pair, edit: str) -> None:
    """A4: an import refuses an edited export, says why, and makes no store."""
    change, reason = EDITS[edit]
    files.full.export(files.file)
    _edited(files.file, change)
    with pytest.raises(SetupError, match=reason):
        files.empty.bring_in(files.file)
    with closing(files.empty.open()) as store:
        assert everything(store) == {}


def test_every_byte_of_an_export_is_sealed(files: Pair) -> None:
    """A4: a flipped bit anywhere is noticed."""
    files.full.export(files.file, "Zoo")
    whole = files.file.read_bytes()
    for at in range(0, len(whole), 7):
        files.file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with (
            pytest.raises(SetupError),
            archive.verified(files.file, archive.seal_of(files.full.key)),
        ):
            pass


def test_a_file_that_changes_after_its_check_is_refused(files: Pair) -> None:
    """A4: an import brings what it verified, even if somebody writes to the file meanwhile."""
    files.full.export(files.file)
    whole = files.file.read_bytes()

    def edit(mark: str) -> None:
        if mark == "import:begun":
            with files.file.open("r+b") as file:
                file.write(whole.replace(b'"state":"REVOKED"', b'"state":"ENABLED"'))

    with pytest.raises(SetupError, match=r"changed .* while it was read"):
        files.empty.bring_in(files.file, reach=edit)
    with closing(files.empty.open()) as store:
        assert everything(store) == {}


def test_without_the_service_key_nothing_is_imported(files: Pair, tmp_path: Path) -> None:
    """The message names the missing key, and the command makes no key and no other file."""
    files.full.export(files.file)
    missing = replace(files.empty, key=tmp_path / "missing.key")
    with pytest.raises(SetupError, match=r"missing\.key is missing: put the key there"):
        missing.bring_in(files.file)
    assert not missing.key.exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_row_that_was_edited_is_not_exported(files: Pair) -> None:
    """A1: a store that somebody else edited gives no backup that looks good."""
    path = files.full.url.removeprefix("sqlite:///")
    for statement in (
        "UPDATE regions SET state = 'ENABLED' WHERE state = 'REVOKED'",
        "UPDATE log SET outcome = 'done' WHERE outcome = 'REVOKED'",
        "UPDATE clusters SET name = '' WHERE name = 'gone'",
        "UPDATE log_head SET number = 1",
        "UPDATE meta SET created_at = 1",
        "UPDATE identities SET value = 'id-of-thief' WHERE owner = 'org'",
        "UPDATE identities SET owner = 'thief' WHERE owner = 'org'",
    ):
        with closing(sqlite3.connect(path)) as connection:
            saved = list(connection.iterdump())
            connection.execute(statement)
            connection.commit()
        with pytest.raises(RowNotAuthenticError):
            files.full.export(files.file)
        assert not files.file.exists()
        Path(path).unlink()
        for ending in ("-wal", "-shm"):
            Path(path + ending).unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("\n".join(saved))
    files.full.export(files.file)


# The file


def test_the_file_is_its_owners_and_replaces_none(files: Pair) -> None:
    """Only its owner can read the export, whatever the umask, and it replaces no earlier one."""
    before = os.umask(0)
    try:
        files.full.export(files.file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(files.file.stat().st_mode) == 0o600
    whole = files.file.read_bytes()
    with pytest.raises(SetupError, match="exists already"):
        files.full.export(files.file)
    assert files.file.read_bytes() == whole
    assert list(files.file.parent.glob("*.new")) == []


def test_a_file_that_cannot_be_made(files: Pair, tmp_path: Path) -> None:
    """The message names a folder that does not exist, in one line."""
    with pytest.raises(SetupError, match="cannot be written: No such file"):
        files.full.export(tmp_path / "nowhere" / "export.jsonl")


def test_no_secret_is_in_an_export(files: Pair) -> None:
    """A4: of the service key, an export holds only its id and the seal."""
    files.full.export(files.file)
    key = files.full.key.read_bytes()
    text = files.file.read_bytes()
    for form in (key, key.hex().encode(), base64.b64encode(key)):
        assert form not in text


# Beside a running server


def test_an_export_beside_a_server_is_one_snapshot(tmp_path: Path) -> None:
    """S9, A3: an export needs no lock, and shows one moment while clusters and chains grow."""
    place = a_place("sqlite", tmp_path, tmp_path / "service.key")
    stop = threading.Event()
    with closing(place.open()) as store:
        enabled(store, "a")

        def work() -> None:
            for number in range(100_000):
                if stop.is_set():
                    return
                enabled(store, f"c{number:05}")
                attempted(store, "a")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for number in range(10):
                file = tmp_path / f"{number}.jsonl"
                made = place.export(file)
                # One event of `a` follows each cluster, so no other count is of one moment.
                assert made.entries - made.clusters in {made.clusters - 1, made.clusters - 2}
        finally:
            stop.set()
            thread.join()
    empty = Place(f"sqlite:///{tmp_path / 'other.db'}", place.key)
    empty.bring_in(tmp_path / "9.jsonl")


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_an_export_of_a_store_that_nobody_serves(tmp_path: Path, how: str) -> None:
    """A store can be exported after its server stopped, or crashed and left its log."""
    place = a_place("sqlite", tmp_path, tmp_path / "service.key")
    child = os.fork()
    if child == 0:
        store = place.open()
        enabled(store)
        if how == "closed":
            store.close()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "keyfold.db-wal").exists() == (how == "killed")
    assert place.export(tmp_path / "export.jsonl").clusters == 1
    # And it is whole for the next server.
    with closing(place.open()) as store:
        assert everything(store).keys() == {"acme"}


def test_an_export_of_a_linked_store(tmp_path: Path) -> None:
    """The service key of a store behind a symbolic link is beside the link, as for the server."""
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "keyfold.db")
    url = f"sqlite:///{link}"
    with closing(open_store(url, None, clock=FakeClock())) as store:
        enabled(store)
    assert export.key_path(url, None) == tmp_path / "link.db.service-key"
    with export.beside(url, None) as source, archive.new_file(tmp_path / "out.jsonl") as out:
        assert export.write(source, out, cluster=None, now=NOW).clusters == 1


def test_there_is_no_store_to_export(tmp_path: Path) -> None:
    """A path without a store is an error, and the command makes no store and no empty backup."""
    place = a_place("sqlite", tmp_path, a_key(tmp_path / "service.key"))
    with pytest.raises(SetupError, match=r"the store .* does not exist"):
        place.export(tmp_path / "export.jsonl")
    (tmp_path / "keyfold.db").touch()
    with pytest.raises(SetupError, match="older schema"):
        place.export(tmp_path / "export.jsonl")
    (tmp_path / "keyfold.db").write_bytes(b"no database at all, but long enough to be one" * 99)
    with pytest.raises(StoreUnavailableError, match="not a database"):
        place.export(tmp_path / "export.jsonl")
    assert not (tmp_path / "export.jsonl").exists()


# Crashes


@pytest.mark.parametrize("mark", import_.FAILPOINTS)
def test_an_import_that_is_killed_leaves_an_empty_store(pair: Pair, mark: str) -> None:
    """A4: an import is one transaction: killed anywhere it leaves nothing, and can run again."""
    pair.full.export(pair.file)

    def die(reached: str) -> None:
        if reached == mark:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            pair.empty.bring_in(pair.file, reach=die)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with closing(pair.empty.open()) as store:
        assert everything(store) == {}
    assert pair.empty.bring_in(pair.file).clusters == 3


# Without Keyfold


def _page() -> dict[str, Any]:
    """Returns the names that the code of docs/wrapped-key.md defines."""
    page = (ROOT / "docs" / "wrapped-key.md").read_text(encoding="utf-8")
    defined: dict[str, Any] = {}
    blocks = pages.fenced(page, "python")
    exec(compile("".join(blocks), "docs/wrapped-key.md", "exec"), defined)
    return defined


def _local_decrypt(keys: Path, uri: str, version: str, ciphertext: bytes, bound: bytes) -> bytes:
    """Decrypts as a KMS's own tool would: from the key file's format, with no code of ours."""
    name = uri.removeprefix("local:")
    [found] = [
        v for v in json.loads(keys.read_text())["keys"][name] if v["version"] == int(version)
    ]
    aad = ciphertext[:8] + len(name).to_bytes(2, "big") + name.encode() + bound
    material = base64.b64decode(found["material"])
    return AESGCM(material).decrypt(ciphertext[8:20], ciphertext[20:], aad)


@pytest.fixture(name="provider")
def provider_fixture(tmp_path: Path) -> LocalProvider:
    """Gives root keys in a file."""
    file = KeyFile(tmp_path / "keys.json")
    file.create("one")
    return LocalProvider(file.path)


@pytest.mark.parametrize("organization", [None, "org"])
def test_a_keyring_opens_wrapped_keys_without_keyfold(
    tmp_path: Path, provider: LocalProvider, organization: str | None
) -> None:
    """One cluster's export, its root key and docs/wrapped-key.md suffice to unwrap."""
    root = RootKey("LOCAL", "local:one")
    blobs: dict[bytes, bytes] = {}
    generations: list[Generation] = []
    for number in (1, 2):
        made = a_generation("local:one", number=number)
        bound = Binding("acme", "eu", made.kek_id, organization)
        key = secrets.token_bytes(32)
        wrapped = provider.wrap(root, bytes(bound.payload(key)), bound, budget=1.0)
        version, groups = wrapped.key_version, KeyGroups(root.uri, provider.account(root))
        wrap = Wrap(1, root, version, organization, wrapped.ciphertext, NOW, groups)
        generations.append(replace(made, current=wrap))
        kek = Kek(made.kek_id, "acme", "eu", number, bytearray(key))
        secret = b"secret %d" % number
        blob = kek.seal(secret, encode_context({"table": "users"}))
        blobs[blob] = secret
        KeyFile(tmp_path / "keys.json").rotate("one")
    region = replace(a_region("eu"), generations=tuple(generations))
    place = a_place("sqlite", tmp_path, tmp_path / "service.key")
    with closing(place.open()) as store:
        applied(store, enabling(a_cluster("acme", [region], organization=organization)))
        enabled(store, "other")
    place.export(tmp_path / "keyring.jsonl", "acme")

    # From here on without Keyfold.
    page = _page()
    [cluster] = [
        record["cluster"]
        for record in records_in(tmp_path / "keyring.jsonl")[1:]
        if "cluster" in record
    ]
    keks = {}
    for each in cluster["regions"]:
        for generation in each["generations"]:
            kek_id = bytes.fromhex(generation["kek_id"])
            current = generation["wrap"]
            bytes_bound = page["binding"](
                cluster["name"], each["region"], kek_id, current["organization"]
            )
            payload = _local_decrypt(
                tmp_path / "keys.json",
                current["root_key"]["uri"],
                current["key_version"],
                base64.b64decode(current["ciphertext"]),
                bytes_bound,
            )
            keks[kek_id] = (page["kek_of"](payload, bytes_bound), cluster["name"], each["region"])
    assert {blob: page["unwrap"](blob, keks, {"table": "users"}) for blob in blobs} == blobs
