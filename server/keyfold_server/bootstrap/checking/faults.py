"""Findings from the errors of a start, which name a setting and say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from keyfold.checks import Finding, Outcome, advised
from keyfold_server.domain.errors import KeyfoldError

_NAMED: Final = re.compile(r"(KEYFOLD_[A-Z0-9_]+): (.+)")


def of_error(error: KeyfoldError, check: str, do: str) -> Iterator[Finding]:
    """Yields a failure for each line of an error, under the setting that the line names.

    Args:
        error: The error.
        check: The check, for lines that name no setting.
        do: What to do where the line itself does not say it.
    """
    for line in error.message.splitlines():
        named = _NAMED.fullmatch(line)
        name, text = named.groups() if named else (check, line)
        yield advised(Outcome.FAILURE, name, text, do)
