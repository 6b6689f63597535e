"""The forms in which the cases write results and errors, whatever the language.

Bytes are hexadecimal digits, spans of time are seconds, and an enum's value is its name without the
enum's own. An error is what a program can ask it for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from keyfold.errors import ClosedError, KeyfoldError, branches

_KINDS: Final = {ClosedError: "Closed"} | {
    kind: name.removesuffix("Error")
    for name, kind in vars(branches).items()
    if isinstance(kind, type) and issubclass(kind, KeyfoldError) and kind is not KeyfoldError
}
"""The kinds of errors, by their classes."""


def form(value: object) -> Any:
    """Returns a result in the form of the cases."""
    if isinstance(value, KeyfoldError):
        return {"error": error_form(value)}
    if isinstance(value, Mapping):
        return {name: form(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [form(one) for one in value]
    if is_dataclass(value):
        return {one.name: form(getattr(value, one.name)) for one in fields(value)}
    return _of_one(value)


def _of_one(value: object) -> object:
    match value:
        case bytes():
            return bytes(value).hex()
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
    return value


def error_form(error: KeyfoldError) -> dict[str, Any]:
    """Returns an error in the form of the cases."""
    return {
        "reason": error.reason,
        "code": error.code,
        "kinds": sorted(name for kind, name in _KINDS.items() if isinstance(error, kind)),
        "cluster": error.cluster or "",
        "region": error.region or "",
        "source": error.source,
        "retryable": error.retryable,
        "retry_after": error.retry_after or 0,
        "fields": [one.field for one in error.field_violations],
        "has_request_id": error.request_id is not None,
        "message": error.message,
    }


def printed(value: object) -> str:
    """Returns what a program prints that prints a value in every way; of a list, some of it."""
    value = value[:20] if isinstance(value, list) else value
    ways = [repr(value), str(value), f"{value}", f"{value!r:>5}", f"{[value]} {(value,)} {value!a}"]
    if isinstance(value, BaseException):
        ways += [repr(value.args), str(vars(value))]
    ways.append(json.dumps(value, default=repr))
    return "\n".join(ways)
