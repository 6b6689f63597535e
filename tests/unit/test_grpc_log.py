"""Failed TLS handshakes, from what gRPC writes to stderr."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from fakes import FakeClock
from keyfold_server.grpc_log import Handshakes

PLACE = "I1130 02:06:07.995397    1145 ssl_transport_security.cc:2563] "
NO_CERTIFICATE = (
    f"{PLACE}Handshake failed with error SSL_ERROR_SSL: error:100000c0:SSL routines:"
    "OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context\n"
)
EXPIRED = (
    f"{PLACE}Handshake failed with error SSL_ERROR_SSL: error:1000007d:SSL routines:"
    "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired\n"
)


def counted(reason: str) -> float:
    """Returns the handshakes that the metric has for a reason."""
    found = REGISTRY.get_sample_value("keyfold_tls_handshakes_failed_total", {"reason": reason})
    return found or 0.0


def test_each_failure_counts_and_few_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every failed handshake counts by its reason; the log gets one line in ten seconds of each."""
    clock = FakeClock()
    told = Handshakes(clock.monotonic)
    before = counted("PEER_DID_NOT_RETURN_A_CERTIFICATE"), counted("CERTIFICATE_VERIFY_FAILED")
    told.read([NO_CERTIFICATE] * 50 + [EXPIRED])
    after = counted("PEER_DID_NOT_RETURN_A_CERTIFICATE"), counted("CERTIFICATE_VERIFY_FAILED")
    assert (after[0] - before[0], after[1] - before[1]) == (50.0, 1.0)
    without, expired = (record.getMessage() for record in caplog.records)
    assert without.startswith("a TLS handshake failed: the client showed no certificate (PEER_DID_")
    assert expired.startswith("a TLS handshake failed: the client's certificate is not accepted: ")
    assert expired.endswith("certificate has expired (CERTIFICATE_VERIFY_FAILED)")
    clock.advance(10.1)
    told.read([NO_CERTIFICATE])
    assert caplog.records[-1].getMessage().endswith("; 49 more since the line before this one")


def test_what_else_grpc_says(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings and errors of gRPC stay in the log, in its own shape; its other lines do not."""
    caplog.set_level(logging.INFO)
    Handshakes().read(
        [
            (
                "W1130 02:06:07.928700    1079 log.cc:102] Log level INFO is not suitable for "
                "production. Prefer WARNING or ERROR.\n"
            ),
            f"{PLACE}something of no interest\n",
            "E1130 02:06:07.928700    1079 tcp.cc:1] something is wrong\n",
        ]
    )
    [record] = caplog.records
    assert record.getMessage().endswith("tcp.cc:1] something is wrong")
