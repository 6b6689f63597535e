"""The error answers of the Azure counterpart, read from `data/azure_errors.json`.

The file gives the source of each answer, and says what in it is assumed. The code names an answer
and fills in its names; it never makes up a shape of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Final

_FILE: Final = Path(__file__).with_name("data") / "azure_errors.json"


class AzureError(Exception):
    """A request that is refused with an answer of the data file.

    Attributes:
        name: The answer's name in the data file.
        values: Values for the names in the answer, beside those that every answer knows.
        headers: Headers of this answer, which the caller that passes it on adds.
    """

    def __init__(self, name: str, /, **values: str) -> None:
        super().__init__(name)
        self.name = name
        self.values = values
        self.headers: dict[str, str] = {}


@cache
def errors() -> Mapping[str, Mapping[str, Any]]:
    """Returns all error answers by name, as they stand in the data file."""
    found: dict[str, Mapping[str, Any]] = json.loads(_FILE.read_text("utf-8"))["errors"]
    return found


def render(name: str, values: Mapping[str, str]) -> tuple[int, Any]:
    """Returns the HTTP status and the JSON body of an error answer.

    Args:
        name: The answer's name in the data file.
        values: Values for the names in the answer. A name without a value stays as it is written,
            so that an injected fault needs no values.

    Raises:
        KeyError: The data file has no such answer.
    """
    entry = errors()[name]
    return entry["status"], _filled(entry["body"], values)


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return Template(node).safe_substitute(values)
    if isinstance(node, dict):
        return {name: _filled(child, values) for name, child in node.items()}
    return node
