"""Checks of the store: whether it answers, and whether what is in it is Keyfold's and whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from keyfold.checks import Finding, Outcome, advised, failure, of_clocks, ok, unknown, warning
from keyfold_server.bootstrap.checking.faults import of_error
from keyfold_server.bootstrap.providers import served_regions
from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import KeyfoldError, SetupError, StoreUnavailableError
from keyfold_server.domain.events import LogMarks
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.events import anchors
from keyfold_server.service.fleet.serving import served_by
from keyfold_server.settings import Settings
from keyfold_server.store import opening, service_key
from keyfold_server.store.database import extras
from keyfold_server.store.inspection import Inspection
from keyfold_server.store.migrations.migrate import SchemaAge
from keyfold_server.store.seal import Seal
from keyfold_server.store.transfer.export import key_path

_REACH: Final = "start the database, and look at the network and the rights between here and there"
_WRITER: Final = (
    "find out who wrote to the store, and go by `A cluster whose rows are not authentic` in "
    "docs/operations.md"
)
_UNREAD: Final = "mend the lines above first"

_NO_KEY: Final = "name the file with the key that every replica has; docs/operations.md makes one"

_SILENT: Final = 10.0
"""Seconds without a heartbeat, which comes every second, after which a replica is told of."""

_REGIONS: Final = 20
"""Most regions without a replica of which it tells: those with the most clusters."""

_SERVE: Final = (
    "start a server whose KEYFOLD_SERVES names it, or one with KEYFOLD_SERVES=*; until then nobody "
    "can use these keys, and nobody checks them"
)

_NEWEST: Final = 2_000
"""Entries of the log, the newest ones, whose chain is verified."""


class StoreChecks:
    """The checks of one store. Each question may run in a thread of its own, one after another."""

    def __init__(self, settings: Settings, lines: tuple[str, ...]) -> None:
        """Takes the settings, and lines of anchors that were kept elsewhere."""
        self._settings = settings
        self._served = served_regions(settings)
        self._lines = lines
        self._clock = SystemClock()
        self._store: Inspection | None = None
        self._seal: Seal | None = None
        self._reached = False
        self._readable = False
        self._failed = False
        self._empty = False

    def questions(self) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
        """Returns the questions, by the names of their checks, in their order."""
        every: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
            ("store", self._reach),
            ("store schema", self._schema),
            ("service key", self._service_key),
            ("store triggers", self._extras),
            ("store clock", self._time),
            ("replicas", self._replicas),
            ("regions", self._regions),
            ("audit log", self._log),
            ("store start", self._start),
        ]
        return [(name, self._noting(name, question)) for name, question in every]

    def close(self) -> None:
        """Closes the connections to the store."""
        if self._store is not None:
            self._store.close()

    def root_keys(self, most: int) -> list[tuple[Cluster, Region] | KeyfoldError] | None:
        """Returns a region for each of the first root keys; None if the store cannot be read."""
        if self._store is not None and not self._store.exists:
            return []
        if self._store is None or self._seal is None or not self._readable:
            return None
        return self._store.root_keys(self._seal, most, self._served)

    def _noting(
        self, name: str, question: Callable[[], Iterator[Finding]]
    ) -> Callable[[], Iterator[Finding]]:
        """Returns a question whose errors are findings."""

        def asked() -> Iterator[Finding]:
            try:
                for found in question():
                    self._failed |= found.outcome is Outcome.FAILURE
                    yield found
            except StoreUnavailableError as error:
                self._failed = True
                outcome = Outcome.FAILURE if name == "store" else Outcome.UNKNOWN
                yield advised(outcome, name, error.message, _REACH)
            except SetupError as error:
                self._failed = True
                yield from of_error(error, "KEYFOLD_STORE" if name == "store" else name, _REACH)
            except KeyfoldError as error:
                self._failed = True
                yield advised(Outcome.FAILURE, name, error.message, _WRITER)

        return asked

    def _reach(self) -> Iterator[Finding]:
        settings = self._settings
        self._store = Inspection(settings.store, settings.store_password_file, self._clock)
        if not self._store.exists:
            yield ok("store", f"{self._store.label} does not exist; the first start makes it")
            return
        answer = self._store.reach()
        self._reached = True
        yield ok("store", f"{self._store.label} answers: {answer}")

    def _schema(self) -> Iterator[Finding]:
        if self._store is None or not self._reached:
            yield from self._absent("store schema")
            return
        age = self._store.schema()
        itself = self._store.is_embedded or self._settings.migrate == "auto"
        if age in (SchemaAge.EMPTY, SchemaAge.OLDER):
            what = "it has none yet" if age is SchemaAge.EMPTY else "it is that of an older release"
            if itself:
                yield ok("store schema", f"{what}; the next start brings it to this release")
            else:
                yield failure(
                    "store schema",
                    what,
                    "run `keyfold-server migrate` once, or set KEYFOLD_MIGRATE=auto",
                )
            return
        self._readable = True
        missing = self._store.missing() if age is SchemaAge.CURRENT else []
        for what in missing:
            yield failure(
                "store schema",
                f"{what} is missing, so somebody dropped it",
                "make it again as in a new store, or restore a backup; look who may change tables",
            )
        if not missing:
            newer = age is SchemaAge.NEXT
            yield ok("store schema", "it is that of the next release" if newer else "it is whole")

    def _service_key(self) -> Iterator[Finding]:
        settings = self._settings
        if self._store is None:
            yield from self._absent("service key")
            return
        if settings.service_key is None and not self._store.is_embedded:
            yield failure("service key", "KEYFOLD_SERVICE_KEY is not set", _NO_KEY)
            return
        path = Path(key_path(settings.store, settings.service_key))
        if not self._store.exists and not path.exists():
            yield ok("service key", f"{path} does not exist; the first start makes it")
            return
        key = service_key.load(path, store=self._store.label)
        seal = Seal(key)
        if not self._readable:
            yield ok("service key", f"{key.service_key_id} in {path} has size and mode as it must")
            return
        made = self._store.own_row(seal)
        self._seal = seal
        if made is None:
            self._empty = True
            yield ok("service key", f"{key.service_key_id} in {path}; the store is empty")
            return
        since = datetime.fromtimestamp(made / 1000, UTC)
        yield ok(
            "service key",
            f"{key.service_key_id} in {path} seals the store since {since:%Y-%m-%d}; this release "
            "changes it only by an export and an import",
        )

    def _extras(self) -> Iterator[Finding]:
        if self._store is None or not self._reached:
            yield from self._absent("store triggers")
            return
        found = self._store.extras()
        for extra in found:
            seen, _, do = extras.warning(extra).partition(": ")
            yield warning("store triggers", seen, do)
        if not found:
            yield ok("store triggers", "nobody attached a trigger, rule, policy or view")

    def _time(self) -> Iterator[Finding]:
        if self._store is None or not self._reached:
            yield from self._absent("store clock")
            return
        asked = time.time()
        theirs = self._store.time()
        if theirs is None:
            yield ok("store clock", "the store is a file on this machine, and has no other clock")
            return
        # The answer took up to that long.
        took = time.time() - asked
        ahead = timedelta(seconds=asked + took / 2 - theirs)
        unsure = timedelta(seconds=took / 2)
        yield of_clocks("store clock", ahead, "this machine", "the database", unsure)

    def _replicas(self) -> Iterator[Finding]:
        if self._store is None or self._seal is None or not self._readable:
            yield from self._absent("replicas")
            return
        found = self._store.replicas(self._seal)
        if not found:
            yield ok("replicas", "none is registered: no server runs on this store")
        for one in found:
            regions = "all regions" if one.serves is None else ", ".join(sorted(one.serves))
            seen = f"{one.replica}, for {regions}, told of itself {one.silent_for:.0f} s ago"
            if one.silent_for < _SILENT:
                yield ok("replicas", f"{seen}, and has applied entry {one.applied} of the log")
                continue
            stopped = one.silent_for > one.max_staleness
            yield warning(
                "replicas",
                f"{seen}; it has "
                + ("stopped serving by itself" if stopped else "not, and may serve")
                + f", as it does after {one.max_staleness:g} s",
                "if it was killed, it goes from the list by itself; otherwise look at its log, and "
                "at the network between it and the store",
            )

    def _regions(self) -> Iterator[Finding]:
        """Says which regions with enabled clusters no live replica serves."""
        if self._store is None or self._seal is None or not self._readable:
            yield from self._absent("regions")
            return
        alive = [one for one in self._store.replicas(self._seal) if one.lives]
        served = served_by(alive)
        if not alive:
            yield ok("regions", "no replica lives, so none serves any region")
            return
        if served.names is None:
            yield ok("regions", "a control replica lives, which serves every region")
            return
        found = self._store.unserved(served.names, _REGIONS)
        for name, count in sorted(found.items()):
            seen = f"no live replica serves region {name}; clusters that have it enabled: {count}"
            if self._served.serves(name):
                yield ok("regions", f"{seen}; a server with these settings serves it")
            else:
                yield warning("regions", seen, _SERVE)
        if not found:
            yield ok("regions", "a live replica serves each region that is enabled for a cluster")

    def _log(self) -> Iterator[Finding]:
        if self._store is None or self._seal is None or not self._readable:
            yield from self._absent("audit log")
            return
        if self._empty:
            yield ok("audit log", "the store is empty")
            return
        held = [anchors.parsed(line) for line in self._lines if line.strip()]
        marks = self._store.marks(self._seal, {one.number for one in held if one is not None})
        yield from self._chain(self._store, self._seal, marks)
        for anchor in held:
            said = anchors.held(anchor, marks, self._seal.mac)
            if said.outcome is anchors.AnchorOutcome.MATCHES:
                yield ok("audit anchor", said.message)
            elif said.outcome is anchors.AnchorOutcome.PRUNED:
                yield unknown("audit anchor", said.message, "hold the log against a newer anchor")
            else:
                yield failure("audit anchor", said.message, _WRITER)

    def _chain(self, store: Inspection, seal: Seal, marks: LogMarks) -> Iterator[Finding]:
        newest, pruned = marks.newest.number, marks.pruned.number
        begin = newest - _NEWEST
        after = None
        if begin > pruned:
            after = store.marks(seal, {begin}).found.get(begin)
            if after is None:
                yield failure("audit log", f"entry {begin} is missing", _WRITER)
                return
        found = store.chain(seal, after, _NEWEST)
        if found.broken is not None:
            yield failure("audit log", f"entry {found.broken} is not as Keyfold wrote it", _WRITER)
            return
        seen = f"its {found.last.number - found.first + 1} newest entries are a whole chain"
        also = "" if self._lines else "; only --anchors would show a whole old store"
        yield ok("audit log", f"{seen} up to number {newest}{also}")

    def _start(self) -> Iterator[Finding]:
        """Tries what only a start would hear, once everything else is good."""
        if self._failed or self._store is None:
            yield from self._absent("store start")
            return
        settings = self._settings
        opening.check(
            settings.store,
            settings.service_key,
            settings.store_listen,
            password_file=settings.store_password_file,
            migrating=settings.migrate == "auto",
        )
        yield ok("store start", "a server can start on it")

    def _absent(self, check: str) -> Iterator[Finding]:
        if self._store is not None and not self._store.exists and not self._failed:
            yield ok(check, "there is no store yet")
        else:
            yield unknown(check, "not looked at, because the store could not be read", _UNREAD)
