"""Files that ask for an action, in CockroachDB's form: `{"action": "REVOKE"}`."""

from __future__ import annotations

from typing import Any, Final

from keyfold.cli.errors import InputError
from keyfold.cli.input.json_files import file_name, read_json

_REVOKE: Final = "REVOKE"


def check_revokes(file: str) -> None:
    """Refuses a file that does not ask for the revocation of a cluster.

    Args:
        file: A path, or `-` for stdin.

    Raises:
        InputError: The file cannot be read, or asks for something else.
    """
    problem = _problem(read_json(file))
    if problem:
        raise InputError(f'{file_name(file)}: {problem}; the file must be {{"action": "REVOKE"}}')


def _problem(content: Any) -> str:
    if not isinstance(content, dict) or "action" not in content:
        return "has no action"
    if unknown := sorted(content.keys() - {"action"}):
        return f"{unknown[0]}: unknown field"
    return "" if content["action"] == _REVOKE else "action: is not REVOKE"
