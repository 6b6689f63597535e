"""What the TOML file may contain. A key that is not here is an error."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay.config.secrets import Secret

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_KINDS: Final = "EVENT_KIND_"
_LAST_PORT: Final = 65_535
_URL: Final = "write an url such as https://siem.example/keyfold"


def _seconds(value: object) -> object:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("write a duration with its unit, such as 500ms, 30s, 15m, 24h or 3d")
    return float(found[1]) * _UNITS[found[2]]


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise ValueError("write HOST:PORT, such as 127.0.0.1:9465")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(_URL) from None
    if not valid or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(_URL)
    if "@" in parts.netloc:
        raise ValueError("leave user and password out of the url; set them with `headers`")
    if parts.fragment:
        raise ValueError("leave the fragment out: it never reaches a server")
    return value


def _kind(value: object) -> object:
    names = {name.removeprefix(_KINDS): number for name, number in pb.EventKind.items()}
    if not isinstance(value, str) or value.upper() not in names or not names[value.upper()]:
        known = ", ".join(name for name, number in names.items() if number)
        raise ValueError(f"there is no such kind; the kinds are {known}")
    return names[value.upper()]


def _minutes(value: float) -> float:
    if value % 60:
        raise ValueError("write whole minutes, such as 1m, 15m or 1h")
    return value


Duration = Annotated[float, BeforeValidator(_seconds)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Server(_Table):
    """Where Keyfold is, and as whom the relay calls it.

    Attributes:
        target: `HOST:PORT`, several of these separated by commas, or `unix:/PATH`.
        tls: Whether to use TLS with the system's authorities; the next four also switch it on.
        ca: A PEM file with the authorities of the servers.
        cert: A PEM file with the relay's certificate.
        key: A PEM file with the certificate's private key.
        server_name: The name in the servers' certificates.
        token_file: A file with a JWT that names the relay.
    """

    target: str
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    token_file: Path | None = None


class Options(_Table):
    """How the relay runs.

    Attributes:
        name: The first part of its cursors' names: a target's cursor is called `NAME.TARGET`.
        monitoring: Address of /livez, /readyz and /metrics over plain HTTP; None opens none.
        park_after: Seconds for which a target may fail until it is parked.
        drain: Seconds that a batch in flight has on SIGTERM.
    """

    name: Name = "relay"
    monitoring: Annotated[str, AfterValidator(_address)] | None = None
    park_after: Annotated[Duration, Field(ge=1, le=25 * 86_400)] = 3 * 86_400.0
    drain: Annotated[Duration, Field(ge=0, le=600)] = 10.0


class Filter(_Table):
    """Which events a target gets; the fields are those of `EventFilter`."""

    cluster: str = ""
    organization: str = ""
    key_uri: str = ""
    caller: str = ""
    kinds: tuple[Annotated[int, BeforeValidator(_kind)], ...] = ()
    outcome: str = ""
    only_refused: bool = False
    action: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None

    def message(self) -> pb.EventFilter:
        """Returns the filter as the contract has it."""
        made = pb.EventFilter(
            cluster=self.cluster,
            organization=self.organization,
            key_uri=self.key_uri,
            caller=self.caller,
            outcome=self.outcome,
            only_refused=self.only_refused,
            action=self.action,
        )
        # The field takes numbers that this release does not know; mypy wants the enum's own type.
        made.kinds.extend(pb.EventKind.ValueType(kind) for kind in self.kinds)
        if self.start_time is not None:
            made.start_time.FromDatetime(self.start_time)
        if self.end_time is not None:
            made.end_time.FromDatetime(self.end_time)
        return made


class _Common(_Table):
    """What all targets have in common.

    Attributes:
        filter: Which events the target gets.
        usage: Seconds over which counts of use are added up for the target; None: it gets none.
    """

    filter: Filter = Filter()
    usage: Annotated[Duration, Field(ge=60, le=86_400), AfterValidator(_minutes)] | None = None


class _Outbound(_Common):
    """What targets over HTTP have in common.

    Attributes:
        ca: A PEM file with the authorities to trust in place of the system's.
        allow_addresses: Networks that the target may be in although they are not public.
    """

    ca: Path | None = None
    allow_addresses: tuple[Network, ...] = ()


class WebhookTarget(_Outbound):
    """CloudEvents over HTTPS, signed as Standard Webhooks prescribes.

    Attributes:
        url: Where to POST. Plain http is only for loopback addresses.
        secrets: The signing secrets; each request carries a signature by each of them.
        headers: Further headers, whose values are secrets, such as Authorization.
        batch: Most events of one request. 1 sends single events instead of batches.
    """

    kind: Literal["webhook"]
    url: Annotated[str, AfterValidator(_url)]
    secrets: Annotated[tuple[Secret, ...], Field(min_length=1, max_length=2)]
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], Secret] = {}
    batch: Annotated[int, Field(ge=1, le=1_000)] = 100

    @model_validator(mode="after")
    def _own_headers(self) -> WebhookTarget:
        taken = {"content-type", "content-length", "host", "user-agent", "transfer-encoding"}
        for name in self.headers:
            if name.lower() in taken or name.lower().startswith("webhook-"):
                raise ValueError(f"the relay sets the header {name} itself; leave it out")
        return self


class FileTarget(_Common):
    """JSON Lines, appended to a file that another program rotates and ships.

    Attributes:
        path: The file.
    """

    kind: Literal["file"]
    path: Path


class StdoutTarget(_Common):
    """JSON Lines to the relay's stdout."""

    kind: Literal["stdout"]


class BucketTarget(_Outbound):
    """Objects of JSON Lines in an S3-compatible bucket.

    Attributes:
        bucket: The bucket's name.
        prefix: What the objects' names begin with, such as `keyfold/`.
        region: The bucket's region; None asks AWS's own environment.
        endpoint: The service's url; None is AWS.
        path_style: Whether the bucket's name stands in the path instead of the host.
        access_key_id: The id of an access key; None uses AWS's own chain of credentials.
        secret_access_key: The key to it.
        every: Seconds for which events are collected into one object.
    """

    kind: Literal["s3"]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9!_.*'()/=-]{0,512}$")] = ""
    region: str | None = None
    endpoint: Annotated[str, AfterValidator(_url)] | None = None
    path_style: bool = False
    access_key_id: Secret | None = None
    secret_access_key: Secret | None = None
    every: Annotated[Duration, Field(ge=0.1, le=3600)] = 60.0

    @model_validator(mode="after")
    def _both(self) -> BucketTarget:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self


Target = WebhookTarget | FileTarget | StdoutTarget | BucketTarget


class Config(_Table):
    """The whole file.

    Attributes:
        keyfold: Where events come from.
        relay: How the relay runs.
        targets: Where events go, by the targets' names.
    """

    keyfold: Server
    relay: Options = Options()
    targets: Annotated[
        dict[Name, Annotated[Target, Field(discriminator="kind")]], Field(min_length=1)
    ]

    @model_validator(mode="after")
    def _one_writer(self) -> Config:
        files = [one.path for one in self.targets.values() if isinstance(one, FileTarget)]
        if len(files) != len(set(files)):
            raise ValueError("two targets write to one file; give each its own path")
        if sum(isinstance(one, StdoutTarget) for one in self.targets.values()) > 1:
            raise ValueError("only one target can have stdout")
        return self

    def cursor(self, target: str) -> str:
        """Returns the name of a target's cursor."""
        return f"{self.relay.name}.{target}"
