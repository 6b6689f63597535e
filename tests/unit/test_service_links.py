"""The variables that Kubernetes sets for a Service named keyfold are no misspelt settings."""

from __future__ import annotations

import pytest

from keyfold_server.settings import unknown_variables

# What kubelet sets for a Service `keyfold` with two named ports, and for one `keyfold-db`.
LINKS = {
    "KEYFOLD_SERVICE_HOST": "10.96.0.12",
    "KEYFOLD_SERVICE_PORT": "7443",
    "KEYFOLD_SERVICE_PORT_GRPC": "7443",
    "KEYFOLD_SERVICE_PORT_HTTP_METRICS": "9464",
    "KEYFOLD_PORT": "tcp://10.96.0.12:7443",
    "KEYFOLD_PORT_7443_TCP": "tcp://10.96.0.12:7443",
    "KEYFOLD_PORT_7443_TCP_PROTO": "tcp",
    "KEYFOLD_PORT_7443_TCP_PORT": "7443",
    "KEYFOLD_PORT_7443_TCP_ADDR": "10.96.0.12",
    "KEYFOLD_DB_SERVICE_HOST": "fd00::12",
    "KEYFOLD_DB_SERVICE_PORT": "5432",
    "KEYFOLD_DB_PORT": "tcp://[fd00::12]:5432",
    "KEYFOLD_DB_PORT_5432_TCP": "tcp://[fd00::12]:5432",
    "KEYFOLD_DB_PORT_5432_TCP_PROTO": "tcp",
    "KEYFOLD_DB_PORT_5432_TCP_PORT": "5432",
    "KEYFOLD_DB_PORT_5432_TCP_ADDR": "fd00::12",
}


def test_service_links_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod beside a Service named keyfold gets no warning about what Kubernetes set."""
    before = unknown_variables()
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert unknown_variables() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYFOLD_PORT", "7443"),
        ("KEYFOLD_PORT", ""),
        ("KEYFOLD_SERVICE_HOST", "0.0.0.0:7443"),
        ("KEYFOLD_SERVICE_PORT", "any"),
        ("KEYFOLD_PORT_7443_TCP", "10.96.0.12:7443"),
        ("KEYFOLD_PORT_7443_TCP_PROTO", "http"),
        ("KEYFOLD_LISTN", "tcp://10.96.0.12:7443"),
        ("KEYFOLD_SERVICE_KEYS", "/etc/keyfold/key"),
    ],
)
def test_a_mistake_is_still_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Whoever writes KEYFOLD_PORT=7443 by hand hears that it is not a setting."""
    monkeypatch.setenv(name, value)
    assert name in unknown_variables()
