"""What the two commands `check` have in common: findings, their bounds, and what stays out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfold.checks import (
    FAILED,
    UNKNOWN,
    Finding,
    Outcome,
    Report,
    cleaned,
    of_clocks,
    of_validity,
    ok,
)
from keyfold_server.access.policy.file import parse
from keyfold_server.bootstrap.checking.callers import holes

_NOW = datetime(2026, 6, 1, tzinfo=UTC)


def test_a_step_that_hangs_or_fails_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step found before its time was up counts, and the steps after it are carried out."""
    hanging, over = threading.Event(), threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("one", "seen before")
        hanging.set()
        over.wait(60)

    class Ended(threading.Event):
        """The time of a step is up once it hangs, however late its thread began."""

        def wait(self, timeout: float | None = None) -> bool:
            assert hanging.wait(60)
            return super().wait(timeout)

    def fails() -> Iterator[Finding]:
        yield ok("two", "seen before")
        raise RuntimeError("postgresql://u:hush@h/d")

    report = Report("check", "1", "here")
    with monkeypatch.context() as patch:
        late = SimpleNamespace(Event=Ended, Thread=threading.Thread)
        patch.setattr("keyfold.checks.report.threading", late)
        report.run("one", 0.01, hangs)
    over.set()
    report.run("two", 60, fails)
    report.run("three", 60, lambda: [ok("three", "fine")])
    told = [(one.check, one.outcome) for one in report.findings]
    assert told == [
        ("one", Outcome.OK),
        ("one", Outcome.UNKNOWN),
        ("two", Outcome.OK),
        ("two", Outcome.UNKNOWN),
        ("three", Outcome.OK),
    ]
    assert report.hung
    assert report.exit_code == UNKNOWN
    assert "hush" not in report.json()
    report.findings.append(Finding("four", Outcome.FAILURE, "x", "y"))
    assert report.exit_code == FAILED


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://user:hush@host/db?sslmode=require",
        "https://:hush@host:8200",
        "password=hush",
        "a header eyJhbGciOiJub25l.eyJzdWIiOiJodXNoIn0.hush",
        "-----BEGIN EC PRIVATE KEY-----\nhush\n-----END EC PRIVATE KEY-----",
    ],
)
@given(st.text(max_size=5), st.text(max_size=5))
def test_no_text_holds_a_secret(secret: str, before: str, after: str) -> None:
    """Whatever stands around it, what looks like a secret is cut out of a text."""
    assert "hush" not in cleaned(f"{before} {secret} {after}")


@pytest.mark.parametrize(
    ("life", "left", "outcome"),
    [
        (timedelta(days=90), timedelta(days=20), Outcome.OK),
        (timedelta(days=90), timedelta(days=13), Outcome.WARNING),
        (timedelta(hours=1), timedelta(minutes=50), Outcome.OK),
        (timedelta(hours=1), timedelta(minutes=5), Outcome.WARNING),
        (timedelta(days=90), timedelta(seconds=-1), Outcome.FAILURE),
        (timedelta(days=1), timedelta(days=2), Outcome.FAILURE),
    ],
)
def test_how_long_a_credential_lasts(life: timedelta, left: timedelta, outcome: Outcome) -> None:
    """A short life is no fault; its last quarter, the last two weeks and other times are told."""
    ends = _NOW + left
    assert of_validity("c", "it", ends - life, ends, "renew it", _NOW).outcome is outcome


@pytest.mark.parametrize(
    ("apart", "unsure", "outcome"),
    [(0.5, 0, Outcome.OK), (-5, 0, Outcome.WARNING), (5, 4, Outcome.OK), (90, 1, Outcome.FAILURE)],
)
def test_clocks(apart: float, unsure: float, outcome: Outcome) -> None:
    """A slow answer does not look like a clock that is off."""
    told = of_clocks("c", timedelta(seconds=apart), "a", "b", timedelta(seconds=unsure))
    assert told.outcome is outcome


def test_holes_of_a_policy() -> None:
    """Grants for everybody, administrators over everything and believed strangers are told."""
    text = """
on_behalf_of = ["*"]
[[grant]]
callers = ["*"]
roles = ["admin"]
[[grant]]
callers = ["jwt:https://issuer#*"]
roles = ["auditor"]
clusters = ["dev-*"]
[[grant]]
callers = ["jwt:https://issuer#*"]
roles = ["operator"]
organization_claim = "org"
[[grant]]
callers = ["dns:ops.example"]
roles = ["admin"]
clusters = ["prod-*"]
"""
    told = [(one.outcome, one.seen) for one in holes(parse(text, "p"))]
    assert [outcome for outcome, _ in told] == [Outcome.FAILURE, *[Outcome.WARNING] * 3]
    words = ("* gives admin", "administers every cluster", "#* gives auditor", "on_behalf_of")
    assert all(word in seen for word, (_, seen) in zip(words, told, strict=True))
