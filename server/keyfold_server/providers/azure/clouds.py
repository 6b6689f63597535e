"""Azure's clouds, with the domains of their vaults and the hosts of their Microsoft Entra.

The values are those of `azure.identity.AzureAuthorityHosts`, written out, so that the key uris of
Azure are known without the SDK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cloud:
    """One of Azure's clouds.

    Attributes:
        vaults: The domain of its vaults.
        hsms: The domain of its Managed HSMs.
        authority: The host of its Microsoft Entra.
        exchange: The audience of the assertions that Entra exchanges for tokens.
    """

    vaults: str
    hsms: str
    authority: str
    exchange: str


CLOUDS: Final = (
    Cloud(
        "vault.azure.net",
        "managedhsm.azure.net",
        "login.microsoftonline.com",
        "api://AzureADTokenExchange",
    ),
    Cloud(
        "vault.azure.cn",
        "managedhsm.azure.cn",
        "login.chinacloudapi.cn",
        "api://AzureADTokenExchangeChina",
    ),
    Cloud(
        "vault.usgovcloudapi.net",
        "managedhsm.usgovcloudapi.net",
        "login.microsoftonline.us",
        "api://AzureADTokenExchangeUSGov",
    ),
)
"""Azure's clouds. The first one also stands for a private cloud's audience."""
