"""Errors that say where they happened: in which column or file, and of which cluster."""

from __future__ import annotations

import copy

from keyfold import KeyfoldError


def named(error: KeyfoldError, place: str, **facts: str) -> KeyfoldError:
    """Returns the same error, of the same class, with the place before its message.

    Args:
        error: The error. It stays as it is: several results of a batch may share it.
        place: Where it happened, such as `cards.number of cluster acme`. Never a value.
        facts: What `metadata` has besides, such as the cluster.
    """
    told = copy.copy(error)
    told.message = f"{place}: {error.message}"
    told.args = (told.message,)
    told.metadata = facts | error.metadata
    return told
