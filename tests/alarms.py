"""Keyfold's alerts in a running Prometheus: its rules with shorter durations, and what fires.

Real durations would take hours. `shortened` makes them seconds, and changes nothing else.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

import postgres
import prometheus

RULES: Final = prometheus.ROOT / "deploy" / "prometheus" / "keyfold.rules.yaml"

WAIT: Final = 180.0
"""Seconds within which an alert fires or ends, on a machine that is busy."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_SCRAPE: Final = 2
"""Seconds between two scrapes. A range of 5 of them has enough samples to see a rate in."""

_FRESH: Final = 0.5
"""Seconds for which all scenes share one answer of Prometheus."""

_SPAN: Final = r"(\d+)([smh])"


def names(rules: str) -> list[str]:
    """Returns the names of the alerts of a rules file."""
    groups = yaml.safe_load(rules)["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def shortened(rules: str) -> str:
    """Returns a rules file that waits seconds where the given one waits minutes or hours.

    That is for how long a condition must hold (`for`), how far back a query looks (`[5m]`,
    `offset 5m`) and how often (`[6m:1m]`), and from which age on something counts as too old
    (`_seconds > 900`).
    """
    rules = re.sub(
        rf"(?m)^( +for:) {_SPAN}$", lambda m: f"{m[1]} {_short(m[2], m[3], 1, 5)}s", rules
    )
    rules = re.sub(rf"\[{_SPAN}\]", lambda m: f"[{_range(m[1], m[2])}s]", rules)
    # As many looks as before: a minute becomes a scrape.
    rules = re.sub(
        rf"\[{_SPAN}:1m\]",
        lambda m: f"[{int(m[1]) * _UNITS[m[2]] * _SCRAPE // 60}s:{_SCRAPE}s]",
        rules,
    )
    rules = re.sub(rf"\boffset {_SPAN}", lambda m: f"offset {_range(m[1], m[2])}s", rules)
    # `_seconds{…} > 900`, and the same where a bracket closes behind the labels.
    return re.sub(
        r"(_seconds(?:\{[^}]*\})?\)?) > ([1-9]\d*)$",
        lambda m: f"{m[1]} > {_short(m[2], 's', 2, 15)}",
        rules,
        flags=re.MULTILINE,
    )


def _short(number: str, unit: str, least: int, most: int) -> int:
    return min(max(least, int(number) * _UNITS[unit] // 300), most)


def _range(number: str, unit: str) -> int:
    return min(max(5 * _SCRAPE, int(number) * _UNITS[unit] // 60), 30)


class Prometheus:
    """A Prometheus with Keyfold's alerts, which scrapes whatever a test tells it; in a `with`."""

    def __init__(self, folder: Path) -> None:
        """Takes an empty folder for all its files."""
        self._folder = folder
        self._url = f"http://127.0.0.1:{postgres.free_port()}"
        self._targets: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()
        self._firing: list[dict[str, str]] = []
        self._asked = float("-inf")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._write()
        (self._folder / "rules.yaml").write_text(shortened(RULES.read_text(encoding="utf-8")))
        (self._folder / "prometheus.yaml").write_text(
            f"global: {{scrape_interval: {_SCRAPE}s, scrape_timeout: {_SCRAPE}s, "
            "evaluation_interval: 1s}\n"
            "rule_files: [rules.yaml]\n"
            "scrape_configs:\n"
            "  - job_name: keyfold\n"
            "    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]\n"
        )
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    prometheus.folder() / "prometheus",
                    f"--config.file={self._folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._url.removeprefix('http://')}",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=postgres.end_with_parent,  # noqa: PLW1509  one function of the C library
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def scrape(self, name: str, address: str, path: str = "/metrics") -> None:
        """Begins to scrape an address as an instance, or the instance at another address."""
        with self._lock:
            self._targets[name] = address, path
            self._write()

    def forget(self, name: str) -> None:
        """Ends the scrapes of an instance, which is taken out of service."""
        with self._lock:
            del self._targets[name]
            self._write()

    def _write(self) -> None:
        # Prometheus must not read half a file.
        new = self._folder / "targets.new"
        entries = [
            {"targets": [address], "labels": {"instance": name, "__metrics_path__": path}}
            for name, (address, path) in self._targets.items()
        ]
        new.write_text(json.dumps(entries))
        new.rename(self._folder / "targets.json")

    def firing(self) -> list[dict[str, str]]:
        """Returns the labels of each alert that fires, as of the last half second."""
        with self._lock:
            if time.monotonic() > self._asked + _FRESH:
                alerts = self._ask("alerts")["alerts"]
                self._firing = [each["labels"] for each in alerts if each["state"] == "firing"]
                self._asked = time.monotonic()
            return self._firing

    def has(self, metric: str, instance: str) -> bool:
        """Returns whether it has read a metric of an instance."""
        query = urllib.parse.urlencode({"query": f'{metric}{{instance="{instance}"}}'})
        return bool(self._ask(f"query?{query}")["result"])

    def _ask(self, what: str) -> Mapping[str, Any]:
        ends = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(urllib.error.URLError):
                url = f"{self._url}/api/v1/{what}"
                with urllib.request.urlopen(url, timeout=WAIT) as answer:
                    data: Mapping[str, Any] = json.load(answer)["data"]
                return data
            # It has only just been started.
            assert self._process is not None
            log = (self._folder / "log").read_text()
            assert self._process.poll() is None, log
            assert time.monotonic() < ends, log
            time.sleep(0.1)
