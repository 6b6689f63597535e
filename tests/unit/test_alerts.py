"""The alerts and the dashboard: they name what exists, and each alert says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import prometheus
from keyfold.cli.app import app as client
from keyfold_relay.commands.app import app as relay
from keyfold_relay.meters import STATES
from keyfold_server.domain import errors
from keyfold_server.domain.health import Health
from keyfold_server.rpc.messages.status import code_of

FOLDER: Final = prometheus.ROOT / "deploy" / "prometheus"
RULES: Final = FOLDER / "keyfold.rules.yaml"
TESTS: Final = FOLDER / "keyfold.rules.test.yaml"
DASHBOARD: Final = prometheus.ROOT / "deploy" / "grafana" / "keyfold.json"
PAGE: Final = (prometheus.ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

REASONS: Final = {
    error.reason
    for error in vars(errors).values()
    if isinstance(error, type)
    and issubclass(error, errors.KeyfoldError)
    and "reason" in vars(error)
}

VALUES: Final[dict[str, set[str]]] = {
    "outcome": REASONS | {"OK", "confirmed", "pending"},
    "reason": REASONS,
    "code": {"OK", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE"},
    "health": {health.value for health in Health},
    "state": set(STATES) | {"ENABLED"},
}
"""What the labels can be that an alert or a panel asks for."""


BOUNDED: Final = {
    "action": "operations",
    "attempts": "tries of one call, which its deadline bounds",
    "certificate": "two",
    "cluster": "KEYFOLD_METRICS_CLUSTERS, at most 100",
    "code": "gRPC's codes",
    "cursor": "cursors.SHOWN",
    "health": "Health",
    "le": "buckets",
    "method": "the contract",
    "operation": "the methods of providers and of the store",
    "outcome": "reasons",
    "owner": "cursors.SHOWN",
    "provider": "the server's providers",
    "python": "one",
    "reason": "reasons of Keyfold and of BoringSSL",
    "region": "telemetry.MOST_REGIONS",
    "server": "those that the probe's operator names",
    "state": "states of regions and targets",
    "step": "the probe's steps",
    "store": "one",
    "target": "the relay's file",
    "task": "the server's tasks",
    "transport": "one",
    "version": "one",
}
"""Every label, and what bounds its values."""


def alerts() -> list[dict[str, Any]]:
    """Returns every alert of the rules."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Returns the dashboard's panels that show something."""
    found = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Returns every query of the alerts and of the dashboard, by the name of what asks it."""
    found = {rule["alert"]: rule["expr"] for rule in alerts()}
    for panel in panels():
        for number, target in enumerate(panel.get("targets", ())):
            found[f"{panel['title']} {number}"] = target["expr"]
    return found


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Returns each metric that a query asks for, with its matchers."""
    yield from re.findall(r"\b(keyfold_\w+)(?:\{([^}]*)\})?", expression)


def test_labels_are_few() -> None:
    """What callers choose, such as names of clusters, is no label: they cannot fill Prometheus."""
    known = {label for labels in prometheus.series().values() for label in labels}
    # A server shows its build only once it runs.
    assert known | {"store", "transport"} == set(BOUNDED)


@pytest.mark.parametrize("name", expressions())
def test_queries_ask_for_what_exists(name: str) -> None:
    """A renamed metric or label, or a reason that is gone, leaves no alert that can never fire."""
    known = prometheus.series()
    asked = list(selectors(expressions()[name]))
    assert asked or "ALERTS" in expressions()[name]
    labels = {"instance", "job"}
    for metric, matchers in asked:
        assert metric in known
        labels |= known[metric]
        for label, values in re.findall(r'(\w+)[=!]~?"([^"]*)"', matchers):
            assert label in known[metric] | {"instance", "job"}
            if not values.startswith("$"):
                assert set(values.split("|")) <= VALUES[label]
    grouped = re.findall(r"\b(?:by|without) \(([^)]*)\)", expressions()[name])
    assert {label.strip() for group in grouped for label in group.split(",")} <= labels


def test_the_codes_asked_for_are_sent() -> None:
    """The gRPC codes that alerts ask for are those of an error of Keyfold, or of a defect."""
    sent = {code_of(error).name for error in _leaves(errors.KeyfoldError)} | {"OK", "INTERNAL"}
    assert VALUES["code"] <= sent


def _leaves(branch: type[errors.KeyfoldError]) -> Iterator[type[errors.KeyfoldError]]:
    for child in branch.__subclasses__():
        if "reason" in vars(child):
            yield child
        yield from _leaves(child)


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    """Whoever is woken finds what to do where the alert says, and the page has no dead section."""
    sections = dict(re.findall(r"(?ms)^### (Keyfold\w+)\n+(.+?)(?=^##)", PAGE))
    named = {rule["alert"]: rule["annotations"]["runbook"] for rule in alerts()}
    assert named == {name: f"docs/operations.md#{name.lower()}" for name in sections}
    assert len(named) == len(alerts())
    assert all(len(text) > 100 for text in sections.values())


def test_each_alert_says_whom_it_wakes_and_what_is_wrong() -> None:
    """An alert has one of two severities, and a summary that names only labels of its own."""
    for rule in alerts():
        assert rule["labels"] == {"severity": rule["labels"]["severity"]}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        known = {"instance"}.union(
            *(prometheus.series()[metric] for metric, _ in selectors(rule["expr"]))
        )
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= known


def test_the_runbooks_commands_exist() -> None:
    """A command of a runbook is one that the programs have, with its options."""
    begin, end = PAGE.index("\n### KeyfoldAbsent"), PAGE.index("\n## The service key")
    found = re.findall(r"(?m)^    (keyfold(?:-relay)?) (.+)$", PAGE[begin:end])
    assert len(found) > 20
    for program, line in found:
        command: Any = prometheus.command(client if program == "keyfold" else relay)
        arguments = line.split()
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_parser(command.context_class(command)).parse_args(args=arguments)


def test_each_alert_is_tested() -> None:
    """Each alert fires in a unit test of promtool."""
    text = TESTS.read_text(encoding="utf-8")
    assert {rule["alert"] for rule in alerts()} == set(re.findall(r'alertname="(\w+)"\}', text))
    for metric, matchers in selectors(re.sub(r"(?m)^#.*|keyfold\.rules\S*", "", text)):
        assert metric in prometheus.series()
        assert set(re.findall(r"(\w+)=", matchers)) <= prometheus.series()[metric] | {"instance"}


def test_promtool_accepts_and_tests_the_rules() -> None:
    """Prometheus loads the file, and each alert fires when it should and is silent when not."""
    prometheus.promtool("check", "rules", RULES)
    prometheus.promtool("test", "rules", TESTS)


def test_the_dashboard_is_whole() -> None:
    """Grafana finds every panel in a place of its own, with a text for who looks at it at night."""
    places: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        taken = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & places
        assert max(x for x, _ in taken) < 24
        places |= taken
    assert all(panel["description"].endswith(".") for panel in panels())
    assert len({panel["title"] for panel in panels()}) == len(panels())


def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    """Prometheus itself parses each query of the dashboard."""
    queries = {
        name: query.replace("$__rate_interval", "5m") for name, query in expressions().items()
    }
    rules = [
        {"record": f"checked:{number}", "expr": query}
        for number, query in enumerate(queries.values())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]}))
    prometheus.promtool("check", "rules", "--lint=none", file)
