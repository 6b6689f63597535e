"""What Google will answer once a customer takes a key, or a right to it, away.

Cloud KMS disables and destroys versions: a key has no state of its own. A version that is scheduled
for destruction comes back disabled. Encrypt takes the primary version, even if another one works.

https://cloud.google.com/kms/docs/key-states
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
from keyfold_server.providers.shared.lease import LONGEST

_ANSWERS: Final[dict[WhatIf, Foreseen]] = {
    WhatIf.DISABLE: Foreseen(
        "Google decrypts nothing under a disabled version", KeyDisabledError, KeyDisabledError
    ),
    WhatIf.DELETE: Foreseen(
        "Google refuses a version from the moment that its destruction is scheduled, and destroys "
        "it 30 days later unless the key says otherwise",
        KeyPendingDeletionError,
        KeyPendingDeletionError,
        needs="enable the version: Google leaves it disabled after a restore, which works only "
        "while the destruction is scheduled",
    ),
    WhatIf.REMOVE_WRAP_PERMISSION: Foreseen(
        "Google denies encryption, which only rotations and new regions need",
        wrap=AccessDeniedError,
    ),
    WhatIf.REMOVE_UNWRAP_PERMISSION: Foreseen("Google denies decryption", AccessDeniedError),
    WhatIf.REMOVE_DESCRIBE_PERMISSION: Foreseen("Keyfold gets a key only to show its state"),
    WhatIf.REMOVE_PRINCIPAL: Foreseen(
        "Google goes on accepting Keyfold's token for the service account, which Keyfold replaces "
        f"after {LONGEST / 60:.0f} minutes at the latest, and IAM then gives none",
        AccessDeniedError,
        AccessDeniedError,
        later=LONGEST,
    ),
}
_OWN_IDENTITY: Final = Foreseen(
    "Google denies everything to the server's own identity once no binding allows it",
    AccessDeniedError,
    AccessDeniedError,
)
"""The answer if the principal that is taken away is no service account of the customer's."""

_ANOTHER_VERSION: Final = Foreseen("this wrap is under another version, which stays as it is")


class Foresight:
    """What Cloud KMS will answer; see `Foresees`."""

    def reach(self, what: WhatIf) -> Reach:
        """Returns VERSION for what is done to versions; permissions are those of a key."""
        return Reach.VERSION if what in (WhatIf.DISABLE, WhatIf.DELETE) else Reach.KEY

    def foreseen(self, supposed: Supposition, key: RootKey, key_version: str) -> Foreseen:
        """Returns what Google will answer about a wrap; see `Foresees`."""
        # Callers may write a version as its number alone.
        if supposed.key_version and not f"/{key_version}".endswith(f"/{supposed.key_version}"):
            return _ANOTHER_VERSION
        if supposed.what is WhatIf.REMOVE_PRINCIPAL and not key.principal:
            return _OWN_IDENTITY
        return _ANSWERS[supposed.what]
