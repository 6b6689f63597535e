"""Patterns of names in statements: `*` is any run of characters, and letters are what they are.

SQLite's LIKE takes small and capital letters for the same, and its GLOB does not; PostgreSQL has
only LIKE, which does not either. So each database gets its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.compiler import SQLCompiler


class _Fits(FunctionElement[bool]):
    """The condition that a text fits a pattern; its parts are the text, a LIKE and a GLOB."""

    type = Boolean()
    inherit_cache = True


@compiles(_Fits)
def _like(element: _Fits, compiler: SQLCompiler, **options: Any) -> str:
    text, like, _ = element.clauses
    return f"{compiler.process(text, **options)} LIKE {compiler.process(like, **options)}"


@compiles(_Fits, "sqlite")
def _glob(element: _Fits, compiler: SQLCompiler, **options: Any) -> str:
    text, _, glob = element.clauses
    return f"{compiler.process(text, **options)} GLOB {compiler.process(glob, **options)}"


def fits(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """Returns the condition that a text fits a pattern."""
    # Each part of the pattern is taken as it is, and anything may stand between the parts.
    like = re.sub(r"[\\%_]", r"\\\g<0>", pattern).replace("*", "%")
    glob = re.sub(r"[\[?]", r"[\g<0>]", pattern)
    return _Fits(column, literal(like), literal(glob))
