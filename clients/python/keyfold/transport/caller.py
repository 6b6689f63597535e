"""Who is calling, as far as each call says it: a token, and on whose behalf the call is made.

Invariant: a token leaves here as the metadata of a call and in no other way. It is in no `repr`,
no log line and no error; what is refused here is therefore told without its value. Nothing here
knows a channel: whether a token may go over one is `channel`'s to say.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

Token: TypeAlias = os.PathLike[str] | Callable[[], str]
"""A path, for a file that is read anew whenever it changes, or what returns a token.

Not a plain string: it could be a path or a token, and one taken for the other ends in an error
message or in the hands of whoever answers.
"""

OnBehalfOf: TypeAlias = str | Callable[[], str]
"""A name, or what returns the name for the call that is being made, such as a `ContextVar.get`."""

_MAX_FILE: Final = 64 * 1024
"""Bytes of a token's file. Servers take tokens of at most 8 KiB; this is for a wrong path."""

_MAX_NAME: Final = 256
"""Characters of a name that servers take."""

_Stamp: TypeAlias = tuple[int, ...]


class Caller:
    """What goes along with each call of one client. Any number of threads may ask."""

    __slots__ = ("_named", "_token")

    def __init__(self, token: Token | None, on_behalf_of: OnBehalfOf | None) -> None:
        """Takes what the client was made with; a file is read for the first time.

        Raises:
            TypeError: It is of another kind, such as a token as a plain string.
            ValueError: The file holds no token, or the name cannot be sent.
            OSError: The file cannot be read.
        """
        self._token = _source(token)
        if isinstance(on_behalf_of, str):
            _check_name(on_behalf_of)
        elif on_behalf_of is not None and not callable(on_behalf_of):
            raise TypeError("on_behalf_of must be a string, or a callable that returns one")
        self._named = on_behalf_of

    @property
    def brings_token(self) -> bool:
        """Whether calls carry a token."""
        return self._token is not None

    def metadata(self) -> list[tuple[str, str]]:
        """Returns what the next call says of its caller.

        What a callable raises is passed on.

        Raises:
            TypeError: A callable returned no string.
            ValueError: It returned what cannot be a token or a name.
        """
        found = []
        if self._token is not None:
            found.append(("authorization", f"Bearer {self._token()}"))
        named = self._named() if callable(self._named) else self._named
        if named:
            _check_name(named)
            found.append(("on-behalf-of", named))
        return found

    def __repr__(self) -> str:
        return "Caller()"


def _source(token: Token | None) -> Callable[[], str] | None:
    if token is None:
        return None
    if isinstance(token, os.PathLike):
        return _File(Path(token)).token
    if not callable(token):
        raise TypeError(
            "token must be a path, such as Path('/var/run/secrets/tokens/keyfold'), or a callable "
            "that returns a token; a plain string could be either"
        )
    ask = token

    def asked() -> str:
        return _checked(ask(), "what the token callable returned")

    return asked


class _File:
    """A token's file, as whoever rotates it leaves it.

    Once a token was read, a file that is missing, empty or half written keeps it: rotating must
    fail no call, and the server refuses a token whose time is up.
    """

    __slots__ = ("_path", "_read")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._fresh()

    def token(self) -> str:
        # One attribute for both, so that no thread pairs an old stamp with a new token.
        stamp, token = self._read
        try:
            if _stamp(self._path.stat()) == stamp:
                return token
            self._read = self._fresh()
        except (OSError, ValueError):
            return token
        return self._read[1]

    def _fresh(self) -> tuple[_Stamp, str]:
        with self._path.open("rb") as file:
            # Of the file that is read, which may no longer be the one at the path.
            stamp = _stamp(os.fstat(file.fileno()))
            content = file.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise ValueError(f"{self._path} holds more than {_MAX_FILE:,} bytes, and no token")
        text = content.decode("ascii", "replace").strip()
        return stamp, _checked(text, f"what {self._path} holds")


def _stamp(status: os.stat_result) -> _Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _checked(token: object, what: str) -> str:
    """Returns a token that gRPC will send; it would quote another one in its own error."""
    if not isinstance(token, str):
        raise TypeError(f"{what} is not a string")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{what} is not a token: one line of ASCII without spaces")
    return token


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError("on_behalf_of is not a string")
    plain = name.isascii() and name.isprintable() and name == name.strip()
    if not name or not plain or len(name) > _MAX_NAME:
        raise ValueError(
            f"on_behalf_of must be 1 to {_MAX_NAME} printable ASCII characters, without spaces "
            "around them"
        )
