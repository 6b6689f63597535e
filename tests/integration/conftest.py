"""What several of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from released import Release, released


@pytest.fixture(scope="session")
def release() -> Iterator[Release]:
    """A release of the work tree, made once."""
    with released() as made:
        yield made
