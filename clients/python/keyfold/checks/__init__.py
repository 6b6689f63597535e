"""What `keyfold check` and `keyfold-server check` have in common.

    report   findings, and the report that they make
    facts    what is said of certificates, tokens and clocks

It knows neither the client nor the server.
"""

from keyfold.checks.facts import names_of, of_certificates, of_clocks, of_validity
from keyfold.checks.report import (
    FAILED,
    UNKNOWN,
    Finding,
    Outcome,
    Report,
    advised,
    cleaned,
    failure,
    ok,
    unknown,
    warning,
)

__all__ = [
    "FAILED",
    "UNKNOWN",
    "Finding",
    "Outcome",
    "Report",
    "advised",
    "cleaned",
    "failure",
    "names_of",
    "of_certificates",
    "of_clocks",
    "of_validity",
    "ok",
    "unknown",
    "warning",
]
