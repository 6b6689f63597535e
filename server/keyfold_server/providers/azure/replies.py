"""Answers of Azure over HTTP, and what is read from their bodies.

Invariant: reading an answer never raises, whatever its body holds. This module must not know what
an answer means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyfold_server.providers.shared.transport import retry_after

_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404

_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP.

    Attributes:
        status: The status code.
        headers: The headers, looked up without regard to case.
        body: The JSON object, empty if the body is not one.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def request_id(self) -> str:
        """Azure's id of the call, empty if the answer has no id."""
        found = str(self.headers.get("x-ms-request-id", ""))
        return found if _ID.fullmatch(found) else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next call, or None if the answer does not say."""
        return retry_after(str(self.headers.get("Retry-After", "")))

    @property
    def unauthorized(self) -> bool:
        """Whether Azure rejected the caller's token, and not what the caller asked for."""
        return self.status == _UNAUTHORIZED

    @property
    def missing(self) -> bool:
        """Whether Azure itself says that it has no such key."""
        return self.status == _NOT_FOUND and self.code == "KeyNotFound"

    @property
    def code(self) -> str:
        """The error's code, empty if the body has no error of Azure's."""
        return _word(self._error)

    @property
    def inner_code(self) -> str:
        """The code of the error's inner error, empty if the error has none."""
        # Azure uses both spellings.
        return _word(self._error.get("innererror", self._error.get("innerError")))

    @property
    def words(self) -> str:
        """Both codes, for messages."""
        return " ".join(filter(None, (self.code, self.inner_code)))

    @property
    def text(self) -> str:
        """The error's text. It may repeat what was sent, so nothing shows it."""
        return str(self._error.get("message", ""))

    @property
    def _error(self) -> Mapping[str, Any]:
        found = self.body.get("error")
        return found if isinstance(found, dict) else {}


def parsed(body: bytes) -> Mapping[str, Any]:
    """Returns a body's JSON object, empty if the body is not one."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _word(error: object) -> str:
    found = str(error.get("code", "")) if isinstance(error, dict) else ""
    return found if _WORD.fullmatch(found) else ""
