"""Runs the shell text of a statement as a customer would, with a stand-in for a cloud's command.

What the text gives to the command is recorded, argument by argument, as the shell made it of the
text; questions are answered from a table. Nothing else can be run.
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
    """A command was refused, as the cloud's own would have refused it."""


def recorded(program: str, text: str, answers: Mapping[str, str]) -> list[list[str]]:
    """Runs a text and returns the arguments of each call of a command, the first call first.

    Args:
        program: The command's name.
        text: What is run by bash.
        answers: What it prints, by its arguments in one line.

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
            # No other program is to be found.
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
    """Returns what follows each option, which may be written `--name value…` or `--name=value`.

    Raises:
        CommandError: Something stands before the first option, or an option comes twice.
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
