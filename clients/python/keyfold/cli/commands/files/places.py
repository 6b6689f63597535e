"""Where the output of each file goes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from keyfold.cli.errors import InputError
from keyfold.cli.input.streams import STDIO, is_same

SUFFIX: Final = ".keyfold"
"""The end of an encrypted file's name."""


def encrypted(name: str) -> str:
    """Returns the name of a file once it is encrypted.

    Raises:
        InputError: The name says that it is already.
    """
    if name.endswith(SUFFIX):
        raise InputError(
            f"{name} ends with {SUFFIX}, so it is encrypted; name the output with --out if it "
            "shall be encrypted again"
        )
    return name + SUFFIX


def decrypted(name: str) -> str:
    """Returns the name of a file once it is decrypted.

    Raises:
        InputError: The name does not say that it is encrypted.
    """
    plain = name.removesuffix(SUFFIX)
    if plain == name or not Path(plain).name:
        raise InputError(f"{name} does not end with {SUFFIX}; name the output with --out")
    return plain


class Places:
    """Finds the place of each file's output, and refuses to write one twice."""

    def __init__(
        self, files: list[str], target: str | None, renamed: Callable[[str], str], *, over: bool
    ) -> None:
        """Takes the options of a command.

        Args:
            files: The inputs; `-` is stdin.
            target: The output's path, a folder, or `-` for stdout; None: beside each input.
            renamed: Returns the output's name for an input's name.
            over: Whether outputs may replace files.

        Raises:
            InputError: The options contradict each other.
        """
        is_folder = target is not None and target != STDIO and Path(target).is_dir()
        self._folder = Path(target or "") if is_folder else None
        if target is not None and self._folder is None and len(files) > 1:
            raise InputError(f"--out {target} is one file, for {len(files)} inputs; name a folder")
        self._target = target
        self._renamed = renamed
        self._over = over
        self._taken: dict[str, str] = {}

    def of(self, source: str, read: BinaryIO) -> str:
        """Returns the output's path for an input, or `-` for stdout.

        Args:
            source: The input's path, or `-` for stdin.
            read: The same, opened.

        Raises:
            InputError: There is no such place, or it is not free.
        """
        target = self._named(source)
        if target == STDIO:
            place = STDIO
        else:
            place = os.path.realpath(target)
            if not self._over and not _is_free(target):
                raise InputError(
                    f"{target} exists; name another file with --out, or replace it with --force"
                )
        if is_same(read, target):
            raise InputError(f"the output of {source} is the input itself; name another file")
        if place in self._taken:
            raise InputError(
                f"{target} is the output of {self._taken[place]} already; name another folder"
            )
        self._taken[place] = source
        return target

    def _named(self, source: str) -> str:
        if self._folder is not None:
            if source == STDIO:
                raise InputError("stdin has no name; name a file, not a folder, with --out")
            return str(self._folder / Path(self._renamed(source)).name)
        if self._target is not None:
            return self._target
        return STDIO if source == STDIO else self._renamed(source)


def _is_free(target: str) -> bool:
    """Returns whether nothing is there that would be lost: no file, or a device or a pipe."""
    try:
        mode = Path(target).stat().st_mode
    except OSError:
        return not os.path.lexists(target)
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
