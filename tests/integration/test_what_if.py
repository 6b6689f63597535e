"""`what_if` is equal to really doing it: at each counterpart, in random cases.

`make what-if` runs a thousand of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from contract.counterparts import NotInstalledError, without
from keyfold_server.domain.errors import KeyInvalidError
from keyfold_server.domain.what_if import Foreseen, WhatIf
from what_if.sites import SITES, Site
from what_if.trial import ACTIONS, Result, tried

SEED: Final = "1"

ENOUGH: Final = 20
"""Cases within which a table that lies has been found out many times over."""


def site_of(name: str, folder: Path) -> Site:
    """Makes a site, or skips the test if its KMS is not installed."""
    try:
        return SITES[name](folder)
    except NotInstalledError as error:
        without(error)


# A case takes a second or two, and ten where the machine is busy.
@pytest.mark.timeout(60 + 10 * len(ACTIONS))
@pytest.mark.parametrize("name", SITES)
async def test_what_if_is_equal_to_doing_it(name: str, tmp_path: Path) -> None:
    """C6: what was said to stop stops, when and as it was said, and nothing else; so it resumes."""
    result = Result()
    with closing(site_of(name, tmp_path)) as site:
        for number, what in enumerate(ACTIONS):
            await tried(site, tmp_path, f"{SEED}/{name}", number, what, result)
    assert not result.differences, "\n".join(result.differences)
    assert result.stopping > 0


LIES: Final[dict[str, tuple[WhatIf, Callable[[Foreseen], Foreseen]]]] = {
    "nothing stops": (WhatIf.DISABLE, lambda _: Foreseen("no")),
    "another error": (WhatIf.DISABLE, lambda told: replace(told, unwrap=KeyInvalidError)),
    "rotations go on": (WhatIf.REMOVE_WRAP_PERMISSION, lambda _: Foreseen("no")),
    "it comes back by itself": (WhatIf.DELETE, lambda told: replace(told, needs="")),
    "it never comes back": (WhatIf.DISABLE, lambda told: replace(told, needs="do it")),
    "at once": (WhatIf.REMOVE_PRINCIPAL, lambda told: replace(told, later=0.0)),
    "everything stops": (
        WhatIf.REMOVE_DESCRIBE_PERMISSION,
        lambda told: replace(told, unwrap=KeyInvalidError),
    ),
}


@pytest.mark.timeout(60 + 10 * ENOUGH)
@pytest.mark.parametrize("lie", LIES)
async def test_a_table_that_lies_is_found_out(lie: str, tmp_path: Path) -> None:
    """The comparison would notice: each lie in the table makes a difference within a few cases."""
    what, untrue = LIES[lie]
    with closing(site_of("GCP_CLOUD_KMS", tmp_path)) as site:
        provider: Any = site.provider
        foreseen = provider.foreseen

        def told(*asked: Any) -> Foreseen:
            return untrue(foreseen(*asked))

        provider.foreseen = told
        result = Result()
        while not result.differences and result.cases < ENOUGH:
            await tried(site, tmp_path, f"{SEED}/{lie}", result.cases, what, result)
    assert result.differences
