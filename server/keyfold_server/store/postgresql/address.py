"""Where a PostgreSQL store is and how to get in: its url, taken apart and made safe.

Nothing here shows a secret: a password stands in a file or in the environment, never in a url.
"""

from __future__ import annotations

import ipaddress
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from keyfold_server.domain.errors import SetupError, StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL

SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")
"""How a PostgreSQL store's url begins."""

_OPTIONS: Final = frozenset(
    {
        "application_name",
        "channel_binding",
        "connect_timeout",
        "host",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "krbsrvname",
        "load_balance_hosts",
        "options",
        "port",
        "require_auth",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslrootcert",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
    }
)
"""What a url may say after its question mark: libpq's own names, the secret ones left out."""

_DEFAULTS: Final = {
    "application_name": "keyfold-server",
    "connect_timeout": "5",
    # A connection whose other end is gone without a word is noticed while nothing is sent.
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    # Else libpq would first look for a Kerberos ticket wherever there is one.
    "gssencmode": "disable",
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long things may take, in seconds.

    Attributes:
        statement: One statement.
        lock: Waiting for a lock; more than `idle`, or one replica that is paused while it holds
            the counter would fail the others' changes instead of delaying them.
        idle: A pause inside a transaction, after which the server ends it.
        answer: A whole transaction as this side sees it: there the server is not asked.
        migrating: Waiting for a lock while migrating, which others must not queue behind.
        poll: A whole poll as this side sees it: a connection that was lost unheard must be given
            up while there is still time to poll over another one.
    """

    statement: float = 10.0
    lock: float = 8.0
    idle: float = 5.0
    answer: float = 20.0
    migrating: float = 2.0
    poll: float = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is, and how to get in; shows no secret.

    Attributes:
        url: The url, which holds no password.
        label: Host and database, for messages.
        password_file: File of the password, read for each connection so that it may be changed.
        timeouts: How long things may take.
    """

    url: URL = field(repr=False)
    label: str
    password_file: Path | None
    timeouts: Timeouts

    def password(self) -> str | None:
        """Reads the password.

        Raises:
            StoreUnavailableError: Its file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise StoreUnavailableError(
                f"the file of the store's password {self.password_file} cannot be read: {why}"
            ) from None


def parse(url: str, password_file: Path | None = None, timeouts: Timeouts = Timeouts()) -> Address:
    """Takes a url apart; repeats no part of one that may hold a secret.

    A host that is not this machine is spoken to over TLS and must prove its name, unless the url
    says otherwise with sslmode.

    Raises:
        SetupError: The url cannot be used; the message says why.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SetupError(
            "the store's url is not one; write postgresql://user@host/database"
        ) from None
    if parsed.password is not None or {"password", "sslpassword"} & set(parsed.query):
        raise SetupError(
            "the store's url holds a password, and urls get into logs: put it into a file that "
            "KEYFOLD_STORE_PASSWORD_FILE names, or into the environment as PGPASSWORD"
        )
    if strange := sorted(set(parsed.query) - _OPTIONS):
        raise SetupError(f"the store's url has the unknown option {strange[0]}")
    hosts = _hosts(parsed)
    if not hosts or not parsed.database:
        raise SetupError(
            "the store's url must name host and database: postgresql://user@host/database, or "
            "postgresql://user@/database?host=/folder/of/its/socket"
        )
    defaults = dict(_DEFAULTS)
    if len(hosts) > 1:
        # Whichever takes writes: a standby is no place for a heartbeat (protocol S2).
        defaults["target_session_attrs"] = "read-write"
    if not all(map(_is_local, hosts)):
        mode = parsed.query.get("sslmode", "verify-full")
        defaults["sslmode"] = str(mode)
        if mode == "verify-full":
            defaults["sslrootcert"] = ssl.get_default_verify_paths().cafile or "system"
    full = parsed.set(drivername="postgresql+psycopg", query={**defaults, **parsed.query})
    return Address(full, f"{','.join(hosts)}/{parsed.database}", password_file, timeouts)


def _hosts(url: URL) -> list[str]:
    named = url.query.get("host", ())
    several = (named,) if isinstance(named, str) else named
    return [url.host] if url.host else [part for text_ in several for part in text_.split(",")]


def _is_local(host: str) -> bool:
    if host.startswith(("/", "@")):
        return True
    # In a query a host may carry its port.
    for name in (host, host.rsplit(":", 1)[0].strip("[]")):
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
    return host.partition(":")[0] == "localhost"
