"""Opening at once what a KMS has wrapped, for providers where nothing else shows that it opens.

A failure of that is a failure of `wrap`, and not of wrapping: the customer has to mend the right to
unwrap. So the error says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keyfold_server.domain.errors import KmsError


@contextmanager
def opening() -> Iterator[None]:
    """Marks the errors of the unwrap that a `wrap` ends with; see `KeyfoldError`."""
    try:
        yield
    except KmsError as error:
        error.while_unwrapping = True
        raise
