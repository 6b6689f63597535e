"""Rows that a query returned open together: a page is one call for each tenant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import models

from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.group import Group, open_together
from keyfold.integrations.django.attribute import EncryptedAttribute
from keyfold.integrations.django.fields import encrypted_fields
from keyfold.integrations.django.setting import tenants


class EncryptedQuerySet(models.QuerySet):
    """A queryset whose rows open together, as soon as one of them is read."""

    def _fetch_all(self) -> None:
        fresh = self._result_cache is None
        super()._fetch_all()
        if fresh:
            _group(self._result_cache)


class EncryptedManager(models.Manager.from_queryset(EncryptedQuerySet)):  # type: ignore[misc]
    """A manager whose rows open together. Give it to models with encrypted fields as `objects`."""


def open_rows(rows: Iterable[Any]) -> None:
    """Opens the encrypted fields of rows, so that reading them makes no further call.

    Rows of an `EncryptedManager` open together by themselves. This is for rows from several
    queries. A value that does not open raises when it is read.

    Raises:
        KeyfoldError: No server answers.
    """
    cells = []
    for row, field, cell in _closed(rows):
        EncryptedAttribute(field).locate(row, cell)
        cell.place = cell.place or field.places.now(row)
        cells.append(cell)
    open_together(cells, tenants())


def _group(rows: Iterable[Any]) -> None:
    groups: dict[Any, Group] = {}
    for row, field, cell in _closed(rows):
        # Nothing is asked for rows that nobody may read.
        if field.places.at_hand(row):
            EncryptedAttribute(field).locate(row, cell)
        if cell.place is not None:
            groups.setdefault(field, Group()).add(cell)


def _closed(rows: Iterable[Any]) -> Iterator[tuple[Any, Any, Cell]]:
    """Yields the cells of rows that are not open, each with its row and field."""
    for row in rows:
        if not isinstance(row, models.Model):
            continue
        for field in encrypted_fields(type(row)):
            cell = row.__dict__.get(field.attname)
            if isinstance(cell, Cell) and not cell.is_open:
                yield row, field, cell
