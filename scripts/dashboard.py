"""Writes Grafana's dashboard, or checks that it is up to date.

dashboard.py write    writes deploy/grafana/keyfold.json
dashboard.py check    fails if the committed file differs

Grafana's form repeats much for each panel; what differs is in `ROWS`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "keyfold.json"

WHOLE: Final = 24
"""Columns of a dashboard."""


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: Its title.
        help: What somebody who is woken must know about it.
        queries: PromQL by legend. `$server` is what the reader chose.
        unit: Grafana's name of the unit.
        kind: Grafana's name of the kind of panel.
        width: Columns.
        bad: The value from which it is red; None: never.
    """

    title: str
    help: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    bad: float | None = None


def _stat(
    title: str, text: str, query: str, unit: str = "short", bad: float | None = None
) -> Panel:
    return Panel(title, text, {"": query}, unit, "stat", 4, bad)


def _rate(metric: str, by: str, matchers: str = "") -> str:
    chosen = ", ".join(filter(None, ('instance=~"$server"', matchers)))
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


def _quantile(part: float, metric: str, by: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    buckets = _rate(f"{metric}_bucket", labels)
    return f"histogram_quantile({part}, {buckets})"


ROWS: Final[dict[str, list[Panel]]] = {
    "What needs a person": [
        Panel(
            "Alerts",
            "The alerts that fire. Each has a section in docs/operations.md.",
            {"": 'ALERTS{alertname=~"Keyfold.*", alertstate="firing"}'},
            kind="table",
            width=12,
        ),
        Panel(
            "Regions that are in service, by health",
            "HEALTHY is good. UNREACHABLE, THROTTLED and CREDENTIALS_FAILED: the KMS could not be "
            "asked. Anything else: the customer's KMS refuses. `keyfold clusters` names them. Of a "
            "region that is `not served`, no server lives.",
            {
                "{{health}}": 'max by (health) (keyfold_regions{state="ENABLED"})',
                "not served: {{region}}": "max by (region) (keyfold_regions_unserved)",
            },
            width=12,
        ),
        _stat(
            "Servers that serve",
            "Below all of them: see KeyfoldNotServing.",
            "sum(keyfold_serving)",
        ),
        _stat(
            "KEKs in grace",
            "They serve although their KMS is away. Do not restart.",
            "sum(keyfold_keks_in_grace)",
            bad=1,
        ),
        _stat(
            "Longest failing root key",
            "Time for which a root key has failed or been refused.",
            "max(keyfold_root_key_failing_seconds)",
            "s",
            900,
        ),
        _stat(
            "Regions that cannot wrap",
            "Their next rotation would fail.",
            "max(keyfold_regions_cannot_wrap)",
            bad=1,
        ),
        _stat(
            "Oldest view of the store",
            "At KEYFOLD_STORE_MAX_STALENESS a server stops.",
            "max(keyfold_store_age_seconds)",
            "s",
            10,
        ),
        _stat(
            "Next certificate expires in",
            "Of all servers and their clients' authorities.",
            "min(keyfold_tls_certificate_expires_seconds) - time()",
            "s",
        ),
    ],
    "Calls": [
        Panel(
            "Calls",
            "Calls a second, by method.",
            {"{{method}}": _rate("keyfold_call_duration_seconds_count", "method")},
            "reqps",
        ),
        Panel(
            "Errors",
            "Calls a second that failed, by reason. docs/errors.md has each.",
            {"{{reason}}": _rate("keyfold_call_duration_seconds_count", "reason", 'code!="OK"')},
            "reqps",
        ),
        Panel(
            "Time of a call",
            "99 of 100 calls take no longer. A point leads to a trace, if traces are on.",
            {"{{method}}": _quantile(0.99, "keyfold_call_duration_seconds", "method")},
            "s",
        ),
    ],
    "Clusters that KEYFOLD_METRICS_CLUSTERS names": [
        Panel(
            "Calls for a cluster",
            "Calls and items of batches a second. Empty: the setting names no cluster.",
            {"{{cluster}}": _rate("keyfold_cluster_calls_total", "cluster")},
            "reqps",
            width=12,
        ),
        Panel(
            "Errors of a cluster",
            "Those a second that failed, by reason. docs/errors.md has each.",
            {
                "{{cluster}} {{outcome}}": _rate(
                    "keyfold_cluster_calls_total", "cluster, outcome", 'outcome!="OK"'
                )
            },
            "reqps",
            width=12,
        ),
    ],
    "Customers' KMS": [
        Panel(
            "Calls to the KMS",
            "By provider and outcome.",
            {
                "{{provider}} {{outcome}}": _rate(
                    "keyfold_kms_call_duration_seconds_count", "provider, outcome"
                )
            },
            "reqps",
        ),
        Panel(
            "Time of a call to the KMS",
            "99 of 100 take no longer, the wait for Keyfold's own limits included.",
            {"{{provider}}": _quantile(0.99, "keyfold_kms_call_duration_seconds", "provider")},
            "s",
        ),
        Panel(
            "Root keys that fail",
            "The longest time for which one has, by what its KMS said.",
            {
                "{{health}} {{region}}": (
                    "max by (health, region) (keyfold_root_key_failing_seconds)"
                )
            },
            "s",
        ),
        Panel(
            "KEKs loaded or proved",
            "By outcome.",
            {"{{outcome}}": _rate("keyfold_loads_total", "outcome")},
            "ops",
        ),
        Panel(
            "Checks that Keyfold's own limits prevented",
            "Where they go on, keys go out of use at their TTL.",
            {
                "{{provider}} {{reason}}": _rate(
                    "keyfold_refreshes_not_asked_total", "provider, reason"
                )
            },
            "ops",
        ),
        Panel(
            "Age of the sweep",
            "Above three times the interval, withdrawn keys go unnoticed.",
            {
                "{{instance}}": 'keyfold_sweep_age_seconds{instance=~"$server"}',
                "interval": "max(keyfold_sweep_interval_seconds)",
            },
            "s",
        ),
    ],
    "Revocation": [
        Panel(
            "Time until a revocation is confirmed",
            "By every live server, for 99 of 100.",
            {"p99": _quantile(0.99, "keyfold_revocation_confirm_seconds")},
            "s",
        ),
        Panel(
            "Revocations",
            "By whether all servers had confirmed at the answer.",
            {"{{outcome}}": _rate("keyfold_revocation_confirm_seconds_count", "outcome")},
            "ops",
        ),
        Panel(
            "The last probe, by step",
            "refused: from Revoke to the refusal. served: from Restore to service.",
            {"{{step}} {{server}}": "keyfold_probe_step_seconds"},
            "s",
        ),
    ],
    "Servers and their store": [
        Panel(
            "Lag of the event loop",
            "All calls wait so long. What the server itself can be blamed for is held.",
            {
                "lag": _quantile(0.99, "keyfold_event_loop_lag_seconds"),
                "held": _quantile(0.99, "keyfold_event_loop_held_seconds"),
            },
            "s",
        ),
        Panel(
            "Time of a call to the store",
            "99 of 100 take no longer.",
            {"{{operation}}": _quantile(0.99, "keyfold_store_call_duration_seconds", "operation")},
            "s",
        ),
        Panel(
            "In memory",
            "Clusters and KEKs of all servers.",
            {
                "clusters {{instance}}": 'keyfold_cached_clusters{instance=~"$server"}',
                "KEKs {{instance}}": 'keyfold_cached_keks{instance=~"$server"}',
            },
        ),
        Panel(
            "Failed tasks and handshakes",
            "The log says why.",
            {
                "{{task}}": _rate("keyfold_task_failures_total", "task"),
                "TLS {{reason}}": _rate("keyfold_tls_handshakes_failed_total", "reason"),
            },
            "ops",
        ),
        Panel(
            "Operations",
            "Regions that operations work on, by action and outcome.",
            {"{{action}} {{outcome}}": _rate("keyfold_operation_items_total", "action, outcome")},
            "ops",
        ),
        Panel(
            "Releases",
            "What runs where.",
            {"": "keyfold_build_info"},
            kind="table",
        ),
    ],
    "Readers of events": [
        Panel(
            "Age of what a cursor has not passed",
            "A reader that is dead, or does not keep up.",
            {"{{owner}} {{cursor}}": "max by (owner, cursor) (keyfold_cursor_lag_seconds)"},
            "s",
        ),
        Panel(
            "Age of what the relay has not delivered",
            "By target.",
            {"{{target}}": "max by (target) (keyfold_relay_lag_seconds)"},
            "s",
        ),
        Panel(
            "Targets of the relay",
            "1 for what each is doing.",
            {"{{target}} {{state}}": "keyfold_relay_target_state == 1"},
        ),
    ],
}


def _shown(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad is not None:
        steps.append({"color": "red", "value": panel.bad})
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _height(panel)},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0 if panel.kind == "timeseries" else None,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": source,
                "expr": query,
                "legendFormat": legend,
                "exemplar": "_bucket" in query,
                "instant": panel.kind == "table",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _height(panel: Panel) -> int:
    return 4 if panel.kind == "stat" else 8


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": y, "w": WHOLE, "h": 1}
        found.append({"id": len(found) + 1, "type": "row", "title": title, "gridPos": place})
        x, y = 0, y + 1
        for panel in panels:
            found.append(_shown(panel, len(found) + 1, x, y))
            x += panel.width
            if x >= WHOLE:
                x, y = 0, y + _height(panel)
    return found


def text() -> str:
    """Returns the dashboard in Grafana's JSON form."""
    dashboard = {
        "uid": "keyfold",
        "title": "Keyfold",
        "tags": ["keyfold"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                },
                {
                    "name": "server",
                    "label": "Server",
                    "type": "query",
                    "datasource": {"type": "prometheus", "uid": "${source}"},
                    "query": "label_values(keyfold_serving, instance)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": _panels(),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def main() -> int:
    """Runs the command line."""
    match sys.argv[1:]:
        case ["write"]:
            FILE.write_text(text(), encoding="utf-8")
        case ["check"]:
            if FILE.read_text(encoding="utf-8") != text():
                print("dashboard: not the generated file: run `make docs` and commit the result")
                return 1
            print("dashboard: up to date")
        case _:
            print("usage: dashboard.py write|check", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
