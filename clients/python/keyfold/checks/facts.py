"""What is said of certificates, tokens and clocks, wherever they were seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from keyfold.checks.report import Finding, Outcome, failure, ok, warning

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

ENDS_SOON: Final = timedelta(days=14)
"""How long before its end a certificate or token that lasts longer gets a warning."""

SKEW: Final = timedelta(seconds=2)
"""The difference of two clocks from which on there is a warning."""

MOST_SKEW: Final = timedelta(seconds=60)
"""The difference of two clocks from which on tokens are refused, so that the check fails."""


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
