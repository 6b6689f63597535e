"""The address of a PostgreSQL store: its url, parsed and made safe.

Nothing here shows a secret: a password is in a file or in the environment, never in a url.
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
from keyfold_server.store.postgresql.hosts import Hosts

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL

SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")
"""Prefixes of a PostgreSQL store's url."""

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
"""Options that a url may have after its question mark: libpq's, without those for secrets."""

_DEFAULTS: Final = {
    "application_name": "keyfold-server",
    "connect_timeout": "5",
    # With these, an idle connection notices that its other end is gone.
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    # Otherwise libpq would first look for a Kerberos ticket.
    "gssencmode": "disable",
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest times, in seconds.

    Attributes:
        statement: Time for one statement. The server ends a longer one.
        lock: Time for one lock. It exceeds `idle`, so that a replica that pauses while it holds the
            counter only delays the others' changes.
        idle: Time for a pause inside a transaction. The server ends a session that pauses longer.
        answer: Time for a whole transaction. This side gives up the connection, whatever the
            server does.
        migrating: Time for one lock of a migration. It is short, so that others do not queue
            behind the migration.
        poll: Time for a whole poll. This side gives up a connection that was lost without notice
            while it can still poll over another one.
    """

    statement: float = 10.0
    lock: float = 8.0
    idle: float = 5.0
    answer: float = 20.0
    migrating: float = 2.0
    poll: float = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """A store's address; its repr shows no secret.

    Attributes:
        url: The url, which holds no password.
        label: Host and database, for messages.
        password_file: File with the password. Each new connection reads it, so the password may
            change.
        timeouts: Timeouts of the store's connections.
        hosts: What all its connections know of its hosts.
    """

    url: URL = field(repr=False)
    label: str
    password_file: Path | None
    timeouts: Timeouts
    hosts: Hosts = field(default_factory=Hosts, repr=False, compare=False)

    def password(self) -> str | None:
        """Reads the password.

        Raises:
            StoreUnavailableError: The file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise StoreUnavailableError(
                f"cannot read the file of the store's password {self.password_file}: {why}"
            ) from None


def parse(url: str, password_file: Path | None = None, timeouts: Timeouts = Timeouts()) -> Address:
    """Parses a url. Errors repeat no part of it that may hold a secret.

    Connections to another machine use TLS and verify the host's name, unless the url has another
    sslmode.

    Raises:
        SetupError: The url cannot be used; the message says why.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SetupError(
            "the store's url is malformed; write postgresql://user@host/database"
        ) from None
    if parsed.password is not None or {"password", "sslpassword"} & set(parsed.query):
        raise SetupError(
            "the store's url holds a password, and urls get into logs: put the password into a "
            "file and name the file in KEYFOLD_STORE_PASSWORD_FILE, or put it into the "
            "environment as PGPASSWORD"
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
        # The host that takes writes: a standby cannot store a heartbeat (protocol S2).
        defaults["target_session_attrs"] = "read-write"
        # libpq tries one host after the other, and a poll ends after 5 seconds: one host that is
        # away, as in a failover, must leave time for the others.
        defaults["connect_timeout"] = "2"
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
    # A host in the url's options may have its port behind it.
    for name in (host, host.rsplit(":", 1)[0].strip("[]")):
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
    return host.partition(":")[0] == "localhost"
