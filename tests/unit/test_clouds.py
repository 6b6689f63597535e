"""The recorded answers of the clouds are whole: named, with a source, and a reason of Keyfold's."""

from __future__ import annotations

import pytest

from clouds.recorded import PROVIDERS, recorded
from keyfold_server.domain.errors import (
    CouldNotTellError,
    KekMismatchError,
    KmsError,
    RefusedError,
)


def _reasons(kind: type[KmsError]) -> set[str]:
    return {each.reason for each in kind.__subclasses__()}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_answer_says_where_it_was_seen_and_what_it_means(provider: str) -> None:
    """Nobody has to take an answer's word for it: each has a source, and a reason to compare."""
    answers = recorded(provider)
    assert len({each.case for each in answers}) == len(answers) > 0
    known = _reasons(RefusedError) | _reasons(CouldNotTellError) | {KekMismatchError.reason}
    for each in answers:
        assert each.source, each.case
        assert each.said, each.case
        assert each.should in known, each.case
