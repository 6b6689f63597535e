"""SQLAlchemy's compiled statements, kept once in a process, for all stores on one kind of database.

SQLAlchemy keeps them for each engine, so each new store compiles its statements again: a third of
what a test of the service computes. A server opens one store, and tests open thousands.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import util
from sqlalchemy.engine.base import Engine
from sqlalchemy.engine.default import DefaultDialect

_MOST: Final = 2000
"""Statements. Those of all stores, on four databases, are fewer."""


def keep() -> None:
    """Has all engines that this process makes from now on share what they compiled.

    A statement is looked up by what it is made of and by the dialect, which says how it is written:
    two dialects of one class for servers of one version write alike.
    """
    kept = util.LRUCache[Any, Any](_MOST)
    shared = property(lambda _engine: kept, lambda _engine, _its_own: None)
    Engine._compiled_cache = shared  # type: ignore[assignment]
    DefaultDialect.__eq__ = _equal  # type: ignore[method-assign,assignment]
    DefaultDialect.__hash__ = _hash  # type: ignore[method-assign,assignment]


def _kind(dialect: DefaultDialect) -> tuple[object, ...]:
    return type(dialect), dialect.paramstyle, getattr(dialect, "server_version_info", None)


def _hash(dialect: DefaultDialect) -> int:
    return hash(_kind(dialect))


def _equal(dialect: DefaultDialect, other: object) -> bool:
    return isinstance(other, DefaultDialect) and _kind(dialect) == _kind(other)
