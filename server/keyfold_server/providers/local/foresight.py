"""What the key file will answer once its owner takes a key away.

The file has keys with versions, and neither permissions nor principals.
"""

from __future__ import annotations

from typing import Final

from keyfold_server.domain.errors import KeyDisabledError, KeyNotFoundError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.what_if import Foreseen, Reach, Supposition, WhatIf

_ANSWERS: Final[dict[WhatIf, Foreseen]] = {
    WhatIf.DISABLE: Foreseen(
        "a disabled version opens nothing", KeyDisabledError, KeyDisabledError
    ),
    WhatIf.DELETE: Foreseen(
        "a destroyed version has no material any more",
        KeyNotFoundError,
        KeyNotFoundError,
        final=True,
    ),
}
_NO_SUCH_THING: Final = Foreseen(
    "the key file has neither permissions nor principals that could be taken away"
)
_ANOTHER_VERSION: Final = Foreseen("this wrap is under another version, which stays as it is")


class Foresight:
    """What the key file will answer; see `Foresees`."""

    def reach(self, what: WhatIf) -> Reach:
        """Returns VERSION for what is done to versions."""
        return Reach.VERSION if what in _ANSWERS else Reach.KEY

    def foreseen(self, supposed: Supposition, key: RootKey, key_version: str) -> Foreseen:
        """Returns what the key file will answer about a wrap; see `Foresees`."""
        del key
        if supposed.key_version not in ("", key_version):
            return _ANOTHER_VERSION
        return _ANSWERS.get(supposed.what, _NO_SUCH_THING)
