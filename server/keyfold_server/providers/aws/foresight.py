"""What AWS will answer once a customer takes a key, or a right to it, away.

AWS disables and deletes a key as a whole, whatever its rotations, and each replica of a
multi-Region key by itself. A deleted key waits 7 to 30 days, and comes back disabled.

https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
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
        "AWS refuses Decrypt and Encrypt under a disabled key", KeyDisabledError, KeyDisabledError
    ),
    WhatIf.DELETE: Foreseen(
        "AWS refuses a key from the moment that its deletion is scheduled, and erases it 7 to 30 "
        "days later",
        KeyPendingDeletionError,
        KeyPendingDeletionError,
        needs="enable the key: AWS leaves it disabled after CancelKeyDeletion, which works only "
        "within the waiting period",
    ),
    WhatIf.REMOVE_WRAP_PERMISSION: Foreseen(
        "AWS denies Encrypt, which only rotations and new regions need", wrap=AccessDeniedError
    ),
    WhatIf.REMOVE_UNWRAP_PERMISSION: Foreseen(
        "AWS denies Decrypt", AccessDeniedError, AccessDeniedError
    ),
    WhatIf.REMOVE_DESCRIBE_PERMISSION: Foreseen(
        "Keyfold calls DescribeKey only to show the key's state"
    ),
    WhatIf.REMOVE_PRINCIPAL: Foreseen(
        "AWS goes on accepting Keyfold's session with the role, which Keyfold ends after "
        f"{LONGEST / 60:.0f} minutes at the latest, and then refuses AssumeRole",
        AccessDeniedError,
        AccessDeniedError,
        later=LONGEST,
    ),
}
_OWN_IDENTITY: Final = Foreseen(
    "AWS denies Decrypt and Encrypt to the server's own identity once no policy allows them",
    AccessDeniedError,
    AccessDeniedError,
)
"""The answer if the principal that is taken away is no role."""

_ANOTHER_REPLICA: Final = Foreseen(
    "AWS keeps state and policy of each replica of a multi-Region key apart, and this region uses "
    "another replica"
)


class Foresight:
    """What AWS KMS will answer; see `Foresees`."""

    def reach(self, what: WhatIf) -> Reach:
        """Returns KEY: nothing that a customer can do in AWS means one key material."""
        del what
        return Reach.KEY

    def foreseen(self, supposed: Supposition, key: RootKey, key_version: str) -> Foreseen:
        """Returns what AWS will answer about a wrap; see `Foresees`."""
        del key_version
        principal = supposed.what is WhatIf.REMOVE_PRINCIPAL
        if supposed.uri not in ("", key.uri) and not (principal and key.principal):
            return _ANOTHER_REPLICA
        return _OWN_IDENTITY if principal and not key.principal else _ANSWERS[supposed.what]
