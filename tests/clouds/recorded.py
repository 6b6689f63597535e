"""Error answers that the clouds gave to others, or that their documentation shows.

Each provider has a file, `aws.json`, `azure.json`, `entra.json`, `gcp.json` and `vault.json`. An
answer names its source, and the reason that Keyfold has to make of it. Where the source says "not
recorded" or "inferred", nobody has seen the wording; Keyfold handles such an answer, and must not
build on its words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

PROVIDERS: Final = ("aws", "azure", "entra", "gcp", "vault")


@dataclass(frozen=True)
class Recorded:
    """One error answer.

    Attributes:
        case: What happened, in a few words; unique among the provider's answers.
        should: The reason that Keyfold has to give, such as `KEY_DISABLED`.
        source: Where the answer was seen.
        said: The answer, in the members that the provider's file describes under `about`.
    """

    case: str
    should: str
    source: str
    said: Mapping[str, Any] = field(repr=False)


def recorded(provider: str) -> list[Recorded]:
    """Returns all answers of a provider, one of `PROVIDERS`."""
    text = Path(__file__).with_name(f"{provider}.json").read_text("utf-8")
    found = []
    for each in json.loads(text)["answers"]:
        case, should, source = (each.pop(name) for name in ("case", "should", "source"))
        found.append(Recorded(case, should, source, each))
    return found


def every(provider: str) -> pytest.MarkDecorator:
    """Runs a test once for each answer of a provider, as its argument `answer`."""
    answers = recorded(provider)
    return pytest.mark.parametrize("answer", answers, ids=[each.case for each in answers])
