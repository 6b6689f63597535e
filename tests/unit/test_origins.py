"""One form for each origin, the check on plain http, and what the operator listed."""

from __future__ import annotations

import pytest

from keyfold_server.domain.errors import InvalidKeySpecError, SetupError
from keyfold_server.providers.shared.origins import (
    allowed_origins,
    canonical_origin,
    configured_origin,
    refuse_plain_http,
)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("https://Host:443", "https://host"),
        ("http://host:80", "http://host"),
        ("https://host:80", "https://host:80"),
        ("https://127.0.0.1:8200", "https://127.0.0.1:8200"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://[2001:DB8:0::1]:8200", "https://[2001:db8::1]:8200"),
        ("https://host:65536", None),
        ("https://host:0", None),
        ("https://host:0443", None),
        ("https://host:", None),
        ("https://host..example", None),
        ("https://host.", None),
        ("https://[::1", None),
        ("https://[1.2]", None),
        ("https://host/", None),
        ("https://host\n", None),
        ("https://user@host", None),
        ("ftp://host", None),
        ("https://h\u00f6st", None),
        # The Kelvin sign and the long s: some ways of ignoring case take them for k and s.
        ("https://\u212aey", None),
        ("https://\u017ferver", None),
        ("", None),
    ],
)
def test_an_origin_has_one_form(given: str, canonical: str | None) -> None:
    """Scheme and host in lower case, without the default port; nothing else is an origin."""
    assert canonical_origin(given) == canonical


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("HTTPS://Vault.Example:443", "https://vault.example"),
        ("https://vault.example/", "https://vault.example"),
        ("https://vault.example//", None),
        ("https://vault.example/keys", None),
    ],
)
def test_settings_may_end_an_origin_with_a_slash(given: str, canonical: str | None) -> None:
    """In the settings one slash at the end makes no difference, and nothing more may follow."""
    assert configured_origin(given) == canonical


@pytest.mark.parametrize("listed", ["kms.example", "https://kms.example/keys", "https://u@k"])
def test_what_is_listed_must_be_an_origin(listed: str) -> None:
    """An allowed endpoint that is not an origin is refused, not ignored."""
    assert allowed_origins(["HTTPS://Kms.Example/"]) == {"https://kms.example"}
    with pytest.raises(SetupError, match="allowed endpoints"):
        allowed_origins([listed])


def test_plain_http_must_be_listed() -> None:
    """A listed https origin does not let its plain http twin in."""
    allowed = allowed_origins(["https://kms.example", "http://127.0.0.1:8200"])
    for origin in ("https://anywhere.example", "http://127.0.0.1:8200"):
        refuse_plain_http(origin, allowed)
    for origin in ("http://kms.example", "http://127.0.0.1"):
        with pytest.raises(InvalidKeySpecError, match="in the clear") as raised:
            refuse_plain_http(origin, allowed)
        assert raised.value.field == "key_spec.uri"
