"""What Vault and OpenBao will answer once a customer takes a key, or a right to it, away.

A minimum version stops a version with all older ones, and never the newest. OpenBao disables a key
by soft deletion; Vault has no such thing. A deletion is for good. A role that is gone looks like a
credential that is wrong, so Keyfold cannot tell that the customer meant it.

https://openbao.org/api-docs/secret/transit/
"""

from __future__ import annotations

from typing import Final

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KeyDisabledError,
    KeyNotFoundError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.what_if import Foreseen, Reach, Supposition, WhatIf
from keyfold_server.providers.shared.lease import LONGEST

_ANSWERS: Final[dict[WhatIf, Foreseen]] = {
    WhatIf.DISABLE: Foreseen(
        "OpenBao uses no soft-deleted key (Vault has no soft deletion: take the permission to "
        "decrypt away there)",
        KeyDisabledError,
        KeyDisabledError,
    ),
    WhatIf.DELETE: Foreseen(
        "a deleted key is gone for good, at once", KeyNotFoundError, KeyNotFoundError, final=True
    ),
    WhatIf.REMOVE_WRAP_PERMISSION: Foreseen(
        "the server denies encrypt, which only rotations and new regions need",
        wrap=AccessDeniedError,
    ),
    WhatIf.REMOVE_UNWRAP_PERMISSION: Foreseen(
        "the server denies decrypt", AccessDeniedError, AccessDeniedError
    ),
    WhatIf.REMOVE_DESCRIBE_PERMISSION: Foreseen("Keyfold reads a key only to show its state"),
    WhatIf.REMOVE_PRINCIPAL: Foreseen(
        "the server goes on accepting Keyfold's token, which Keyfold replaces after "
        f"{LONGEST / 60:.0f} minutes at the latest, and answers a login with a role that is gone "
        "as it answers a wrong credential; to stop Keyfold at once, take the permission to decrypt "
        "away instead",
        CredentialsFailedError,
        CredentialsFailedError,
        later=LONGEST,
        needs="have the vendor install the new role's credential",
    ),
}
_OF_VERSION: Final[dict[WhatIf, Foreseen]] = {
    WhatIf.DISABLE: Foreseen(
        "the server opens nothing below the key's min_decryption_version", KeyDisabledError
    ),
    WhatIf.DELETE: Foreseen("a trimmed version is gone for good", KeyNotFoundError, final=True),
}
_NEWER: Final = Foreseen("this wrap is under a newer version, which stays as it is")


class Foresight:
    """What a transit secrets engine will answer; see `Foresees`."""

    def reach(self, what: WhatIf) -> Reach:
        """Returns AND_OLDER for what a minimum version does; permissions are those of a key."""
        return Reach.AND_OLDER if what in _OF_VERSION else Reach.KEY

    def foreseen(self, supposed: Supposition, key: RootKey, key_version: str) -> Foreseen:
        """Returns what the server will answer about a wrap; see `Foresees`."""
        del key
        if not supposed.key_version:
            return _ANSWERS[supposed.what]
        if int(key_version) > int(supposed.key_version):
            return _NEWER
        return _OF_VERSION[supposed.what]
