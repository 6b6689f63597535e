"""Tables of the settings file, read into the values that a provider is made from.

A provider describes its table `[providers.NAME]` with a subclass of `Table`, and reads it with
`read`. What is wrong in the file is then said in the same words for every provider. This module
must not know any provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from keyfold_server.domain.errors import SetupError

T = TypeVar("T", bound="Table")

_WORDS: Final = {
    "extra_forbidden": "there is no such setting; leave it out",
    "missing": "it is missing; set it",
}
"""Pydantic's faults for which Keyfold has words of its own."""


class Table(BaseModel):
    """A table of the settings file. A key that the table does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read(kind: type[T], values: Mapping[str, Any], name: str) -> T:
    """Returns a table with its values checked.

    Args:
        kind: The model that the table must fit.
        values: The table as TOML gives it.
        name: The table's name in the file, such as `providers.aws`, for the message.

    Raises:
        SetupError: A key or a value is wrong. The message names each of them; it does not repeat
            values, since one could be a secret in the wrong place.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = [
            f"[{name}] {'.'.join(map(str, fault['loc']))}: "
            + _WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise SetupError("\n".join(faults)) from None
