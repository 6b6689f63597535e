"""Findings, and the report that they make.

Each step is bounded in time, and none that fails or hangs hides another. No finding holds a secret:
what looks like one is cut out of every text.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

FAILED: Final = 14
"""The exit code if a check failed."""

UNKNOWN: Final = 15
"""The exit code if no check failed, and something could not be told."""

_SECRETS: Final = (
    (re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(-----END [^-]*-----|$)", re.DOTALL), "(key)"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "(token)"),
    (re.compile(r"(://[^/\s:@]*):[^/\s]*@"), r"\1:(password)@"),
    (re.compile(r"(?i)\b(password|passwd|secret|token)=[^\s&'\"]+"), r"\1=(hidden)"),
)
"""What must not get into a ticket, and what stands in its place."""


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report.

    Attributes:
        check: What was checked, such as `tls certificate`.
        outcome: How it ended.
        seen: What was seen, in one line.
        do: What to do about it; empty: nothing.
    """

    check: str
    outcome: Outcome
    seen: str
    do: str = ""

    def to_dict(self) -> dict[str, str]:
        """Returns the finding as it stands in JSON."""
        return {
            "check": self.check,
            "outcome": self.outcome.name,
            "seen": self.seen,
            "do": self.do,
        }


def ok(check: str, seen: str) -> Finding:
    """Returns a finding by which all is well."""
    return Finding(check, Outcome.OK, seen)


def warning(check: str, seen: str, do: str) -> Finding:
    """Returns a finding that somebody should look at in working hours."""
    return Finding(check, Outcome.WARNING, seen, do)


def failure(check: str, seen: str, do: str) -> Finding:
    """Returns a finding by which something does not work."""
    return Finding(check, Outcome.FAILURE, seen, do)


def unknown(check: str, seen: str, do: str) -> Finding:
    """Returns a finding by which something could not be told."""
    return Finding(check, Outcome.UNKNOWN, seen, do)


def advised(outcome: Outcome, check: str, message: str, otherwise: str) -> Finding:
    """Returns a finding of a message, which may say after a semicolon what to do.

    Args:
        outcome: How the check ended.
        check: The check.
        message: The message.
        otherwise: What to do if the message does not say it.
    """
    seen, _, do = message.partition("; ")
    return Finding(check, outcome, seen, do or otherwise)


@dataclass(slots=True)
class Report:
    """The findings of a command.

    Attributes:
        command: The command.
        version: The version of Keyfold that it belongs to.
        about: What it looked at, such as the target.
        findings: The findings, in the order of the checks.
        hung: Whether a step still runs, although its time is up.
    """

    command: str
    version: str
    about: str
    findings: list[Finding] = field(default_factory=list)
    hung: bool = False

    def run(self, check: str, seconds: float, step: Callable[[], Iterable[Finding]]) -> None:
        """Carries out a step, and takes its findings.

        What it found before it failed, or before its time was up, counts.

        Args:
            check: What the step checks, for the line by which it could not be told.
            seconds: The most time that the step may take.
            step: Yields findings.
        """
        found: list[Finding] = []
        ended = threading.Event()

        def work() -> None:
            try:
                for one in step():
                    found.append(one)  # noqa: PERF402  what was found must count if the rest hangs
            except Exception as error:  # noqa: BLE001  no step may hide the others
                found.append(_broken(check, error))
            finally:
                ended.set()

        threading.Thread(target=work, name=check, daemon=True).start()
        in_time = ended.wait(seconds)
        self.findings += [_clean(one) for one in tuple(found)]
        if not in_time:
            self.hung = True
            self.findings.append(
                unknown(
                    check,
                    f"no answer within {seconds:g} seconds",
                    "look whether something on the way there drops packets or hangs, and give "
                    "--timeout more if it is only slow",
                )
            )

    @property
    def counts(self) -> Counter[Outcome]:
        """How many findings there are of each outcome."""
        return Counter(one.outcome for one in self.findings)

    @property
    def worst(self) -> Outcome:
        """The outcome of the whole."""
        order = (Outcome.FAILURE, Outcome.UNKNOWN, Outcome.WARNING)
        return next((one for one in order if self.counts[one]), Outcome.OK)

    @property
    def exit_code(self) -> int:
        """The exit code: 0, `FAILED` or `UNKNOWN`."""
        return {Outcome.FAILURE: FAILED, Outcome.UNKNOWN: UNKNOWN}.get(self.worst, 0)

    def lines(self) -> Iterator[str]:
        """Yields the report as lines for people."""
        for one in self.findings:
            head = one.outcome.value
            if one.outcome in (Outcome.WARNING, Outcome.FAILURE):
                head = head.upper()
            yield f"{head:<16}{one.check}: {one.seen}"
            if one.do:
                yield f"{'':<16}-> {one.do}"
        yield self.summary

    @property
    def summary(self) -> str:
        """One line that sums the findings up."""
        count = self.counts
        return (
            f"{len(self.findings)} checks: {count[Outcome.OK]} ok, "
            f"{count[Outcome.WARNING]} with a warning, {count[Outcome.FAILURE]} failed, "
            f"{count[Outcome.UNKNOWN]} could not tell"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as it stands in JSON."""
        count = self.counts
        return {
            "command": self.command,
            "version": self.version,
            "about": cleaned(self.about),
            "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "outcome": self.worst.name,
            "counts": {one.name: count[one] for one in Outcome},
            "checks": [one.to_dict() for one in self.findings],
        }

    def json(self) -> str:
        """Returns the report as JSON, for a support ticket."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)


def cleaned(text: str) -> str:
    """Returns a text without what looks like a secret, in one line."""
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    return " ".join(text.split())


def _clean(one: Finding) -> Finding:
    return replace(one, check=cleaned(one.check), seen=cleaned(one.seen), do=cleaned(one.do))


def _broken(check: str, error: Exception) -> Finding:
    return unknown(
        check,
        f"the check itself failed: {type(error).__name__}: {error}",
        "report this line; the other checks do not depend on it",
    )
