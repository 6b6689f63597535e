"""What a server lets in, holds in memory and waits for."""

from __future__ import annotations

from pydantic import BaseModel, Field

from keyfold_server.settings.forms import Duration


class Limits(BaseModel):
    """The settings of sizes, rates, numbers and deadlines."""

    cache_clusters: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="How many clusters are kept in memory, least recently used going first.",
    )
    max_concurrent_calls: int = Field(
        default=4_000,
        ge=1,
        le=100_000,
        description="Calls under way beyond which further ones are turned away.",
    )
    max_calls_per_caller: int = Field(
        default=2_000,
        ge=1,
        le=100_000,
        description="Calls of one caller that may wait at once.",
    )
    max_calls_per_organization: int = Field(
        default=2_000,
        ge=1,
        le=100_000,
        description="Calls for one organization's clusters that may wait at once.",
    )
    max_streams_per_caller: int = Field(
        default=100, ge=1, le=100_000, description="Streams of one caller that may be open at once."
    )
    max_calls_per_connection: int = Field(
        default=1_000,
        ge=10,
        le=100_000,
        description="Calls under way on one connection; its client keeps further ones until one "
        "of them ends.",
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Connections at once, of all callers; gRPC itself closes further ones.",
    )
    max_request_bytes: int = Field(
        default=512 * 1024 * 1024,
        ge=16 * 1024 * 1024,
        le=64 * 1024 * 1024 * 1024,
        description="Bytes of requests that are received or under way, of all callers; one that "
        "has not arrived yet counts as 1 MiB more than the largest. Further ones wait, but for "
        "one of each caller.",
    )
    max_request_bytes_per_caller: int = Field(
        default=128 * 1024 * 1024,
        ge=16 * 1024 * 1024,
        le=64 * 1024 * 1024 * 1024,
        description="The same, of one caller.",
    )
    receive_timeout: Duration = Field(
        default=10.0,
        ge=1,
        le=300,
        description="How long a request may take to arrive, waiting for room included, 1s to 5m.",
    )
    max_unread_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1024 * 1024,
        le=4 * 1024 * 1024 * 1024,
        description="Bytes of batches' replies that one caller may leave unread; further batches "
        "are turned away until it reads.",
    )
    rate_per_caller: float = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Calls a second that one caller may make on this replica.",
    )
    rate_per_organization: float = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Calls a second that may use one organization's keys on this replica; a "
        "batch counts once for each key encryption key that it uses.",
    )
    kms_rate_per_key: float = Field(
        default=20,
        ge=1,
        le=1_000_000,
        description="Calls a second that this replica makes with one root key. What is over it "
        "waits a little, and is then turned away.",
    )
    kms_rate_per_account: float = Field(
        default=200,
        ge=1,
        le=1_000_000,
        description="Calls a second that this replica makes to one account: an AWS account, a "
        "vault, a project, a Vault server.",
    )
    kms_rate_per_provider: float = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Calls a second that this replica makes to one provider.",
    )
    max_header_bytes: int = Field(
        default=16 * 1024,
        ge=4 * 1024,
        le=64 * 1024,
        description="Bytes of a call's metadata; gRPC itself refuses more.",
    )
    default_deadline: Duration = Field(
        default=10.0,
        ge=0.1,
        le=300,
        description="How long a call may take that comes without a deadline, 100ms to 5m.",
    )
    max_deadline: Duration = Field(
        default=300.0,
        ge=1,
        le=3600,
        description="How long a call may take at most, whatever its deadline says, 1s to 1h.",
    )
    max_connection_age: Duration = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="How old a connection becomes before its client is told to make a new one, "
        "1s to 24h; calls under way finish. A withdrawn certificate is known until then.",
    )
    min_ping_interval: Duration = Field(
        default=10.0,
        ge=1,
        le=3600,
        description="How long a client must wait between two pings; one that pings more often is "
        "disconnected.",
    )
