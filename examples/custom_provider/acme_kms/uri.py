"""Uris of keys in Acme KMS: `https://HOST[:PORT]/acme/v1/keys/NAME`."""

from __future__ import annotations

import re
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.providers.shared.origins import canonical_origin

_URI: Final = re.compile(r"(?P<origin>[^/]+//[^/]+)/acme/v1/keys/(?P<name>[a-z0-9-]{1,63})")


def parse(uri: str) -> tuple[str, str]:
    """Returns the origin of a key uri in its one form, and the key's name.

    Raises:
        InvalidKeySpecError: The text is not the uri of a key in Acme KMS.
    """
    found = _URI.fullmatch(uri)
    origin = None if found is None else canonical_origin(found["origin"])
    if found is None or origin is None:
        raise InvalidKeySpecError(
            "the uri must be that of a key in Acme KMS, such as "
            "https://kms.example:8443/acme/v1/keys/app",
            field="key_spec.uri",
        )
    return origin, found["name"]
