"""The forms in which commands print what they show: `--output` and `--json`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Form(StrEnum):
    """A form of output."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


RESOURCES: Final = tuple(Form)
"""The forms of a command that shows resources. The first is the default."""

DOCUMENT: Final = (Form.YAML, Form.JSON, Form.TABLE, Form.WIDE, Form.NAME)
"""The forms of a command that prints a document."""

REPORT: Final = (Form.TABLE, Form.WIDE, Form.JSON, Form.YAML)
"""The forms of a command whose output has no resources that could be named."""

PLAN: Final = (Form.TABLE, Form.JSON, Form.YAML)
"""The forms of a command that shows a plan."""

DATA: Final = (Form.TABLE, Form.JSON)
"""The forms of a command that prints keys, which have no form but their bytes and JSON. Such a
command has --json, and no --output, which would be taken for a file's name."""
