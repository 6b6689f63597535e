"""The settings of what a server lets in, holds in memory and waits for."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field

from keyfold_server.domain.bounds import Bounds
from keyfold_server.settings.forms import Duration

_DEFAULTS: Final = Bounds()
_MIB: Final = 1024 * 1024


class BoundsSettings(BaseModel):
    """The settings of numbers, sizes, rates and deadlines."""

    cache_clusters: int = Field(
        default=_DEFAULTS.cached_clusters,
        ge=1,
        le=1_000_000,
        description="The number of clusters whose keys stay in memory. Beyond it the server drops "
        "the least recently used cluster.",
    )
    max_concurrent_calls: int = Field(
        default=_DEFAULTS.calls,
        ge=1,
        le=100_000,
        description="The most calls that may wait for a KMS or the store at once. Data-plane calls "
        "and the other methods each have this number.",
    )
    max_calls_per_caller: int = Field(
        default=_DEFAULTS.calls_per_caller,
        ge=1,
        le=100_000,
        description="The most calls of one caller that may wait at once.",
    )
    max_calls_per_organization: int = Field(
        default=_DEFAULTS.calls_per_organization,
        ge=1,
        le=100_000,
        description="The most calls for one organization's clusters that may wait at once.",
    )
    max_streams_per_caller: int = Field(
        default=_DEFAULTS.streams_per_caller,
        ge=1,
        le=100_000,
        description="The most streams that one caller may have open at once.",
    )
    max_calls_per_connection: int = Field(
        default=_DEFAULTS.calls_per_connection,
        ge=10,
        le=100_000,
        description="The most calls that may be under way on one connection. The client holds "
        "further calls back until one of them ends.",
    )
    max_connections: int = Field(
        default=_DEFAULTS.connections,
        ge=1,
        le=1_000_000,
        description="The most connections of all callers. gRPC itself closes further ones. Each "
        "is an open file: the server takes as many as the hard limit of the process allows, and "
        "warns if that is too few.",
    )
    max_request_bytes: int = Field(
        default=_DEFAULTS.request_bytes,
        ge=16 * _MIB,
        le=64 * 1024 * _MIB,
        description="The most bytes of all callers' requests in memory. A request counts as 5 MiB "
        "until it has arrived. Further requests wait, but each caller may always have one.",
    )
    max_request_bytes_per_caller: int = Field(
        default=_DEFAULTS.request_bytes_per_caller,
        ge=16 * _MIB,
        le=64 * 1024 * _MIB,
        description="The most bytes of one caller's requests in memory, counted in the same way.",
    )
    receive_timeout: Duration = Field(
        default=_DEFAULTS.receive_timeout,
        ge=1,
        le=300,
        description="The longest time that a request may take to arrive, including the wait for "
        "room in memory, 1s to 5m.",
    )
    max_unread_bytes: int = Field(
        default=_DEFAULTS.unread_bytes,
        ge=_MIB,
        le=4 * 1024 * _MIB,
        description="The most bytes of batches' replies that one caller may leave unread. The "
        "server refuses further batches until the caller reads.",
    )
    rate_per_caller: float = Field(
        default=_DEFAULTS.rate_per_caller,
        ge=1,
        le=1_000_000,
        description="The most calls per second that one caller may make on this replica. Each item "
        "of a batch counts as one: a batch passes where a call would, and the calls after it wait.",
    )
    rate_per_organization: float = Field(
        default=_DEFAULTS.rate_per_organization,
        ge=1,
        le=1_000_000,
        description="The most calls per second that may use one organization's keys on this "
        "replica. Each item of a batch counts as one.",
    )
    kms_rate_per_key: float = Field(
        default=_DEFAULTS.kms_rates.per_key,
        ge=1,
        le=1_000_000,
        description="The most calls per second that this replica makes with one root key. A call "
        "beyond it waits a little, and then fails with the reason RATE_LIMITED.",
    )
    kms_rate_per_account: float = Field(
        default=_DEFAULTS.kms_rates.per_account,
        ge=1,
        le=1_000_000,
        description="The most calls per second that this replica makes to one account: an AWS "
        "account, an Azure key vault, a GCP project, or a Vault server.",
    )
    kms_rate_per_provider: float = Field(
        default=_DEFAULTS.kms_rates.per_provider,
        ge=1,
        le=1_000_000,
        description="The most calls per second that this replica makes to one provider. Checks "
        "of keys in use count among these calls, go first, and may exceed each of the three rates "
        "for a moment.",
    )
    max_header_bytes: int = Field(
        default=_DEFAULTS.header_bytes,
        ge=4 * 1024,
        le=64 * 1024,
        description="The most bytes of a call's metadata. gRPC itself refuses a call with more.",
    )
    default_deadline: Duration = Field(
        default=_DEFAULTS.default_deadline,
        ge=0.1,
        le=300,
        description="The deadline of a call that comes without one, 100ms to 5m.",
    )
    max_deadline: Duration = Field(
        default=_DEFAULTS.longest_deadline,
        ge=1,
        le=3600,
        description="The longest time that any call may take, whatever deadline it has, 1s to 1h.",
    )
    max_connection_age: Duration = Field(
        default=_DEFAULTS.connection_age,
        ge=1,
        le=86_400,
        description="The age at which the server asks a client to open a new connection, 1s to "
        "24h. Calls under way finish. A client whose certificate was withdrawn can call until "
        "then.",
    )
    min_ping_interval: Duration = Field(
        default=_DEFAULTS.ping_interval,
        ge=1,
        le=3600,
        description="The shortest time between two pings of a client, 1s to 1h. The server "
        "disconnects a client that pings more often.",
    )
