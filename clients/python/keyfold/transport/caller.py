"""What each call says of its caller: a token, and on whose behalf the call is made.

Invariant: a token leaves this module only as the metadata of a call. It stands in no `repr`, no
log line and no error, so the errors below do not quote what they refuse. This module does not
know the channel: `channel` decides whether a token may go over one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from keyfold.arguments import wrong_type, wrong_value
from keyfold.errors import CallerSourceError
from keyfold.transport.files import Stamp, stamp, unreadable

Token: TypeAlias = os.PathLike[str] | Callable[[], str]
"""The path of a token's file, or a callable that returns a token.

A plain string is not allowed, because it could be either. A token that passed for a path would
end up in an error message.
"""

OnBehalfOf: TypeAlias = str | Callable[[], str]
"""A name, or a callable that returns the name for the current call, such as a `ContextVar.get`."""

CallerMetadata: TypeAlias = tuple[tuple[str, str], ...]
"""What a call says of its caller."""

_MAX_FILE: Final = 64 * 1024
"""Most bytes of a token's file. It catches a wrong path: servers take tokens of 8 KiB at most."""

_MAX_NAME: Final = 256
"""Most characters of a name that a server takes."""


class Caller:
    """The token and the name that one client sends with each call. Threads may share it."""

    __slots__ = ("_last", "_named", "_token")

    def __init__(self, token: Token | None, on_behalf_of: OnBehalfOf | None) -> None:
        """Checks both, and reads a token's file for the first time.

        Raises:
            ArgumentTypeError: The token is neither a path nor a callable, such as a plain string,
                or `on_behalf_of` is neither a string nor a callable.
            ArgumentValueError: The file does not hold a token, or gRPC cannot send the name.
            FileUnreadableError: The file cannot be read.
        """
        self._token = _source(token)
        if isinstance(on_behalf_of, str):
            _check_name(on_behalf_of)
        elif on_behalf_of is not None and not callable(on_behalf_of):
            raise wrong_type("on_behalf_of", "str, or a callable that returns one", on_behalf_of)
        self._named = on_behalf_of
        # What the last call said, so that nothing is checked twice. One attribute holds all of it,
        # so that no thread pairs one call's token with the metadata of another.
        self._last: tuple[object, object, CallerMetadata] = (object(), None, ())

    @property
    def brings_token(self) -> bool:
        """Whether calls carry a token."""
        return self._token is not None

    def metadata(self) -> CallerMetadata:
        """Returns the metadata that tells the server who makes the next call.

        Raises:
            ArgumentTypeError: A callable returned something other than a string.
            ArgumentValueError: A callable returned a string that cannot be a token or a name.
            CallerSourceError: A callable failed.
        """
        token = None if self._token is None else self._token()
        named = self._named
        if callable(named):
            named = _asked(named, "on_behalf_of")
        last_token, last_named, metadata = self._last
        if token == last_token and named == last_named:
            return metadata
        if self._token is not None:
            token = _checked(token, "the token callable's result")
        if named:
            _check_name(named)
        said = {"authorization": token and f"Bearer {token}", "on-behalf-of": named}
        metadata = tuple((name, value) for name, value in said.items() if value)
        self._last = token, named, metadata
        return metadata

    def __repr__(self) -> str:
        return "Caller()"


def _source(token: Token | None) -> Callable[[], str] | None:
    if token is None:
        return None
    if isinstance(token, os.PathLike):
        return _File(Path(token)).token
    if not callable(token):
        raise wrong_type(
            "token",
            "a path, such as Path('/var/run/secrets/tokens/keyfold'), or a callable that returns a "
            "token",
            token,
        )
    return partial(_asked, token, "token")


def _asked(ask: Callable[[], str], name: str) -> str:
    """Returns what the program's callable returns.

    The error says of the callable's own error its type only, for its text may quote a token.
    """
    try:
        return ask()
    except Exception as error:
        raise CallerSourceError(
            f"the callable that the client was given as {name} raised {type(error).__name__}",
            code="UNAUTHENTICATED",
        ) from error


class _File:
    """A token's file, which another program rotates.

    After the first read, a missing, empty or half-written file leaves the last token in use: a
    rotation must not fail a call, and the server refuses an expired token anyway.
    """

    __slots__ = ("_path", "_read")

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._read = self._fresh()
        except OSError as error:
            raise unreadable(path, error) from error

    def token(self) -> str:
        # One attribute holds both, so that no thread pairs an old stamp with a new token.
        read, token = self._read
        try:
            if stamp(self._path.stat()) == read:
                return token
            self._read = self._fresh()
        except (OSError, ValueError):
            return token
        return self._read[1]

    def _fresh(self) -> tuple[Stamp, str]:
        if "\0" in str(self._path):
            raise wrong_value("the token's path has a null character; look at how it was made")
        with self._path.open("rb") as file:
            # The open file's own stamp: the path may name another file by now.
            found = stamp(os.fstat(file.fileno()))
            content = file.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise wrong_value(
                f"{self._path} holds more than {_MAX_FILE:,} bytes, so it is not a token"
            )
        text = content.decode("ascii", "replace").strip()
        return found, _checked(text, f"the content of {self._path}")


def _checked(token: object, what: str) -> str:
    """Returns the token if gRPC can send it; gRPC's own error would quote the token."""
    if not isinstance(token, str):
        raise wrong_type(what, "str", token)
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise wrong_value(f"{what} is not a token: one line of ASCII without spaces")
    return token


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise wrong_type("on_behalf_of", "str", name)
    plain = name.isascii() and name.isprintable() and name == name.strip()
    if not name or not plain or len(name) > _MAX_NAME:
        raise wrong_value(
            f"on_behalf_of must be 1 to {_MAX_NAME} printable ASCII characters, without spaces at "
            "either end"
        )
