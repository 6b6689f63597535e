"""`keyfold-server check` learns whether Keyfold's own credential is good, before any key.

tests/e2e/test_check.py holds this for AWS and Vault.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from contract.azure_key_vault import AzureCounterpart
from contract.counterparts import BUDGET
from contract.gcp_kms import GcpCounterpart
from keyfold_server.domain.errors import CredentialsFailedError
from keyfold_server.domain.provider import TriesLogins


@pytest.mark.parametrize("kind", [AzureCounterpart, GcpCounterpart])
def test_a_login_can_be_tried_before_a_key_needs_it(
    kind: type[AzureCounterpart | GcpCounterpart], tmp_path: Path
) -> None:
    """A good credential logs in, and one that the cloud rejects is named as Keyfold's own fault."""
    with closing(kind(tmp_path)) as there:
        provider = there.provider
        assert isinstance(provider, TriesLogins)
        provider.try_logins(budget=BUDGET)
        with there.broken_credentials(), pytest.raises(CredentialsFailedError):
            provider.try_logins(budget=BUDGET)
        provider.try_logins(budget=BUDGET)
