"""What Azure will answer once a customer takes a key, or a right to it, away.

Azure disables versions: a key has no state of its own. It deletes a key with all versions, softly,
and recovers it as it was.

https://learn.microsoft.com/azure/key-vault/keys/about-keys-details
"""

from __future__ import annotations

from typing import Final

from keyfold_server.domain.errors import (
    AccessDeniedError,
    KeyDisabledError,
    KeyPendingDeletionError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.what_if import Foreseen, Reach, Supposition, WhatIf
from keyfold_server.providers.azure.uri import version_of
from keyfold_server.providers.shared.lease import LONGEST

_ANSWERS: Final[dict[WhatIf, Foreseen]] = {
    WhatIf.DISABLE: Foreseen(
        "Azure opens nothing under a disabled version", KeyDisabledError, KeyDisabledError
    ),
    WhatIf.DELETE: Foreseen(
        "a deleted key is gone for everybody until it is recovered (KEY_NOT_FOUND if Keyfold may "
        "not read keys), and for good once it is purged",
        KeyPendingDeletionError,
        KeyPendingDeletionError,
    ),
    WhatIf.REMOVE_WRAP_PERMISSION: Foreseen(
        "Azure denies wrapping, which only rotations and new regions need", wrap=AccessDeniedError
    ),
    WhatIf.REMOVE_UNWRAP_PERMISSION: Foreseen(
        "Azure denies unwrapping", AccessDeniedError, AccessDeniedError
    ),
    WhatIf.REMOVE_DESCRIBE_PERMISSION: Foreseen("Keyfold reads a key only to show its state"),
    WhatIf.REMOVE_PRINCIPAL: Foreseen(
        "Azure goes on accepting Keyfold's token, which Keyfold replaces after "
        f"{LONGEST / 60:.0f} minutes at the latest, and Entra then gives none",
        AccessDeniedError,
        AccessDeniedError,
        later=LONGEST,
    ),
}
_OWN_IDENTITY: Final = Foreseen(
    "Azure denies everything to the server's own identity once no role allows it",
    AccessDeniedError,
    AccessDeniedError,
)
"""The answer if the principal that is taken away is no application of the customer's tenant."""

_ANOTHER_VERSION: Final = Foreseen("this wrap is under another version, which stays enabled")


class Foresight:
    """What Azure Key Vault and Managed HSM will answer; see `Foresees`."""

    def reach(self, what: WhatIf) -> Reach:
        """Returns VERSION for DISABLE, the one action that can mean a version."""
        return Reach.VERSION if what is WhatIf.DISABLE else Reach.KEY

    def foreseen(self, supposed: Supposition, key: RootKey, key_version: str) -> Foreseen:
        """Returns what Azure will answer about a wrap; see `Foresees`."""
        if supposed.what is WhatIf.DISABLE:
            version = supposed.key_version or version_of(supposed.uri)
            if version not in ("", key_version):
                return _ANOTHER_VERSION
        if supposed.what is WhatIf.REMOVE_PRINCIPAL and not key.principal:
            return _OWN_IDENTITY
        return _ANSWERS[supposed.what]
