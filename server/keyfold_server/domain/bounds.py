"""How much a server lets in, holds in memory and sends out, and the default values of all that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """The most calls that one replica makes to customers' KMSs per second (protocol C4).

    Attributes:
        per_key: Calls per second that use one root key.
        per_account: Calls per second to one account: an AWS account, a vault, a project.
        per_provider: Calls per second to one provider.
    """

    per_key: float = 20
    per_account: float = 200
    per_provider: float = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one server lets in. The settings take their defaults from here.

    Attributes:
        cached_clusters: Clusters whose keys are kept in memory.
        header_bytes: Bytes of a call's metadata.
        default_deadline: Seconds that a call may take that comes without a deadline.
        longest_deadline: Seconds that any call may take, whatever its deadline says.
        calls: Data-plane calls that may wait at once. As many calls of the other methods may wait.
        calls_per_caller: Calls of one caller that may wait at once.
        calls_per_organization: Calls for one organization's clusters that may wait at once.
        streams_per_caller: Streams of one caller that may be open at once.
        calls_per_connection: Calls that may be under way on one connection.
        connections: Connections of all callers.
        request_bytes: Bytes of all callers' requests in memory. Each caller may have one request
            beyond it.
        request_bytes_per_caller: Bytes of one caller's requests in memory.
        receive_timeout: Seconds within which a request must arrive.
        unread_bytes: Bytes of batches' replies that one caller may leave unread. A caller below
            the bound may exceed it by one reply.
        rate_per_caller: Calls per second of one caller, each item of a batch counted.
        rate_per_organization: Calls per second that use one organization's keys, each item of a
            batch counted.
        connection_age: Seconds after which a client must connect anew.
        ping_interval: Seconds that a client must wait between two pings of an idle connection.
        kms_rates: Calls per second that the server makes to customers' KMSs.
    """

    cached_clusters: int = 20_000
    header_bytes: int = 16 * 1024
    default_deadline: float = 10.0
    longest_deadline: float = 300.0
    calls: int = 4_000
    calls_per_caller: int = 2_000
    calls_per_organization: int = 2_000
    streams_per_caller: int = 1_000
    calls_per_connection: int = 1_000
    connections: int = 10_000
    request_bytes: int = 512 * 1024 * 1024
    request_bytes_per_caller: int = 128 * 1024 * 1024
    receive_timeout: float = 10.0
    unread_bytes: int = 64 * 1024 * 1024
    rate_per_caller: float = 10_000
    rate_per_organization: float = 10_000
    connection_age: float = 300.0
    ping_interval: float = 10.0
    kms_rates: Rates = Rates()
