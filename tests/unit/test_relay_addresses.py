"""Which addresses the relay's requests may go to."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from keyfold_relay.http import Addresses, ForbiddenAddressError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",  # the metadata service of Alibaba Cloud
        "169.254.169.254",
        "169.254.170.2",  # credentials of ECS tasks
        "192.0.0.192",  # the metadata service of Oracle Cloud
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",  # the metadata service of AWS over IPv6
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",  # through NAT64
        "64:ff9b:1::169.254.169.254",  # NAT64 with a local prefix
        "2002:a9fe:a9fe::1",  # through 6to4
        "2001:db8::1",
    ],
)
def test_what_is_not_public_is_refused(address: str) -> None:
    """Loopback, private, link-local and metadata addresses, in whatever form, are refused."""
    with pytest.raises(ForbiddenAddressError, match="allow_addresses"):
        Addresses().check(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::8.8.8.8"])
def test_what_is_public_is_allowed(address: str) -> None:
    """A public address needs no setting."""
    Addresses().check(address)


def test_a_listed_network_is_allowed_and_no_other() -> None:
    """`allow_addresses` opens exactly the networks that it lists, in each form of the address."""
    rule = Addresses([ip_network("10.20.0.0/16")])
    rule.check("10.20.3.4")
    rule.check("::ffff:10.20.3.4")
    with pytest.raises(ForbiddenAddressError):
        rule.check("10.21.0.1")
    with pytest.raises(ForbiddenAddressError):
        rule.check("169.254.169.254")


def test_plain_http_is_for_listed_loopback_alone() -> None:
    """Plain http goes only where nobody on a network reads it."""
    rule = Addresses([ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")], plain=True)
    rule.check("127.0.0.1")
    for address in ("10.0.0.1", "93.184.216.34", "::1"):
        with pytest.raises(ForbiddenAddressError, match="https"):
            rule.check(address)
