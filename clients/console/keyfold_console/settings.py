"""What an operator sets, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyfold.transport.target import DEFAULT_TARGET, is_local
from keyfold.transport.tls import Tls

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?")
_LAST_PORT: Final = 65_535


DEFAULT_LISTEN: Final = "127.0.0.1:8080"
"""Where browsers are served by default."""


class SettingsError(ValueError):
    """A setting cannot be used. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one console.

    Attributes:
        target: The servers, as the client takes them.
        tls: How to reach them; None: plain text.
        listen: `HOST:PORT` on which browsers are served.
        certificate: A PEM file with the console's own certificate; None: no TLS.
        private_key: A PEM file with its private key.
        behind_proxy: Whether a proxy in front ends TLS, so that browsers come over https.
        embed: Origins whose pages may show the console in a frame.
    """

    target: str = DEFAULT_TARGET
    tls: Tls | None = None
    listen: str = DEFAULT_LISTEN
    certificate: Path | None = None
    private_key: Path | None = None
    behind_proxy: bool = False
    embed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: One cannot be used, or would let a token travel in plain text.
        """
        host, port = self.address
        if (self.certificate is None) != (self.private_key is None):
            raise SettingsError("--tls-cert and --tls-key go together")
        if self.certificate is not None and self.behind_proxy:
            raise SettingsError(
                "--behind-proxy says that a proxy ends TLS, and --tls-cert that the console does; "
                "give one of them"
            )
        if not (self.secure or _is_loopback(host)):
            raise SettingsError(
                f"--listen {host}:{port} is not a loopback address, and tokens would cross the "
                "network in plain text: give --tls-cert and --tls-key, or --behind-proxy if a "
                "proxy in front of the console ends TLS"
            )
        for origin in self.embed:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"--embed {origin}: write an origin, such as https://portal.example"
                )

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port to listen on; port 0 takes a free one.

        Raises:
            SettingsError: `listen` is not HOST:PORT.
        """
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or int(port) > _LAST_PORT:
            raise SettingsError(f"--listen {self.listen}: write HOST:PORT, such as 127.0.0.1:8080")
        return host.strip("[]"), int(port)

    @property
    def secure(self) -> bool:
        """Whether browsers come over https."""
        return self.certificate is not None or self.behind_proxy

    @property
    def without_token(self) -> bool:
        """Whether a visitor may do without a token, as far as the console is concerned.

        Only in development, where server and browser are on this machine and neither has TLS. The
        server then knows a caller by the loopback address alone, and every program here is that
        caller already. Otherwise a call without a token would be the console's own, with the rights
        of its certificate or of the socket that it reaches, and it makes none.
        """
        plain = self.tls is None and not self.secure
        return plain and all(
            is_local(one.strip()) and not one.strip().startswith("unix")
            for one in self.target.split(",")
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
