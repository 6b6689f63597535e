"""What `keyfold check` and `keyfold-server check` have in common: findings, and how they are shown.

It knows neither the client nor the server. Each step is bounded in time, and none that fails or
hangs hides another. No finding holds a secret: what looks like one is cut out of every text.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

FAILED: Final = 14
"""The exit code if a check failed."""

UNKNOWN: Final = 15
"""The exit code if no check failed, and something could not be told."""

ENDS_SOON: Final = timedelta(days=14)
"""How long before its end a certificate or token that lasts longer gets a warning."""

SKEW: Final = timedelta(seconds=2)
"""The difference of two clocks from which on there is a warning."""

MOST_SKEW: Final = timedelta(seconds=60)
"""The difference of two clocks from which on tokens are refused, so that the check fails."""

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


def of_validity(
    check: str,
    what: str,
    begins: datetime | None,
    ends: datetime,
    renew: str,
    now: datetime | None = None,
) -> Finding:
    """Returns the finding about how long a credential lasts.

    A warning comes `ENDS_SOON` before the end, or once three quarters of its life are over if it
    lives for less than four times that.

    Args:
        check: The check.
        what: The credential.
        begins: When it begins; None: not known.
        ends: When it ends.
        renew: What to do about one that ends.
        now: The present.
    """
    now = now or datetime.now(UTC)
    if begins is not None and now < begins:
        return failure(
            check, f"{what} is not valid before {_at(begins)}", "compare the clocks of both sides"
        )
    left = ends - now
    if left <= timedelta(0):
        return failure(check, f"{what} ended {_span(-left)} ago, at {_at(ends)}", renew)
    life = ends - begins if begins is not None else None
    soon = ENDS_SOON if life is None else min(ENDS_SOON, life / 4)
    seen = f"{what} is valid for {_span(left)}, until {_at(ends)}"
    return warning(check, seen, renew) if left < soon else ok(check, seen)


def of_clocks(check: str, ahead: timedelta, ours: str, theirs: str, unsure: timedelta) -> Finding:
    """Returns the finding about two clocks.

    Args:
        check: The check.
        ahead: How far ours is ahead of theirs.
        ours: Whose clock ours is.
        theirs: Whose clock theirs is.
        unsure: How much of that may be the time which the answer took.
    """
    apart = max(abs(ahead) - unsure, timedelta(0))
    seen = f"the clocks of {ours} and {theirs} agree within {abs(ahead).total_seconds():.2f} s"
    if apart < SKEW:
        return ok(check, seen)
    way = "ahead of" if ahead > timedelta(0) else "behind"
    seen = f"the clock of {ours} is {_span(abs(ahead))} {way} that of {theirs}"
    do = "have both follow one time server, such as with chrony"
    return (
        failure(check, seen, f"{do}; beyond {MOST_SKEW.seconds} s tokens are refused")
        if apart >= MOST_SKEW
        else warning(check, seen, do)
    )


def names_of(certificate: Certificate) -> str:
    """Returns the names in a certificate, at most six, or its subject."""
    from cryptography import x509  # it takes a while, and the command line imports this module

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return certificate.subject.rfc4514_string() or "nobody"
    shown = [str(name.value) for name in names]
    return ", ".join(shown[:6]) + (" and others" if len(shown) > 6 else "")  # noqa: PLR2004


def of_certificates(
    check: str, what: str, chain: Sequence[Certificate], renew: str
) -> Iterator[Finding]:
    """Yields what is to be said of a certificate and of those that follow it in its chain."""
    leaf, *rest = chain
    issuer = leaf.issuer.rfc4514_string() or "an issuer without a name"
    yield of_validity(
        check,
        f"{what} for {names_of(leaf)} from {issuer}",
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        renew,
    )
    for one in rest:
        found = of_validity(
            check,
            f"the authority {one.subject.rfc4514_string()} in the chain of {what}",
            one.not_valid_before_utc,
            one.not_valid_after_utc,
            renew,
        )
        if found.outcome is not Outcome.OK:
            yield found


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(span: timedelta) -> str:
    seconds = span.total_seconds()
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.1f} seconds"
