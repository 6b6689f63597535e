"""Sources of calls without a credential: one machine is one source, whatever port it calls from."""

from __future__ import annotations

import pytest

from keyfold_server.rpc.incoming.sources import source_of


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("ipv4:192.0.2.1:50123", "192.0.2.1"),
        ("ipv4:192.0.2.1:50124", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50123", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::ffff:1%5D:50123", "2001:db8::/64"),
        ("ipv6:%5B2001:db8:0:1::1%5D:50123", "2001:db8:0:1::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50123", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:50123", "192.0.2.1"),
        ("unix:/run/keyfold.sock", "unix"),
        ("unix:", "unix"),
        ("unix-abstract:keyfold-health-8200", "unix"),
        ("ipv4:nonsense", "unknown"),
    ],
)
def test_a_source(peer: str, source: str) -> None:
    """A caller does not become several by many ports, or by many addresses of its own network."""
    assert source_of(peer) == source
