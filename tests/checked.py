"""What `keyfold-server check` finds wrong with settings, for tests that have them as values."""

from __future__ import annotations

from keyfold.checks import Outcome, Report
from keyfold_server.bootstrap import checking
from keyfold_server.settings import Settings


def faults(settings: Settings) -> list[str]:
    """Returns what fails with some settings: each check, what it saw and what to do."""
    report = Report("test", "", "")
    checking.of_settings(report, checking.Asked(20.0, (), 0, lambda _: ""), settings)
    return [
        f"{one.check}: {one.seen}; {one.do}"
        for one in report.findings
        if one.outcome is Outcome.FAILURE
    ]
