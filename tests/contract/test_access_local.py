"""The access policy of a LOCAL key: GetAccessPolicy says that there is nothing to attach."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.local import LocalCounterpart
from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessWanted, DescribesAccess


def test_local_has_nothing_to_attach(tmp_path: Path) -> None:
    """A key file has no policies, and a notice says so; the answer names the bound context."""
    provider = LocalCounterpart(tmp_path).provider
    assert isinstance(provider, DescribesAccess)
    key = RootKey("LOCAL", "local:not-there-yet")
    found = provider.access_policy(key, AccessWanted("orders", None, "acme"))
    assert found.statements == ()
    assert found.bound_context == {"keyfold:cluster": "orders", "keyfold:organization": "acme"}
    assert "nothing to attach" in found.notices[0]
    with pytest.raises(InvalidKeySpecError):
        provider.access_policy(RootKey("LOCAL", "arn:x"), AccessWanted(None, None, "acme"))
