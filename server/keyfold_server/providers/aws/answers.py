"""The parts of an error answer of AWS, as botocore gives them.

Invariant: what leaves this module for a message or a log is one word. The text of an answer may
repeat what was sent, so others only look for known words in it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from botocore.exceptions import ClientError

_WORD: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def code(error: ClientError) -> str:
    """Returns AWS's code of an error, one word."""
    found = str(error.response.get("Error", {}).get("Code", ""))
    return found if _WORD.fullmatch(found) else "without a code"


def text(error: ClientError) -> str:
    """Returns AWS's text of an error, which must not be passed on."""
    return str(error.response.get("Error", {}).get("Message", ""))


def request_id(reply: Any) -> str:
    """Returns AWS's id of a call from its answer, empty if the answer has no id."""
    found = str(reply.get("ResponseMetadata", {}).get("RequestId", ""))
    return found if _ID.fullmatch(found) else ""


def status(error: ClientError) -> int:
    """Returns the HTTP status of an error, 0 if it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def header(error: ClientError, name: str) -> str:
    """Returns a header of an error, whose name is in lower case; empty if it has none."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get(name, ""))
