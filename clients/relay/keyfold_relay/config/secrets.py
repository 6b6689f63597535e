"""Secrets: the configuration names where one is, and never holds one.

Invariant: what a secret contains stands in no `repr`, no log line and no error. A secret is read
each time it is used, so that a rotated one needs no restart.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator

_MAX: Final = 64 * 1024
"""Most bytes of a secret's file. It catches a wrong path."""


class SecretError(Exception):
    """A secret cannot be read; the message names its place and not its content."""


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a secret is.

    Attributes:
        kind: `file` or `env`.
        name: The path, or the name of the environment variable.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    def read(self) -> str:
        """Returns the secret, without white space at its ends.

        Raises:
            SecretError: It is not there, or it is empty or not one line of ASCII.
        """
        if self.kind == "env":
            content = os.environ.get(self.name, "")
        else:
            try:
                with Path(self.name).open("rb") as file:
                    content = file.read(_MAX).decode("ascii", "replace")
            except OSError as error:
                raise SecretError(f"cannot read {self}: {error.strerror}") from None
        content = content.strip()
        if not content:
            raise SecretError(f"{self} is empty; write the secret there")
        if not content.isascii() or not content.isprintable():
            raise SecretError(f"{self} does not hold one line of ASCII")
        return content


def _place(value: object) -> object:
    if not isinstance(value, str):
        return value
    kind, colon, name = value.partition(":")
    if not colon or kind not in ("file", "env") or not name:
        # The value is not repeated, because somebody may have written the secret itself.
        raise ValueError(
            "write where the secret is, as file:/PATH or env:NAME; the secret itself does not "
            "belong in this file"
        )
    return SecretPlace(kind, name)


Secret = Annotated[SecretPlace, BeforeValidator(_place)]
