"""What a scene works with: servers of its own, which the module's one Prometheus scrapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import alarms
import postgres
import runbooks
from alarms import Prometheus
from e2e.hurried_server import HurriedServer
from e2e.server import KEYS, make
from keyfold_server.store.opening import migrate_store
from nursery import Nursery

T = TypeVar("T")

EDITED: Final = "A cluster whose rows are not authentic"
"""The section to which the runbooks of edited rows lead."""

_LOOK: Final = 0.5
_STAYS: Final = 6
"""Looks in a row without an alert after which it has ended. A scrape that failed ends an alert for
the two seconds until the next one."""


@dataclass(frozen=True)
class Scene:
    """A fault that is injected, the alerts that it sets off, and what ends them.

    Attributes:
        alerts: The alerts.
        play: Injects the fault, waits for the alerts and follows their runbooks.
    """

    alerts: tuple[str, ...]
    play: Callable[[Stage], None]


def provokes(*alerts: str) -> Callable[[Callable[[Stage], None]], Scene]:
    """Makes a function the scene of some alerts."""
    return lambda play: Scene(alerts, play)


class Stage:
    """One scene's stage; leave it by `close`.

    Attributes:
        name: The scene's name, with which the names of its instances begin.
        folder: A folder for the scene's files.
        prometheus: The Prometheus of all scenes.
        database: The PostgreSQL server of all scenes.
        fired: The alerts that have fired.
        ended: Those of them that have ended again.
        followed: The sections of docs/operations.md whose commands the scene has run.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        prometheus: Prometheus,
        database: postgres.Server,
        nursery: Nursery,
    ) -> None:
        """Joins the stage to what all scenes share."""
        self.name = name
        self.folder = folder
        self.prometheus = prometheus
        self.database = database
        self.fired: set[str] = set()
        self.ended: set[str] = set()
        self.followed: set[str] = set()
        self._nursery = nursery
        self._servers: list[HurriedServer] = []
        self._stack = ExitStack()

    def logs(self) -> list[str]:
        """Returns the logs of its servers."""
        return [server.log() for server in self._servers]

    def close(self) -> None:
        """Ends what the scene started."""
        for server in self._servers:
            if server.running:
                server.kill()
        self._stack.close()

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enters a context, which ends with the scene."""
        return self._stack.enter_context(context)

    # Servers

    def prepared(
        self,
        settings: Mapping[str, str | None],
        *,
        name: str = "one",
        keys: Iterable[str] = KEYS,
    ) -> HurriedServer:
        """Returns a server that is not started yet."""
        folder = self.folder / name
        folder.mkdir()
        made = make(folder, keys, settings)
        server = HurriedServer(folder, made.settings, nursery=self._nursery)
        self._servers.append(server)
        return server

    def server(
        self,
        settings: Mapping[str, str | None] | None = None,
        *,
        name: str = "one",
        keys: Iterable[str] = KEYS,
    ) -> HurriedServer:
        """Starts a server and has Prometheus scrape it."""
        settings = settings or {}
        server = self.prepared(settings, name=name, keys=keys)
        server.start()
        # The commands that people run beside a server read its settings.
        server.settings["KEYFOLD_LISTEN"] = server.target
        if settings.get("KEYFOLD_METRICS") != "off":
            self.scrape(server, name)
        return server

    def scrape(self, server: HurriedServer, name: str = "one") -> None:
        """Has Prometheus scrape a server, be it for the first time or since a restart."""
        self.prometheus.scrape(f"{self.name}-{name}", server.metrics)

    def store(self, template: str = "template0") -> dict[str, str | None]:
        """Makes a store in PostgreSQL; returns the settings of its servers."""
        url = self.database.url(self.database.create(template))
        if template == "template0":
            migrate_store(url, password_file=self.database.password_file)
        return {
            "KEYFOLD_STORE": url,
            "KEYFOLD_STORE_PASSWORD_FILE": str(self.database.password_file),
            "KEYFOLD_SERVICE_KEY": str(postgres.a_service_key(self.folder)),
        }

    # Alerts

    def fires(self, alert: str, **labels: str) -> None:
        """Waits until an alert fires, for this scene and with these labels."""
        self.until(lambda: self._firing(alert, labels), f"{alert} does not fire")
        self.fired.add(alert)

    def ends(self, alert: str, **labels: str) -> None:
        """Waits until an alert that fired has ended."""
        assert alert in self.fired
        gone = 0

        def stays_away() -> bool:
            nonlocal gone
            gone = 0 if self._firing(alert, labels) else gone + 1
            return gone >= _STAYS

        self.until(stays_away, f"{alert} does not end")
        self.ended.add(alert)

    def until(self, condition: Callable[[], Any], complaint: str) -> None:
        """Waits until a condition holds."""
        ends = time.monotonic() + alarms.WAIT
        while not condition():
            assert time.monotonic() < ends, f"{complaint}: {self.prometheus.firing()}"
            time.sleep(_LOOK)

    def _firing(self, alert: str, labels: dict[str, str]) -> bool:
        wanted = {"alertname": alert, **labels}
        return any(
            wanted.items() <= found.items()
            # An alert on all servers together has no instance.
            and found.get("instance", f"{self.name}-").startswith(f"{self.name}-")
            for found in self.prometheus.firing()
        )

    @contextmanager
    def runbook(
        self,
        heading: str,
        server: HurriedServer,
        here: Mapping[str, str] | None = None,
        first: int | None = None,
    ) -> Iterator[runbooks.Runbook]:
        """Gives the commands of a section of docs/operations.md; see `runbooks.following`."""
        with runbooks.following(heading, server, here or {}, first) as book:
            yield book
        self.followed.add(heading)
