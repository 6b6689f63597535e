"""Runs the shell text of a statement as a customer would, with a stand-in for a cloud's command.

The stand-in records the arguments of each call, as the shell passed them, and answers questions
from a table. The text can run no other program.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SECONDS: Final = 30.0


class CommandError(Exception):
    """The stand-in refused a command, as the cloud's own command would."""


def recorded(program: str, text: str, answers: Mapping[str, str]) -> list[list[str]]:
    """Runs a text and returns the arguments of each call of a command, in order.

    Args:
        program: The command's name.
        text: The text that bash runs.
        answers: The command's output, by its arguments in one line.

    Raises:
        CommandError: The text ended with an error.
    """
    cases = "\n".join(
        f"{shlex.quote(call)}) echo {shlex.quote(answer)} ;;" for call, answer in answers.items()
    )
    with tempfile.NamedTemporaryFile() as calls:
        stand_in = f"""{program}() {{
            printf '%s\\0' "$#" "$@" >> {shlex.quote(calls.name)}
            case "$*" in
            {cases}
            *show*) echo "not found: $*" >&2; return 3 ;;
            esac
        }}
        """
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", f"{stand_in}\n{text}"],
            # The text must find no other program.
            env={"PATH": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        parts = Path(calls.name).read_text().split("\0")[:-1]
    if done.returncode or done.stderr:
        raise CommandError(done.stderr or f"status {done.returncode}")
    found = []
    while parts:
        end = 1 + int(parts[0])
        found.append(parts[1:end])
        parts = parts[end:]
    return found


def options(words: list[str]) -> dict[str, list[str]]:
    """Returns the values of each option, written as `--name value…` or `--name=value`.

    Raises:
        CommandError: A word stands before the first option, or an option comes twice.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name in found:
                raise CommandError(f"{name} comes twice")
            found[name] = [value] if equals else []
        elif found:
            list(found.values())[-1].append(word)
        else:
            raise CommandError(f"{word} belongs to no option")
    return found
