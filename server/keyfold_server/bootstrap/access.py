"""Builds from the settings what identifies callers: certificates, tokens and policy."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from keyfold_server import telemetry
from keyfold_server.access.policy import development
from keyfold_server.access.policy.watcher import PolicyWatcher
from keyfold_server.access.tls.certificates import CertificateVerifier
from keyfold_server.access.tls.files import TlsFiles
from keyfold_server.access.tls.server import ServerTls
from keyfold_server.access.tokens.key_source import KeySource
from keyfold_server.access.tokens.verifier import TokenVerifier
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Identity
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.supervisor import Supervisor
from keyfold_server.settings import Settings

log = logging.getLogger(__name__)

_LOOK_AT_POLICY: Final = 1.0
"""Seconds between two looks for a change of the policy file."""


def server_tls(settings: Settings, clock: Clock) -> ServerTls | None:
    """Reads the server's TLS files; None if it has none.

    Raises:
        SetupError: A file cannot be used. The message names the setting.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerTls(TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca), clock)


def token_keys(settings: Settings, clock: Clock) -> tuple[KeySource, TokenVerifier] | None:
    """Returns the source of the issuer's keys, which has not been read yet, and its verifier.

    Raises:
        SetupError: The settings of tokens are wrong.
    """
    if not (settings.jwt_jwks and settings.jwt_issuer and settings.jwt_audience):
        return None
    keys = KeySource(settings.jwt_jwks, clock)
    return keys, TokenVerifier(keys, settings.jwt_issuer, settings.jwt_audience)


class Access:
    """What identifies callers under the settings, kept fresh while the server runs.

    Attributes:
        callers: Identifies the caller of each call.
        tls: The server's TLS files; None for a server without TLS.
        asks_clients: Whether the server asks its clients for a certificate.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Reads certificates and policy for the first time.

        Raises:
            SetupError: A file cannot be used. The message names the setting.
        """
        self.tls = server_tls(settings, clock)
        self.asks_clients = settings.tls_client_ca is not None
        certificates = CertificateVerifier() if self.tls and self.tls.asks_clients else None
        self._keys: KeySource | None = None
        tokens = None
        if (made := token_keys(settings, clock)) is not None:
            self._keys, tokens = made
        self._policies = (
            development.Development() if settings.policy is None else PolicyWatcher(settings.policy)
        )
        default = None
        if settings.listen.startswith("unix:"):
            default = Identity((f"socket:{settings.listen.removeprefix('unix:')}",), "socket")
        elif certificates is None and tokens is None:
            default = Identity(("local",), "loopback")
        if settings.policy is None:
            log.warning("%s", development.WARNING)
        self.callers = Callers(self._policies, default, clock, certificates, tokens)

    async def start(self, supervisor: Supervisor) -> None:
        """Fetches the issuer's keys, and begins to keep them and the policy fresh.

        Raises:
            SetupError: The keys are in a file, and it cannot be used.
        """
        telemetry.POLICY_BROKEN.set_function(lambda: self._policies.broken is not None)
        supervisor.start("policy", self._look_at_policy, _LOOK_AT_POLICY)
        if self._keys is not None:
            await self._keys.start()
            supervisor.start("token_keys", self._keys.turn)

    async def _look_at_policy(self) -> None:
        # In a thread, because to parse a policy of 3,000 grants takes 0.8 seconds (protocol W5).
        await asyncio.to_thread(self._policies.reload)
